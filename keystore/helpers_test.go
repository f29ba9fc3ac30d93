package keystore_test

import (
	"crypto/sha256"
	"encoding/binary"
	"testing"
	"time"

	"github.com/keytide/keytide/keystore"
)

var start = time.Date(2026, 11, 23, 2, 30, 0, 0, time.UTC)

// material is the i-th key of a test, i > 0.
func material(tb testing.TB, i int) keystore.Material {
	tb.Helper()
	sum := sha256.Sum256(binary.BigEndian.AppendUint64(nil, uint64(i)))
	m, err := keystore.NewMaterial(sum[:])
	if err != nil {
		tb.Fatalf("NewMaterial: %v", err)
	}
	return m
}

func newKey(tb testing.TB, i int, at time.Time) keystore.NewKey {
	tb.Helper()
	return keystore.NewKey{KID: material(tb, i).KID(), Created: at}
}

func firstKeys(tb testing.TB) keystore.FirstKeys {
	tb.Helper()
	return keystore.FirstKeys{
		Current: newKey(tb, 1, start), Future: newKey(tb, 2, start),
		Static: newKey(tb, 3, start), SessionTicket: newKey(tb, 4, start),
	}
}

// newRing is ring sso, made by event 10, with keys 1 to 4.
func newRing(tb testing.TB, p keystore.Policy) keystore.Ring {
	tb.Helper()
	c, err := keystore.Create("sso", p, firstKeys(tb))
	if err != nil {
		tb.Fatalf("Create: %v", err)
	}
	return apply(tb, keystore.Ring{}, c, ref(10, start))
}

func ref(n keystore.N, at time.Time) keystore.EventRef {
	return keystore.EventRef{N: n, ID: "01KAS5XW000000000000000000", Type: "test", At: at}
}

func apply(tb testing.TB, r keystore.Ring, c keystore.Change, ref keystore.EventRef) keystore.Ring {
	tb.Helper()
	next, err := r.Apply(c, ref)
	if err != nil {
		tb.Fatalf("Apply: %v", err)
	}
	return next
}

// request is a rollover that nothing but the ring itself could refuse.
func request(tb testing.TB, r keystore.Ring, key int, now time.Time) keystore.Rollover {
	tb.Helper()
	return keystore.Rollover{
		Trigger: keystore.Manual, Future: newKey(tb, key, now), Now: now,
		Servers: []keystore.Confirmation{{Server: "ps-1", Region: "eu", Applied: r.Changed}},
	}
}

// rolled rolls r over at now with the key as its new future, one event later.
func rolled(tb testing.TB, r keystore.Ring, key int, now time.Time) keystore.Ring {
	tb.Helper()
	c, err := r.Rollover(request(tb, r, key, now))
	if err != nil {
		tb.Fatalf("Rollover: %v", err)
	}
	return apply(tb, r, c, ref(r.Last.N+1, now))
}

// everybody is a guard in which all confirmed every event at that time.
func everybody(at time.Time) func(keystore.N) (time.Time, bool) {
	return func(keystore.N) (time.Time, bool) { return at, true }
}
