package server

import (
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

// racer is a further scheduler of a server, by another clock.
func (r *running) racer(clock reference) *scheduler {
	s := r.service
	return newScheduler(&service{
		id: s.id, keys: s.keys, hosts: s.hosts, vault: s.vault, source: s.source, hub: s.hub, log: slog.New(slog.DiscardHandler),
		generate: true, reference: clock, scheduler: s.scheduler,
	}, slog.New(slog.DiscardHandler))
}

// A skewed plan is what a server with other time-zone data makes of a schedule.
type skewedPlan struct {
	keystore.Plan
	by time.Duration
}

func (p skewedPlan) Next(after time.Time) (time.Time, bool) {
	slot, ok := p.Plan.Next(after.Add(-p.by))
	return slot.Add(p.by), ok
}

func (p skewedPlan) Following(last, now time.Time) (time.Time, bool) {
	slot, ok := p.Plan.Following(last.Add(-p.by), now.Add(-p.by))
	return slot.Add(p.by), ok
}

// TestServersWithOtherTimeZoneData: two policy servers disagree by an hour on when a daily
// slot is. What the last event committed counts, so each slot that it names is answered
// once, and nobody's other opinion makes a second rollover.
func TestServersWithOtherTimeZoneData(t *testing.T) {
	w := newRealm(t)
	servers := []*running{w.start("ps-1")}
	if err := w.join(servers[0].invite(t, "ps-2")); err != nil {
		t.Fatal(err)
	}
	servers = append(servers, w.start("ps-2"))
	await(t, "ps-2 is fresh", func() bool { return servers[0].says(t, "ps-2").State == "fresh" })
	daily, zone := "daily 02:30", "Europe/Berlin"
	if _, err := servers[0].service.CreateRing(t.Context(), "eva", adminapi.CreateRing{
		Intent: intent(), Name: devRing, Policy: adminapi.PolicyChange{Schedule: &daily, TZ: &zone},
	}); err != nil {
		t.Fatal(err)
	}
	const slots = 6
	for range slots {
		ring, err := servers[0].service.ring(devRing)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range servers {
			await(t, "everybody to confirm", func() bool {
				newest, err := r.service.ring(devRing)
				return err == nil && newest.Last.N == ring.Last.N && newest.Held(r.service.confirmations()) == nil
			})
		}
		plan, err := servers[0].service.plans.of(ring.Policy)
		if err != nil {
			t.Fatal(err)
		}
		var racing sync.WaitGroup
		for i, r := range servers {
			// The one with the later opinion looks an hour later, too: that slot of its own is none.
			for _, after := range []time.Duration{time.Second, time.Hour + time.Second} {
				at := ring.NextSlot.Add(after)
				s := r.racer(func() (time.Time, bool) { return at, true })
				if i == 1 {
					s.service.plans.compiled = map[keystore.Schedule]keystore.Plan{ring.Policy.Schedule: skewedPlan{plan, time.Hour}}
				}
				racing.Go(func() { s.round(t.Context()) })
			}
		}
		racing.Wait()
		for _, r := range servers {
			await(t, "the slot to be answered", func() bool {
				newest, err := r.service.ring(devRing)
				return err == nil && newest.NextSlot.After(ring.NextSlot)
			})
		}
	}
	history, err := servers[1].service.History(t.Context(), devRing, adminhttp.Span{})
	if err != nil {
		t.Fatal(err)
	}
	answered := 0
	var next time.Time
	for _, e := range history.Events {
		if e.Trigger != "" {
			if answered++; !e.Slot.Equal(next) {
				t.Errorf("event %d answers the slot %v; committed was %v", e.N, e.Slot, next)
			}
		}
		next = e.NextSlot
	}
	if answered != slots {
		t.Errorf("%d rollovers, want %d: one a slot", answered, slots)
	}
	for _, r := range servers {
		status, err := r.service.Status(t.Context())
		if err != nil || len(status.Alarms) > 0 || !status.Rings[0].NextSlot.Equal(next) {
			t.Errorf("%s: status = %+v, %v; want no alarm, and the next slot %v", r.id.Server, status, err, next)
		}
	}
}

// TestServersRaceForSlots: two policy servers, each with two schedulers whose clocks are
// seconds apart, all at once go for each slot of a schedule. Each is answered once.
func TestServersRaceForSlots(t *testing.T) {
	w := newRealm(t)
	servers := []*running{w.start("ps-1")}
	if err := w.join(servers[0].invite(t, "ps-2")); err != nil {
		t.Fatal(err)
	}
	servers = append(servers, w.start("ps-2"))
	await(t, "ps-2 is fresh", func() bool { return servers[0].says(t, "ps-2").State == "fresh" })
	hourly := "every 1h"
	if _, err := servers[0].service.CreateRing(t.Context(), "eva", adminapi.CreateRing{
		Intent: intent(), Name: devRing, Policy: adminapi.PolicyChange{Schedule: &hourly},
	}); err != nil {
		t.Fatal(err)
	}
	const slots = 8
	for range slots {
		ring, err := servers[0].service.ring(devRing)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range servers {
			await(t, "everybody to confirm", func() bool {
				newest, err := r.service.ring(devRing)
				return err == nil && newest.Last.N == ring.Last.N && newest.Held(r.service.confirmations()) == nil
			})
		}
		var racing sync.WaitGroup
		for i, r := range servers {
			for skew := range 2 {
				at := ring.NextSlot.Add(time.Duration(2*i+skew) * time.Second)
				s := r.racer(func() (time.Time, bool) { return at, true })
				racing.Go(func() { s.round(t.Context()) })
			}
		}
		racing.Wait()
		for _, r := range servers {
			await(t, "the slot to be answered", func() bool {
				newest, err := r.service.ring(devRing)
				return err == nil && newest.NextSlot.After(ring.NextSlot)
			})
		}
	}
	history, err := servers[1].service.History(t.Context(), devRing, adminhttp.Span{})
	if err != nil {
		t.Fatal(err)
	}
	answered := make(map[string]keystore.N)
	for _, e := range history.Events {
		if e.Trigger == "" {
			continue
		}
		slot := keystore.SlotText(e.Slot)
		if by, twice := answered[slot]; twice {
			t.Errorf("slot %s is answered by events %d and %d", slot, by, e.N)
		}
		answered[slot] = e.N
	}
	if len(answered) != slots {
		t.Errorf("%d slots are answered, want %d: %v", len(answered), slots, answered)
	}
}
