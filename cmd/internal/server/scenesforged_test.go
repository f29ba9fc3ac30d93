package server

import (
	"crypto/ed25519"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
)

// An event that nobody can apply, by its signature or because a newer program wrote it:
// every server stands still at the last good one, says why, and goes on feeding.
func TestSceneEventThatCannotBeApplied(t *testing.T) {
	for name, tc := range map[string]struct {
		typ   events.Type
		spoil bool
		why   string
	}{
		"bad signature": {typ: events.TypeVoid, spoil: true, why: "signature"},
		"unknown type":  {typ: 999, why: "unknown event type 999; a newer program wrote it"},
	} {
		t.Run(name, func(t *testing.T) {
			play(t, 2, func(t *testing.T, s *scene) {
				first := s.actors[0]
				good := first.headOf()
				rec, err := events.Sign(events.Event{
					N: good.N + 1, ID: ulid.Make(), Prev: good.Hash, Type: tc.typ, At: time.Now(), Server: "ps-1", Payload: events.VoidPayload(),
				}, first.service.signer)
				if err != nil {
					t.Fatal(err)
				}
				if tc.spoil {
					rec[len(rec)-1] ^= 1
				}
				key := events.LogKey(good.N + 1)
				s.forge(key, rec)
				for _, a := range s.actors {
					until(t, a.id.Server+" is halted", func() bool { return a.says(a.id.Server).State == "halted" })
					v := a.says(a.id.Server)
					for _, want := range []string{fmt.Sprintf("event %d cannot be applied", good.N+1), tc.why} {
						if !strings.Contains(v.Why, want) {
							t.Errorf("%s: why = %q, want %q in it", v.ID, v.Why, want)
						}
					}
					if v.N != good.N || a.fed() != 1 {
						t.Errorf("%s is at event %d and feeds version %d, want %d and 1", v.ID, v.N, a.fed(), good.N)
					}
					alarm, ok := a.alarm("halted", key)
					if !ok || !alarm.Ended.IsZero() || alarm.Text != v.Why {
						t.Errorf("%s: alarms = %+v, want halted on %s", v.ID, a.status().Alarms, key)
					}
					a.wantMetric(t, `keytide_ledger_fresh{ledger="keys"} 0`)
					a.wantMetric(t, `keytide_alarms{ledger="keys"} 1`)
					if _, err := a.roll(ulid.Make().String()); err == nil || !strings.Contains(err.Error(), "halted") {
						t.Errorf("%s: a rollover = %v, want that it is halted", v.ID, err)
					}
				}
				until(t, "each knows of the other", func() bool { return first.says("ps-2").State == "halted" })
				asOf := first.source.AsOf()
				<-time.After(time.Minute)
				if got := first.source.AsOf(); !got.Equal(asOf) {
					t.Errorf("agents are told a proof of %v, a minute after one of %v", got, asOf)
				}
			})
		})
	}
}

func (a *actor) headOf() (h events.Head) {
	a.keys.Replica().Read(func(s *events.State) { h = s.Head() })
	return h
}

// Somebody with the bus's credentials and no member's key puts beacons and records. They
// are named; nobody is fresh by them, and no rollover takes them for a confirmation.
func TestSceneForgedBeaconsAndRecords(t *testing.T) {
	play(t, 2, func(t *testing.T, s *scene) {
		first, second := s.actors[0], s.actors[1]
		_, thief, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		second.each((*wire).sever)
		until(t, "ps-2 is stale", func() bool { return second.says("ps-2").State == "stale" })
		if err := first.rollGuarded(); err != nil {
			t.Fatal(err)
		}
		known := first.says("ps-2")
		member, _ := liveMemberOf(first, "ps-2")
		value, err := events.ServerRecord{
			ID: "ps-2", Region: "us", Address: "https://thief", PublicKey: member.PublicKey, Boot: [16]byte{1}, Counter: 1 << 40,
			Applied: first.headOf(), At: time.Now(), State: events.Fresh,
		}.Sign(thief)
		if err != nil {
			t.Fatal(err)
		}
		s.forge(events.ServerKey("ps-2"), value)
		until(t, "the alarm", func() bool { _, ok := first.alarm("tampered", "server.ps-2"); return ok })
		if v := first.says("ps-2"); v.N != known.N {
			t.Errorf("the forged record is believed: %+v", v)
		}
		if err := first.rollGuarded(); err == nil || !strings.Contains(err.Error(), "ps-2") {
			t.Errorf("a rollover = %v, want it held by ps-2", err)
		}
		status := first.status()
		if by := status.Rings[0].HeldBy; len(by) != 1 || by[0] != "ps-2" {
			t.Errorf("held by %v, want ps-2", by)
		}
		second.each((*wire).heal)
		until(t, "ps-2 is fresh", func() bool { return second.says("ps-2").State == "fresh" && first.says("ps-2").State == "fresh" })
		until(t, "the alarm's end", func() bool { a, _ := first.alarm("tampered", "server.ps-2"); return !a.Ended.IsZero() })
		s.forgeBeacons(thief)
	})
}

// forgeBeacons has nobody but a thief send beacons.
func (s *scene) forgeBeacons(thief ed25519.PrivateKey) {
	for _, a := range s.actors {
		a.each(func(w *wire) { w.set(func(w *wire) { w.late = func() time.Duration { return time.Hour } }) })
	}
	for i := range 20 {
		head := s.actors[0].headOf()
		value, err := events.Beacon{
			Epoch: 1, Term: 1 << 30, Holder: "ps-1", Counter: uint64(i + 1), N: head.N, Hash: head.Hash, Origin: time.Now(),
		}.Sign(thief)
		if err != nil {
			s.t.Fatal(err)
		}
		s.forge(events.BeaconKey, value)
		<-time.After(500 * time.Millisecond)
	}
	for _, a := range s.actors {
		if v := a.says(a.id.Server); v.State != "stale" || !strings.Contains(v.Why, "the newest beacon is") {
			s.t.Errorf("with forged beacons alone: %+v, want stale", v)
		}
		if alarm, ok := a.alarm("tampered", "beacon"); !ok || !alarm.Ended.IsZero() || !strings.Contains(alarm.Text, "it is not a member's") {
			s.t.Errorf("%s: alarms = %+v, want tampered on beacon", a.id.Server, a.status().Alarms)
		}
		a.each(func(w *wire) { w.set(func(w *wire) { w.late = nil }) })
	}
	for _, a := range s.actors {
		until(s.t, a.id.Server+" is fresh", func() bool { return a.says(a.id.Server).State == "fresh" })
		until(s.t, "the alarm's end", func() bool { alarm, _ := a.alarm("tampered", "beacon"); return !alarm.Ended.IsZero() })
	}
}

func liveMemberOf(a *actor, id string) (m events.Member, live bool) {
	a.keys.Replica().Read(func(s *events.State) { m, live = liveMember(s, id) })
	return m, live
}

// The holder's clock is an hour ahead of two others'. It says so, gives the beacon up and
// starts no rollover; the slot is answered once, by another, when it is due.
func TestSceneClockAnHourAhead(t *testing.T) {
	play(t, 3, func(t *testing.T, s *scene) {
		first, second := s.actors[0], s.actors[1]
		signers := make(map[string]ed25519.PrivateKey)
		for _, a := range s.actors {
			signers[a.id.Server] = a.service.signer
		}
		first.each(func(w *wire) { w.skew("ps-1", time.Hour, signers) })
		first.ahead.Store(int64(time.Hour))
		until(t, "ps-1 shows the alarm", func() bool { _, ok := first.alarm("clock", ""); return ok })
		until(t, "others hold the beacon", func() bool { return s.holder() != "ps-1" })
		alarm, _ := first.alarm("clock", "")
		if want := "this server's clock is 1h0m0s ahead of the median of 3 servers' clocks"; alarm.Text != want {
			t.Errorf("alarm = %q, want %q", alarm.Text, want)
		}
		first.wantMetric(t, `keytide_alarms{ledger="keys"} 1`)
		for _, a := range s.actors {
			until(t, a.id.Server+" shows the offset and that all are fresh", func() bool {
				off := time.Duration(a.says("ps-1").ClockOffsetMS) * time.Millisecond
				return off.Round(time.Minute) == time.Hour && a.says("ps-1").State == "fresh" && a.says(a.id.Server).State == "fresh"
			})
		}
		soon := "daily " + time.Now().Add(3*time.Minute).UTC().Format("15:04") // an hour ago, by the clock of ps-1
		if _, err := second.service.SetPolicy(t.Context(), "eva", "sso", policyOf(soon)); err != nil {
			t.Fatal(err)
		}
		ring, err := second.service.ring("sso")
		if err != nil {
			t.Fatal(err)
		}
		if wait := time.Until(ring.NextSlot); wait > 5*time.Minute {
			t.Fatalf("the next slot is in %v", wait)
		}
		<-time.After(time.Until(ring.NextSlot) - time.Second)
		if got := second.rollovers(); got != 0 {
			t.Errorf("%d rollovers before the slot, want none", got)
		}
		for _, a := range s.actors {
			until(t, a.id.Server+" has the rollover", func() bool { return a.version() == 2 })
		}
		<-time.After(20 * time.Second)
		if got := first.rollovers(); got != 1 || s.holder() == "ps-1" {
			t.Errorf("%d rollovers, and the holder is %s; want 1, and another than ps-1", got, s.holder())
		}
		rec, err := first.keys.Replica().Record(mustRing(t, first).Last.N)
		if err != nil {
			t.Fatal(err)
		}
		if ev, err := events.Decode(rec); err != nil || ev.Server == "ps-1" {
			t.Errorf("the slot was answered by %s, %v", ev.Server, err)
		}
		for _, w := range first.wires {
			w.set(func(w *wire) { w.record, w.entry = nil, nil })
		}
		until(t, "the clock is right again", func() bool { a, _ := first.alarm("clock", ""); return !a.Ended.IsZero() })
	})
}

func mustRing(t *testing.T, a *actor) keystore.Ring {
	t.Helper()
	ring, err := a.service.ring("sso")
	if err != nil {
		t.Fatal(err)
	}
	return ring
}
