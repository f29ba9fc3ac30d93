//go:build race

package keystore_test

// The race detector makes a simulated slot ten times as slow.
const defaultModelSlots = 40_000
