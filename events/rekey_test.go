package events_test

import (
	"encoding/hex"
	"errors"
	"slices"
	"testing"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
)

var firstKSK, secondKSK, thirdKSK = kid(0xf1), kid(0xe2), kid(0xe3)

func slotsSet() events.KSKChange {
	return events.KSKChange{Type: events.TypeSlotsSet, KSK: firstKSK, Added: []keystore.KID{kid(0xe8), kid(0xe9)}, Removed: []keystore.KID{kid(0xea)}}
}

func begun() events.KSKChange  { return events.KSKChange{Type: events.TypeRekeyBegun, KSK: secondKSK} }
func turned() events.KSKChange { return events.KSKChange{Type: events.TypeRekeyTurned, KSK: secondKSK} }
func ended() events.KSKChange  { return events.KSKChange{Type: events.TypeRekeyEnded, KSK: firstKSK} }
func taken() events.KSKChange {
	return events.KSKChange{Type: events.TypeKSKTaken, KSK: secondKSK, Added: []keystore.KID{kid(0xeb)}}
}
func rewrapped() events.KSKChange {
	return events.KSKChange{Type: events.TypeMaterialRewrapped, KSK: secondKSK}
}

func rekeyChanges() []events.KSKChange {
	return []events.KSKChange{slotsSet(), begun(), taken(), turned(), rewrapped(), ended()}
}

// kskEvent is the next event, with the effects that it must have; of rewrapped, the
// material is given.
func (h *history) kskEvent(c events.KSKChange, material ...keystore.KID) events.Event {
	h.t.Helper()
	payload, err := c.Encode()
	if err != nil {
		h.t.Fatal(err)
	}
	var effects []events.Effect
	switch c.Type {
	case events.TypeRekeyBegun, events.TypeKSKTaken, events.TypeSlotsSet:
		effects = append(effects, put(events.KSKKey(c.KSK)))
	case events.TypeRekeyEnded:
		effects = append(effects, del(events.KSKKey(c.KSK)))
	}
	for _, kid := range material {
		effects = append(effects, put(events.MaterialKey(kid)))
	}
	slices.SortFunc(effects, func(a, b events.Effect) int { return slices.Compare([]byte(a.Key), []byte(b.Key)) })
	return h.event(c.Type, payload, effects...)
}

// left is what is to be wrapped anew, sorted.
func (h *history) left(most int) []keystore.KID {
	kids := h.state.ToRewrap(1 << 20)
	slices.SortFunc(kids, func(a, b keystore.KID) int { return slices.Compare(a[:], b[:]) })
	return kids[:min(most, len(kids))]
}

func makeRekeyVectors(t *testing.T) vectors {
	h, second := fleet(t)
	for _, c := range []events.KSKChange{slotsSet(), begun(), taken()} {
		h.apply(h.kskEvent(c))
	}
	h.take(h.by("ps-2", second, h.kskEvent(events.KSKChange{Type: events.TypeKSKTaken, KSK: secondKSK})))
	h.apply(h.kskEvent(turned()))
	h.apply(h.kskEvent(rewrapped(), h.left(100)...))
	h.apply(h.kskEvent(ended()))
	v := vectors{
		About: "Events of the key store key, events/SPEC.md section 3.7; ps-1 signs with the key below, ps-2 with another",
		Seed:  hex.EncodeToString(private.Seed()), Public: hex.EncodeToString(public),
	}
	for _, rec := range h.records {
		v.History = append(v.History, vectorOf(t, rec))
	}
	return v
}

// TestRekeyTakesEveryServerAndAllMaterialAlong walks a rekey through, and tries at
// each step what would leave somebody, or something, behind.
func TestRekeyTakesEveryServerAndAllMaterialAlong(t *testing.T) {
	h, second := fleet(t)
	no := func(c events.KSKChange, want error, material ...keystore.KID) {
		t.Helper()
		before := summary(h.state)
		if _, err := h.state.Apply(sign(t, h.kskEvent(c, material...))); !errors.Is(err, want) || !errors.Is(err, events.ErrPayload) {
			t.Errorf("%s: Apply = %v, want %v", c.Type, err, want)
		}
		if summary(h.state) != before {
			t.Errorf("%s was refused, and changed the state", c.Type)
		}
	}
	bySecond := func(c events.KSKChange) { h.take(h.by("ps-2", second, h.kskEvent(c))) }

	no(taken(), keystore.ErrRefused)
	no(turned(), keystore.ErrRefused)
	no(ended(), keystore.ErrRefused)
	no(rewrapped(), events.ErrPayload, kid(0xf2))
	again := begun()
	again.KSK = firstKSK
	no(again, keystore.ErrExists)
	h.apply(h.kskEvent(begun()))
	if k := h.state.KSK(); k.Sealing != firstKSK || k.Next != secondKSK || k.Newest() != secondKSK || !k.UnderWay() {
		t.Errorf("begun: %+v", k)
	}
	again.KSK = thirdKSK
	no(again, keystore.ErrExists)
	no(turned(), keystore.ErrRefused)
	h.apply(h.kskEvent(taken()))
	no(taken(), keystore.ErrExists)
	no(turned(), keystore.ErrRefused) // ps-2 has not taken it
	if lacking := h.state.Lacking(false); !slices.Equal(lacking, []string{"ps-2"}) {
		t.Errorf("lacking = %v", lacking)
	}
	h.apply(h.create("late")) // while nothing has turned, under the former
	h.apply(h.server(excluded("ps-2")))
	h.apply(h.kskEvent(turned()))
	if k := h.state.KSK(); k.Sealing != secondKSK || k.Former != firstKSK || k.Left != k.Total || k.Left != len(h.left(1<<20)) || k.Left < 9 {
		t.Errorf("turned: %+v, %d left", k, len(h.left(1<<20)))
	}
	no(ended(), keystore.ErrRefused)
	no(rewrapped(), events.ErrPayload)
	no(rewrapped(), events.ErrPayload, kid(0x999))
	some := h.left(3)
	h.apply(h.kskEvent(rewrapped(), some...))
	no(rewrapped(), events.ErrPayload, some[0])
	made := h.newKey().KID // made after the turn: nothing to wrap anew
	h.keys--
	h.apply(h.rollover("sso"))
	no(rewrapped(), events.ErrPayload, made)
	h.apply(h.destroy("sso")) // what is destroyed is not left
	h.apply(h.kskEvent(rewrapped(), h.left(1<<20)...))
	h.take(h.by("ps-2", second, h.server(returned("ps-2"))))
	no(ended(), keystore.ErrRefused) // it counts again, and has not taken it
	bySecond(events.KSKChange{Type: events.TypeKSKTaken, KSK: secondKSK})
	h.apply(h.kskEvent(ended()))
	k := h.state.KSK()
	if k.UnderWay() || k.Sealing != secondKSK || k.Left != 0 || k.Ended != h.state.N() {
		t.Errorf("ended: %+v", k)
	}
	if _, live := h.state.Expect(events.KSKKey(firstKSK)); live {
		t.Error("the former key store key's slots live on")
	}
	s, err := events.Replay(all(h.records), nil)
	if err != nil || summary(s) != summary(h.state) {
		t.Errorf("Replay differs from Apply: %v", err)
	}
}

func TestUnlockSlotsAreAddedToTheNewestKeyStoreKeyAlone(t *testing.T) {
	h, _ := fleet(t)
	h.apply(h.kskEvent(slotsSet()))
	h.apply(h.kskEvent(begun()))
	if _, err := h.state.Apply(sign(t, h.kskEvent(slotsSet()))); !errors.Is(err, keystore.ErrRefused) {
		t.Errorf("a slot added to the former key store key: %v", err)
	}
	removed := slotsSet()
	removed.Added = nil
	h.apply(h.kskEvent(removed))
	unknown := slotsSet()
	unknown.KSK = thirdKSK
	if _, err := h.state.Apply(sign(t, h.kskEvent(unknown))); !errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("a slot of an unknown key store key: %v", err)
	}
}

func TestPolicyStoresLedgerFollowsTheRekey(t *testing.T) {
	h := newHistory(t, events.Hosts)
	if _, err := h.state.Apply(sign(t, h.kskEvent(taken()))); !errors.Is(err, events.ErrWrongKind) {
		t.Errorf("ksk_taken in a ledger of hosts: %v", err)
	}
	h.apply(h.register("web-1"))
	h.apply(h.kskEvent(begun()))
	h.apply(h.kskEvent(turned())) // the ledger of keys says who has taken it
	h.apply(h.kskEvent(rewrapped(), h.left(100)...))
	h.apply(h.kskEvent(ended()))
	if k := h.state.KSK(); k.Sealing != secondKSK || k.UnderWay() {
		t.Errorf("ended: %+v", k)
	}
}

func TestServerThatJoinsDuringARekeyHoldsTheNewest(t *testing.T) {
	h, _ := fleet(t)
	h.apply(h.kskEvent(begun()))
	h.apply(h.server(invited("ps-3")))
	h.apply(h.server(joined("ps-3", signer("ps-3"))))
	if lacking := h.state.Lacking(false); !slices.Equal(lacking, []string{"ps-1", "ps-2"}) {
		t.Errorf("lacking = %v", lacking)
	}
	h.apply(h.server(excluded("ps-2")))
	if lacking := h.state.Lacking(true); !slices.Equal(lacking, []string{"ps-2"}) {
		t.Errorf("excluded ones that lack it = %v", lacking)
	}
}

func TestKSKChangesHaveTheFieldsOfTheirType(t *testing.T) {
	for _, c := range rekeyChanges() {
		payload, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := events.DecodeKSKChange(c.Type, payload)
		if err != nil || got.KSK != c.KSK || !slices.Equal(got.Added, c.Added) || !slices.Equal(got.Removed, c.Removed) {
			t.Errorf("%s: %+v, %v", c.Type, got, err)
		}
	}
	for name, c := range map[string]events.KSKChange{
		"no ksk":           {Type: events.TypeRekeyBegun},
		"nothing changed":  {Type: events.TypeSlotsSet, KSK: firstKSK},
		"added when ended": {Type: events.TypeRekeyEnded, KSK: firstKSK, Added: []keystore.KID{kid(1)}},
		"removed by take":  {Type: events.TypeKSKTaken, KSK: firstKSK, Removed: []keystore.KID{kid(1)}},
		"another type":     {Type: events.TypeVoid, KSK: firstKSK},
	} {
		if _, err := c.Encode(); !errors.Is(err, keystore.ErrInvalid) {
			t.Errorf("%s: Encode = %v", name, err)
		}
	}
	if _, err := events.DecodeKSKChange(events.TypeVoid, events.VoidPayload()); !errors.Is(err, events.ErrUnknownType) {
		t.Errorf("another type: %v", err)
	}
}
