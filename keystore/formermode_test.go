package keystore_test

import (
	"errors"
	"testing"
	"time"

	"github.com/keytide/keytide/keystore"
)

// Sessions of a static key that was replaced under static mode outlast that mode: its
// end must leave them the former key's overlap, whatever the present key has sealed.
func TestTheEndOfStaticModeCountsFormerStaticKeys(t *testing.T) {
	r := newRing(t, keystore.Policy{MaxSession: time.Hour, MinInterval: time.Hour})
	n := r.Last.N
	step := func(c keystore.Change, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		n++
		r = apply(t, r, c, ref(n, start))
	}
	confirmed := []keystore.Confirmation{{Server: "ps-1", Applied: 1 << 20}}
	step(r.SetMode(keystore.ModeRequest{Mode: keystore.ModeStatic}))
	step(r.Activate(confirmed))
	step(r.Publish(keystore.Publication{Overlap: 12 * time.Hour, Keys: []keystore.PublishedKey{
		{Role: keystore.Static, Key: keystore.NewKey{KID: material(t, 9).KID(), Created: start}},
	}}))
	step(r.Activate(confirmed))
	var short *keystore.OverlapError
	_, err := r.SetMode(keystore.ModeRequest{Mode: keystore.ModeDynamic, Overlap: 6 * time.Hour})
	if !errors.As(err, &short) || short.MaxSession != 12*time.Hour {
		t.Errorf("SetMode with an overlap of 6h = %v; want an OverlapError that wants 12h", err)
	}
	step(r.SetMode(keystore.ModeRequest{Mode: keystore.ModeDynamic, Overlap: 12 * time.Hour}))
}
