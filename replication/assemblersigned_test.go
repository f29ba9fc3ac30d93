package replication

import (
	"slices"
	"testing"
	"time"

	"github.com/keytide/keytide/events"
)

func TestForks(t *testing.T) {
	other := func(p *Pen) *Pen { // the same ledger, going another way
		return &Pen{State: p.State.Clone(), Key: p.Key, Server: p.Server, Pin: p.Pin, Stream: slices.Clone(p.Stream), counts: map[string]uint64{"beacon": 9}}
	}
	for name, fork := range map[string]func(p *Pen) []events.Entry{
		"event on another history": func(p *Pen) []events.Entry {
			o := other(p)
			o.Commit(t, Roll(t, "sso", ""))
			p.Commit(t, Roll(t, "sso", ""))
			return append(slices.Clone(p.Stream[len(p.Stream)-5:]), o.Commit(t, Roll(t, "sso", ""))...)
		},
		"beacon with another hash": func(p *Pen) []events.Entry {
			return []events.Entry{p.Beacon(t, func(b *events.Beacon) { b.Hash[0] ^= 1 })}
		},
		"beacon of an earlier event": func(p *Pen) []events.Entry {
			return []events.Entry{p.Beacon(t, func(b *events.Beacon) { b.N, b.Hash = 1, p.Pin.Genesis })}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := NewPen(t)
			p.Commit(t, CreateRing(t, "sso"))
			s := newShelf(p.Pin)
			a := s.assembler()
			s.take(t, a, p.Stream...)
			s.take(t, a, fork(p)...)
			if _, ok := s.alarms[alarmID{AlarmForked, ""}]; !ok || !a.forked {
				t.Errorf("alarms = %v, want forked", s.alarms)
			}
			before := s.state.N()
			s.take(t, a, p.Commit(t, Roll(t, "sso", ""))...)
			if got := s.state.N(); got != before {
				t.Errorf("forked: shown = %d, want still %d", got, before)
			}
		})
	}
	t.Run("another genesis", func(t *testing.T) {
		p := NewPen(t)
		s := newShelf(NewPen(t).Pin)
		s.take(t, s.assembler(), p.Stream...)
		if _, ok := s.alarms[alarmID{AlarmForked, ""}]; !ok || s.state.N() != 0 {
			t.Errorf("alarms = %v and shown %d, want forked and 0", s.alarms, s.state.N())
		}
	})
}

// A reader that lacks a value begins anew at the first entry, with everything else
// applied: the beacons that it then meets are old, and no fork.
func TestOldBeaconIsNoFork(t *testing.T) {
	p := NewPen(t)
	p.Beacon(t, nil)
	p.Commit(t, CreateRing(t, "sso"))
	s := newShelf(p.Pin)
	s.take(t, s.assembler(), p.Stream...)
	s.values[events.RingKey("sso")] = []byte("damaged")
	a := s.assembler()
	if a.position != 0 {
		t.Fatalf("the reader begins after %d, want 0", a.position)
	}
	s.take(t, a, p.Newest(0)...)
	if len(s.raised) > 0 {
		t.Errorf("alarms = %v, want none", s.raised)
	}
	s.take(t, a, p.Commit(t, Roll(t, "sso", ""))...)
	whole(t, s, p)
}

// A server that says that it has applied another history has confirmed nothing of
// this one.
func TestRecordOfAnotherHistoryConfirmsNothing(t *testing.T) {
	p := NewPen(t)
	p.Commit(t, CreateRing(t, "sso"))
	s := newShelf(p.Pin)
	a := s.assembler()
	s.take(t, a, p.Stream...)
	for i, applied := range []events.Head{
		{Epoch: 1, N: 2, Hash: events.Hash{1}}, {Epoch: 1, N: 1, Hash: events.Hash{1}}, {Epoch: 2, N: 2, Hash: p.State.Hash()},
		{Epoch: 1, N: 99, Hash: events.Hash{1}}, {Epoch: 2, N: 99, Hash: events.Hash{1}},
	} {
		value, err := events.ServerRecord{ID: p.Server, Region: "eu", Counter: uint64(i + 1), Applied: applied, At: time.Now(), State: events.Fresh}.Sign(p.Key)
		if err != nil {
			t.Fatal(err)
		}
		s.take(t, a, p.Put(events.ServerKey(p.Server), value))
		if _, ok := s.alarms[alarmID{AlarmTampered, events.ServerKey(p.Server)}]; !ok || s.servers != 0 {
			t.Errorf("applied %+v: alarms = %v and %d records accepted, want one and none", applied, s.alarms, s.servers)
		}
	}
	p.counts["record"] = 9
	s.take(t, a, p.Record(t, p.Key))
	if len(s.alarms) > 0 || s.servers != 1 {
		t.Errorf("alarms = %v and %d records accepted, want none and 1", s.alarms, s.servers)
	}
}

func TestBeaconsAndRecordsOnlyRise(t *testing.T) {
	p := NewPen(t)
	s := newShelf(p.Pin)
	a := s.assembler()
	s.take(t, a, p.Stream...)
	first, record := p.Beacon(t, nil), p.Record(t, p.Key)
	s.take(t, a, first, record, p.Beacon(t, nil), p.Record(t, p.Key))
	s.take(t, a, first, record, p.Beacon(t, func(b *events.Beacon) { b.Counter = 1 }))
	if s.beacons != 2 || s.servers != 2 {
		t.Errorf("accepted %d beacons and %d records, want 2 and 2", s.beacons, s.servers)
	}
	s.take(t, a, p.Beacon(t, func(b *events.Beacon) { b.Term, b.Counter = 2, 1 }))
	if s.beacons != 3 {
		t.Errorf("a new term was not accepted")
	}
	if len(s.raised) > 0 {
		t.Errorf("alarms = %v, want none", s.raised)
	}
}
