package replication_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/replication"
)

// The core is gone for a day: the replica is stale and says why, writes are refused and
// not kept for later, everything that was applied is there to be read; and when the core
// is back, all goes on by itself within seconds.
func TestCoreGoneForADay(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		n := c.run("replica.db")
		n.awaitReady()
		n.commit(replication.CreateRing(t, "sso"))
		n.link.setCut(true)
		n.awaitState(events.Stale)
		for range 24 {
			<-time.After(time.Hour)
			f := n.Freshness()
			if f.State != events.Stale || f.Why == "" || ringVersion(n.Replica()) != 1 {
				t.Fatalf("Freshness = %+v and version %d, want stale, why, and the ring", f, ringVersion(n.Replica()))
			}
			if _, _, _, err := n.Examine(t.Context()); err == nil {
				t.Error("Examine of a core that is gone = nil")
			}
		}
		if age := n.Freshness().Age; age < 24*time.Hour {
			t.Errorf("age of the newest beacon = %v, want a day", age)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := n.Commit(ctx, replication.Roll(t, "sso", "once")); !errors.Is(err, events.ErrUnavailable) && !errors.Is(err, events.ErrUnknown) {
			t.Errorf("Commit = %v, want that it is not, or not known to be, stored", err)
		}
		n.link.setCut(false)
		if took := n.awaitState(events.Fresh); took > 30*time.Second {
			t.Errorf("fresh %v after the core was back", took)
		}
		if got := n.commit(replication.Roll(t, "sso", "once")); ringVersion(n.Replica()) != 2 {
			t.Errorf("event %d, version %d: want the one rollover that was asked for", got.N, ringVersion(n.Replica()))
		}
		if flaws := n.examine(t); len(flaws) != 0 {
			t.Errorf("Examine = %+v", flaws)
		}
	})
}
