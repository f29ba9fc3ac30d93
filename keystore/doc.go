// Package keystore defines key rings and the rules by which they roll over.
//
// A cookie sealed by any agent must open at every other agent, although agents
// learn of a rollover at different moments. Two invariants give that:
//
//  1. A key seals only after every live region has had it as its future key.
//  2. A key is destroyed only after no live region can still seal with it, and
//     nothing sealed with it can still be within its session's life.
//
// A ring changes in one way only: a rule (Ring.Create, Rollover, SetPolicy, Undo,
// Destroy, Delete and others) decides and returns a Change, or refuses with an
// error that says why; Ring.Apply carries a Change out. What is decided once is
// written to the ledger as an event, and every server applies the same Change.
//
// The package is pure. It reads no clock, draws no randomness, does no I/O and
// starts no goroutine: callers pass the time and fresh keys in and carry the
// result out. It imports the standard library only, so that an application that
// takes the agents' SDK takes nothing else.
package keystore
