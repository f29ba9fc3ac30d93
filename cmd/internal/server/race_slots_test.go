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
