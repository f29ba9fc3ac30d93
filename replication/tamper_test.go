package replication_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/events/ledger"
	"github.com/keytide/keytide/replication"
)

// Somebody with a writer's credentials, who is no member, writes into the bucket:
// it is found and named, never applied, and the next commit works.
func TestForgeryIsNamedAndNeverApplied(t *testing.T) {
	material := func(n *node) (key string) {
		n.Replica().Read(func(s *events.State) {
			ring, _ := s.Ring("sso")
			seals, _ := ring.Seals()
			key = events.MaterialKey(seals.KID)
		})
		return key
	}
	fixed := func(key string) func(*node) string { return func(*node) string { return key } }
	for name, tc := range map[string]struct {
		key   func(n *node) string
		value []byte
		kind  replication.AlarmKind
	}{
		"second message on log": {fixed(events.LogKey(2)), []byte("forged"), replication.AlarmTampered},
		"head":                  {fixed(events.HeadKey), events.Head{Epoch: 1, N: 99}.Encode(), replication.AlarmTampered},
		"material":              {material, []byte("forged"), replication.AlarmTampered},
		"ring state":            {fixed(events.RingKey("sso")), []byte("forged"), replication.AlarmValueDiffers},
		"beacon":                {fixed(events.BeaconKey), []byte("forged"), replication.AlarmTampered},
		"record":                {fixed(events.ServerKey("ps-1")), []byte("forged"), replication.AlarmTampered},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *core) {
				n := c.run("replica.db")
				n.awaitReady()
				n.commit(replication.CreateRing(t, "sso"))
				n.commit(replication.Roll(t, "sso", ""))
				key := tc.key(n)
				before, _ := n.Replica().Value(key)
				c.forge(key, tc.value)
				await(t, "alarm", func() bool { return n.alarm(tc.kind, key) })
				if now, _ := n.Replica().Value(key); string(now) != string(before) {
					t.Errorf("the forged value of %s is in the replica", key)
				}
				if got := n.commit(replication.Roll(t, "sso", "")); got.N != 4 || ringVersion(n.Replica()) != 3 {
					t.Errorf("n = %d and version %d, want 4 and 3", got.N, ringVersion(n.Replica()))
				}
				<-time.After(5 * time.Second)
				if f := n.Freshness(); f.State != events.Fresh {
					t.Errorf("Freshness = %+v, want fresh", f)
				}
				n.stop()
				n = c.run("replica.db")
				n.awaitReady()
				if !n.alarm(tc.kind, key) {
					t.Errorf("after a restart: alarms = %v, want %s on %s still listed", n.Alarms(), tc.kind, key)
				}
			})
		})
	}
}

func TestForgedEventHalts(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		n := c.run("replica.db")
		n.awaitReady()
		n.commit(replication.CreateRing(t, "sso"))
		c.forge(events.LogKey(3), []byte("forged"))
		n.awaitState(events.Halted)
		if !n.alarm(replication.AlarmHalted, events.LogKey(3)) || ringVersion(n.Replica()) != 1 {
			t.Errorf("alarms = %v and version %d, want halted on log.3 and 1", n.Alarms(), ringVersion(n.Replica()))
		}
		if _, err := n.Commit(t.Context(), replication.Roll(t, "sso", "")); !errors.Is(err, events.ErrUnavailable) {
			t.Errorf("Commit = %v, want events.ErrUnavailable", err)
		}
		n.stop()
		n = c.run("replica.db")
		n.awaitState(events.Halted) // found again
	})
}

// A core that has less than, or other than, the replica.
func TestForked(t *testing.T) {
	expectForked := func(t *testing.T, n *node) {
		t.Helper()
		n.awaitState(events.Forked)
		before, _ := n.Replica().Watch()
		if _, err := n.Commit(t.Context(), replication.Roll(t, "sso", "")); !errors.Is(err, events.ErrUnavailable) {
			t.Errorf("Commit = %v, want events.ErrUnavailable", err)
		}
		<-time.After(10 * time.Second)
		if now, _ := n.Replica().Watch(); now != before || ringVersion(n.Replica()) == 0 {
			t.Errorf("applied = %d, version %d; want still %d and the ring", now, ringVersion(n.Replica()), before)
		}
		if f := n.Freshness(); f.State != events.Forked || f.Why == "" {
			t.Errorf("Freshness = %+v, want forked and why", f)
		}
	}
	t.Run("bucket from an older copy", func(t *testing.T) {
		bubble(t, func(t *testing.T, c *core) {
			n := c.run("replica.db")
			n.awaitReady()
			n.commit(replication.CreateRing(t, "sso"))
			n.stop()
			backup := filepath.Join(c.dir, "backup")
			c.restart(func() {
				if err := os.CopyFS(backup, os.DirFS(c.busDir())); err != nil {
					t.Fatal(err)
				}
			})
			n = c.run("replica.db")
			n.awaitReady()
			for range 3 {
				n.commit(replication.Roll(t, "sso", ""))
			}
			n.stop()
			c.restart(func() {
				if err := errors.Join(os.RemoveAll(c.busDir()), os.Rename(backup, c.busDir())); err != nil {
					t.Fatal(err)
				}
			})
			n = c.run("replica.db")
			expectForked(t, n)
			if got, _ := n.Replica().Durable(); got != 5 {
				t.Errorf("Durable = %d, want all 5 events", got)
			}
		})
	})
	t.Run("bucket made anew", func(t *testing.T) {
		bubble(t, func(t *testing.T, c *core) {
			n := c.run("replica.db")
			n.awaitReady()
			n.commit(replication.CreateRing(t, "sso"))
			if err := c.js.DeleteStream(t.Context(), events.StreamName(bucket)); err != nil {
				t.Fatal(err)
			}
			n.awaitState(events.Forked) // with no bucket at all
			if _, err := ledger.Create(t.Context(), c.js, ledger.Config{Bucket: bucket}); err != nil {
				t.Fatal(err)
			}
			expectForked(t, n)
		})
	})
}
