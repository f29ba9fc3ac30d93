package bus

import (
	"testing"
	"time"
)

// A seen drives a sight by a clock of its own.
type seen struct {
	*sight
	now time.Time
}

func newSeen(servers ...string) *seen {
	var peers []Peer
	for _, s := range servers {
		peers = append(peers, Peer{Server: s})
	}
	return &seen{newSight(servers[0], peers), time.Unix(1_000_000, 0)}
}

// pass lets time go by, in which the named servers call.
func (s *seen) pass(d time.Duration, callers ...string) {
	for end := s.now.Add(d); s.now.Before(end); {
		s.now = s.now.Add(callEvery)
		for _, c := range callers {
			s.hear(c, s.now)
		}
	}
}

func TestSightLeaves(t *testing.T) {
	for name, test := range map[string]struct {
		servers []string
		hears   []string // after all were heard; the server itself is "a"
		lasts   time.Duration
		leads   bool
		want    bool
	}{
		"hears all":                        {[]string{"a", "b", "c"}, []string{"a", "b", "c"}, time.Minute, false, false},
		"one of three is lost":             {[]string{"a", "b", "c"}, []string{"a", "c"}, time.Minute, false, false},
		"a short silence":                  {[]string{"a", "b", "c"}, []string{"a"}, 2 * time.Second, false, false},
		"alone of three":                   {[]string{"a", "b", "c"}, []string{"a"}, 3 * time.Second, false, true},
		"alone of three, and leads":        {[]string{"a", "b", "c"}, []string{"a"}, 8 * time.Second, true, false},
		"alone of three, and led":          {[]string{"a", "b", "c"}, []string{"a"}, 10 * time.Second, true, true},
		"two of five":                      {[]string{"a", "b", "c", "d", "e"}, []string{"a", "b"}, 3 * time.Second, false, true},
		"three of five":                    {[]string{"a", "b", "c", "d", "e"}, []string{"a", "b", "e"}, time.Minute, false, false},
		"it stood still itself":            {[]string{"a", "b", "c"}, nil, time.Minute, false, false},
		"a stranger makes no majority":     {[]string{"a", "b", "c"}, []string{"a", "x", "y"}, 3 * time.Second, false, true},
		"its own calls make no majority":   {[]string{"a", "b", "c"}, []string{"a", "a"}, 3 * time.Second, false, true},
		"one server twice is not two":      {[]string{"a", "b", "c", "d", "e"}, []string{"a", "b", "b"}, 3 * time.Second, false, true},
		"another one is heard than before": {[]string{"a", "b", "c"}, []string{"a", "b"}, time.Minute, true, false},
	} {
		s := newSeen(test.servers...)
		started := s.now
		s.pass(10*time.Second, test.servers...)
		s.pass(test.lasts, test.hears...)
		if got := s.leave(s.now, started, test.leads); got != test.want {
			t.Errorf("%s: leave = %t, want %t", name, got, test.want)
		}
	}
}

func TestSightAtTheStart(t *testing.T) {
	s := newSeen("a", "b", "c")
	started := s.now
	s.pass(9*time.Second, "a")
	if s.leave(s.now, started, false) {
		t.Error("it leaves before the others had time to connect")
	}
	s.pass(2*time.Second, "a")
	if !s.leave(s.now, started, false) {
		t.Error("it stays although it never heard anybody")
	}
}

// TestSightComesBack: at once, when a majority answers; not so soon if it comes and goes
// all the time; and at once again when that is long ago.
func TestSightComesBack(t *testing.T) {
	s := newSeen("a", "b", "c")
	leave := func() { s.leaves(s.now) }
	leave()
	s.pass(5 * time.Second)
	if s.back(s.now) {
		t.Error("it comes back although nobody answers")
	}
	s.pass(callEvery, "b")
	if !s.back(s.now) {
		t.Error("it does not come back although a majority answers")
	}
	s.pass(2 * time.Second)
	if s.back(s.now) {
		t.Error("it comes back on an answer of long ago")
	}
	for i, least := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second} {
		leave()
		s.pass(least-callEvery, "b")
		if s.back(s.now) {
			t.Errorf("leaving for the %d. time in a minute: back within %v", i+2, least-callEvery)
		}
		s.pass(callEvery, "b")
		if !s.back(s.now) {
			t.Errorf("leaving for the %d. time in a minute: not back after %v", i+2, least)
		}
	}
	s.pass(2 * flapWindow)
	leave()
	s.pass(callEvery, "b")
	if !s.back(s.now) {
		t.Error("what was minutes ago still holds it up")
	}
}
