package keystore_test

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
	_ "time/tzdata" // the schedules' zones do not depend on the machine

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/schedule"
)

var modelSlots = flag.Int("slots", defaultModelSlots, "TestNeverTwoRolloversForOneSlot: slots that are simulated")

// TestNeverTwoRolloversForOneSlot: however many servers may make keys, and however they
// race, pause, lag behind, crash and misread the time, in half of the runs by hours, while
// administrators roll over by hand and change schedules.
//
// The rules are the real ones. The log is one in memory that takes an event if it is
// the next after the one on which it was decided, as the bucket does.
func TestNeverTwoRolloversForOneSlot(t *testing.T) {
	t.Parallel()
	const runs = 8
	models := make([]*slotModel, runs)
	t.Run("runs", func(t *testing.T) {
		for seed := range models {
			t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
				t.Parallel()
				m := newSlotModel(t, uint64(seed))
				for m.count.slots < *modelSlots/runs {
					m.round()
				}
				t.Logf("%+v", m.count)
				models[seed] = m
			})
		}
	})
	if t.Failed() {
		return
	}
	var sum slotCount
	for _, m := range models {
		sum.answered += m.count.answered
		sum.skipped += m.count.skipped
		sum.byHand += m.count.byHand
		sum.changed += m.count.changed
		sum.held += m.count.held
		sum.conflicts += m.count.conflicts
		sum.late += m.count.late
		sum.stale += m.count.stale
	}
	if sum.answered*2 < *modelSlots || min(sum.skipped, sum.byHand, sum.changed, sum.held, sum.conflicts, sum.late, sum.stale) == 0 {
		t.Errorf("too tame: %+v", sum)
	}
}

// A slotCount says what became of slots, and what happened meanwhile.
type slotCount struct {
	slots, answered, skipped, missed int
	byHand, changed, held            int
	// Events that came too late; that came long after they were sent; that were not
	// decided, because the slot was another's by then.
	conflicts, late, stale int
}

// A generator is a server that may make keys.
type generator struct {
	skew     time.Duration // by which slots are due to it too early
	drift    time.Duration // by which its events are dated ahead
	view     keystore.Ring // what it has read
	slot     time.Time     // the slot that it saw due last
	inFlight *attempt      // what it has decided and not sent yet
	down     bool
}

// An attempt is an event that was decided and may be committed at any time from then
// on, whatever its server believes.
type attempt struct {
	base   keystore.N // the event that it was decided on
	change keystore.Change
	at     time.Time
}

type slotModel struct {
	tb         testing.TB
	r          *rand.Rand
	now        time.Time
	head       keystore.Ring
	plans      map[keystore.Schedule]keystore.Plan
	policies   []keystore.Policy
	generators []*generator
	servers    []keystore.Confirmation // theirs
	network    []attempt               // sent; their servers do not know what became of them
	keys       uint64
	done       time.Time // the newest slot that was answered or skipped
	stuck      int       // rounds since a slot was
	wild       bool      // clocks are off by hours, not seconds
	count      slotCount
}

func newSlotModel(tb testing.TB, seed uint64) *slotModel {
	m := &slotModel{
		tb: tb, r: rand.New(rand.NewPCG(seed, 0)), now: start, plans: make(map[keystore.Schedule]keystore.Plan),
		wild: seed%2 == 0,
	}
	for _, p := range []struct {
		rule, tz, blackout string
		minInterval        time.Duration
	}{
		{"every 1h", "", "", time.Hour},
		{"every 20m", "", "12:00-13:00", 0},
		{"cron */10 * * * *", "Europe/Berlin", "", 0},
		{"daily 02:00,02:30,03:00,14:30", "America/Santiago", "", 20 * time.Minute},
		{"cron 0 */2 * * *", "Australia/Lord_Howe", "sat@00:00-sun@12:00", time.Hour},
		{"weekly mon-fri@02:30,04:00", "Africa/Casablanca", "", 0},
	} {
		m.policies = append(m.policies, m.policy(p.rule, p.tz, p.blackout, p.minInterval))
	}
	for i := range 3 + seed%3 {
		m.generators = append(m.generators, &generator{})
		m.servers = append(m.servers, keystore.Confirmation{Server: fmt.Sprint("ps-", i)})
	}
	p := m.policies[seed%uint64(len(m.policies))]
	c, err := keystore.Ring{}.Create(keystore.Creation{
		Name: "sso", Policy: p, Now: m.now, Plan: m.plans[p.Schedule],
		Keys: keystore.FirstKeys{Current: m.key(), Future: m.key(), Static: m.key(), SessionTicket: m.key()},
	})
	if err != nil {
		tb.Fatal(err)
	}
	m.commit(attempt{change: c, at: m.now})
	for _, g := range m.generators {
		g.view = m.head
	}
	return m
}

func (m *slotModel) policy(rule, tz, blackout string, minInterval time.Duration) keystore.Policy {
	s, err := keystore.ParseSchedule(rule, tz, blackout)
	if err != nil {
		m.tb.Fatal(err)
	}
	plan, err := schedule.Compile(s)
	if err != nil {
		m.tb.Fatal(err)
	}
	m.plans[s] = shortPlan{plan, plan.Shortest()}
	return keystore.Policy{MaxSession: time.Second, Retain: 1, MinInterval: minInterval, Schedule: s}
}

// A shortPlan has looked for its shortest gap once.
type shortPlan struct {
	*schedule.Plan
	shortest time.Duration
}

func (p shortPlan) Shortest() time.Duration { return p.shortest }

func (m *slotModel) key() keystore.NewKey {
	m.keys++
	var kid keystore.KID
	binary.BigEndian.PutUint64(kid[:], m.keys)
	return keystore.NewKey{KID: kid, Created: m.now}
}

// seconds is by how much clocks may differ.
func (m *slotModel) seconds() time.Duration {
	return time.Duration(m.r.IntN(10_000)-5000) * time.Millisecond
}

// one reports true once in n times.
func (m *slotModel) one(n int) bool { return m.r.IntN(n) == 0 }

// round lets time pass up to about the next slot, and everybody do something.
func (m *slotModel) round() {
	if m.stuck++; m.stuck > 5000 {
		m.tb.Fatalf("no slot was answered in %d rounds; it is %v, and the ring is at %+v", m.stuck, m.now, m.head)
	}
	next := m.head.NextSlot.Add(time.Duration(m.r.IntN(4000)-1000) * time.Millisecond)
	switch {
	case m.one(1000): // everybody is away for a while
		next = next.Add(time.Duration(m.r.IntN(120)) * time.Hour)
	case m.one(20):
		next = m.now.Add(time.Duration(m.r.IntN(3600)) * time.Second)
	}
	if next.After(m.now) {
		m.now = next
	}
	m.trouble()
	for range 2 + m.r.IntN(3) {
		m.now = m.now.Add(time.Duration(m.r.IntN(1000)) * time.Millisecond)
		m.act(m.generators[m.r.IntN(len(m.generators))])
		m.deliver()
	}
}

// trouble befalls some.
func (m *slotModel) trouble() {
	g := m.generators[m.r.IntN(len(m.generators))]
	switch m.r.IntN(100) {
	case 0: // a crash: it forgets what it was about to do, unless that is on its way
		if g.inFlight != nil && m.one(2) {
			m.network = append(m.network, *g.inFlight)
		}
		g.inFlight, g.down = nil, true
	case 1, 2, 3, 4, 5, 6, 7, 8:
		g.down = false
	case 9, 10: // a few seconds, or hours
		g.skew, g.drift = m.seconds(), m.seconds()
		if m.wild && m.one(10) {
			g.skew *= time.Duration(m.r.IntN(3000))
		}
	case 11, 12, 13, 14, 15:
		g.skew, g.drift = 0, 0
	}
}

// act lets a generator read, decide and send; or pause before any of these.
func (m *slotModel) act(g *generator) {
	if g.down {
		return
	}
	if g.inFlight == nil {
		if !m.one(5) {
			g.view = m.head
		}
		if c, err := m.decide(g); err == nil {
			g.inFlight = &attempt{g.view.Last.N, c, m.now.Add(g.drift)}
		} else if !errors.Is(err, errNothing) && !errors.Is(err, keystore.ErrRefused) {
			m.tb.Fatalf("%v, deciding on %+v", err, g.view)
		}
	}
	if g.inFlight == nil || m.one(4) {
		return
	}
	if m.one(20) { // no reply: it may be committed later, and is decided anew meanwhile
		m.network = append(m.network, *g.inFlight)
	} else {
		m.commit(*g.inFlight)
	}
	g.inFlight = nil
}

// deliver lets something land that was sent long ago.
func (m *slotModel) deliver() {
	if len(m.network) == 0 || !m.one(10) {
		return
	}
	i := m.r.IntN(len(m.network))
	a := m.network[i]
	m.network[i] = m.network[len(m.network)-1]
	m.network = m.network[:len(m.network)-1]
	m.count.late++
	m.commit(a)
}

var errNothing = errors.New("nothing to do")

// decide is what a server does: it tends the ring, or an administrator asks it to.
func (m *slotModel) decide(g *generator) (keystore.Change, error) {
	ring, now := g.view, m.now.Add(g.skew)
	plan := m.plans[ring.Policy.Schedule]
	servers := m.confirmations()
	switch old := ring.ByRole(keystore.Old); {
	case len(old) > 8:
		var kids []keystore.KID
		for _, k := range old[1:] {
			kids = append(kids, k.KID)
		}
		return ring.Destroy(kids)
	case m.one(150):
		return ring.Rollover(keystore.Rollover{
			Trigger: keystore.Manual, Future: m.key(), Now: now, Plan: plan, Servers: servers, Force: m.one(2),
		})
	case m.one(700):
		p := m.policies[m.r.IntN(len(m.policies))]
		return ring.SetPolicy(keystore.PolicyRequest{Policy: p, Now: now, Plan: m.plans[p.Schedule]})
	}
	due, ok := ring.DueSlot(now, plan)
	switch {
	case !ring.Hold.IsZero() && !ring.Holds(servers):
		return ring.EndHold(servers)
	case !ok:
		return keystore.Change{}, errNothing
	case due.Expired:
		return ring.SkipSlot(due.Slot, now, plan)
	case ring.Held(servers) == nil:
		slot := due.Slot
		if m.one(20) && !g.slot.IsZero() {
			slot = g.slot // it tries once more what it saw before, and the ring has moved on
		}
		g.slot = due.Slot
		c, err := ring.Rollover(keystore.Rollover{
			Trigger: keystore.Scheduled, Slot: slot, Future: m.key(), Now: now, Plan: plan, Servers: servers,
		})
		if !slot.Equal(due.Slot) && errors.Is(err, keystore.ErrInvalid) {
			m.count.stale++
			err = errNothing
		}
		return c, err
	case ring.Hold.IsZero():
		return ring.HoldSlot(due.Slot, now, plan, servers)
	}
	return keystore.Change{}, errNothing
}

// confirmations are everybody's; who is down for long is excluded.
func (m *slotModel) confirmations() []keystore.Confirmation {
	for i, g := range m.generators {
		m.servers[i].Applied, m.servers[i].Excluded = g.view.Last.N, g.down && m.one(10)
	}
	return m.servers
}

// commit takes the event if nothing came between, and checks the promise.
func (m *slotModel) commit(a attempt) {
	if a.base != m.head.Last.N {
		m.count.conflicts++
		return
	}
	next, err := m.head.Apply(a.change, keystore.EventRef{N: a.base + 1, At: a.at})
	if err != nil {
		m.tb.Fatalf("a decided change does not apply: %v", err)
	}
	before := m.head
	m.head = next
	c := a.change
	switch {
	case c.Kind == keystore.RolledOver && c.Trigger == keystore.Scheduled:
		m.checkSlot(before, c)
		m.count.answered++
	case c.Kind == keystore.SlotSkipped:
		m.checkSlot(before, c)
		m.count.skipped++
	case c.Kind == keystore.RolledOver:
		m.count.byHand++
		m.count.missed += c.Missed
		m.count.slots += c.Missed
	case c.Kind == keystore.PolicySet && c.Policy.Schedule != before.Policy.Schedule:
		m.count.changed++
	case c.Kind == keystore.RolloverHeld:
		m.count.held++
	}
	if !next.NextSlot.After(m.done) {
		m.tb.Fatalf("%s at %v: the next slot is %v, and %v was done with already\nfrom %+v", c.Kind, a.at, next.NextSlot, m.done, before)
	}
}

// checkSlot checks that a slot is one of the schedule's, and that nobody was done with
// it before.
func (m *slotModel) checkSlot(ring keystore.Ring, c keystore.Change) {
	if !c.Slot.After(m.done) {
		m.tb.Fatalf("%s of slot %v; %v was done with already", c.Kind, c.Slot, m.done)
	}
	plan := m.plans[ring.Policy.Schedule]
	if slot, ok := plan.Next(c.Slot.Add(-time.Nanosecond)); ring.Policy.Schedule.String()[:5] != "every" && (!ok || !slot.Equal(c.Slot)) {
		m.tb.Fatalf("%s of slot %v, which is none of %s", c.Kind, c.Slot, ring.Policy.Schedule)
	}
	m.done = c.Slot
	m.stuck = 0
	m.count.missed += c.Missed
	m.count.slots += 1 + c.Missed
}
