package events_test

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
)

// story is a keys ledger with a bit of everything: 7 events.
func story(t testing.TB) *history {
	h := newHistory(t, events.Keys)
	h.apply(h.create("sso"))
	h.apply(h.rollover("sso"))
	h.apply(h.create("partners"))
	h.apply(h.event(events.TypeVoid, events.VoidPayload()))
	h.apply(h.rollover("sso"))
	h.apply(h.destroy("sso"))
	return h
}

func TestFoldGivesTheRingsAndTheValuesToExpect(t *testing.T) {
	h := story(t)
	if h.state.N() != 7 || h.state.Hash() != h.records[6].Hash() {
		t.Errorf("state is at event %d, hash %v", h.state.N(), h.state.Hash())
	}
	sso, _ := h.state.Ring("sso")
	if sso.Version != 4 || len(sso.Keys) != 4 || sso.Last.N != 7 || sso.Last.Type != "keys_destroyed" {
		t.Errorf("ring sso = %+v", sso)
	}
	if got := h.state.Rings(); len(got) != 2 || got[0].Name != "partners" {
		t.Errorf("Rings = %+v", got)
	}
	if _, live := h.state.Expect(events.MaterialKey(kid(1))); live {
		t.Error("the destroyed key's material is still expected")
	}
	if hash, live := h.state.Expect(events.RingKey("sso")); !live || hash != put(events.RingKey("sso")).Hash {
		t.Errorf("Expect(ring.sso) = %v, %v", hash, live)
	}
	// 2 of the genesis, 2 rings, 4 keys of each.
	if live := h.state.Live(); len(live) != 12 {
		t.Errorf("%d values are live, want 12: %v", len(live), live)
	}
	founder := genesis(events.Keys).Founder
	founder.Joined = 1
	if diff := cmp.Diff([]events.Member{founder}, h.state.Members()); diff != "" {
		t.Errorf("Members:\n%s", diff)
	}
	if h.state.Head() != (events.Head{Epoch: 1, N: 7, Hash: h.state.Hash()}) {
		t.Errorf("Head = %+v", h.state.Head())
	}
}

func TestFoldOfHosts(t *testing.T) {
	h := newHistory(t, events.Hosts)
	h.apply(h.register("web-1"))
	web, _ := h.state.Host("web-1")
	revoke, err := web.Revoke()
	if err != nil {
		t.Fatal(err)
	}
	h.apply(h.hostEvent(revoke))
	h.apply(h.register("web-1"))
	web, _ = h.state.Host("web-1")
	if web.Revoked || web.Generation != 2 || len(h.state.Hosts()) != 1 {
		t.Errorf("host web-1 = %+v", web)
	}
}

// TestRefusals gives each event that must be refused to a state that is then
// unchanged and takes the right event still.
func TestRefusals(t *testing.T) {
	type refusal struct {
		name string
		kind events.Kind
		bad  func(h *history) events.Record
		want error
	}
	signed := func(change func(h *history, e *events.Event)) func(h *history) events.Record {
		return func(h *history) events.Record {
			e := h.create("late")
			change(h, &e)
			return sign(h.t, e)
		}
	}
	for _, c := range []refusal{
		{"a gap", events.Keys, signed(func(h *history, e *events.Event) { e.N++ }), events.ErrNotNext},
		{"the same n again", events.Keys, signed(func(h *history, e *events.Event) { e.N-- }), events.ErrNotNext},
		{"wrong prev", events.Keys, signed(func(h *history, e *events.Event) { e.Prev[31] ^= 1 }), events.ErrForked},
		{"not a member", events.Keys, signed(func(h *history, e *events.Event) { e.Server = "ps-2" }), events.ErrNotMember},
		{"bad signature", events.Keys, signedByOther, events.ErrSignature},
		{"unknown type", events.Keys, signed(func(h *history, e *events.Event) { e.Type = 999 }), events.ErrUnknownType},
		{"reserved type", events.Keys, signed(func(h *history, e *events.Event) { e.Type = 3 }), events.ErrUnknownType},
		{"a second genesis", events.Keys, signed(func(h *history, e *events.Event) { e.Type = events.TypeGenesis }), events.ErrPayload},
		{"a payload of another type", events.Keys, signed(func(h *history, e *events.Event) { e.Payload = events.VoidPayload() }), events.ErrPayload},
		{"a payload with a zero field", events.Keys, signed(func(h *history, e *events.Event) { e.Payload = []byte{0x81, 0xa4, 'r', 'i', 'n', 'g', 0xa0} }), events.ErrPayload},
		{"a change that does not fit", events.Keys, signed(func(h *history, e *events.Event) { *e = h.again("sso") }), events.ErrPayload},
		{"material that is missing", events.Keys, signed(func(h *history, e *events.Event) { e.Effects = e.Effects[:4] }), events.ErrPayload},
		{"material deleted instead", events.Keys, signed(func(h *history, e *events.Event) { e.Effects[1] = del(e.Effects[1].Key) }), events.ErrPayload},
		{"no state put", events.Keys, signed(func(h *history, e *events.Event) { e.Effects = e.Effects[1:] }), events.ErrPayload},
		{"a void event with effects", events.Keys, signed(func(h *history, e *events.Event) { e.Type, e.Payload = events.TypeVoid, events.VoidPayload() }), events.ErrPayload},
		{"a host in a ledger of keys", events.Keys, func(h *history) events.Record { return sign(h.t, h.register("web-1")) }, events.ErrWrongKind},
		{"a ring in a ledger of hosts", events.Hosts, func(h *history) events.Record { return sign(h.t, h.create("sso")) }, events.ErrWrongKind},
		{"a host registered twice", events.Hosts, func(h *history) events.Record {
			e := h.register("web-1")
			h.apply(e)
			e.N, e.Prev = h.state.N()+1, h.state.Hash()
			return sign(h.t, e)
		}, keystore.ErrExists},
		{"no record at all", events.Keys, func(*history) events.Record { return nil }, events.ErrMalformed},
		{"a cut record", events.Keys, func(h *history) events.Record { r := sign(h.t, h.create("late")); return r[:len(r)-1] }, events.ErrMalformed},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHistory(t, c.kind)
			if c.kind == events.Keys {
				h.apply(h.create("sso"))
			}
			refuse(t, h, c.bad(h), c.want)
		})
	}
}

func signedByOther(h *history) events.Record {
	rec, err := events.Sign(h.create("late"), other)
	if err != nil {
		h.t.Fatal(err)
	}
	return rec
}

// again is an event that creates a ring that is there.
func (h *history) again(name keystore.RingName) events.Event {
	fresh := newHistory(h.t, events.Keys)
	fresh.keys = 1000
	e := fresh.create(name)
	e.N, e.Prev = h.state.N()+1, h.state.Hash()
	return e
}

func refuse(t *testing.T, h *history, bad events.Record, want error) {
	t.Helper()
	before := summary(h.state)
	if _, err := h.state.Apply(bad); !errors.Is(err, want) {
		t.Errorf("Apply = %v, want one that is %v", err, want)
	}
	if after := summary(h.state); after != before {
		t.Errorf("the refused event changed the state:\nbefore %s\nafter  %s", before, after)
	}
	h.apply(h.event(events.TypeVoid, events.VoidPayload()))
}

// summary is all that a state says.
func summary(s *events.State) string {
	text := fmt.Sprintf("%d %v %v %+v %+v %+v %+v %+v", s.N(), s.Hash(), s.Epoch(), s.Genesis(), s.Members(), s.Rings(), s.Hosts(), s.KSK())
	for _, key := range s.Live() {
		hash, _ := s.Expect(key)
		text += fmt.Sprintf(" %s=%v", key, hash)
	}
	return text
}

func TestGenesisRefusals(t *testing.T) {
	for name, change := range map[string]func(*events.Event){
		"another type":       func(e *events.Event) { e.Type, e.Payload, e.Effects = events.TypeVoid, events.VoidPayload(), nil },
		"no payload":         func(e *events.Event) { e.Payload = events.VoidPayload() },
		"another server":     func(e *events.Event) { e.Server = "ps-9" },
		"no membership key":  func(e *events.Event) { e.Effects = e.Effects[:1] },
		"no key store key":   func(e *events.Event) { e.Effects = e.Effects[1:] },
		"a deleted ksk slot": func(e *events.Event) { e.Effects[0] = del(e.Effects[0].Key) },
	} {
		h := &history{t: t, state: events.NewState()}
		e := h.genesisEvent(events.Keys)
		change(&e)
		if _, err := h.state.Apply(sign(t, e)); !errors.Is(err, events.ErrPayload) {
			t.Errorf("%s: Apply = %v, want one that is ErrPayload", name, err)
		}
		if h.state.N() != 0 || len(h.state.Members()) != 0 {
			t.Errorf("%s: the refused event changed the state", name)
		}
	}
	h := &history{t: t, state: events.NewState()}
	rec, err := events.Sign(h.genesisEvent(events.Keys), other)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.state.Apply(rec); !errors.Is(err, events.ErrSignature) {
		t.Errorf("a genesis that its founder did not sign: Apply = %v, want one that is ErrSignature", err)
	}
}

func TestUnknownPayloadFieldsAreIgnored(t *testing.T) {
	h := newHistory(t, events.Keys)
	e := h.create("sso")
	e.Payload = append(e.Payload, 0xa1, 'z', 0x93, 0x01, 0xc0, 0x81, 0xa1, 'k', 0xc3)
	e.Payload[0]++ // one field more
	h.apply(e)
	if _, ok := h.state.Ring("sso"); !ok {
		t.Error("the ring is not there")
	}
}

func TestVoidEventChangesNothingElse(t *testing.T) {
	h := newHistory(t, events.Keys)
	h.apply(h.create("sso"))
	rings, live := h.state.Rings(), h.state.Live()
	e := h.event(events.TypeVoid, events.VoidPayload())
	e.Request = "req-void"
	h.apply(e)
	if diff := cmp.Diff(rings, h.state.Rings()); diff != "" {
		t.Errorf("rings:\n%s", diff)
	}
	if diff := cmp.Diff(live, h.state.Live()); diff != "" {
		t.Errorf("values:\n%s", diff)
	}
	if _, known := h.state.Request("req-void"); known {
		t.Error("a void event answered a request")
	}
}

func TestRequestsAreRememberedAndBounded(t *testing.T) {
	h := newHistory(t, events.Hosts)
	first := h.register("web-1")
	first.Request = "r0"
	h.apply(first)
	web, _ := h.state.Host("web-1")
	for i := 1; i <= events.MaxRequests; i++ {
		var e events.Event
		if i%2 == 1 {
			c, err := web.Revoke()
			if err != nil {
				t.Fatal(err)
			}
			e = h.hostEvent(c)
		} else {
			e = h.register("web-1")
		}
		e.Request = fmt.Sprintf("r%d", i)
		h.fold(e)
		web, _ = h.state.Host("web-1")
	}
	if _, known := h.state.Request("r0"); known {
		t.Error("the oldest request is remembered beyond the bound")
	}
	for _, i := range []int{1, 2, events.MaxRequests} {
		if n, known := h.state.Request(fmt.Sprintf("r%d", i)); !known || n != keystore.N(i+2) {
			t.Errorf("Request(r%d) = %d, %v, want %d", i, n, known, i+2)
		}
	}
}

// fold is apply without the cost of a signature.
func (h *history) fold(e events.Event) {
	h.t.Helper()
	rec := sign(h.t, e)
	if err := h.state.Fold(rec); err != nil {
		h.t.Fatal(err)
	}
	h.records = append(h.records, rec)
}

func TestOfTwoEventsWithOneRequestTheFirstHasAnsweredIt(t *testing.T) {
	h := newHistory(t, events.Keys)
	for _, name := range []keystore.RingName{"a", "b"} {
		e := h.create(name)
		e.Request = "same"
		h.apply(e)
	}
	if n, _ := h.state.Request("same"); n != 2 {
		t.Errorf("Request = %d, want 2", n)
	}
}

func TestCloneSharesNothing(t *testing.T) {
	h := story(t)
	before := summary(h.state)
	clone := h.state.Clone()
	h.apply(h.rollover("partners"))
	if got := summary(clone); got != before {
		t.Errorf("the clone changed:\nbefore %s\nafter  %s", before, got)
	}
	if err := clone.VerifyNewest(); err != nil {
		t.Errorf("the clone's newest event: %v", err)
	}
}

func TestReplayToAnEvent(t *testing.T) {
	h := story(t)
	s, err := events.Replay(all(h.records), func(e events.Event) bool { return e.N == 3 })
	if err != nil {
		t.Fatal(err)
	}
	sso, _ := s.Ring("sso")
	if s.N() != 3 || sso.Version != 2 {
		t.Errorf("state at event %d, ring at version %d; want 3 and 2", s.N(), sso.Version)
	}
	s, err = events.Replay(all(h.records), nil)
	if err != nil || summary(s) != summary(h.state) {
		t.Errorf("Replay differs from Apply: %v", err)
	}
	if s, err = events.Replay(all(nil), nil); err != nil || s.N() != 0 {
		t.Errorf("Replay of nothing = event %d, %v", s.N(), err)
	}
}

// TestVerifyNamesTheFirstBadEvent damages a history in each way at each event.
func TestVerifyNamesTheFirstBadEvent(t *testing.T) {
	h := story(t)
	pin := h.records[0].Hash()
	got, err := events.Verify(all(h.records), pin)
	want := events.Verified{Events: 7, Head: h.state.Head(), Genesis: genesis(events.Keys)}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("Verify: %v\n%s", err, diff)
	}
	for i := range h.records {
		for damage, change := range map[string]func(r []events.Record) []events.Record{
			"changed":   func(r []events.Record) []events.Record { r[i] = changed(r[i]); return r },
			"missing":   func(r []events.Record) []events.Record { return append(r[:i], r[i+1:]...) },
			"reordered": func(r []events.Record) []events.Record { r[i], r[(i+1)%7] = r[(i+1)%7], r[i]; return r },
		} {
			records := change(append([]events.Record(nil), h.records...))
			if damage == "missing" && i == 6 {
				continue // a shorter history is whole in itself: the head tells
			}
			first := keystore.N(i + 1)
			if damage == "changed" && i > 0 && i < 6 {
				first++ // only the next one's prev shows it
			}
			if damage == "reordered" && i == 6 {
				first = 1
			}
			var bad *events.HistoryError
			if _, err := events.Verify(all(records), pin); !errors.As(err, &bad) || bad.N != first {
				t.Errorf("event %d %s: Verify = %v, want the fault at event %d", i+1, damage, err, first)
			}
		}
	}
	var bad *events.HistoryError
	if _, err := events.Verify(all(h.records), events.HashOf(nil)); !errors.As(err, &bad) || bad.N != 1 || !errors.Is(err, events.ErrForked) {
		t.Errorf("another pin: Verify = %v, want event 1 to be ErrForked", err)
	}
	if _, err := events.Verify(all(nil), pin); !errors.Is(err, events.ErrNotNext) {
		t.Errorf("an empty history: Verify = %v, want one that is ErrNotNext", err)
	}
}

// changed is the record with a bit of its signature flipped: its form stays right.
func changed(rec events.Record) events.Record {
	c := append(events.Record(nil), rec...)
	c[len(c)-ed25519.SignatureSize] ^= 1
	return c
}

// An event changes what its payload says, and nothing else; and it makes no key that
// lives already, in whatever ring.
func TestEffectsAreExactlyThePayloads(t *testing.T) {
	h := newHistory(t, events.Keys)
	h.apply(h.create("sso"))
	sso, _ := h.state.Ring("sso")
	for name, e := range map[string]events.Event{
		"another ring's key deleted": func() events.Event {
			e := h.create("web")
			e.Effects = append(e.Effects, del(events.MaterialKey(sso.Keys[0].KID)))
			return e
		}(),
		"another ring's state put": func() events.Event {
			e := h.create("web")
			e.Effects = append(e.Effects, put(events.RingKey("sso")))
			return e
		}(),
		"a key that lives": func() events.Event {
			keys := keystore.FirstKeys{
				Current: keystore.NewKey{KID: sso.Keys[0].KID, Created: day}, Future: h.newKey(), Static: h.newKey(), SessionTicket: h.newKey(),
			}
			c, err := keystore.Create("web", keystore.DefaultPolicy(), keys)
			if err != nil {
				t.Fatal(err)
			}
			return h.ringEvent(c)
		}(),
	} {
		if _, err := h.state.Apply(sign(t, e)); !errors.Is(err, events.ErrPayload) {
			t.Errorf("%s: Apply = %v, want ErrPayload", name, err)
		}
	}
}
