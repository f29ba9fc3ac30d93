package replication_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/events/ledger"
	"github.com/keytide/keytide/replication"
)

// TestStartWithoutTheBucket: a server starts from its replica although the core has
// lost the bucket, and says that it has; when the bucket is back, all is well.
func TestStartWithoutTheBucket(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		n := c.run("replica.db")
		n.awaitReady()
		n.commit(replication.CreateRing(t, "sso"))
		n.stop()
		// The store's files are away, as where a disk was not mounted.
		away := filepath.Join(c.dir, "away")
		c.stop()
		if err := os.Rename(c.busDir(), away); err != nil {
			t.Fatal(err)
		}
		c.start()
		bind(t, c)
		n = c.run("replica.db")
		n.awaitState(events.Forked)
		if !n.alarm(replication.AlarmNoBucket, "") {
			t.Errorf("alarms = %+v, want that there is no bucket", n.Alarms())
		}
		if _, err := n.Commit(t.Context(), replication.CreateRing(t, "portal")); err == nil {
			t.Error("it takes a change")
		}
		if _, err := c.js.Stream(t.Context(), events.StreamName(bucket)); !errors.Is(err, jetstream.ErrStreamNotFound) {
			t.Fatalf("it has made a bucket: %v", err)
		}
		if got, _ := n.Replica().Watch(); got != 2 {
			t.Errorf("n = %d, want the replica's 2", got)
		}
		n.stop()
		c.stop()
		if err := errors.Join(os.RemoveAll(c.busDir()), os.Rename(away, c.busDir())); err != nil {
			t.Fatal(err)
		}
		c.start()
		bind(t, c)
		n = c.run("replica.db")
		n.awaitReady()
		n.commit(replication.CreateRing(t, "portal"))
	})
}

// bind opens the ledger as a server does that starts: without a look at it.
func bind(t *testing.T, c *core) {
	t.Helper()
	var err error
	if c.ledger, err = ledger.Bind(c.js, bucket, nil); err != nil {
		t.Fatal(err)
	}
}

// An oracle answers for the state of the bucket as it is told to.
type oracle struct {
	replication.Log
	info func(context.Context) (ledger.Info, error)
}

func (o *oracle) Info(ctx context.Context) (ledger.Info, error) { return o.info(ctx) }

// TestNoAnswerIsNoFork: only a core that says that it has no bucket has lost it; and
// one that says so for a moment, as after an election, has not.
func TestNoAnswerIsNoFork(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		n := c.run("replica.db")
		n.awaitReady()
		n.commit(replication.CreateRing(t, "sso"))
		n.stop()
		answer := fmt.Errorf("%w: no responders", events.ErrUnavailable)
		began := time.Now()
		n = c.run("replica.db", func(cfg *replication.MemberConfig) {
			cfg.Log = &oracle{Log: cfg.Log, info: func(ctx context.Context) (ledger.Info, error) {
				switch since := time.Since(began); {
				case since < 30*time.Second:
					return ledger.Info{}, answer
				case since < 31*time.Second:
					return ledger.Info{}, fmt.Errorf("bucket: %w", events.ErrNoBucket)
				}
				return c.ledger.Info(ctx)
			}}
		})
		for time.Since(began) < 29*time.Second {
			<-time.After(time.Second)
			if got := n.Freshness().State; got != events.Stale {
				t.Fatalf("after %v without an answer: %v, want stale", time.Since(began), got)
			}
		}
		n.awaitReady()
		if len(n.Alarms()) > 0 {
			t.Errorf("alarms = %+v, want none", n.Alarms())
		}
	})
}

// TestUnsafeSettingsAreAnAlarm while it lasts; the replica goes on.
func TestUnsafeSettingsAreAnAlarm(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		stream, err := c.js.Stream(t.Context(), events.StreamName(bucket))
		if err != nil {
			t.Fatal(err)
		}
		set := func(discard jetstream.DiscardPolicy) {
			cfg := stream.CachedInfo().Config
			cfg.Discard = discard
			if _, err := c.js.UpdateStream(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
		}
		set(jetstream.DiscardOld)
		n := c.run("replica.db")
		n.awaitReady()
		await(t, "alarm", func() bool { return n.alarm(replication.AlarmSettings, "") })
		set(jetstream.DiscardNew)
		c.dropConsumers() // following anew looks again
		await(t, "its end", func() bool {
			for _, a := range n.Alarms() {
				if a.Kind == replication.AlarmSettings && !a.Ended.IsZero() {
					return true
				}
			}
			return false
		})
	})
}

// TestNotFoundedYet: an empty replica waits for its ledger, and alarms nobody.
func TestNotFoundedYet(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		n := c.run("replica.db", func(cfg *replication.MemberConfig) {
			cfg.Log = &oracle{Log: cfg.Log, info: func(context.Context) (ledger.Info, error) {
				return ledger.Info{}, fmt.Errorf("bucket: %w", events.ErrNoBucket)
			}}
		})
		<-time.After(10 * time.Second)
		if len(n.Alarms()) > 0 || n.Freshness().State != events.Stale {
			t.Errorf("%+v, alarms = %+v", n.Freshness(), n.Alarms())
		}
	})
}
