// Package replication keeps a policy server's copy of a ledger current, proves that
// it is, and writes to the ledger.
//
// A Member is a policy server's part in one ledger. It follows the bucket, hands
// every entry to the assembler, which alone decides what is true, and feeds the
// Replica with it. It judges the beacons (freshness), sends them when it is the
// holder, says of itself what it has applied (presence), and commits events.
//
// Promises:
//
//   - What Commit acknowledged is in the core and, with fsync, in this replica.
//   - What a member did not sign is never applied, and is named by an alarm.
//   - A verified event is never discarded: when the core has less than, or other
//     than, the replica, the replica stays, says forked, and writes no more.
//   - A replica that cannot prove that it is up to date says so within the limit of
//     the beacons' age, and goes on serving what it has.
//
// It refuses to rebuild: a replica is a file that another may be rebuilt from.
package replication
