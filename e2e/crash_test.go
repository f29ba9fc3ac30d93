package e2e

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// A receipt is what a command prints of the event that it made.
type receipt struct {
	N  uint64 `json:"n"`
	ID string `json:"id"`
}

// TestNoAcknowledgedChangeIsLost is promise 4 from outside: the policy server is
// killed at random moments while rollovers go on. Whatever a command has printed as
// done is in the history afterwards, once.
func TestNoAcknowledgedChangeIsLost(t *testing.T) {
	const rounds = 8
	s := startSite(t)
	s.keytide(t, "ring", "set", "sso", "--min-interval", "0s", "--yes")
	seed := rand.Uint64()
	t.Logf("killed by seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	done := map[string]uint64{}
	for range rounds {
		for _, got := range s.rolloverUntilKilled(t, time.Duration(200+r.IntN(500))*time.Millisecond) {
			if n, twice := done[got.ID]; twice {
				t.Errorf("event %s was printed for n %d and for n %d", got.ID, n, got.N)
			}
			done[got.ID] = got.N
		}
		s.restart(t)
		s.checkHistory(t, done)
	}
	t.Logf("%d rollovers were acknowledged in %d lives of the server", len(done), rounds)
	if len(done) == 0 {
		t.Error("no rollover was acknowledged before a kill; nothing was tested")
	}
	// What was under way at a kill may have landed or not: the history is whole.
	verified := decode[struct {
		OK     bool   `json:"ok"`
		Events uint64 `json:"events"`
	}](t, s.keytide(t, "audit", "verify", "-o", "json"))
	if !verified.OK || verified.Events < uint64(len(done)) {
		t.Errorf("audit verify: %+v after %d acknowledged events", verified, len(done))
	}
}

// rolloverUntilKilled rolls over again and again until the server has been killed,
// after the given time, and returns what was acknowledged.
func (s *site) rolloverUntilKilled(t *testing.T, after time.Duration) []receipt {
	t.Helper()
	var acknowledged []receipt
	var commands sync.WaitGroup
	killed := make(chan struct{})
	commands.Go(func() {
		for {
			select {
			case <-killed:
				return
			default:
			}
			if out, err := s.try("rollover", "sso", "--yes", "-o", "json"); err == nil {
				acknowledged = append(acknowledged, decode[receipt](t, out))
			}
		}
	})
	<-time.After(after) // the moment of the kill is what is random here
	s.kill()
	close(killed)
	commands.Wait()
	return acknowledged
}

func (s *site) checkHistory(t *testing.T, done map[string]uint64) {
	t.Helper()
	history := decode[struct {
		Events []receipt `json:"events"`
	}](t, s.keytide(t, "history", "sso", "-o", "json"))
	seen := map[string]uint64{}
	for _, ev := range history.Events {
		seen[ev.ID] = ev.N
	}
	for id, n := range done {
		if seen[id] != n {
			t.Errorf("event %s was acknowledged as n %d; the history has it as n %d", id, n, seen[id])
		}
	}
}
