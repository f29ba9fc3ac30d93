// Package fipstest lets tests that run in synctest bubbles draw random bytes in FIPS
// 140-3 mode. Such a test imports it for its effect alone.
//
// In that mode the standard library seeds its random generator from the jitter of the
// clock, at the first use. In a bubble the clock stands still, so a first use there
// finds no entropy and panics. This package makes the first use when the program starts.
//
// One generator is made then, and a second one whenever two goroutines draw at the very
// same moment: such tests are run with one processor (go test -cpu 1 -parallel 1).
package fipstest

import "crypto/rand"

func init() {
	var b [1]byte
	rand.Read(b[:])
}
