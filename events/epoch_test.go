package events_test

import (
	"errors"
	"testing"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
)

// begin is the event by which epoch number begins after what h holds.
func (h *history) begin(number keystore.Epoch) events.Event {
	h.t.Helper()
	payload, err := events.EpochBegun{Epoch: number, Old: h.state.Epoch(), Kept: h.state.Head()}.Encode()
	if err != nil {
		h.t.Fatal(err)
	}
	return h.event(events.TypeEpochBegun, payload)
}

// end is the event by which the epoch of h ends, since another has begun.
func (h *history) end(next events.EpochID) events.Event {
	h.t.Helper()
	payload, err := events.EpochEnded{Next: next}.Encode()
	if err != nil {
		h.t.Fatal(err)
	}
	return h.event(events.TypeEpochEnded, payload)
}

// epochs is a ledger of hosts in its third epoch, which has ended.
func epochs(t testing.TB) *history {
	h := newHistory(t, events.Hosts)
	h.apply(h.register("web-1"))
	h.apply(h.begin(2))
	h.apply(h.register("web-2"))
	h.apply(h.begin(4)) // a number may be left out
	h.apply(h.end(events.EpochID{Number: 5, Genesis: events.HashOf([]byte("begins elsewhere"))}))
	return h
}

func TestAnEpochGoesOnWithWhatItKept(t *testing.T) {
	h := newHistory(t, events.Keys)
	h.apply(h.create("sso"))
	if got := h.state.Epoch(); got != (events.EpochID{Number: 1, Genesis: h.records[0].Hash()}) {
		t.Errorf("Epoch = %v, want 1 and the hash of event 1", got)
	}
	begun := h.apply(h.begin(2))
	if got := h.state.Epoch(); got != (events.EpochID{Number: 2, Genesis: begun.Hash()}) || h.state.Head().Epoch != 2 {
		t.Errorf("Epoch = %v, head %v; want 2 and the hash of the event that began it", got, h.state.Head())
	}
	h.apply(h.rollover("sso")) // the ring is there
	verified, err := events.Verify(all(h.records), h.records[0].Hash())
	if err != nil || verified.Head != h.state.Head() {
		t.Errorf("Verify = %v, %v; want %v", verified.Head, err, h.state.Head())
	}
	s, err := events.Replay(all(h.records), nil)
	if err != nil || s.Head() != h.state.Head() || s.Epoch() != h.state.Epoch() {
		t.Errorf("Replay = %v, %v; want %v", s.Head(), err, h.state.Head())
	}
	if _, ended := h.state.Ended(); ended {
		t.Error("the epoch has ended, want that it goes on")
	}
}

// Nothing comes after the end of an epoch, and both ways to read a history know it.
func TestNothingFollowsTheEndOfAnEpoch(t *testing.T) {
	h := epochs(t)
	if next, ended := h.state.Ended(); !ended || next.Number != 5 {
		t.Errorf("Ended = %v, %v; want epoch 5", next, ended)
	}
	for name, e := range map[string]events.Event{
		"a void": h.event(events.TypeVoid, events.VoidPayload()), "another epoch": h.begin(6), "another end": h.end(events.EpochID{Number: 6, Genesis: events.HashOf(nil)}),
	} {
		rec := sign(t, e)
		before := summary(h.state)
		if _, err := h.state.Apply(rec); !errors.Is(err, events.ErrEnded) || summary(h.state) != before {
			t.Errorf("%s: Apply = %v, want ErrEnded and the state as it was", name, err)
		}
		if _, err := events.Verify(all(append(h.records[:len(h.records):len(h.records)], rec)), events.Hash{}); !errors.Is(err, events.ErrEnded) {
			t.Errorf("%s: Verify = %v, want ErrEnded", name, err)
		}
	}
}

func TestAnEpochBeginsWhereItsEventStands(t *testing.T) {
	for name, change := range map[string]func(*events.EpochBegun){
		"another event kept":       func(e *events.EpochBegun) { e.Kept.N-- },
		"another hash kept":        func(e *events.EpochBegun) { e.Kept.Hash[0] ^= 1 },
		"another epoch's genesis":  func(e *events.EpochBegun) { e.Old.Genesis[0] ^= 1 },
		"another epoch before":     func(e *events.EpochBegun) { e.Old.Number, e.Kept.Epoch, e.Epoch = 2, 2, 3 },
		"kept of another epoch":    func(e *events.EpochBegun) { e.Kept.Epoch++; e.Old.Number++; e.Epoch++ },
		"nothing but a new number": func(*events.EpochBegun) {},
	} {
		h := newHistory(t, events.Keys)
		h.apply(h.create("sso"))
		begun := events.EpochBegun{Epoch: 2, Old: h.state.Epoch(), Kept: h.state.Head()}
		change(&begun)
		payload, err := begun.Encode()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		e := h.event(events.TypeEpochBegun, payload)
		if name == "nothing but a new number" {
			e.Effects = []events.Effect{put(events.RingKey("sso"))}
		}
		refuse(t, h, sign(t, e), events.ErrPayload)
	}
	h := newHistory(t, events.Keys)
	h.apply(h.begin(3))
	refuse(t, h, sign(t, h.end(events.EpochID{Number: 3, Genesis: events.HashOf(nil)})), events.ErrPayload)
}

func TestEpochPayloadsAreWhole(t *testing.T) {
	whole := events.EpochBegun{
		Epoch: 2, Old: events.EpochID{Number: 1, Genesis: events.HashOf([]byte("1"))},
		Kept: events.Head{Epoch: 1, N: 7, Hash: events.HashOf([]byte("7"))},
	}
	for name, change := range map[string]func(*events.EpochBegun){
		"the same number": func(e *events.EpochBegun) { e.Epoch = 1 },
		"no old number":   func(e *events.EpochBegun) { e.Old.Number, e.Kept.Epoch = 0, 0 },
		"no genesis":      func(e *events.EpochBegun) { e.Old.Genesis = events.Hash{} },
		"nothing kept":    func(e *events.EpochBegun) { e.Kept.N = 0 },
		"no hash kept":    func(e *events.EpochBegun) { e.Kept.Hash = events.Hash{} },
		"two old numbers": func(e *events.EpochBegun) { e.Old.Number, e.Epoch = 2, 3 },
	} {
		e := whole
		change(&e)
		if _, err := e.Encode(); !errors.Is(err, keystore.ErrInvalid) {
			t.Errorf("%s: Encode = %v, want keystore.ErrInvalid", name, err)
		}
	}
	for _, e := range []events.EpochEnded{{}, {Next: events.EpochID{Number: 1, Genesis: events.HashOf(nil)}}, {Next: events.EpochID{Number: 2}}} {
		if _, err := e.Encode(); !errors.Is(err, keystore.ErrInvalid) {
			t.Errorf("%v: Encode = %v, want keystore.ErrInvalid", e, err)
		}
	}
	for _, payload := range [][]byte{events.VoidPayload(), {0x81, 0xa5, 'e', 'p', 'o', 'c', 'h', 2}} {
		_, begun := events.DecodeEpochBegun(payload)
		_, ended := events.DecodeEpochEnded(payload)
		if !errors.Is(begun, events.ErrMalformed) || !errors.Is(ended, events.ErrMalformed) {
			t.Errorf("%x: Decode = %v, %v; want ErrMalformed", payload, begun, ended)
		}
	}
}
