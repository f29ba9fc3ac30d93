// Package events defines the event log of a ledger: what an event is, byte by
// byte, how events are chained and signed, and how they fold into a state.
//
// A ledger is a log of events and the values that its events put. The log is the
// truth: the state is the fold of the events (State), and every value that a
// batch writes beside its event is named, with its hash, in the event's effects.
// So a reader needs to trust neither the store nor the order of delivery.
//
// Decoding is strict. Each event, payload and value has one encoding; anything
// else is refused with an error that wraps ErrMalformed. SPEC.md has the bytes
// and testdata/vectors has examples for other languages.
//
// The package reads no clock, draws no randomness, does no I/O and starts no
// goroutine. Log is the contract of a store; events/ledger keeps it on JetStream.
// Only this package builds KV keys, subjects, and the names of buckets.
package events
