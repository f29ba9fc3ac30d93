package replication

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
)

// whole checks that a shelf shows all that a pen wrote, with every live value.
func whole(tb testing.TB, s *shelf, p *Pen) {
	tb.Helper()
	if s.state.Head() != p.State.Head() {
		tb.Errorf("shown = %+v, want %+v", s.state.Head(), p.State.Head())
	}
	live := make([]string, 0)
	for key, value := range s.values {
		if want, ok := p.State.Expect(key); !ok || want != events.HashOf(value) {
			tb.Errorf("value of %s is not the one of its event", key)
		}
		live = append(live, key)
	}
	slices.Sort(live)
	if diff := cmp.Diff(p.State.Live(), live); diff != "" {
		tb.Errorf("keys of values (-want +got):\n%s", diff)
	}
}

func TestEachBatchIsShownAtItsHead(t *testing.T) {
	p := NewPen(t)
	s := newShelf(p.Pin)
	a := s.assembler()
	batches := [][]events.Entry{slices.Clone(p.Stream), p.Commit(t, CreateRing(t, "sso"))}
	for range 3 {
		batches = append(batches, p.Commit(t, Roll(t, "sso", "")))
	}
	for i, batch := range batches {
		s.take(t, a, batch[:len(batch)-1]...)
		if got, want := s.state.N(), keystore.N(i); got != want {
			t.Errorf("before the head of event %d: shown = %d, want %d", i+1, got, want)
		}
		s.take(t, a, batch[len(batch)-1])
		if got, want := s.state.N(), keystore.N(i+1); got != want {
			t.Errorf("after the head of event %d: shown = %d, want %d", i+1, got, want)
		}
	}
	whole(t, s, p)
	if len(s.raised) > 0 {
		t.Errorf("alarms = %v, want none", s.raised)
	}
}

func TestLateReader(t *testing.T) {
	p := NewPen(t)
	p.Commit(t, CreateRing(t, "sso"))
	for range 5 {
		p.Commit(t, Roll(t, "sso", ""))
	}
	p.Beacon(t, nil)
	s := newShelf(p.Pin)
	s.take(t, s.assembler(), p.Newest(0)...)
	whole(t, s, p)
	if len(s.raised) > 0 || s.beacons != 1 {
		t.Errorf("alarms = %v and %d beacons, want none and 1", s.raised, s.beacons)
	}
}

func TestLongHistoryIsHandedOverInParts(t *testing.T) {
	p := NewPen(t)
	void := func(*events.State) (Proposal, error) {
		return Proposal{Type: events.TypeVoid, Payload: events.VoidPayload()}, nil
	}
	for range 2*stageRecords + 10 {
		p.Commit(t, void)
	}
	s := newShelf(p.Pin)
	s.take(t, s.assembler(), p.Newest(0)...)
	whole(t, s, p)
	if s.parts < 3 {
		t.Errorf("parts = %d, want at least 3", s.parts)
	}
}

// A history is read by a reader that crashes and begins anew, live or late, at any
// entry: it always ends with everything, and never with an alarm.
func TestReaderThatCrashesLosesNothing(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := NewPen(t)
		s := newShelf(p.Pin)
		a := s.assembler()
		read := events.Revision(0)
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			switch rapid.IntRange(0, 5).Draw(rt, "step") {
			case 0:
				name := keystore.RingName(fmt.Sprintf("r%d", p.State.N()))
				p.Commit(t, CreateRing(t, name))
			case 1, 2:
				if rings := p.State.Rings(); len(rings) > 0 {
					p.Commit(t, Roll(t, rapid.SampledFrom(rings).Draw(rt, "ring").Name, ""))
				}
			case 3:
				p.Beacon(t, nil)
			case 4: // crash
				a = s.assembler()
				read = a.position
			}
			next := p.Newest(read + 1)
			next = next[:rapid.IntRange(0, len(next)).Draw(rt, "read")]
			s.take(t, a, next...)
			if len(next) > 0 {
				read = next[len(next)-1].Revision
			}
		}
		s.take(t, a, p.Newest(read+1)...)
		whole(t, s, p)
		if len(s.raised) > 0 {
			rt.Errorf("alarms = %v, want none", s.raised)
		}
	})
}

// What somebody with a writer's credentials may put into the bucket, and what is
// made of it by a reader that was there and by a late one.
func TestTampering(t *testing.T) {
	kidKey := func(p *Pen) string {
		ring, _ := p.State.Ring("sso")
		key, _ := ring.Seals()
		return events.MaterialKey(key.KID)
	}
	unsigned := func(p *Pen, decide Decide) []byte {
		honest := p.Key
		p.Key = NewKey(t)
		defer func() { p.Key = honest }()
		return p.Batch(t, decide).Record
	}
	for name, tc := range map[string]struct {
		forge func(p *Pen)
		kind  AlarmKind
		key   func(p *Pen) string
		live  keystore.N // shown by a reader that was there; 0: all three
		late  keystore.N // by one that comes late
		stays bool       // the next commit does not end the alarm
	}{
		"second message on log": {
			forge: func(p *Pen) { p.Put(events.LogKey(3), []byte("forged")) },
			kind:  AlarmTampered, key: func(*Pen) string { return events.LogKey(3) }, live: 3, late: 2, stays: true,
		},
		"event deleted": {
			forge: func(p *Pen) { p.Delete(events.LogKey(2)) },
			kind:  AlarmTampered, key: func(*Pen) string { return events.LogKey(2) }, live: 3, late: 1, stays: true,
		},
		"forged head": {
			forge: func(p *Pen) { p.Put(events.HeadKey, events.Head{Epoch: 1, N: 99}.Encode()) },
			kind:  AlarmTampered, key: func(*Pen) string { return events.HeadKey }, live: 3, late: 3,
		},
		"garbage head": {
			forge: func(p *Pen) { p.Put(events.HeadKey, []byte("x")) },
			kind:  AlarmTampered, key: func(*Pen) string { return events.HeadKey }, live: 3, late: 3,
		},
		"head deleted": {
			forge: func(p *Pen) { p.Delete(events.HeadKey) },
			kind:  AlarmTampered, key: func(*Pen) string { return events.HeadKey }, live: 3, late: 3,
		},
		"changed material": {
			forge: func(p *Pen) { p.Put(kidKey(p), []byte("forged")) },
			kind:  AlarmTampered, key: kidKey, live: 3, late: 0, stays: true,
		},
		"material deleted": {
			forge: func(p *Pen) { p.Delete(kidKey(p)) },
			kind:  AlarmTampered, key: kidKey, live: 3, late: 0, stays: true,
		},
		"material of no event": {
			forge: func(p *Pen) { p.Put(events.MaterialKey(keystore.KID{1}), []byte("forged")) },
			kind:  AlarmTampered, key: func(*Pen) string { return events.MaterialKey(keystore.KID{1}) }, live: 3, late: 3, stays: true,
		},
		"changed ring state": {
			forge: func(p *Pen) { p.Put(events.RingKey("sso"), []byte("forged")) },
			kind:  AlarmValueDiffers, key: func(*Pen) string { return events.RingKey("sso") }, live: 3, late: 3,
		},
		"ring state deleted": {
			forge: func(p *Pen) { p.Delete(events.RingKey("sso")) },
			kind:  AlarmValueDiffers, key: func(*Pen) string { return events.RingKey("sso") }, live: 3, late: 3,
		},
		"forged beacon": {
			forge: func(p *Pen) {
				p.Beacon(t, nil)
				last := &p.Stream[len(p.Stream)-1]
				last.Value = append(slices.Clone(last.Value[:len(last.Value)-1]), last.Value[len(last.Value)-1]^1)
			},
			kind: AlarmTampered, key: func(*Pen) string { return events.BeaconKey }, live: 3, late: 3, stays: true,
		},
		"forged record": {
			forge: func(p *Pen) { p.Record(t, NewKey(t)) },
			kind:  AlarmTampered, key: func(p *Pen) string { return events.ServerKey(p.Server) }, live: 3, late: 3, stays: true,
		},
		"forged event": {
			forge: func(p *Pen) { p.Put(events.LogKey(4), unsigned(p, Roll(t, "sso", ""))) },
			kind:  AlarmHalted, key: func(*Pen) string { return events.LogKey(4) }, live: 3, late: 3,
		},
		"garbage event": {
			forge: func(p *Pen) { p.Put(events.LogKey(4), []byte("forged")) },
			kind:  AlarmHalted, key: func(*Pen) string { return events.LogKey(4) }, live: 3, late: 3,
		},
		"event with a gap": {
			forge: func(p *Pen) { p.Put(events.LogKey(9), []byte("forged")) },
			kind:  AlarmTampered, key: func(*Pen) string { return events.LogKey(9) }, live: 3, late: 3, stays: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := NewPen(t)
			p.Commit(t, CreateRing(t, "sso"))
			p.Commit(t, Roll(t, "sso", ""))
			s := newShelf(p.Pin)
			a := s.assembler()
			s.take(t, a, p.Stream...)
			from := len(p.Stream)
			tc.forge(p)
			s.take(t, a, p.Stream[from:]...)
			id := alarmID{tc.kind, tc.key(p)}
			if _, ok := s.alarms[id]; !ok {
				t.Errorf("alarms = %v, want %v", s.alarms, id)
			}
			if got := s.state.N(); got != tc.live {
				t.Errorf("shown = %d, want %d", got, tc.live)
			}
			late := newShelf(p.Pin)
			late.take(t, late.assembler(), p.Newest(0)...)
			if got := late.state.N(); got != tc.late {
				t.Errorf("late reader: shown = %d, want %d; alarms %v", got, tc.late, late.alarms)
			}
			if tc.late != tc.live && !slices.ContainsFunc(late.raised, func(al Alarm) bool { return al.Kind == AlarmHalted }) {
				t.Errorf("late reader: alarms = %v, want one of kind halted", late.alarms)
			}
			s.take(t, a, p.Commit(t, Roll(t, "sso", ""))...)
			if got := s.state.N(); got != 4 {
				t.Errorf("after the next commit: shown = %d, want 4; alarms %v", got, s.alarms)
			}
			if _, ok := s.alarms[id]; ok != tc.stays {
				t.Errorf("after the next commit: alarms = %v; want the alarm to stay: %v", s.alarms, tc.stays)
			}
		})
	}
}

func TestMissingMaterialHaltsUntilItIsBack(t *testing.T) {
	p := NewPen(t)
	batch := p.Commit(t, CreateRing(t, "sso"))
	lost := batch[2]
	if !strings.HasPrefix(lost.Key, "material.") {
		t.Fatalf("entry %s is not material", lost.Key)
	}
	p.Delete(lost.Key)
	s := newShelf(p.Pin)
	a := s.assembler()
	s.take(t, a, p.Newest(0)...)
	if why := s.alarms[alarmID{AlarmHalted, lost.Key}]; !strings.Contains(why, "missing") {
		t.Errorf("alarms = %v, want one that names %s as missing", s.alarms, lost.Key)
	}
	a = s.assembler() // a crash: it must be found again
	s.take(t, a, p.Newest(a.position+1)...)
	s.take(t, a, p.Put(lost.Key, lost.Value))
	whole(t, s, p)
	if len(s.alarms) > 0 {
		t.Errorf("alarms = %v, want none", s.alarms)
	}
}

// An event of a newer program halts at the event before; the cursor stays before it,
// so that a newer program that begins there meets it again.
func TestUnknownTypeHalts(t *testing.T) {
	p := NewPen(t)
	p.Commit(t, CreateRing(t, "sso"))
	s := newShelf(p.Pin)
	a := s.assembler()
	s.take(t, a, p.Stream...)
	ev := events.Event{
		N: 3, ID: newULID(), Prev: p.State.Hash(), Type: 999, At: p.State.Rings()[0].Created, Server: p.Server, Payload: events.VoidPayload(),
	}
	rec, err := events.Sign(ev, p.Key)
	if err != nil {
		t.Fatal(err)
	}
	at := p.Put(events.LogKey(3), rec)
	s.take(t, a, at, p.Put(events.HeadKey, events.Head{Epoch: 1, N: 3, Hash: rec.Hash()}.Encode()), p.Beacon(t, nil))
	if why := s.alarms[alarmID{AlarmHalted, events.LogKey(3)}]; !strings.Contains(why, "999") {
		t.Errorf("alarms = %v, want one that names type 999", s.alarms)
	}
	if len(s.alarms) != 1 {
		t.Errorf("alarms = %v, want the one", s.alarms)
	}
	if s.state.N() != 2 || s.cursor >= at.Revision {
		t.Errorf("shown = %d, cursor %d; want 2 and a cursor before %d", s.state.N(), s.cursor, at.Revision)
	}
}

func TestMissingStateIsNamedAtTheSecondBeacon(t *testing.T) {
	p := NewPen(t)
	p.Commit(t, CreateRing(t, "sso"))
	entries := slices.DeleteFunc(slices.Clone(p.Stream), func(e events.Entry) bool { return e.Key == events.RingKey("sso") })
	s := newShelf(p.Pin)
	a := s.assembler()
	s.take(t, a, entries...)
	s.take(t, a, p.Beacon(t, nil))
	if len(s.alarms) > 0 || s.state.N() != 2 {
		t.Errorf("alarms = %v and shown %d, want none and 2", s.alarms, s.state.N())
	}
	s.take(t, a, p.Beacon(t, nil))
	if _, ok := s.alarms[alarmID{AlarmValueDiffers, events.RingKey("sso")}]; !ok {
		t.Errorf("alarms = %v, want one for the ring's state", s.alarms)
	}
}

// A late reader meets an event whose place somebody took after the others had
// applied it. Once the true event stands there again, it has everything: also what
// it passed by while it was halted.
func TestHaltThatEndsSkipsNothing(t *testing.T) {
	p := NewPen(t)
	p.Commit(t, CreateRing(t, "sso"))
	batch := p.Commit(t, Roll(t, "sso", ""))
	for range 3 {
		p.Commit(t, Roll(t, "sso", ""))
	}
	p.Put(events.LogKey(3), []byte("forged"))
	s := newShelf(p.Pin)
	a := s.assembler()
	s.follow(t, a, p)
	if _, ok := s.alarms[alarmID{AlarmHalted, events.LogKey(3)}]; !ok {
		t.Fatalf("alarms = %v, want halted before event 3", s.alarms)
	}
	p.Put(batch[0].Key, batch[0].Value)
	s.follow(t, a, p)
	p.Commit(t, Roll(t, "sso", ""))
	s.follow(t, a, p)
	whole(t, s, p)
	if len(s.alarms) > 0 {
		t.Errorf("alarms = %v, want none", s.alarms)
	}
	late := newShelf(p.Pin) // and another late reader
	late.follow(t, late.assembler(), p)
	whole(t, late, p)
}

// Material that is missing halts. If events that come later destroy that very key,
// nothing is missing any more.
func TestHaltOfMissingMaterialEndsWithTheKey(t *testing.T) {
	p := NewPen(t)
	batch := p.Commit(t, CreateRing(t, "sso"))
	ring, _ := p.State.Ring("sso")
	current, _ := ring.Seals()
	lost := events.MaterialKey(current.KID)
	s := newShelf(p.Pin)
	a := s.assembler()
	left := slices.DeleteFunc(slices.Concat(p.Stream[:len(p.Stream)-len(batch)], batch), func(e events.Entry) bool { return e.Key == lost })
	s.take(t, a, left...)
	if a.position != 0 || len(s.alarms) > 0 {
		t.Fatalf("position = %d, alarms = %v; want that all is read anew before a key counts as missing", a.position, s.alarms)
	}
	s.take(t, a, left...)
	if _, ok := s.alarms[alarmID{AlarmHalted, lost}]; !ok {
		t.Fatalf("alarms = %v, want %s missing", s.alarms, lost)
	}
	s.take(t, a, p.Commit(t, Roll(t, "sso", ""))...) // old now
	s.take(t, a, p.Commit(t, Roll(t, "sso", ""))...) // destroyed: the ring keeps one
	whole(t, s, p)
	if len(s.alarms) > 0 {
		t.Errorf("alarms = %v, want none: the key that was missing is destroyed", s.alarms)
	}
}

// A reader that was away for long crashes while it catches up, after events that
// destroy keys were written and before they are shown: what it still held of those
// keys goes, when they do.
func TestDestroyedKeysDoNotLingerOverACrash(t *testing.T) {
	p := NewPen(t)
	p.Commit(t, CreateRing(t, "sso"))
	s := newShelf(p.Pin)
	a := s.assembler()
	s.follow(t, a, p)
	for range stageRecords + 10 {
		p.Commit(t, Roll(t, "sso", ""))
	}
	for _, e := range p.Newest(a.position + 1) {
		if s.take(t, a, e); len(s.records) >= stageRecords {
			break
		}
	}
	if s.state.N() != 2 {
		t.Fatalf("shown = %d, want still 2", s.state.N())
	}
	s.follow(t, s.assembler(), p)
	whole(t, s, p)
}
