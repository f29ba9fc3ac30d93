package server

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/replication"
)

// inVirtualTime runs a test against a server in a bubble, with a ring sso that rolls
// over daily at noon.
func inVirtualTime(t *testing.T, prepare func(*site), test func(t *testing.T, v *virtual)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		v := startVirtual(t, makeVirtual(t), slog.New(slog.NewTextHandler(io.Discard, nil)), prepare)
		defer v.stop()
		daily := "daily 12:00"
		if _, err := v.service.CreateRing(t.Context(), "alice", adminapi.CreateRing{
			Intent: intent(), Name: devRing, Policy: adminapi.PolicyChange{Schedule: &daily},
		}); err != nil {
			t.Fatal(err)
		}
		test(t, v)
	})
}

// toSlot lets time pass until the ring's slot is due, and what that causes happen.
func (v *virtual) toSlot(t *testing.T) time.Time {
	t.Helper()
	ring, err := v.service.ring(devRing)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Until(ring.NextSlot))
	v.settle()
	return ring.NextSlot
}

func (v *virtual) settle() {
	time.Sleep(15 * time.Second)
	synctest.Wait()
}

// types are the types of the ring's events after n.
func (v *virtual) types(t *testing.T, n keystore.N) []string {
	t.Helper()
	history, err := v.service.History(t.Context(), devRing, adminhttp.Span{})
	if err != nil {
		t.Fatal(err)
	}
	types := []string{}
	for _, e := range history.Events {
		if e.N > n {
			types = append(types, e.Type)
		}
	}
	return types
}

func (v *virtual) at() keystore.N {
	n, _ := v.keys.Replica().Watch()
	return n
}

// alarm returns the text of the alarm of a kind, "" if none stands.
func (v *virtual) alarm(t *testing.T, kind string) string {
	t.Helper()
	status, err := v.service.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range status.Alarms {
		if a.Kind == kind {
			return a.Text
		}
	}
	return ""
}

// server commits a change of the members.
func (v *virtual) server(t *testing.T, c events.ServerChange) {
	t.Helper()
	payload, err := c.Encode()
	if err == nil {
		_, err = v.keys.Commit(t.Context(), func(*events.State) (replication.Proposal, error) {
			return replication.Proposal{Type: c.Type, Payload: payload, Actor: "alice"}, nil
		})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// silent makes server ps-2 a member that never says a word.
func (v *virtual) silent(t *testing.T) {
	t.Helper()
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	p256, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	v.server(t, events.ServerChange{Type: events.TypeServerInvited, ID: "ps-2", Region: "ap", Token: events.TokenHash("token"), Expires: time.Now().Add(time.Hour)})
	v.server(t, events.ServerChange{Type: events.TypeServerJoined, ID: "ps-2", Region: "ap", PublicKey: public, P256Key: p256.PublicKey().Bytes(), MAC: [32]byte{1}})
}

func TestSlotIsAnsweredOnce(t *testing.T) {
	inVirtualTime(t, nil, func(t *testing.T, v *virtual) {
		// Further schedulers race with the server's own for every slot.
		var racing errgroup.Group
		for range 3 {
			other := newScheduler(v.service, slog.New(slog.DiscardHandler))
			racing.Go(func() error { return other.run(v.running) })
		}
		n := v.at()
		for i := range 3 {
			slot := v.toSlot(t)
			ring, err := v.service.ring(devRing)
			if err != nil {
				t.Fatal(err)
			}
			if !ring.NextSlot.Equal(slot.AddDate(0, 0, 1)) || ring.Rolled.Sub(slot) > time.Second {
				t.Fatalf("after slot %v: next slot %v, rolled over at %v", slot, ring.NextSlot, ring.Rolled)
			}
			rollovers := slices.DeleteFunc(v.types(t, n), func(word string) bool { return word == "keys_destroyed" })
			if len(rollovers) != i+1 {
				t.Fatalf("events = %v, want %d rollovers", rollovers, i+1)
			}
		}
		v.stop()
		if err := racing.Wait(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestHeldSlotIsLoudAndGoesOnByItself(t *testing.T) {
	inVirtualTime(t, nil, func(t *testing.T, v *virtual) {
		v.silent(t)
		time.Sleep(3 * time.Hour) // by then its clock is not waited for
		n := v.at()
		slot := v.toSlot(t)
		if got := v.types(t, n); !slices.Equal(got, []string{"rollover_held"}) {
			t.Fatalf("events = %v, want one rollover_held", got)
		}
		time.Sleep(20 * time.Hour)
		if got := v.types(t, n); !slices.Equal(got, []string{"rollover_held"}) {
			t.Errorf("events 20 h later = %v, want no more", got)
		}
		if text := v.alarm(t, "rollover-held"); !strings.Contains(text, "is held by ps-2") {
			t.Errorf("alarm = %q, want one that names ps-2", text)
		}
		status, err := v.service.Status(t.Context())
		if err != nil || status.Rings[0].Hold == nil || !status.Rings[0].Hold.Slot.Equal(slot) {
			t.Errorf("status = %+v, %v; want the hold in it", status.Rings[0], err)
		}
		v.server(t, events.ServerChange{Type: events.TypeServerExcluded, ID: "ps-2", Cause: events.ByAdministrator})
		v.settle()
		if got := v.types(t, n); !slices.Equal(got, []string{"rollover_held", "hold_ended", "rollover"}) {
			t.Errorf("events = %v, want the hold's end and the rollover", got)
		}
		if text := v.alarm(t, "rollover-held"); text != "" {
			t.Errorf("alarm = %q, want none", text)
		}
	})
}

// A slot that is held for longer than a day is skipped, which ends its hold.
func TestHeldSlotIsSkippedAfterADay(t *testing.T) {
	inVirtualTime(t, nil, func(t *testing.T, v *virtual) {
		weekly := "weekly sat@12:00" // the bubble begins on a Saturday
		if _, err := v.service.SetPolicy(t.Context(), "alice", devRing, adminapi.SetPolicy{Intent: intent(), Policy: adminapi.PolicyChange{Schedule: &weekly}}); err != nil {
			t.Fatal(err)
		}
		v.silent(t)
		time.Sleep(3 * time.Hour)
		n := v.at()
		slot := v.toSlot(t)
		time.Sleep(24*time.Hour + time.Minute)
		if got := v.types(t, n); !slices.Equal(got, []string{"rollover_held", "slot_skipped", "hold_ended"}) {
			t.Errorf("events = %v, want the slot held, skipped, and the hold's end", got)
		}
		if ring, err := v.service.ring(devRing); err != nil || !ring.NextSlot.Equal(slot.AddDate(0, 0, 7)) || ring.Version != 1 {
			t.Errorf("ring = %+v, %v; want its first keys, and a slot a week later", ring, err)
		}
	})
}

// A server that cannot prove that it is up to date starts nothing; once it can, it goes
// on.
func TestStaleServerStartsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := makeVirtual(t)
		cfg.pace = func(c *replication.MemberConfig) {
			slowly(c)
			c.BeaconPeriod, c.Takeover = 4*time.Hour, 5*time.Hour // stale after an hour, until it follows anew
		}
		v := startVirtual(t, cfg, slog.New(slog.DiscardHandler), nil)
		defer v.stop()
		daily := "daily 01:10"
		if _, err := v.service.CreateRing(t.Context(), "alice", adminapi.CreateRing{
			Intent: intent(), Name: devRing, Policy: adminapi.PolicyChange{Schedule: &daily},
		}); err != nil {
			t.Fatal(err)
		}
		n := v.at()
		v.toSlot(t)
		if state := v.keys.Freshness().State; state != events.Stale {
			t.Fatalf("the server is %s, want stale", state)
		}
		if got := v.types(t, n); len(got) != 0 {
			t.Fatalf("events = %v while stale, want none", got)
		}
		time.Sleep(3 * time.Hour)
		if got := v.types(t, n); !slices.Equal(got, []string{"rollover"}) {
			t.Errorf("events = %v, want the rollover", got)
		}
	})
}

// After max_hold, who holds the slot is excluded, and the rollover goes on.
func TestMaxHoldExcludesWhoHolds(t *testing.T) {
	inVirtualTime(t, nil, func(t *testing.T, v *virtual) {
		hold := "6h"
		if _, err := v.service.SetPolicy(t.Context(), "alice", devRing, adminapi.SetPolicy{Intent: intent(), Policy: adminapi.PolicyChange{MaxHold: &hold}}); err != nil {
			t.Fatal(err)
		}
		v.silent(t)
		time.Sleep(3 * time.Hour)
		n := v.at()
		v.toSlot(t)
		time.Sleep(6*time.Hour - 30*time.Second)
		if got := v.types(t, n); !slices.Equal(got, []string{"rollover_held"}) {
			t.Errorf("events before max_hold = %v, want the hold alone", got)
		}
		v.settle()
		v.settle()
		v.settle()
		if got := v.types(t, n); !slices.Equal(got, []string{"rollover_held", "hold_ended", "rollover"}) {
			t.Errorf("events after max_hold = %v, want the hold's end and the rollover", got)
		}
		var member events.Member
		v.keys.Replica().Read(func(state *events.State) { member, _ = state.Member("ps-2") })
		if member.Excluded == 0 {
			t.Error("server ps-2 is not excluded")
		}
	})
}

// A rollover by force takes the held slot's place; the hold ends although the guard
// would still hold.
func TestForcedRolloverEndsTheHold(t *testing.T) {
	inVirtualTime(t, nil, func(t *testing.T, v *virtual) {
		v.silent(t)
		time.Sleep(3 * time.Hour)
		n := v.at()
		v.toSlot(t)
		if _, err := v.service.Rollover(t.Context(), "alice", devRing, adminapi.Rollover{Intent: intent(), Force: true}); err != nil {
			t.Fatal(err)
		}
		v.settle()
		if got := v.types(t, n); !slices.Equal(got, []string{"rollover_held", "rollover", "hold_ended"}) {
			t.Errorf("events = %v, want the forced rollover and the hold's end", got)
		}
	})
}

// A server whose clock is off starts nothing; once it is right, it goes on.
func TestServerWithADoubtfulClockStartsNothing(t *testing.T) {
	var doubtful atomic.Bool
	doubtful.Store(true)
	off := func(s *site) {
		right := s.service.reference
		s.service.reference = func() (time.Time, bool) {
			now, ok := right()
			return now, ok && !doubtful.Load()
		}
	}
	inVirtualTime(t, off, func(t *testing.T, v *virtual) {
		n := v.at()
		v.toSlot(t)
		time.Sleep(3 * time.Hour)
		if got := v.types(t, n); len(got) != 0 {
			t.Errorf("events = %v, want none", got)
		}
		doubtful.Store(false)
		v.settle()
		if got := v.types(t, n); !slices.Equal(got, []string{"rollover"}) {
			t.Errorf("events = %v, want the rollover", got)
		}
	})
}

func TestServerWithoutGenerationMakesNoKeys(t *testing.T) {
	r := start(t, t.TempDir()+"/dev")
	r.service.generate = false
	_, err := r.service.Rollover(t.Context(), "alice", devRing, adminapi.Rollover{Intent: intent()})
	if err == nil || !strings.Contains(err.Error(), "key generation is turned off at server dev-1") {
		t.Errorf("Rollover = %v, want it refused", err)
	}
	if cfg, err := parseConfig([]byte("generate: maybe\n")); err == nil {
		t.Errorf("generate: maybe parses as %v", cfg.Generate)
	}
}
