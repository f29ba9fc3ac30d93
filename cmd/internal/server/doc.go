// Package server is a policy server: the composition of the embedded bus, both
// ledgers' replicas and writers, the agents' feed, the admin API, metrics and the
// retention of old keys.
//
// What may happen to a ring is decided by keystore, inside a commit; how a change
// becomes durable is replication's. This package opens sealed material, joins the
// two, starts everything in order and stops it in reverse. It is the only place
// where the ledger and the feed meet.
package server
