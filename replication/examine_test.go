package replication_test

import (
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/doctor"
	"github.com/keytide/keytide/replication"
)

func (n *node) examine(t *testing.T) []doctor.Flaw {
	t.Helper()
	flaws, count, info, err := n.Examine(t.Context())
	if err != nil || count == 0 || info.Last == 0 {
		t.Fatalf("Examine = %d entries, %+v, %v", count, info, err)
	}
	return flaws
}

func (n *node) mend(t *testing.T, flaw doctor.Flaw) (bool, error) {
	t.Helper()
	return n.Mend(t.Context(), "alice", "mended", doctor.Repair{Ledger: "keys", Key: flaw.Key, Revision: flaw.Revision})
}

// standing reports whether an alarm of this key stands.
func (n *node) standing(key string) bool {
	for _, a := range n.Alarms() {
		if a.Key == key && a.Ended.IsZero() {
			return true
		}
	}
	return false
}

// remove publishes the deletion of a key, as anybody with a writer's credentials can.
func (c *core) remove(key string) {
	c.tb.Helper()
	msg := &nats.Msg{Subject: events.Subject(bucket, key), Header: nats.Header{"KV-Operation": {"DEL"}}}
	if _, err := c.js.PublishMsg(c.tb.Context(), msg); err != nil {
		c.tb.Fatal(err)
	}
}

// checkReader has a server read the whole ledger from the bucket.
func checkReader(t *testing.T, c *core, n *node) {
	t.Helper()
	want, _ := n.Replica().Watch()
	n.stop()
	late := c.run("late.db")
	late.awaitReady()
	if got, _ := late.Replica().Watch(); got < want {
		t.Errorf("a new reader has %d events, want %d", got, want)
	}
	if flaws := late.examine(t); len(flaws) != 0 {
		t.Errorf("a new reader sees %+v", flaws)
	}
}

// What somebody with credentials wrote over, or deleted, is found in the bucket, put
// right from the replica, and a new server can read the whole ledger again.
func TestWhatWasWrittenOverIsMended(t *testing.T) {
	fixed := func(key string) func(*node) string { return func(*node) string { return key } }
	material := func(n *node) (key string) {
		n.Replica().Read(func(s *events.State) {
			ring, _ := s.Ring("sso")
			seals, _ := ring.Seals()
			key = events.MaterialKey(seals.KID)
		})
		return key
	}
	for name, tc := range map[string]struct {
		key   func(*node) string
		spoil func(c *core, key string)
		want  doctor.Fault
	}{
		"event written over": {fixed(events.LogKey(2)), func(c *core, key string) { c.forge(key, []byte("forged")) }, doctor.Overwritten},
		"event deleted":      {fixed(events.LogKey(2)), (*core).remove, doctor.Overwritten},
		"genesis":            {fixed(events.LogKey(1)), func(c *core, key string) { c.forge(key, []byte("forged")) }, doctor.Overwritten},
		"last event":         {fixed(events.LogKey(3)), func(c *core, key string) { c.forge(key, []byte("forged")) }, doctor.Overwritten},
		"ring":               {fixed(events.RingKey("sso")), func(c *core, key string) { c.forge(key, []byte("forged")) }, doctor.Overwritten},
		"ring deleted":       {fixed(events.RingKey("sso")), (*core).remove, doctor.Overwritten},
		"key material":       {material, func(c *core, key string) { c.forge(key, []byte("forged")) }, doctor.Overwritten},
		"foreign ring":       {fixed(events.RingKey("nobody")), func(c *core, key string) { c.forge(key, []byte("forged")) }, doctor.Foreign},
		"head":               {fixed(events.HeadKey), func(c *core, key string) { c.forge(key, events.Head{Epoch: 1, N: 99}.Encode()) }, doctor.Overwritten},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *core) {
				n := c.run("replica.db")
				n.awaitReady()
				n.commit(replication.CreateRing(t, "sso"))
				n.commit(replication.Roll(t, "sso", ""))
				if flaws := n.examine(t); len(flaws) != 0 {
					t.Fatalf("a good bucket has flaws: %+v", flaws)
				}
				key := tc.key(n)
				tc.spoil(c, key)
				await(t, "alarm", func() bool { return n.standing(key) })
				flaws := n.examine(t)
				if len(flaws) != 1 || flaws[0].Key != key || flaws[0].Fault != tc.want || flaws[0].Revision == 0 {
					t.Fatalf("Examine = %+v, want %s %s", flaws, key, tc.want)
				}
				stale := flaws[0]
				stale.Revision--
				if _, err := n.mend(t, stale); !errors.Is(err, events.ErrConflict) {
					t.Errorf("Mend of what has changed = %v, want events.ErrConflict", err)
				}
				if done, err := n.mend(t, flaws[0]); !done || err != nil {
					t.Fatalf("Mend = %t, %v", done, err)
				}
				await(t, "end of the alarm", func() bool { return !n.standing(key) })
				if done, err := n.mend(t, flaws[0]); done || err != nil {
					t.Errorf("a second Mend = %t, %v, want that there is nothing to do", done, err)
				}
				n.commit(replication.Roll(t, "sso", ""))
				checkReader(t, c, n)
			})
		})
	}
}

// What no member signed, in the place of the next event, halts every replica. A void event
// takes the place, and all go on.
func TestForgedNextEventIsMended(t *testing.T) {
	for name, spoil := range map[string]func(c *core, key string){
		"forged":  func(c *core, key string) { c.forge(key, []byte("forged")) },
		"deleted": (*core).remove,
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *core) {
				n := c.run("replica.db")
				n.awaitReady()
				n.commit(replication.CreateRing(t, "sso"))
				spoil(c, events.LogKey(3))
				n.awaitState(events.Halted)
				flaws := n.examine(t)
				if len(flaws) != 1 || flaws[0].Key != events.LogKey(3) || flaws[0].Fault != doctor.Forged {
					t.Fatalf("Examine = %+v, want log.3 forged", flaws)
				}
				if done, err := n.mend(t, flaws[0]); !done || err != nil {
					t.Fatalf("Mend = %t, %v", done, err)
				}
				n.awaitReady()
				rec, err := n.Replica().Record(3)
				if err != nil {
					t.Fatal(err)
				}
				if ev, err := events.Decode(rec); err != nil || ev.Type != events.TypeVoid || ev.Actor != "alice" || ev.Reason != "mended" {
					t.Errorf("event 3 = %+v, %v; want a void event of who mended", ev, err)
				}
				if got := n.commit(replication.Roll(t, "sso", "")); got.N != 4 {
					t.Errorf("the next event is %d, want 4", got.N)
				}
				checkReader(t, c, n)
			})
		})
	}
}

// An event that was committed, and written over before this replica had it, must not be
// replaced: that would be a fork.
func TestCommittedEventIsNeverReplaced(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		n := c.run("replica.db")
		n.awaitReady()
		n.commit(replication.CreateRing(t, "sso"))
		n.link.setCut(true)
		// The head says that event 3 was committed.
		c.forge(events.HeadKey, events.Head{Epoch: 1, N: 3, Hash: events.HashOf([]byte("3"))}.Encode())
		c.forge(events.LogKey(3), []byte("forged"))
		n.link.setCut(false)
		n.awaitState(events.Halted)
		flaws := n.examine(t)
		if len(flaws) != 1 || flaws[0].Key != events.LogKey(3) {
			t.Fatalf("Examine = %+v, want log.3 alone: a halted replica cannot judge the head", flaws)
		}
		if _, err := n.mend(t, flaws[0]); !errors.Is(err, keystore.ErrRefused) {
			t.Errorf("Mend = %v, want keystore.ErrRefused", err)
		}
		if _, err := n.mend(t, doctor.Flaw{Key: events.HeadKey}); !errors.Is(err, keystore.ErrRefused) {
			t.Errorf("Mend of the head = %v, want keystore.ErrRefused", err)
		}
		if got, _ := n.Replica().Watch(); got != 2 {
			t.Errorf("applied = %d, want 2", got)
		}
	})
}

// While events are committed, nothing looks like a flaw.
func TestExaminationBesideWrites(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		n := c.run("replica.db")
		n.awaitReady()
		n.commit(replication.CreateRing(t, "sso"))
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range 40 {
				n.commit(replication.Roll(t, "sso", ""))
				<-time.After(30 * time.Millisecond)
			}
		}()
		for running := true; running; {
			<-time.After(20 * time.Millisecond)
			if flaws := n.examine(t); len(flaws) != 0 {
				t.Errorf("Examine = %+v, want none", flaws)
			}
			select {
			case <-done:
				running = false
			default:
			}
		}
	})
}
