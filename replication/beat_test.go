package replication

import (
	"testing"
	"time"

	"github.com/keytide/keytide/events"
)

func TestHolder(t *testing.T) {
	base := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	at := func(s float64) time.Time { return base.Add(time.Duration(s * float64(time.Second))) }
	newHolder := func() *holder { return &holder{server: "ps-2", patience: 3 * time.Second, lastAt: base} }
	expect := func(t *testing.T, h *holder, now, wantTerm, wantCount float64, want bool) {
		t.Helper()
		term, count, ok := h.next(at(now))
		if ok != want || ok && (term != uint64(wantTerm) || count != uint64(wantCount)) {
			t.Errorf("next at %v s = term %d, counter %d, %v; want %v, %v, %v", now, term, count, ok, wantTerm, wantCount, want)
		}
	}
	t.Run("nobody's", func(t *testing.T) {
		h := newHolder()
		expect(t, h, 0, 1, 1, true)
		expect(t, h, 1, 1, 2, true)
		h.seen(&events.Beacon{Holder: "ps-2", Term: 1, Counter: 2}, at(1))
		expect(t, h, 2, 1, 3, true)
	})
	t.Run("its own before a restart", func(t *testing.T) {
		h := newHolder()
		h.seen(&events.Beacon{Holder: "ps-2", Term: 7, Counter: 9}, at(0))
		expect(t, h, 0, 8, 1, true)
		expect(t, h, 1, 8, 2, true)
	})
	t.Run("another's that goes silent", func(t *testing.T) {
		h := newHolder()
		h.seen(&events.Beacon{Holder: "ps-1", Term: 7, Counter: 9}, at(0))
		expect(t, h, 2.9, 0, 0, false)
		h.seen(&events.Beacon{Holder: "ps-1", Term: 7, Counter: 10}, at(2.9))
		expect(t, h, 5.8, 0, 0, false)
		expect(t, h, 5.9, 8, 1, true)
		expect(t, h, 6.9, 8, 2, true) // not come back yet
		h.seen(&events.Beacon{Holder: "ps-2", Term: 8, Counter: 2}, at(6.9))
		expect(t, h, 7.9, 8, 3, true)
	})
	t.Run("its own, which comes late", func(t *testing.T) {
		const limit = 4 * time.Second
		h := newHolder()
		expect(t, h, 0, 1, 1, true)
		back := func(now, late float64, others bool) bool {
			b := events.Beacon{Holder: "ps-2", Term: 1, Counter: 1, Origin: at(now - late)}
			h.seen(&b, at(now))
			return h.returned(b, at(now), limit, others)
		}
		for now, late := range map[float64]float64{1: 1.9, 2: 3} {
			if back(now, late, true) {
				t.Errorf("given up for one that was %v s late", late)
			}
		}
		back(3, 0.1, true) // a good one between: it is no row
		for i := range 5 {
			if back(float64(4+i), 2, false) {
				t.Error("given up although nobody else is there")
			}
		}
		if !back(9, 2, true) {
			t.Error("not given up after many late ones")
		}
		expect(t, h, 9, 0, 0, false)
		if back(10, 3, true) {
			t.Error("given up twice")
		}
		expect(t, h, 15.9, 0, 0, false) // others come first
		expect(t, h, 16, 2, 1, true)    // and nobody did
		expect(t, h, 17, 2, 2, true)
	})
	t.Run("taken by two at once", func(t *testing.T) {
		h := newHolder()
		h.seen(&events.Beacon{Holder: "ps-3", Term: 7, Counter: 9}, at(0))
		expect(t, h, 3, 8, 1, true)
		h.seen(&events.Beacon{Holder: "ps-1", Term: 8, Counter: 1}, at(3)) // sorts first: it holds it
		expect(t, h, 4, 0, 0, false)
		expect(t, h, 6, 9, 1, true)
	})
	t.Run("following began anew", func(t *testing.T) {
		h := newHolder()
		h.seen(&events.Beacon{Holder: "ps-1", Term: 7, Counter: 9}, at(0))
		h.seen(nil, at(60))
		expect(t, h, 62, 0, 0, false)
		expect(t, h, 63, 8, 1, true)
		h.seen(nil, at(70)) // cut off while it claimed the beacon
		expect(t, h, 71, 0, 0, false)
	})
}

func TestBeaconOrder(t *testing.T) {
	o := orderOf(events.Beacon{Term: 3, Holder: "ps-2", Counter: 5})
	for _, tc := range []struct {
		b    events.Beacon
		want bool
	}{
		{events.Beacon{Term: 3, Holder: "ps-2", Counter: 6}, true},
		{events.Beacon{Term: 3, Holder: "ps-2", Counter: 5}, false},
		{events.Beacon{Term: 4, Holder: "ps-9", Counter: 1}, true},
		{events.Beacon{Term: 2, Holder: "ps-1", Counter: 9}, false},
		{events.Beacon{Term: 3, Holder: "ps-1", Counter: 1}, true},
		{events.Beacon{Term: 3, Holder: "ps-3", Counter: 9}, false},
	} {
		if got := o.before(tc.b); got != tc.want {
			t.Errorf("before(term %d, %s, counter %d) = %v, want %v", tc.b.Term, tc.b.Holder, tc.b.Counter, got, tc.want)
		}
	}
}
