// Package ticket is the form of a session ticket: what a policy server seals for a
// trusted host under a ring's session ticket key, and opens again for one that has the
// right to.
//
// The key never leaves policy servers, so a host can neither make nor change a ticket.
// Ring, host, issue time and maximum age are within the seal and set by the server:
// who opens a ticket knows which host had it sealed, and when. A ticket names its key,
// and is tried under no other. SPEC.md has the bytes.
//
// The package does no I/O and reads no clock.
package ticket
