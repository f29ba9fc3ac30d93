package bus

import (
	"slices"
	"time"
)

// The times by which a core server judges whether it is apart from the others.
const (
	// callEvery is how often each core server makes itself heard by the others.
	callEvery = 500 * time.Millisecond
	// apartAfter is for how long a server hears from no majority before it leaves. One
	// that follows would stand for election 4 to 9 s after the leader's last word, which
	// comes once a second: the first 3 s after a cut.
	apartAfter = 2500 * time.Millisecond
	// leaderApartAfter is the same for a server that leads everything: it stands for no
	// election, and where the cut is short nobody else has to. After that time the others
	// have elected one of them; after 10 s at the earliest it would step down, and stand.
	leaderApartAfter = 9 * time.Second
	// startPatience is for how long a server that has just started may hear nobody: it
	// stands for no election before it is connected to another one, and on a busy machine
	// that takes its time.
	startPatience = 10 * time.Second
	// backWithin is how old the answers may be that let a server come back.
	backWithin = time.Second

	flapWindow = time.Minute      // leaving more than once in this time makes coming back slow
	flapFirst  = time.Second      // the wait for the second time; doubled each time
	flapMost   = 15 * time.Second // the longest wait
)

// A sight is what a core server knows of the others: when it last heard from each. It
// reads no clock.
type sight struct {
	self   string
	others []string
	heard  map[string]time.Time // the server itself too: its own calls come back to it
	left   []time.Time          // when it left the others, of late
}

func newSight(self string, peers []Peer) *sight {
	s := &sight{self: self}
	for _, p := range peers {
		if p.Server != self {
			s.others = append(s.others, p.Server)
		}
	}
	s.reset()
	return s
}

// reset forgets all that was heard.
func (s *sight) reset() { s.heard = make(map[string]time.Time) }

func (s *sight) hear(server string, now time.Time) {
	if server == s.self || slices.Contains(s.others, server) {
		s.heard[server] = now
	}
}

// majority is when as many servers as make a majority with this one had last been
// heard; zero: they never were.
func (s *sight) majority() time.Time {
	var times []time.Time
	for _, other := range s.others {
		times = append(times, s.heard[other])
	}
	slices.SortFunc(times, func(a, b time.Time) int { return b.Compare(a) })
	need := (len(s.others) + 1) / 2 // besides this one
	return times[need-1]
}

// leave reports whether a server that started at some time must leave the others. A
// server that does not hear even itself has been standing still, and knows nothing.
func (s *sight) leave(now, started time.Time, leads bool) bool {
	if now.Sub(s.heard[s.self]) > 2*callEvery {
		return false
	}
	silent, patience := s.majority(), apartAfter
	if leads {
		patience = leaderApartAfter
	}
	if silent.IsZero() {
		silent, patience = started, startPatience
	}
	return now.Sub(silent) > patience
}

// leaves notes that the server leaves, and forgets what it heard.
func (s *sight) leaves(now time.Time) {
	s.left = slices.DeleteFunc(s.left, func(t time.Time) bool { return now.Sub(t) > flapWindow })
	s.left = append(s.left, now)
	s.reset()
}

// back reports whether a server that has left may come back: a majority answers, and it
// has not come and gone all the time.
func (s *sight) back(now time.Time) bool {
	if now.Sub(s.majority()) > backWithin {
		return false
	}
	wait := time.Duration(0)
	if n := len(s.left); n > 1 {
		wait = min(flapFirst<<min(n-2, 8), flapMost)
	}
	return len(s.left) == 0 || now.Sub(s.left[len(s.left)-1]) >= wait
}
