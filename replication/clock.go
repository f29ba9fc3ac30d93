package replication

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keytide/keytide/events"
)

// ClockLimit is how far a server's clock may be off the reference. Beyond it the
// server starts no rollover.
const ClockLimit = 5 * time.Second

// A Clock is what a server can say of its clock at one moment.
type Clock struct {
	// Now is the reference: the median of the clocks of the servers that are fresh,
	// this one among them.
	Now time.Time
	// Offset is how far this server's clock is ahead of it.
	Offset time.Duration
	// OK reports whether this server may go by its clock: it starts a rollover only then.
	OK bool
	// Waiting: it is not OK only because others have not told their clocks yet. That
	// ends by itself.
	Waiting bool
	// Outvoted: it is off, and most servers agree with each other. It holds no beacon.
	Outvoted bool
	Why      string // unless OK
}

// A clockReading is how far another fresh server's clock is ahead of this server's.
type clockReading struct {
	server string
	ahead  time.Duration
}

// judgeClock compares this server's clock with those of the other servers that are
// fresh. unknown are servers that are there, perhaps, and whose clocks may still
// come. One clock alone is right; of two that differ nobody can tell which one is;
// of more the median is.
func judgeClock(own time.Time, others []clockReading, unknown []string) Clock {
	ahead := []time.Duration{0}
	for _, o := range others {
		ahead = append(ahead, o.ahead)
	}
	slices.Sort(ahead)
	median := (ahead[(len(ahead)-1)/2] + ahead[len(ahead)/2]) / 2
	c := Clock{Now: own.Add(median), Offset: -median, OK: true}
	switch {
	case len(others) == 1 && others[0].ahead.Abs() > ClockLimit:
		c.OK = false
		c.Why = fmt.Sprintf("the clocks of this server and server %s differ by %v, and nobody can tell which one is right",
			others[0].server, others[0].ahead.Abs().Round(time.Second))
	case c.Offset.Abs() > ClockLimit:
		agree := 0
		for _, a := range ahead {
			if (a - median).Abs() <= ClockLimit {
				agree++
			}
		}
		c.OK, c.Outvoted = false, 2*agree > len(ahead)
		c.Why = fmt.Sprintf("this server's clock is %v %s the median of %d servers' clocks", c.Offset.Abs().Round(time.Second), side(c.Offset), len(ahead))
	case len(unknown) > 0:
		c.OK, c.Waiting = false, true
		c.Why = "the clocks of other servers are not known yet: " + strings.Join(unknown, ", ")
	}
	return c
}

func side(offset time.Duration) string {
	if offset > 0 {
		return "ahead of"
	}
	return "behind"
}

// Clock compares this server's clock with those of the other fresh servers, by their
// signed records. It says nothing of whether this server is fresh; who starts a
// rollover asks that as well. It must not be called while the replica is read.
func (m *Member) Clock() Clock {
	var members []events.Member
	m.replica.Read(func(s *events.State) { members = s.Members() })
	m.mu.Lock()
	defer m.mu.Unlock()
	own := time.Now()
	// How far the clock that does not jump is ahead of the one that a person may have
	// set meanwhile. Both without their monotonic readings: those never differ.
	drift := m.now().Round(0).Sub(own.Round(0))
	var others []clockReading
	var unknown []string
	for _, member := range members {
		if member.ID == m.id.Server || member.Forgotten != 0 {
			continue
		}
		view, ok := m.servers[member.ID]
		live := ok && view.live && m.now().Sub(view.arrived) < 2*m.cfg.RecordPeriod
		switch {
		case live && view.Record.State == events.Fresh:
			others = append(others, clockReading{member.ID, view.ahead.most() + drift})
		case live, ok && view.Record.State == events.Stopped, member.Excluded != 0:
		case m.caughtUp.IsZero(), m.now().Sub(m.caughtUp) < 2*m.cfg.RecordPeriod:
			unknown = append(unknown, member.ID)
		}
	}
	return judgeClock(own, others, unknown)
}

// clockSamples are how far a server's clock was ahead of this server's in its newest
// records. A record that comes late makes a clock look behind, never ahead, so the
// most of a few is the best.
type clockSamples struct {
	boot   [16]byte
	sample [3]time.Duration
	count  int
}

func (c *clockSamples) add(rec events.ServerRecord, arrived time.Time) {
	if rec.Boot != c.boot {
		*c = clockSamples{boot: rec.Boot}
	}
	c.sample[c.count%len(c.sample)] = rec.At.Sub(arrived)
	c.count++
}

func (c *clockSamples) most() time.Duration {
	return slices.Max(c.sample[:min(max(c.count, 1), len(c.sample))])
}

// watchClock raises an alarm while this server's clock is not to be relied on.
func (m *Member) watchClock() {
	id := alarmID{AlarmClock, ""}
	switch c := m.Clock(); {
	case c.OK:
		m.clear(id)
	case c.Waiting:
	default:
		if _, standing := m.alarms.standing(id); !standing { // its numbers change all the time
			m.raise(Alarm{Kind: AlarmClock, Why: c.Why})
		}
	}
}
