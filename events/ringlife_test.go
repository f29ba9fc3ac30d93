package events_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
)

// daily is a plan with a slot at the same time of each day.
type daily struct{}

func (daily) Shortest() time.Duration { return 24 * time.Hour }

func (daily) Following(_, now time.Time) (time.Time, bool) { return daily{}.Next(now) }

func (daily) Next(after time.Time) (time.Time, bool) {
	slot := day
	for !slot.After(after) {
		slot = slot.Add(24 * time.Hour)
	}
	return slot, true
}

func scheduledPolicy(t testing.TB) keystore.Policy {
	t.Helper()
	schedule, err := keystore.ParseSchedule("daily 02:30", "Europe/Berlin", "2026-12-20..2027-01-06")
	if err != nil {
		t.Fatal(err)
	}
	return keystore.Policy{
		MaxSession: 8 * time.Hour, Retain: 3, MinInterval: time.Hour, Schedule: schedule, MaxHold: 24 * time.Hour,
		GuardAgents: "web-1 web-2",
	}
}

// life takes a ring through every kind of change that it can go through, and returns
// it before its end.
func (h *history) life(name keystore.RingName) keystore.Ring {
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
	did(ring().SetPolicy(keystore.PolicyRequest{Policy: scheduledPolicy(h.t), Plan: daily{}, Now: day}))
	roll := func(trigger keystore.Trigger, now time.Time) keystore.Rollover {
		req := keystore.Rollover{Trigger: trigger, Future: h.newKey(), Now: now, Plan: daily{}, Force: true}
		if trigger == keystore.Scheduled {
			req.Slot = ring().NextSlot
		}
		if trigger == keystore.Fresh || trigger == keystore.Emergency {
			req.Current = h.newKey()
		}
		return req
	}
	slot := ring().NextSlot
	did(ring().HoldSlot(slot, slot, daily{}, []keystore.Confirmation{{Server: "ps-2"}}))
	did(ring().Rollover(roll(keystore.Scheduled, slot)))
	did(ring().EndHold(nil))
	did(ring().SkipSlot(ring().NextSlot, ring().NextSlot.AddDate(0, 0, 1).Add(2*time.Hour), thirds{}))
	did(ring().Rollover(roll(keystore.Fresh, slot.AddDate(0, 0, 1))))
	did(ring().Undo())
	emergency := roll(keystore.Emergency, slot.AddDate(0, 0, 2))
	emergency.Static, emergency.SessionTicket = h.newKey(), h.newKey()
	did(ring().Rollover(emergency))
	did(ring().CloseIncident([]keystore.Confirmation{{Server: "ps-1", Applied: h.state.N()}}))
	last := ring()
	did(ring().Delete([]string{"web-1"}, true))
	return last
}

// thirds has a slot every third day alone, so that one can be too old.
type thirds struct{ daily }

func (thirds) Following(_, now time.Time) (time.Time, bool) { return thirds{}.Next(now) }

func (thirds) Next(after time.Time) (time.Time, bool) {
	slot := day.AddDate(0, 0, 2)
	for !slot.After(after) {
		slot = slot.Add(3 * 24 * time.Hour)
	}
	return slot, true
}

func TestFoldOfEveryChangeOfARing(t *testing.T) {
	h := newHistory(t, events.Keys)
	last := h.life("web")
	if _, ok := h.state.Ring("web"); ok || len(h.state.Rings()) != 0 {
		t.Error("the deleted ring is there")
	}
	left, ok := h.state.AnyRing("web")
	if !ok || !left.Deleted || left.Version != last.Version+1 {
		t.Errorf("AnyRing = %+v, %v; want what the deleted ring has left", left, ok)
	}
	// Of material, only the membership key's lives.
	want := []string{events.KSKKey(kid(0xf1)), events.MaterialKey(kid(0xf2)), events.RingKey("web")}
	if diff := cmp.Diff(want, h.state.Live()); diff != "" {
		t.Errorf("live values (-want +got):\n%s", diff)
	}
	var got []string
	for _, rec := range h.records {
		e, err := events.Decode(rec)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e.Type.String())
	}
	types := []string{
		"genesis", "ring_created", "ring_policy_set", "rollover_held", "rollover", "hold_ended", "slot_skipped",
		"rollover", "rollover_undone", "rollover", "incident_closed", "ring_deleted",
	}
	if diff := cmp.Diff(types, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	// A ring of that name goes on counting.
	c, err := left.Create(keystore.Creation{Name: "web", Policy: keystore.DefaultPolicy(), Keys: keystore.FirstKeys{
		Current: h.newKey(), Future: h.newKey(), Static: h.newKey(), SessionTicket: h.newKey(),
	}})
	if err != nil {
		t.Fatal(err)
	}
	h.apply(h.ringEvent(c))
	if again, ok := h.state.Ring("web"); !ok || again.Version != last.Version+2 {
		t.Errorf("the ring made anew = %+v, want version %d", again, last.Version+2)
	}
}

// Every state on the way is stored and reads back.
func TestRingStatesReadBack(t *testing.T) {
	h := newHistory(t, events.Keys)
	h.life("web")
	state := events.NewState()
	for _, rec := range h.records {
		if err := state.Fold(rec); err != nil {
			t.Fatal(err)
		}
		ring, ok := state.AnyRing("web")
		if !ok {
			continue
		}
		value, err := events.EncodeRing(ring)
		if err != nil {
			t.Fatal(err)
		}
		back, err := events.DecodeRing(value)
		if err != nil {
			t.Fatalf("after event %d: %v", state.N(), err)
		}
		if diff := cmp.Diff(ring, back, cmp.Transformer("keys", func(keys []keystore.Key) []keystore.Key { return append([]keystore.Key{}, keys...) })); diff != "" {
			t.Errorf("after event %d (-want +got):\n%s", state.N(), diff)
		}
	}
}
