//go:build !race

package keystore_test

const defaultModelSlots = 1_000_000
