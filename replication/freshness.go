package replication

import (
	"fmt"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
)

// Freshness is a replica's word about itself at one moment.
type Freshness struct {
	State events.ServerState // fresh, stale, forked (nothing is written or applied) or halted (at the last good n)
	AsOf  time.Time          // origin of the newest beacon that the replica has reached; zero if none
	Age   time.Duration      // age of the newest beacon; 0 if there was none yet
	Why   string             // what is wrong, unless fresh
}

const (
	// freshWindow is how many beacons, and for how long at least, one window of a
	// holder's minimum lasts. Both must have passed: a burst of late beacons must
	// not push the minimum out, and a holder whose clock was set must be trusted
	// again after two windows.
	freshWindowCount = 60
	freshWindowTime  = time.Minute
)

// A freshness tracker judges beacons by when they come and how late they are. It
// is pure: it never asks the time. Its times are readings of one clock that does
// not jump (base plus time elapsed); only differences between two of them, and
// changes of the difference to a holder's clock, are used, so nobody's clock has
// to be right.
type freshness struct {
	limit time.Duration // from this age on a replica is stale

	seen    bool
	n       keystore.N // of the newest beacon
	arrived time.Time
	origin  time.Time
	excess  time.Duration // by how much it came later than its holder's fastest
	reached bool          // the replica has the beacon's n, with its hash
	asOf    time.Time

	holders map[string]*holderDelay
}

// A holderDelay keeps the least (arrival - origin) of one holder's beacons over
// the present window and the one before.
type holderDelay struct {
	began         time.Time
	count         int
	least, before time.Duration
	hasBefore     bool
}

func newFreshness(limit time.Duration) *freshness {
	return &freshness{limit: limit, holders: make(map[string]*holderDelay)}
}

// beacon takes in an accepted beacon. reached says whether the replica has
// applied n, and has the beacon's hash there.
func (f *freshness) beacon(holder string, n keystore.N, origin, arrived time.Time, reached bool) {
	h := f.holders[holder]
	if h == nil {
		h = &holderDelay{}
		f.holders[holder] = h
	}
	delay := arrived.Sub(origin)
	least := h.observe(delay, arrived)
	f.seen, f.n, f.arrived, f.origin = true, n, arrived, origin
	f.excess = delay - least
	f.reached = reached
	if reached {
		f.asOf = origin
	}
}

// observe adds a delay and returns the least of both windows.
func (h *holderDelay) observe(delay time.Duration, arrived time.Time) time.Duration {
	if h.count >= freshWindowCount && arrived.Sub(h.began) >= freshWindowTime {
		h.before, h.hasBefore = h.least, true
		h.count = 0
	}
	if h.count == 0 {
		h.began, h.least = arrived, delay
	}
	h.count++
	h.least = min(h.least, delay)
	if h.hasBefore {
		return min(h.least, h.before)
	}
	return h.least
}

// at judges at now. It knows only of beacons: forked and halted are the caller's.
func (f *freshness) at(now time.Time) Freshness {
	if !f.seen {
		return Freshness{State: events.Stale, Why: "no beacon has come yet"}
	}
	age := now.Sub(f.arrived) + f.excess
	out := Freshness{State: events.Fresh, AsOf: f.asOf, Age: age}
	switch {
	case !f.reached:
		out.State, out.Why = events.Stale, fmt.Sprintf("the beacon is at n %d, which this replica has not reached", f.n)
	case age >= f.limit:
		out.State, out.Why = events.Stale, fmt.Sprintf("the newest beacon is %v old; it must be under %v", age.Round(time.Millisecond), f.limit)
	}
	return out
}
