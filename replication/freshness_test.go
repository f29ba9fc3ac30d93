package replication

import (
	"testing"
	"time"

	"github.com/keytide/keytide/events"
)

func TestFreshness(t *testing.T) {
	const second = time.Second
	base := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	skew := 90 * time.Minute // the holder's clock is far off; only changes of the delay count
	type beacon struct {
		arrived, origin time.Duration
		unreached       bool
	}
	steady := func(n int) (out []beacon) {
		for i := range n {
			out = append(out, beacon{arrived: time.Duration(i) * second, origin: time.Duration(i) * second})
		}
		return out
	}
	for name, tc := range map[string]struct {
		beacons []beacon
		now     time.Duration
		want    events.ServerState
		age     time.Duration
	}{
		"none yet":                 {now: 0, want: events.Stale},
		"steady":                   {beacons: steady(10), now: 9500 * time.Millisecond, want: events.Fresh, age: second / 2},
		"just before the limit":    {beacons: steady(10), now: 13*second - 1, want: events.Fresh, age: 4*second - 1},
		"at the limit":             {beacons: steady(10), now: 13 * second, want: events.Stale, age: 4 * second},
		"n not reached":            {beacons: append(steady(10), beacon{arrived: 10 * second, origin: 10 * second, unreached: true}), now: 10 * second, want: events.Stale},
		"late by one second":       {beacons: append(steady(10), beacon{arrived: 11 * second, origin: 10 * second}), now: 11 * second, want: events.Fresh, age: second},
		"thawed: buffered beacons": {beacons: append(steady(10), beacon{arrived: 60 * second, origin: 10 * second}, beacon{arrived: 60 * second, origin: 11 * second}), now: 60 * second, want: events.Stale, age: 49 * second},
		"thawed: all of them": {beacons: append(steady(10),
			beacon{arrived: 60 * second, origin: 10 * second}, beacon{arrived: 60 * second, origin: 60 * second}), now: 60 * second, want: events.Fresh},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFreshness(4 * second)
			for _, b := range tc.beacons {
				f.beacon("ps-1", 7, base.Add(b.origin+skew), base.Add(b.arrived), !b.unreached)
			}
			got := f.at(base.Add(tc.now))
			if got.State != tc.want || got.Age != tc.age {
				t.Errorf("at = %v, age %v; want %v, age %v", got.State, got.Age, tc.want, tc.age)
			}
			if (got.Why == "") != (got.State == events.Fresh) {
				t.Errorf("Why = %q in state %v", got.Why, got.State)
			}
		})
	}
}

// A burst that a thaw lets loose must not make late beacons look young by pushing
// the least delay out of the window.
func TestBurstDoesNotRenew(t *testing.T) {
	f := newFreshness(4 * time.Second)
	base := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for i := range 90 {
		f.beacon("ps-1", 1, base.Add(time.Duration(i)*time.Second), base.Add(time.Duration(i)*time.Second), true)
	}
	thaw := base.Add(time.Hour)
	for i := 90; i < 90+600; i++ {
		f.beacon("ps-1", 1, base.Add(time.Duration(i)*time.Second), thaw, true)
		if got := f.at(thaw); got.State != events.Stale {
			t.Fatalf("beacon %d of the burst: state = %v, age %v; want stale", i, got.State, got.Age)
		}
	}
}

// A holder whose clock was set back is late by that for ever; after two windows it
// is trusted again.
func TestHolderWhoseClockWasSet(t *testing.T) {
	f := newFreshness(4 * time.Second)
	base := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	at := func(i int) time.Time { return base.Add(time.Duration(i) * time.Second) }
	for i := range 100 {
		f.beacon("ps-1", 1, at(i), at(i), true)
	}
	i := 100
	for ; ; i++ {
		f.beacon("ps-1", 1, at(i-30), at(i), true)
		if f.at(at(i)).State == events.Fresh {
			break
		}
		if i > 300 {
			t.Fatal("still stale after 200 beacons")
		}
	}
	if i == 100 {
		t.Error("fresh at once: the change of delay was not noticed")
	}
}
