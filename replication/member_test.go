package replication_test

import (
	"errors"
	"testing"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/replication"
)

func TestCommitIsAppliedDurableAndThereAfterRestart(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		n := c.run("replica.db")
		n.awaitReady()
		created := n.commit(replication.CreateRing(t, "sso"))
		rolled := n.commit(replication.Roll(t, "sso", "req-1"))
		if created.N != 2 || rolled.N != 3 {
			t.Errorf("n = %d and %d, want 2 and 3", created.N, rolled.N)
		}
		if len(rolled.HeldBy) != 1 || rolled.HeldBy[0] != "ps-1" {
			t.Errorf("HeldBy = %v, want ps-1", rolled.HeldBy)
		}
		again := n.commit(replication.Roll(t, "sso", "req-1"))
		if again.N != rolled.N || again.ID != rolled.ID {
			t.Errorf("the same request again = event %d %s, want %d %s", again.N, again.ID, rolled.N, rolled.ID)
		}
		if durable, _ := n.Replica().Durable(); durable != 3 {
			t.Errorf("Durable = %d, want 3", durable)
		}
		version := ringVersion(n.Replica())
		n.stop()
		c.restart(nil)
		n = c.run("replica.db")
		if got := ringVersion(n.Replica()); got != version {
			t.Errorf("version after a restart = %d, want %d", got, version)
		}
		n.awaitReady()
		if got := n.commit(replication.Roll(t, "sso", "")); got.N != 4 {
			t.Errorf("n after a restart = %d, want 4", got.N)
		}
	})
}

func ringVersion(r *replication.Replica) (v keystore.Version) {
	r.Read(func(s *events.State) {
		ring, _ := s.Ring("sso")
		v = ring.Version
	})
	return v
}

func TestStartsFromReplicaWithoutCore(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		n := c.run("replica.db")
		n.awaitReady()
		n.commit(replication.CreateRing(t, "sso"))
		n.stop()
		n = c.run("replica.db", func(cfg *replication.MemberConfig) { cfg.Log.(*link).setCut(true) })
		if ringVersion(n.Replica()) != 1 {
			t.Error("the ring is not there")
		}
		if f := n.Freshness(); f.State != events.Stale || f.Why == "" {
			t.Errorf("Freshness = %+v, want stale and why", f)
		}
		if _, err := n.Commit(t.Context(), replication.Roll(t, "sso", "")); !errors.Is(err, events.ErrUnavailable) {
			t.Errorf("Commit = %v, want events.ErrUnavailable", err)
		}
	})
}

// TestNoSilentMiss is the promise that a policy server which cannot prove that it is up
// to date knows it within 5 s and says so, however long the cut is, and is up to date
// again within a second, and the next beacon, of the healing.
func TestNoSilentMiss(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		n := c.run("replica.db")
		n.awaitReady()
		for _, cut := range []time.Duration{6 * time.Second, 30 * time.Second, 5 * time.Minute} {
			n.link.setCut(true)
			if took := n.awaitState(events.Stale); took > 5*time.Second {
				t.Errorf("stale after %v, want within 5 s", took)
			}
			asOf := n.Freshness().AsOf
			<-time.After(cut)
			if f := n.Freshness(); f.State != events.Stale || !f.AsOf.Equal(asOf) {
				t.Errorf("in the cut: %+v, want stale as of %v", f, asOf)
			}
			n.link.setCut(false)
			if took := n.awaitState(events.Fresh); took > time.Second+1500*time.Millisecond {
				t.Errorf("fresh %v after the heal", took)
			}
		}
	})
}

func TestReplicatorIsMadeAnew(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		n := c.run("replica.db")
		n.awaitReady()
		n.commit(replication.CreateRing(t, "sso"))
		for i := range 3 {
			c.dropConsumers()
			got := n.commit(replication.Roll(t, "sso", ""))
			if want := keystore.N(i + 3); got.N != want {
				t.Errorf("n = %d, want %d", got.N, want)
			}
			n.awaitState(events.Fresh)
		}
	})
}

func TestSecondBootRefuses(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		first := c.run("replica.db")
		first.awaitReady()
		await(t, "own record", func() bool { return len(first.Servers()) == 1 })
		second := c.run("second.db")
		err := <-second.done
		two, ok := errors.AsType[*replication.TwoBootsError](err)
		if !ok || two.Server != "ps-1" || two.Hint() == "" {
			t.Errorf("Run of the second boot = %v, want a *TwoBootsError", err)
		}
		second.stopped = true
		second.replica.Close()
		if !first.alarm(replication.AlarmTwoBoots, events.ServerKey("ps-1")) {
			t.Errorf("alarms of the first = %v, want two_boots", first.Alarms())
		}
		first.commit(replication.CreateRing(t, "sso"))
	})
}

func TestServerRecordTellsWhatIsOnDisk(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		agents := func(cfg *replication.MemberConfig) {
			cfg.Agents = func() (int, int) { return 7, 2 }
		}
		n := c.run("replica.db", agents)
		n.awaitReady()
		n.commit(replication.CreateRing(t, "sso"))
		await(t, "record of event 2", func() bool {
			views := n.Servers()
			return len(views) == 1 && views[0].Record.Applied.N == 2 && views[0].Record.State == events.Fresh
		})
		view := n.Servers()[0]
		if rec := view.Record; !view.Self || rec.Agents != 7 || rec.AgentsBehind != 2 || rec.Region != "eu" {
			t.Errorf("record = %+v", rec)
		}
		counter := view.Record.Counter
		<-time.After(16 * time.Second)
		if got := n.Servers()[0]; got.Record.Counter <= counter || got.Age > 16*time.Second {
			t.Errorf("record after 16 s = counter %d, age %v; want a newer one than %d", got.Record.Counter, got.Age, counter)
		}
		n.stop()
		entry, err := c.ledger.Newest(t.Context(), events.ServerKey("ps-1"))
		if err != nil {
			t.Fatal(err)
		}
		if rec, err := events.DecodeServer(entry.Value); err != nil || rec.State != events.Stopped {
			t.Errorf("last record = %v, %v; want stopped", rec.State, err)
		}
	})
}
