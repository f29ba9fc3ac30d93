package server

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/replication"
)

// A write that times out lands after its sender has read that it is not there: it is done
// once, whoever asks again, and nothing looks wrong.
func TestSceneWriteLandsAfterTheReadBack(t *testing.T) {
	play(t, 2, func(t *testing.T, s *scene) {
		first, second := s.actors[0], s.actors[1]
		keys := second.wires[0]
		var once sync.Once
		var held events.Batch
		keys.set(func(w *wire) {
			w.append = func(ctx context.Context, b events.Batch) (events.Revision, error) {
				once.Do(func() { held = b })
				<-ctx.Done()
				return 0, errors.Join(events.ErrUnknown, ctx.Err())
			}
		})
		asking, cancel := context.WithTimeout(t.Context(), 8*time.Second)
		defer cancel()
		request := rollover(ulid.Make().String())
		if _, err := second.service.Rollover(asking, "eva", "sso", request); !errors.Is(err, events.ErrUnknown) {
			t.Errorf("Rollover = %v, want that its outcome is unknown", err)
		}
		for _, a := range s.actors { // the read-back
			if a.version() != 1 || a.says("ps-2").State != "fresh" {
				t.Errorf("%s: version %d and %+v, want 1 and fresh", a.id.Server, a.version(), a.says("ps-2"))
			}
		}
		<-time.After(10 * time.Second)
		if _, err := keys.Log.Append(t.Context(), held); err != nil {
			t.Fatalf("the late write: %v", err)
		}
		until(t, "both have it", func() bool { return first.version() == 2 && second.version() == 2 })
		keys.set(func(w *wire) { w.append = nil })
		again, err := second.service.Rollover(t.Context(), "eva", "sso", request)
		if err != nil || again.N != held.N || again.Version != 2 {
			t.Errorf("asked again: %+v, %v; want event %d and version 2", again, err, held.N)
		}
		if _, err := second.roll(ulid.Make().String()); err != nil {
			t.Errorf("the next one: %v", err)
		}
		until(t, "all are well", func() bool { return first.says("ps-2").State == "fresh" && first.version() == 3 })
		for _, a := range s.actors {
			if a.rollovers() != 2 {
				t.Errorf("%s: %d rollovers, want 2", a.id.Server, a.rollovers())
			}
			a.wantNoAlarms()
		}
	})
}

// The holder's beacons come later and later, until another holds the beacon: nobody stays stale but the one with the bad link.
func TestSceneLaggingBeaconHolder(t *testing.T) {
	play(t, 3, func(t *testing.T, s *scene) {
		first, second, third := s.actors[0], s.actors[1], s.actors[2]
		if s.holder() != "ps-1" {
			t.Fatalf("the holder is %s, want ps-1", s.holder())
		}
		for _, w := range first.wires {
			var lag time.Duration
			w.set(func(w *wire) {
				w.late = func() time.Duration { lag += 300 * time.Millisecond; return lag }
			})
		}
		until(t, "another holds the beacon", func() bool { return s.holder() != "ps-1" })
		until(t, "ps-2 and ps-3 are fresh", func() bool {
			return second.says("ps-2").State == "fresh" && third.says("ps-3").State == "fresh"
		})
		for range 60 {
			<-time.After(time.Second)
			for _, a := range []*actor{second, third} {
				if v := a.says(a.id.Server); v.State != "fresh" {
					t.Fatalf("%s is %s again: %s", v.ID, v.State, v.Why)
				}
			}
		}
		for _, a := range s.actors {
			a.wantNoAlarms()
		}
	})
}

// A holder that is frozen for a minute: the others take the beacon over and name it. When
// it goes on it knows at once that it is stale, makes nobody else so, and catches up.
func TestSceneFrozenHolderThaws(t *testing.T) {
	play(t, 2, func(t *testing.T, s *scene) {
		first, second := s.actors[0], s.actors[1]
		first.each((*wire).freeze)
		// It takes over after 3 to 4 s of silence: whether it is stale before is up to chance.
		until(t, "ps-2 holds the beacon", func() bool { return s.holder() == "ps-2" })
		until(t, "ps-2 is fresh", func() bool { return second.says("ps-2").State == "fresh" })
		<-time.After(time.Minute)
		v := second.says("ps-1")
		if v.State != "stale" || !strings.Contains(v.Why, "nothing has been heard of it for 1m") || !strings.Contains(v.Why, "its last word was fresh") {
			t.Errorf("ps-2 says of ps-1: %+v", v)
		}
		if v := first.says("ps-1"); v.State != "stale" || !strings.Contains(v.Why, "the newest beacon is 1m") {
			t.Errorf("ps-1 says of itself: %+v", v)
		}
		if err := second.rollGuarded(); err != nil {
			t.Errorf("the first rollover: %v", err)
		}
		if held, ok := errors.AsType[*keystore.HeldError](second.rollGuarded()); !ok || held.Behind[0].Server != "ps-1" {
			t.Errorf("the second rollover: %v, want it held by ps-1", held)
		}
		first.each((*wire).thaw)
		until(t, "ps-1 is fresh", func() bool { return first.says("ps-1").State == "fresh" && second.says("ps-1").State == "fresh" })
		if first.version() != 2 || s.holder() != "ps-2" {
			t.Errorf("ps-1 is at version %d, and the holder is %s; want 2 and ps-2", first.version(), s.holder())
		}
		if err := second.rollGuarded(); err != nil {
			t.Errorf("a rollover after that: %v", err)
		}
		for _, a := range s.actors {
			a.wantNoAlarms()
		}
	})
}

// A server that is forgotten while it is cut off never hears of it: it is stale, and feeds
// what it has. When it is back it learns of it, and says so instead of anything else.
func TestSceneForgottenServerIsCutOff(t *testing.T) {
	play(t, 2, func(t *testing.T, s *scene) {
		first, second := s.actors[0], s.actors[1]
		second.each((*wire).sever)
		until(t, "ps-2 is stale", func() bool { return second.says("ps-2").State == "stale" })
		forgotten, err := first.service.ForgetServer(t.Context(), "eva", "ps-2", leaveOut(false))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := first.rollGuarded(); err != nil {
				t.Errorf("rollover without it: %v", err)
			}
		}
		<-time.After(time.Minute)
		if v := second.says("ps-2"); v.State != "stale" || !strings.Contains(v.Why, "the newest beacon is") || second.fed() != 1 {
			t.Errorf("cut off: %+v, feeds version %d; want stale and 1", v, second.fed())
		}
		if v := first.says("ps-2"); v.ID != "" {
			t.Errorf("ps-1 still lists it: %+v", v)
		}
		second.wantNoAlarms()
		second.each((*wire).heal)
		second.wantForgotten(forgotten.N)
		first.wantNoAlarms()
	})
}

// A server that was forgotten while it was down learns of it at its start. Its id comes
// back with new keys alone.
func TestSceneForgottenServerReturns(t *testing.T) {
	play(t, 2, func(t *testing.T, s *scene) {
		first, second := s.actors[0], s.actors[1]
		if err := second.stop(); err != nil {
			t.Fatal(err)
		}
		forgotten, err := first.service.ForgetServer(t.Context(), "eva", "ps-2", leaveOut(false))
		if err != nil {
			t.Fatal(err)
		}
		back := s.start("ps-2")
		back.wantForgotten(forgotten.N)
		if v := first.says("ps-2"); v.ID != "" {
			t.Errorf("ps-1 lists it: %+v", v)
		}
		first.wantNoAlarms()
		s.join(first, "ps-2", "ps-2 anew")
		anew := s.start("ps-2 anew")
		until(t, "the new one is fresh", func() bool { return anew.says("ps-2").State == "fresh" && first.says("ps-2").State == "fresh" })
		if v := back.says("ps-2"); v.State != "halted" {
			t.Errorf("the old one says %+v", v)
		}
		if err := anew.rollGuarded(); err != nil {
			t.Error(err)
		}
	})
}

func (a *actor) wantForgotten(n keystore.N) {
	a.t.Helper()
	until(a.t, a.id.Server+" is halted", func() bool { return a.says(a.id.Server).State == "halted" })
	want := "this server was forgotten by event "
	if v := a.says(a.id.Server); !strings.Contains(v.Why, want) {
		a.t.Errorf("why = %q, want %q", v.Why, want)
	}
	if alarm, ok := a.alarm("forgotten", ""); !ok || !alarm.Ended.IsZero() || !strings.Contains(alarm.Text, want) {
		a.t.Errorf("alarms = %+v, want forgotten", a.status().Alarms)
	}
	until(a.t, "its feed is closed", func() bool {
		w := httptest.NewRecorder()
		a.hub.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/feed", nil))
		return w.Code == http.StatusServiceUnavailable
	})
	if _, err := a.roll("x"); !errors.Is(err, events.ErrUnavailable) {
		a.t.Errorf("a change there = %v, want that it is refused", err)
	}
}

// Two live servers with one id, as when a machine is cloned: the second ends and says
// why; the first goes on, and shows it.
func TestSceneClonedServer(t *testing.T) {
	play(t, 2, func(t *testing.T, s *scene) {
		first, second := s.actors[0], s.actors[1]
		if err := second.stop(); err != nil {
			t.Fatal(err)
		}
		s.clone("ps-2", "clone")
		second = s.start("ps-2")
		until(t, "ps-2 is fresh", func() bool { return second.says("ps-2").State == "fresh" && first.says("ps-2").State == "fresh" })
		clone := s.start("clone")
		two, ok := errors.AsType[*replication.TwoBootsError](<-clone.ended)
		if !ok || two.Server != "ps-2" || two.Hint() == "" {
			t.Errorf("the clone ended with %v, want a *TwoBootsError of ps-2", two)
		}
		until(t, "the alarm", func() bool { _, ok := second.alarm("two_boots", "server.ps-2"); return ok })
		if err := clone.stop(); err != nil {
			t.Error(err)
		}
		until(t, "ps-2 is well", func() bool { return first.says("ps-2").State == "fresh" && second.says("ps-2").State == "fresh" })
		if err := second.rollGuarded(); err != nil {
			t.Error(err)
		}
		first.wantNoAlarms()
		second.wantNoAlarms("two_boots")
	})
}
