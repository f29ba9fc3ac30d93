package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// TestExactlyOneRollover is as much of promise 2 as a site without schedules has:
// however many people call for a rollover at once, one is made, and the others are
// told why not.
func TestExactlyOneRollover(t *testing.T) {
	const people = 8
	s := startSite(t)
	for range 3 {
		before := s.ring(t).Version
		// Enough time has passed for one rollover, and then for none.
		s.keytide(t, "ring", "set", "sso", "--min-interval", "0s", "--yes")
		s.keytide(t, "rollover", "sso", "--yes")
		s.keytide(t, "ring", "set", "sso", "--min-interval", "1h", "--yes")
		if done, refusals := s.callAtOnce(t, people, "sso"); done != 0 || refusals != people {
			t.Errorf("within min_interval %d rollovers were made and %d refused, of %d", done, refusals, people)
		}
		if after := s.ring(t).Version; after != before+1 {
			t.Errorf("the ring went from version %d to %d", before, after)
		}
	}
	// A ring that has never rolled over may at once: by one of them.
	s.keytide(t, "ring", "create", "web", "--yes")
	done, refusals := s.callAtOnce(t, people, "web")
	web := decode[ringView](t, s.keytide(t, "ring", "show", "web", "-o", "json"))
	if done != 1 || refusals != people-1 || web.Version != 2 {
		t.Errorf("%d rollovers were made and %d refused, of %d; ring web is at version %d", done, refusals, people, web.Version)
	}
}

// callAtOnce has so many people call for a rollover, and returns how many were made
// and how many refused.
func (s *site) callAtOnce(t *testing.T, people int, ring string) (done, refusals int) {
	t.Helper()
	var mu sync.Mutex
	var calls sync.WaitGroup
	for range people {
		calls.Go(func() {
			_, err := s.try("rollover", ring, "--yes")
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				done++
			case refused(err):
				refusals++
			default:
				t.Error(err)
			}
		})
	}
	calls.Wait()
	return done, refusals
}

// TestFailClosedOnKeysOpenOnAvailability is promise 8: with a wrong unlock key the
// policy server does not start, and says which key is wrong; meanwhile agents go on,
// without a single user refused.
func TestFailClosedOnKeysOpenOnAvailability(t *testing.T) {
	s := startSite(t)
	first := startWebapp(t, s.output, s.host(t, "web-1"))
	second := startWebapp(t, s.output, s.host(t, "web-2"))
	ring := s.ring(t)
	users := startCrowd(t, 10, first, second)
	users.newest.Store(ring.Version)
	awaitRequests(t, users, 100)
	s.stop()

	unlock := filepath.Join(s.dir, "unlock.key")
	right, err := os.ReadFile(unlock)
	if err != nil {
		t.Fatal(err)
	}
	for name, wrong := range map[string][]byte{
		"another key": bytes.Repeat([]byte{7}, len(right)),
		"no key":      {},
		"an all-zero": make([]byte, len(right)),
		"half a key":  right[:len(right)/2],
	} {
		if err := os.WriteFile(unlock, wrong, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := s.try("dev", "--dir", s.dir, "--listen", s.admin, "--feed-listen", s.feed)
		if err == nil || !strings.Contains(err.Error(), "unlock.key") {
			t.Errorf("%s: the server ended with %v; want an error that names the file", name, err)
		}
		awaitRequests(t, users, 100)
	}
	if err := os.WriteFile(unlock, right, 0o600); err != nil {
		t.Fatal(err)
	}
	s.restart(t)
	s.awaitAgents(t, 2)
	users.end()
	users.check(t, map[string]uint64{ring.current(): ring.Version})
}
