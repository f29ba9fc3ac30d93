package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/keytide/keytide/replication/wan"
)

// TestMondayRollover is the story that Keytide is for: two data centres, eu and us, and
// a witness, ap. The link to us goes down on Sunday and comes back on Tuesday. Monday's
// rollover goes through, once; us says that it is stale; users who hop between the data
// centres are never refused, whichever has sealed their cookie; the next Monday's
// rollover waits for us, by name, until the link is back.
//
// Mondays are rollovers by hand here, as no test waits for a week: the guard judges
// both alike.
func TestMondayRollover(t *testing.T) {
	d := deploy(t)
	d.sites["eu"].keytide(t, "ring", "create", "sso", "--min-interval", "0s", "--reason", "Mondays in quick succession", "--yes")
	d.awaitEven(t)
	apps := map[string]string{}
	for _, region := range []string{"eu", "us"} {
		s := d.sites[region]
		apps[region] = startWebapp(t, s.output, s.host(t, "web-"+region))
	}
	t.Run("reset", func(t *testing.T) { d.mondayRollover(t, wan.Reset, apps) })
	t.Run("half-open", func(t *testing.T) { d.mondayRollover(t, wan.Hold, apps) })
}

// mondayRollover begins and ends with a deployment that is even. apps are an
// application's instances by region.
func (d *deployment) mondayRollover(t *testing.T, fault wan.Fault, apps map[string]string) {
	eu, us := d.sites["eu"], d.sites["us"]
	ring := eu.ring(t)
	current := map[string]uint64{ring.current(): ring.Version}
	awaitVersion(t, ring.Version, apps["eu"], apps["us"])
	users := startCrowd(t, 4, apps["eu"], apps["us"])
	users.newest.Store(ring.Version)
	awaitRequests(t, users, 100)
	d.awaitHeldBy(t, "eu")

	began := time.Now()
	must(t, d.net.Cut("us", fault)) // Sunday
	d.awaitState(t, "stale", "us")
	t.Logf("us says that it is stale %v after the cut", time.Since(began).Round(10*time.Millisecond))
	d.awaitFresh(t, "eu", "ap", "sa") // where us has led the core, once it has elected another

	// Elections may still be under way, and then nothing is stored.
	eventually(t, "Monday's rollover", func() error {
		_, err := eu.try("rollover", "sso", "--reason", "Monday", "--yes")
		return err
	})
	monday := eu.ring(t)
	current[monday.current()] = monday.Version
	if monday.Version != ring.Version+1 {
		t.Fatalf("version %d after Monday's rollover, %d before", monday.Version, ring.Version)
	}
	awaitVersion(t, monday.Version, apps["eu"])
	awaitRequests(t, users, 500) // of which about every second hops
	if got := us.ring(t); got.Version != ring.Version {
		t.Fatalf("us is at version %d: it is not cut off", got.Version)
	}
	if got := eu.ring(t); got.Version != monday.Version {
		t.Errorf("version %d after one rollover, want %d", got.Version, monday.Version)
	}

	d.awaitHeldBy(t, "eu", "us-1")
	_, err := eu.try("rollover", "sso", "--reason", "the Monday after", "--yes")
	if !refused(err) || !strings.Contains(err.Error(), "us-1") {
		t.Errorf("a second rollover in the cut: %v, want it refused, and us-1 named", err)
	}

	began = time.Now()
	must(t, d.net.Heal("us")) // Tuesday
	d.awaitFresh(t, "us")
	awaitVersion(t, monday.Version, apps["us"])
	t.Logf("us is fresh, and its agent at Monday's version, %v after the heal", time.Since(began).Round(10*time.Millisecond))
	d.awaitEven(t)
	d.awaitHeldBy(t, "eu")
	if got := us.ring(t); got.Version != monday.Version || got.current() != monday.current() {
		t.Errorf("us is at version %d, want %d", got.Version, monday.Version)
	}
	users.newest.Store(monday.Version)
	awaitRequests(t, users, 100)

	us.keytide(t, "rollover", "sso", "--reason", "the Monday after", "--yes")
	next := us.ring(t)
	current[next.current()] = next.Version
	awaitVersion(t, next.Version, apps["eu"], apps["us"])
	users.newest.Store(next.Version)
	awaitRequests(t, users, 100)
	d.awaitEven(t)
	users.end()
	users.check(t, current)
}
