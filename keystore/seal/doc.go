// Package seal keeps key material at rest: an unlock key opens a slot, the slot
// holds the key store key (KSK), and the KSK wraps material, each record bound to
// its place. SPEC.md has the bytes.
//
// It promises that a wrong unlock key, a record moved to another place, and any
// changed byte are noticed and named before anything is used. It draws its
// randomness from crypto/rand and keeps nothing on disk by itself. In FIPS mode
// only approved algorithms are reached.
package seal
