package replication_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/replication"
)

// A guest is a server that is no member yet.
type guest struct {
	events.Member
	key ed25519.PrivateKey
}

func newGuest(tb testing.TB, id, region string) guest {
	key := replication.NewKey(tb)
	return guest{replication.NewMemberOf(tb, id, region, key), key}
}

// as edits a member's configuration so that it is this server.
func (g guest) as(cfg *replication.MemberConfig) {
	cfg.Identity = replication.Identity{Server: g.ID, Region: g.Region, Address: "127.0.0.1:7481", Key: g.key}
	cfg.Seed += uint64(g.ID[len(g.ID)-1])
}

// admit makes a server a member.
func (n *node) admit(g guest) {
	n.tb.Helper()
	n.commit(replication.Servers(n.tb, replication.Invited(g.Member)))
	n.commit(replication.Servers(n.tb, replication.Joined(g.Member)))
}

func (n *node) exclude(id string) {
	n.tb.Helper()
	n.commit(replication.Servers(n.tb, events.ServerChange{Type: events.TypeServerExcluded, ID: id, Cause: events.ByAdministrator}))
}

func (n *node) forget(id string) {
	n.tb.Helper()
	n.commit(replication.Servers(n.tb, events.ServerChange{Type: events.TypeServerForgotten, ID: id}))
}

func (n *node) member(id string) (m events.Member) {
	n.Replica().Read(func(s *events.State) { m, _ = s.Member(id) })
	return m
}

func (n *node) stands(kind replication.AlarmKind) bool {
	return slices.ContainsFunc(n.Alarms(), func(a replication.Alarm) bool { return a.Kind == kind && a.Ended.IsZero() })
}

// view is what a server last said, as this one knows it.
func (n *node) view(id string) (replication.ServerView, bool) {
	for _, v := range n.Servers() {
		if v.Record.ID == id {
			return v, true
		}
	}
	return replication.ServerView{}, false
}

func (n *node) awaitView(id, what string, ok func(events.ServerRecord) bool) {
	n.tb.Helper()
	await(n.tb, id+" "+what, func() bool { v, there := n.view(id); return there && ok(v.Record) })
}

// pair runs two members of one ledger, in two regions.
func pair(t *testing.T, c *core) (first, second *node, g guest) {
	t.Helper()
	first = c.run("ps-1.db")
	first.awaitReady()
	first.commit(replication.CreateRing(t, "sso"))
	g = newGuest(t, "ps-2", "us")
	first.admit(g)
	second = c.run("ps-2.db", g.as)
	second.awaitReady()
	first.awaitView("ps-2", "fresh", func(r events.ServerRecord) bool { return r.State == events.Fresh })
	return first, second, g
}

func TestTwoMembersWriteAndConfirmEachOther(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		first, second, _ := pair(t, c)
		got := second.commit(replication.Roll(t, "sso", "by-2"))
		if !slices.Equal(got.HeldBy, []string{"ps-2", "ps-1"}) {
			t.Errorf("HeldBy = %v, want ps-2 and, in the other region, ps-1", got.HeldBy)
		}
		if got := first.commit(replication.Roll(t, "sso", "")); !slices.Equal(got.HeldBy, []string{"ps-1", "ps-2"}) {
			t.Errorf("HeldBy = %v, want ps-1 and ps-2", got.HeldBy)
		}
		if again := first.commit(replication.Roll(t, "sso", "by-2")); again.N != got.N {
			t.Errorf("the request that ps-2 answered, at ps-1 = event %d, want %d", again.N, got.N)
		}
		first.awaitView("ps-2", "confirms", func(r events.ServerRecord) bool { return r.Applied.N == 6 && r.Region == "us" })
		second.link.setCut(true)
		began := time.Now()
		if got := first.commit(replication.Roll(t, "sso", "")); !slices.Equal(got.HeldBy, []string{"ps-1"}) || time.Since(began) > 6*time.Second {
			t.Errorf("with ps-2 cut off: HeldBy = %v after %v, want ps-1 alone within 6 s", got.HeldBy, time.Since(began))
		}
	})
}

func TestConcurrentCommitsOfTwoMembersAllLand(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		first, second, _ := pair(t, c)
		var done sync.WaitGroup
		for _, n := range []*node{first, second} {
			done.Go(func() {
				for range 10 {
					if _, err := n.Commit(t.Context(), replication.Roll(t, "sso", "")); err != nil {
						t.Error(err)
					}
				}
			})
		}
		done.Wait()
		first.awaitN(24)
		second.awaitN(24)
		if v := ringVersion(first.Replica()); v != 21 || ringVersion(second.Replica()) != v {
			t.Errorf("versions %d and %d, want 21", v, ringVersion(second.Replica()))
		}
	})
}

// A holder that is frozen for a minute loses the beacon to the other server, and
// neither its late beacons nor its records make anybody fresh that is not, when it is thawed.
func TestBeaconIsTakenOverFromAFrozenHolderThatThaws(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		first, second, _ := pair(t, c)
		holder := func() string {
			entry, err := c.ledger.Newest(t.Context(), events.BeaconKey)
			if err != nil {
				t.Fatal(err)
			}
			b, err := events.DecodeBeacon(entry.Value)
			if err != nil {
				t.Fatal(err)
			}
			return b.Holder
		}
		if holder() != "ps-1" {
			t.Fatalf("the beacon is %s's, want ps-1's", holder())
		}
		first.link.freeze()
		second.awaitState(events.Stale)
		second.awaitState(events.Fresh)
		if holder() != "ps-2" {
			t.Errorf("the beacon is %s's, want that ps-2 has taken it over", holder())
		}
		<-time.After(time.Minute)
		if f := first.Freshness(); f.State != events.Stale {
			t.Errorf("the frozen one is %v", f.State)
		}
		if f := second.Freshness(); f.State != events.Fresh {
			t.Errorf("the other one is %v: %s", f.State, f.Why)
		}
		got := second.commit(replication.Roll(t, "sso", ""))
		first.link.thaw()
		first.awaitState(events.Fresh)
		if n, _ := first.Replica().Watch(); n != got.N {
			t.Errorf("thawed and fresh at event %d, want %d", n, got.N)
		}
		<-time.After(10 * time.Second)
		if holder() != "ps-2" {
			t.Errorf("the beacon went back to %s", holder())
		}
		if first.Freshness().State != events.Fresh || second.Freshness().State != events.Fresh {
			t.Errorf("%+v and %+v, want both fresh", first.Freshness(), second.Freshness())
		}
		for _, n := range []*node{first, second} {
			if n.alarm(replication.AlarmTampered, events.BeaconKey) || n.alarm(replication.AlarmForked, "") {
				t.Errorf("alarms = %v", n.Alarms())
			}
		}
	})
}

// Somebody with the bus' credentials, and no key, makes nobody fresh and confirms nothing.
func TestForgedBeaconsAndRecordsCountForNothing(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		first, second, g := pair(t, c)
		before, _ := first.view("ps-2")
		thief := replication.NewKey(t)
		for i, key := range []ed25519.PrivateKey{thief, c.key} { // a stranger's, and another member's
			value, err := events.ServerRecord{
				ID: "ps-2", Region: "us", Address: "forged", PublicKey: g.PublicKey, Counter: 1 << 40, Applied: headOf(first), At: time.Now(), State: events.Fresh,
			}.Sign(key)
			if err != nil {
				t.Fatal(err)
			}
			c.forge(events.ServerKey("ps-2"), value)
			await(t, "alarm", func() bool { return first.alarm(replication.AlarmTampered, events.ServerKey("ps-2")) })
			if v, _ := first.view("ps-2"); v.Record.Address == "forged" || v.Record.Counter < before.Record.Counter {
				t.Errorf("forgery %d was taken: %+v", i, v.Record)
			}
		}
		first.link.freeze()
		second.link.holdBeacons(true)
		second.awaitState(events.Stale)
		for i := range 20 {
			b := events.Beacon{Epoch: 1, Term: 1 << 30, Holder: "ps-1", Counter: uint64(i + 1), N: headOf(second).N, Hash: headOf(second).Hash, Origin: time.Now()}
			value, err := b.Sign(thief)
			if err != nil {
				t.Fatal(err)
			}
			c.forge(events.BeaconKey, value)
			<-time.After(500 * time.Millisecond)
			if f := second.Freshness(); f.State != events.Stale {
				t.Fatalf("a forged beacon made it %v", f.State)
			}
		}
		second.link.holdBeacons(false)
		second.awaitState(events.Fresh)
		first.link.thaw()
		first.awaitState(events.Fresh)
	})
}

func headOf(n *node) (h events.Head) {
	n.Replica().Read(func(s *events.State) { h = s.Head() })
	return h
}

func TestClonedServerOfTwoMembersEnds(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		first, second, g := pair(t, c)
		clone := c.run("clone.db", g.as)
		err := <-clone.done
		if two, ok := errors.AsType[*replication.TwoBootsError](err); !ok || two.Server != "ps-2" {
			t.Errorf("Run of the clone = %v, want a *TwoBootsError of ps-2", err)
		}
		clone.stopped = true
		clone.replica.Close()
		if !second.alarm(replication.AlarmTwoBoots, events.ServerKey("ps-2")) {
			t.Errorf("alarms of ps-2 = %v, want two_boots", second.Alarms())
		}
		second.commit(replication.Roll(t, "sso", ""))
		if first.Freshness().State != events.Fresh {
			t.Errorf("ps-1 is %+v", first.Freshness())
		}
	})
}

func TestExclusionEndsWhenTheServerIsFresh(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		first, second, _ := pair(t, c)
		second.link.setCut(true)
		second.awaitState(events.Stale)
		first.exclude("ps-2")
		if m := first.member("ps-2"); m.Counts() {
			t.Fatalf("ps-2 = %+v, want excluded", m)
		}
		<-time.After(time.Minute)
		if m := first.member("ps-2"); m.Counts() || second.Standing().Excluded != 0 {
			t.Errorf("ps-2 = %+v, and it knows of its exclusion: %+v", m, second.Standing())
		}
		second.link.setCut(false)
		await(t, "return", func() bool { return first.member("ps-2").Counts() })
		rec, err := first.Replica().Record(6)
		if err != nil {
			t.Fatal(err)
		}
		ev, err := events.Decode(rec)
		if err != nil || ev.Type != events.TypeServerReturned || ev.Server != "ps-2" || ev.Actor != "keytide" {
			t.Errorf("event 6 = %+v, %v", ev, err)
		}
		<-time.After(time.Minute)
		if n := headOf(first).N; n != 6 {
			t.Errorf("the log ends at %d: the return was written again", n)
		}
	})
}

// A server that learns that it was forgotten says so and is not believed any more; it
// comes back under its id with a new key.
func TestForgottenServerReturns(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		first, second, _ := pair(t, c)
		first.forget("ps-2")
		second.awaitState(events.Halted)
		f := second.Freshness()
		if !f.AsOf.IsZero() || second.Standing().Forgotten != 5 {
			t.Errorf("forgotten: %+v, %+v", f, second.Standing())
		}
		if !second.alarm(replication.AlarmForgotten, "") {
			t.Errorf("alarms of ps-2 = %v, want forgotten", second.Alarms())
		}
		if _, err := second.Commit(t.Context(), replication.Roll(t, "sso", "")); !errors.Is(err, events.ErrUnavailable) || !errors.Is(err, events.ErrNotMember) {
			t.Errorf("Commit by a forgotten server = %v", err)
		}
		if _, there := first.view("ps-2"); there {
			t.Error("ps-1 still lists it")
		}
		second.stop() // its last word is not said
		if first.alarm(replication.AlarmForgotten, events.ServerKey("ps-2")) {
			t.Errorf("alarms of ps-1 = %v: an honest server ends quietly", first.Alarms())
		}
		again := newGuest(t, "ps-2", "us")
		first.admit(again)
		third := c.run("ps-2 again.db", again.as)
		third.awaitReady()
		third.commit(replication.Roll(t, "sso", ""))
		first.awaitView("ps-2", "confirms", func(r events.ServerRecord) bool { return r.Applied.N == 8 })
	})
}

// A server that was forgotten while it was away learns of it when it is back, before it says a word.
func TestForgottenServerThatWasAwayStaysSilent(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		first, second, g := pair(t, c)
		second.stop()
		first.forget("ps-2")
		before, err := c.ledger.Newest(t.Context(), events.ServerKey("ps-2"))
		if err != nil {
			t.Fatal(err)
		}
		second = c.run("ps-2.db", g.as)
		second.awaitState(events.Halted)
		<-time.After(time.Minute)
		after, err := c.ledger.Newest(t.Context(), events.ServerKey("ps-2"))
		if err != nil || after.Revision != before.Revision {
			t.Errorf("it put a record at revision %d (it stood at %d), %v", after.Revision, before.Revision, err)
		}
		first.awaitState(events.Fresh)
	})
}

// A server that is forgotten while it is cut off never hears of it: it is stale, and
// goes on with what it has.
func TestForgottenServerThatIsCutOffIsStale(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		first, second, _ := pair(t, c)
		second.link.setCut(true)
		second.awaitState(events.Stale)
		first.forget("ps-2")
		<-time.After(time.Minute)
		f := second.Freshness()
		if f.State != events.Stale || !second.Standing().Member || ringVersion(second.Replica()) != 1 {
			t.Errorf("cut off: %+v, %+v", f, second.Standing())
		}
		if _, err := second.Commit(contextFor(t, 20*time.Second), replication.Roll(t, "sso", "")); err == nil {
			t.Error("it committed")
		}
	})
}

func contextFor(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// A forgotten server that goes on all the same, against its program, is named.
func TestForgottenServerThatStillSpeaksIsNamed(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		first, second, g := pair(t, c)
		first.forget("ps-2")
		second.awaitState(events.Halted)
		second.stop()
		speak := func(head events.Head) {
			value, err := events.ServerRecord{
				ID: "ps-2", Region: "us", PublicKey: g.PublicKey, Counter: 1 << 20, Applied: head, At: time.Now(), State: events.Fresh,
			}.Sign(g.key)
			if err != nil {
				t.Fatal(err)
			}
			c.forge(events.ServerKey("ps-2"), value)
			<-time.After(time.Second)
		}
		speak(events.Head{Epoch: 1, N: 4})
		if first.alarm(replication.AlarmForgotten, events.ServerKey("ps-2")) {
			t.Errorf("alarms = %v: it did not know yet", first.Alarms())
		}
		speak(headOf(first))
		if !first.alarm(replication.AlarmForgotten, events.ServerKey("ps-2")) {
			t.Errorf("alarms = %v, want forgotten", first.Alarms())
		}
		if _, there := first.view("ps-2"); there {
			t.Error("its record was taken")
		}
		b := events.Beacon{Epoch: 1, Term: 1 << 20, Holder: "ps-2", Counter: 1, N: headOf(first).N, Hash: headOf(first).Hash, Origin: time.Now()}
		value, err := b.Sign(g.key)
		if err != nil {
			t.Fatal(err)
		}
		c.forge(events.BeaconKey, value)
		await(t, "alarm", func() bool { return first.alarm(replication.AlarmTampered, events.BeaconKey) })
		first.awaitState(events.Fresh)
		again := newGuest(t, "ps-2", "us")
		first.admit(again)
		c.run("ps-2 again.db", again.as).awaitReady()
		await(t, "the alarm's end", func() bool { return !first.stands(replication.AlarmForgotten) })
	})
}

// puppet puts the record of a member that does not run, as if its clock were ahead.
func (c *core) puppet(g guest, counter uint64, ahead time.Duration, head events.Head) {
	c.tb.Helper()
	value, err := events.ServerRecord{
		ID: g.ID, Region: g.Region, PublicKey: g.PublicKey, Counter: counter, Boot: [16]byte{7}, Applied: head,
		At: time.Now().Add(ahead), State: events.Fresh,
	}.Sign(g.key)
	if err != nil {
		c.tb.Fatal(err)
	}
	c.forge(events.ServerKey(g.ID), value)
}

func TestClockIsComparedWithFreshServers(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		first := c.run("ps-1.db")
		first.awaitReady()
		if clock := first.Clock(); !clock.OK || clock.Offset != 0 {
			t.Errorf("alone: %+v, want ok", clock)
		}
		second, third := newGuest(t, "ps-2", "us"), newGuest(t, "ps-3", "ap")
		first.admit(second)
		c.puppet(second, 1, time.Hour, headOf(first))
		first.awaitView("ps-2", "record", func(events.ServerRecord) bool { return true })
		await(t, "alarm", func() bool { return first.alarm(replication.AlarmClock, "") })
		if clock := first.Clock(); clock.OK || clock.Outvoted || clock.Waiting {
			t.Errorf("two that differ by an hour: %+v, want neither ok nor outvoted", clock)
		}
		if first.Freshness().State != events.Fresh {
			t.Errorf("state = %+v: of two, the holder goes on", first.Freshness())
		}
		first.admit(third)
		c.puppet(third, 1, time.Hour, headOf(first))
		await(t, "outvoted", func() bool { return first.Clock().Outvoted })
		if clock := first.Clock(); clock.Offset.Round(time.Second) != -time.Hour || time.Until(clock.Now).Round(time.Second) != time.Hour {
			t.Errorf("outvoted: %+v", clock)
		}
		first.awaitView("ps-1", "tells its offset", func(r events.ServerRecord) bool { return r.ClockOffset.Round(time.Second) == -time.Hour })
		first.awaitState(events.Stale) // it holds the beacon no more, and nobody else is there to
		await(t, "silence of the other two", func() bool { return first.Clock().OK })
		first.awaitState(events.Fresh)
		await(t, "the alarm's end", func() bool { return !first.stands(replication.AlarmClock) })
	})
}

// After a start a server does not go by its clock alone while others may yet tell theirs.
func TestClockWaitsForOthersAfterAStart(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		first, second, g := pair(t, c)
		await(t, "both clocks", func() bool { return first.Clock().OK && second.Clock().OK })
		second.stop()
		first.awaitView("ps-2", "stopped", func(r events.ServerRecord) bool { return r.State == events.Stopped })
		if clock := first.Clock(); !clock.OK {
			t.Errorf("the other has stopped in order: %+v, want ok", clock)
		}
		second = c.run("ps-2.db", g.as)
		second.awaitReady()
		if clock := second.Clock(); clock.OK || !clock.Waiting {
			t.Errorf("just started: %+v, want waiting for ps-1", clock)
		}
		await(t, "the other's clock", func() bool { return second.Clock().OK })
		first.link.setCut(true)
		second.stop()
		second = c.run("ps-2.db", g.as)
		took := await(t, "the end of waiting", func() bool { return second.Clock().OK })
		if took < 25*time.Second || took > 40*time.Second {
			t.Errorf("it waited %v for a server that is away, want 30 s", took)
		}
	})
}
