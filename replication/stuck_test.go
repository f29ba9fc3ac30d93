package replication_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/replication"
)

// What was shown and could not be written is written once the disk takes it, also if
// the replicator was made anew in between: the file has no gap.
func TestFullDiskLosesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		n := c.run("replica.db")
		n.awaitReady()
		n.commit(replication.CreateRing(t, "sso"))
		mend := replication.FillDisk(t, n.Replica())
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			for {
				if _, err := n.Commit(ctx, replication.Roll(t, "sso", "")); err != nil {
					ended <- err
					return
				}
				<-time.After(time.Second) // in a bubble, time passes only in pauses
			}
		}()
		await(t, "disk alarm", func() bool { return n.alarm(replication.AlarmDisk, "") })
		n.awaitState(events.Stale)
		<-time.After(time.Minute) // following anew is asked for several times
		mend()
		n.awaitState(events.Fresh)
		cancel()
		<-ended
		want := n.commit(replication.Roll(t, "sso", "")).N
		n.stop()
		again := c.run("replica.db")
		if have, _ := again.Replica().Durable(); have != want {
			t.Errorf("after a restart the replica is at event %d, want %d", have, want)
		}
		again.awaitReady()
		again.commit(replication.Roll(t, "sso", ""))
	})
}

// While the fate of an event is unknown the replica may halt or fork: then nothing
// that comes will tell the fate. The caller is told so, nothing is sent any more, and
// those who come after are not kept waiting.
func TestStuckReplicaEndsAnUnknownFate(t *testing.T) {
	for name, spoil := range map[string]func(c *core, n keystore.N){
		"halted": func(c *core, n keystore.N) { c.forge(events.LogKey(n), []byte("forged")) },
		"forked": func(c *core, n keystore.N) {
			value, err := events.Beacon{Epoch: 1, Term: 99, Holder: "ps-1", Counter: 1, N: n - 1, Hash: events.Hash{1}, Origin: time.Now()}.Sign(c.key)
			if err != nil {
				c.tb.Fatal(err)
			}
			c.forge(events.BeaconKey, value)
		},
	} {
		for _, landed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, stored %v", name, landed), func(t *testing.T) {
				bubble(t, func(t *testing.T, c *core) {
					n := c.run("replica.db")
					n.awaitReady()
					n.commit(replication.CreateRing(t, "sso"))
					var sends atomic.Int64
					n.link.setAppend(func(_ context.Context, b events.Batch) (events.Revision, error) {
						if sends.Add(1) == 1 {
							spoil(c, b.N)
						}
						if landed {
							return 99, nil // the store says so; the replica never sees it
						}
						return 0, events.ErrUnknown
					})
					began := time.Now()
					_, err := n.Commit(t.Context(), replication.Roll(t, "sso", ""))
					if !errors.Is(err, events.ErrUnknown) || !strings.Contains(err.Error(), name) {
						t.Errorf("Commit = %v, want events.ErrUnknown and that the replica is %s", err, name)
					}
					if took := time.Since(began); took > 10*time.Second {
						t.Errorf("the caller was told after %v", took)
					}
					sent := sends.Load()
					if _, err := n.Commit(t.Context(), replication.Roll(t, "sso", "")); !errors.Is(err, events.ErrUnavailable) || !strings.Contains(err.Error(), name) {
						t.Errorf("the next Commit = %v, want events.ErrUnavailable and that the replica is %s", err, name)
					}
					<-time.After(time.Minute)
					if got := sends.Load(); got != sent {
						t.Errorf("%d sends after the caller was told, want none", got-sent)
					}
				})
			})
		}
	}
}

// Somebody has taken the place of an event that is not due yet. Until it is, nothing is
// wrong but the alarm; then a caller is told, and does not wait for good.
func TestTakenPlaceIsTold(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		n := c.run("replica.db")
		n.awaitReady()
		n.commit(replication.CreateRing(t, "sso"))
		c.forge(events.LogKey(4), []byte("forged"))
		await(t, "alarm", func() bool { return n.alarm(replication.AlarmTampered, events.LogKey(4)) })
		if got := n.commit(replication.Roll(t, "sso", "")); got.N != 3 {
			t.Errorf("n = %d, want 3", got.N)
		}
		n.awaitReady()
		for range 2 {
			_, err := n.Commit(t.Context(), replication.Roll(t, "sso", ""))
			if !errors.Is(err, events.ErrUnavailable) || !strings.Contains(err.Error(), "event 4") {
				t.Errorf("Commit = %v, want events.ErrUnavailable and event 4", err)
			}
		}
	})
}

// A core that has just elected a leader may say for a moment that it ends earlier than
// it does. That is no fork: a fork sticks.
func TestShortAnswerIsNoFork(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		n := c.run("replica.db")
		n.awaitReady()
		n.commit(replication.CreateRing(t, "sso"))
		n.link.setShort(true)
		c.dropConsumers()
		await(t, "short answer", func() bool { return n.link.shorts() > 1 })
		n.link.setShort(false)
		n.awaitState(events.Fresh)
		n.commit(replication.Roll(t, "sso", ""))
	})
}

// A core that ends too early for long is a fork, which ends when the core has what the
// replica has: nothing that was verified is lost meanwhile.
func TestForkOfAShortCoreEndsWhenItHasCaughtUp(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		first, second, _ := pair(t, c)
		first.commit(replication.Roll(t, "sso", ""))
		second.awaitN(5)
		second.link.setShort(true)
		c.dropConsumers()
		second.awaitState(events.Forked)
		if f := second.Freshness(); !strings.Contains(f.Why, "the core ends at revision 0") {
			t.Errorf("Why = %q", f.Why)
		}
		if _, err := second.Commit(t.Context(), replication.Roll(t, "sso", "")); !errors.Is(err, events.ErrUnavailable) {
			t.Errorf("Commit while forked = %v, want events.ErrUnavailable", err)
		}
		first.awaitState(events.Fresh)
		first.commit(replication.Roll(t, "sso", "")) // the others go on
		<-time.After(time.Minute)
		if n, _ := second.Replica().Watch(); n != 5 || second.Freshness().State != events.Forked {
			t.Errorf("a minute later: event %d, %+v; want 5 and forked", n, second.Freshness())
		}
		second.link.setShort(false)
		second.awaitState(events.Fresh)
		if second.stands(replication.AlarmForked) || !second.alarm(replication.AlarmForked, "") {
			t.Errorf("alarms = %+v, want the fork among those that have ended", second.Alarms())
		}
		if got := second.commit(replication.Roll(t, "sso", "")); got.N != 7 {
			t.Errorf("n = %d, want 7", got.N)
		}
		for _, a := range second.Alarms() {
			if a.Kind != replication.AlarmForked {
				t.Errorf("reading anew raised %+v", a)
			}
		}
	})
}

// A fork does not end by a core that has grown: it must have the replica's own newest
// event. Until then nothing of it is taken.
func TestForkOfAShortCoreStaysWhereEventsAreOthers(t *testing.T) {
	for name, hides := range map[string]func(l *link){
		"none there": func(l *link) {
			l.setNewest(func(events.Entry) (events.Entry, error) { return events.Entry{}, events.ErrNoEntry })
		},
		"another there": func(l *link) {
			l.setNewest(func(e events.Entry) (events.Entry, error) { e.Value = []byte("other"); return e, nil })
		},
		"deleted": func(l *link) {
			l.setNewest(func(e events.Entry) (events.Entry, error) { e.Deleted = true; return e, nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *core) {
				n := c.run("replica.db")
				n.awaitReady()
				n.commit(replication.CreateRing(t, "sso"))
				n.link.setShort(true)
				c.dropConsumers()
				n.awaitState(events.Forked)
				hides(n.link)
				n.link.setShort(false)
				<-time.After(time.Minute)
				if f := n.Freshness(); f.State != events.Forked || ringVersion(n.Replica()) != 1 {
					t.Errorf("%+v and version %d, want forked and 1", f, ringVersion(n.Replica()))
				}
			})
		})
	}
}

// A decision may ask and mark the replica: it is not made under the replica's lock.
func TestDecisionsMayUseTheReplica(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		n := c.run("replica.db")
		n.awaitReady()
		n.commit(func(s *events.State) (replication.Proposal, error) {
			if err := n.Replica().SetMark("decided", time.Now()); err != nil {
				t.Error(err)
			}
			return replication.CreateRing(t, "sso")(s)
		})
	})
}

// A destroyed key never comes back, and nobody's live key is overwritten: neither by a
// request for it, nor after a restart, nor by a replica that was made anew.
func TestDestroyedKeyNeverComesBack(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		n := c.run("replica.db")
		n.awaitReady()
		n.commit(replication.CreateRing(t, "sso"))
		n.commit(replication.CreateRing(t, "web"))
		var first, live keystore.KID
		n.Replica().Read(func(s *events.State) {
			sso, _ := s.Ring("sso")
			web, _ := s.Ring("web")
			first, live = sso.Keys[0].KID, web.Keys[0].KID
		})
		for range 2 {
			n.commit(replication.Roll(t, "sso", ""))
		}
		if _, ok := n.Replica().Value(events.MaterialKey(first)); ok {
			t.Fatal("the first key is not destroyed")
		}
		refused := func(n *node, what string) {
			for name, kid := range map[string]keystore.KID{"a destroyed key": first, "another ring's key": live} {
				_, err := n.Commit(t.Context(), replication.RollTo(t, "sso", kid))
				if !errors.Is(err, keystore.ErrInvalid) {
					t.Errorf("%s: Commit with %s = %v, want keystore.ErrInvalid", what, name, err)
				}
			}
		}
		refused(n, "at once")
		n.stop()
		again := c.run("replica.db")
		again.awaitReady()
		refused(again, "after a restart")
		again.stop()
		anew := c.run("anew.db")
		anew.awaitReady()
		refused(anew, "by a new replica")
		anew.commit(replication.Roll(t, "sso", ""))
	})
}
