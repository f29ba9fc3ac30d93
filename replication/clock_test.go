package replication

import (
	"testing"
	"time"
)

func TestClockIsJudgedByTheMedianOfFreshServers(t *testing.T) {
	own := time.Date(2026, 11, 24, 2, 30, 0, 0, time.UTC)
	others := func(seconds ...float64) (out []clockReading) {
		for i, s := range seconds {
			out = append(out, clockReading{server: string(rune('a' + i)), ahead: time.Duration(s * float64(time.Second))})
		}
		return out
	}
	for name, c := range map[string]struct {
		others   []clockReading
		unknown  []string
		offset   float64 // of the own clock
		ok       bool
		waiting  bool
		outvoted bool
	}{
		"alone":                          {nil, nil, 0, true, false, false},
		"alone, others not heard yet":    {nil, []string{"ps-2"}, 0, false, true, false},
		"two agree":                      {others(4), nil, -2, true, false, false},
		"two agree just":                 {others(-5), nil, 2.5, true, false, false},
		"two do not":                     {others(5.1), nil, -2.55, false, false, false},
		"two do not, an hour":            {others(-3600), nil, 1800, false, false, false},
		"three, another is off":          {others(0.2, 3600), nil, -0.2, true, false, false},
		"three, this one is off":         {others(-3600, -3600.5), nil, 3600, false, false, true},
		"three, this one is behind":      {others(6, 7), nil, -6, false, false, true},
		"three that all differ":          {others(100, 200), nil, -100, false, false, false},
		"the middle one of three":        {others(-100, 100), nil, 0, true, false, false},
		"four, two against two":          {others(0, 3600, 3600), nil, -1800, false, false, false},
		"four, one off":                  {others(0.1, 0.2, 3600), nil, -0.15, true, false, false},
		"five, this one and another off": {others(-60, -61, -62, 1), nil, 60, false, false, true},
		"off is said before waiting":     {others(-3600, -3600), []string{"ps-9"}, 3600, false, false, true},
		"agreeing, one not heard yet":    {others(0, 0), []string{"ps-9"}, 0, false, true, false},
	} {
		got := judgeClock(own, c.others, c.unknown)
		offset := time.Duration(c.offset * float64(time.Second))
		if got.Offset != offset || got.OK != c.ok || got.Waiting != c.waiting || got.Outvoted != c.outvoted {
			t.Errorf("%s: %+v, want offset %v, ok %v, waiting %v, outvoted %v", name, got, offset, c.ok, c.waiting, c.outvoted)
		}
		if !got.Now.Equal(own.Add(-offset)) || (got.Why == "") != got.OK {
			t.Errorf("%s: reference %v and why %q", name, got.Now, got.Why)
		}
	}
}

func TestLateRecordsDoNotMakeAClockLookBehind(t *testing.T) {
	p := NewPen(t)
	arrived := time.Date(2026, 11, 24, 2, 30, 0, 0, time.UTC)
	var c clockSamples
	if c.most() != 0 {
		t.Errorf("without a record: %v", c.most())
	}
	take := func(ahead, late time.Duration, boot byte) {
		rec := openRecord(t, p)
		rec.Boot, rec.At = [16]byte{boot}, arrived.Add(ahead)
		c.add(rec, arrived.Add(late))
		arrived = arrived.Add(15 * time.Second)
	}
	take(0, 40*time.Millisecond, 1)
	take(0, time.Minute, 1) // held up
	if got := c.most(); got != -40*time.Millisecond {
		t.Errorf("after a late record: %v, want -40ms", got)
	}
	take(time.Hour, 0, 1) // its clock was set
	if got := c.most(); got != time.Hour {
		t.Errorf("after the clock was set: %v, want 1h", got)
	}
	take(0, 0, 1)
	take(0, 0, 1)
	take(0, 0, 1)
	if got := c.most(); got != 0 {
		t.Errorf("after it was set back: %v, want 0", got)
	}
	take(-time.Hour, 0, 2) // another boot: what the one before said counts no more
	if got := c.most(); got != -time.Hour {
		t.Errorf("after a restart: %v, want -1h", got)
	}
}
