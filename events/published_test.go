package events_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
)

// published takes a ring through what is published before it is sealed with.
func (h *history) published(name keystore.RingName) keystore.Ring {
	h.t.Helper()
	h.apply(h.create(name))
	ring := func() keystore.Ring {
		r, _ := h.state.Ring(name)
		return r
	}
	did := func(c keystore.Change, err error) {
		h.t.Helper()
		if err != nil {
			h.t.Fatal(err)
		}
		h.apply(h.ringEvent(c))
	}
	all := func() []keystore.Confirmation { return []keystore.Confirmation{{Server: "ps-1", Applied: h.state.N()}} }
	did(ring().Publish(keystore.Publication{Overlap: 48 * time.Hour, Keys: []keystore.PublishedKey{
		{Key: h.newKey(), Role: keystore.Static}, {Key: h.newKey(), Role: keystore.Static, OpenOnly: true},
		{Key: h.newKey(), Role: keystore.SessionTicket},
	}}))
	did(ring().SetMode(keystore.ModeRequest{Mode: keystore.ModeStatic}))
	did(ring().Activate(all()))
	did(ring().SetMode(keystore.ModeRequest{Mode: keystore.ModeDynamic, Overlap: 48 * time.Hour}))
	did(ring().SetMode(keystore.ModeRequest{Mode: keystore.ModeStatic}))
	did(ring().SetMode(keystore.ModeRequest{Mode: keystore.ModeDynamic, Overlap: 48 * time.Hour}))
	did(ring().Activate(all()))
	within := ring()
	later := func(keystore.N) (time.Time, bool) { return day, true }
	did(ring().EndOverlap(day.AddDate(0, 1, 0), later))
	did(ring().Destroy(ring().Due(day.AddDate(0, 1, 0), later)))
	return within
}

// TestPublishedLife: the fold and the ring's own rules agree on every step, and the
// state between comes back from its encoding.
func TestPublishedLife(t *testing.T) {
	h := story(t)
	within := h.published("app")
	value, err := events.EncodeRing(within)
	if err != nil {
		t.Fatal(err)
	}
	got, err := events.DecodeRing(value)
	if diff := cmp.Diff(within, got); err != nil || diff != "" {
		t.Errorf("DecodeRing: %v (-want +got):\n%s", err, diff)
	}
	if within.Mode != keystore.ModeDynamic || !within.OpensStatic() || len(within.ByRole(keystore.Static)) != 3 {
		t.Errorf("within the overlap: %+v", within)
	}
	end, _ := h.state.Ring("app")
	if end.OpensStatic() || len(end.Keys) != 4 {
		t.Errorf("at the end: %+v, want four keys and no overlap", end)
	}
}
