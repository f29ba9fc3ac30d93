// Package wire holds the bytes of the agent feed that both its ends share: the
// Authorization header, sealed messages, the state, problems and Server-Sent
// Events. agentfeed/SPEC.md describes them.
//
// The package is pure but for the random nonces of seals. It reads no clock, does
// no I/O and never puts key bytes into an error.
package wire
