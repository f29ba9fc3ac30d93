// Package ledger keeps an events.Log on a JetStream KV bucket.
//
// A change is one atomic batch, every message of which names the revision that its
// key must have: it is stored whole or not at all, and at most once however often
// it is sent. The package never makes a bucket that should exist, refuses one
// whose settings could lose events, and never retries a write whose fate is
// unknown.
//
// It does not judge what it stores or reads: what an entry is worth is for
// events.State to say.
package ledger
