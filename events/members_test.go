package events_test

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
)

// p256 is a fixed P-256 public key.
func p256(seed string) []byte {
	scalar := sha256.Sum256([]byte(seed))
	key, err := ecdh.P256().NewPrivateKey(scalar[:])
	if err != nil {
		panic(err)
	}
	return key.PublicKey().Bytes()
}

// signer is a fixed signing key.
func signer(seed string) ed25519.PrivateKey {
	bytes := sha256.Sum256([]byte(seed))
	return ed25519.NewKeyFromSeed(bytes[:])
}

func publicOf(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

func invited(id string) events.ServerChange {
	return events.ServerChange{
		Type: events.TypeServerInvited, ID: id, Region: "us", Token: events.TokenHash("token of " + id), Expires: day.AddDate(0, 0, 7),
	}
}

func joined(id string, key ed25519.PrivateKey) events.ServerChange {
	return events.ServerChange{
		Type: events.TypeServerJoined, ID: id, Region: "us", PublicKey: publicOf(key), P256Key: p256(id), Nkey: "UD" + id, MAC: [32]byte{1, 2, 3},
	}
}

func excluded(id string) events.ServerChange {
	return events.ServerChange{Type: events.TypeServerExcluded, ID: id, Cause: events.ByAdministrator}
}

func returned(id string) events.ServerChange {
	return events.ServerChange{Type: events.TypeServerReturned, ID: id}
}

func forgotten(id string) events.ServerChange {
	return events.ServerChange{Type: events.TypeServerForgotten, ID: id}
}

// server is the next event, of a change of the members.
func (h *history) server(c events.ServerChange) events.Event {
	h.t.Helper()
	payload, err := c.Encode()
	if err != nil {
		h.t.Fatal(err)
	}
	return h.event(c.Type, payload)
}

// by signs an event as another member does.
func (h *history) by(id string, key ed25519.PrivateKey, e events.Event) events.Record {
	h.t.Helper()
	e.Server = id
	rec, err := events.Sign(e, key)
	if err != nil {
		h.t.Fatal(err)
	}
	return rec
}

func (h *history) take(rec events.Record) {
	h.t.Helper()
	if _, err := h.state.Apply(rec); err != nil {
		h.t.Fatal(err)
	}
	h.records = append(h.records, rec)
}

// fleet is a ledger of keys with the members ps-1 and ps-2 and a ring.
func fleet(t testing.TB) (*history, ed25519.PrivateKey) {
	h := newHistory(t, events.Keys)
	second := signer("ps-2")
	h.apply(h.server(invited("ps-2")))
	h.apply(h.server(joined("ps-2", second)))
	h.apply(h.create("sso"))
	return h, second
}

func TestServerJoinsIsExcludedReturnsAndIsForgotten(t *testing.T) {
	h, second := fleet(t)
	member, _ := h.state.Member("ps-2")
	want := events.Member{
		ID: "ps-2", Region: "us", PublicKey: publicOf(second), P256Key: p256("ps-2"), Nkey: "UDps-2", MAC: [32]byte{1, 2, 3},
		Token: events.TokenHash("token of ps-2"), Joined: 3,
	}
	if diff := cmp.Diff(want, member); diff != "" || !member.Counts() {
		t.Errorf("joined:\n%s", diff)
	}
	if _, left := h.state.Invitation("ps-2"); left {
		t.Error("the invitation lives on after it was used")
	}
	h.take(h.by("ps-2", second, h.rollover("sso")))
	h.take(h.by("ps-2", second, h.server(excluded("ps-1"))))
	h.apply(h.server(returned("ps-1"))) // an excluded server is still a member
	h.apply(h.server(excluded("ps-2")))
	if m, _ := h.state.Member("ps-2"); m.Counts() || m.Excluded != 8 {
		t.Errorf("excluded = %+v", m)
	}
	h.take(h.by("ps-2", second, h.server(returned("ps-2"))))
	if m, _ := h.state.Member("ps-2"); !m.Counts() {
		t.Errorf("returned = %+v", m)
	}
	h.apply(h.server(forgotten("ps-2")))
	if m, _ := h.state.Member("ps-2"); m.Counts() || m.Forgotten != 10 {
		t.Errorf("forgotten = %+v", m)
	}
	refuse(t, h, h.by("ps-2", second, h.rollover("sso")), events.ErrForgotten)
	refuse(t, h, h.by("ps-2", second, h.rollover("sso")), events.ErrNotMember)
	// What it signed before stays valid, and so does the whole history.
	s, err := events.Replay(all(h.records), nil)
	if err != nil || summary(s) != summary(h.state) {
		t.Errorf("Replay differs from Apply: %v", err)
	}
	if _, err := events.Verify(all(h.records), h.records[0].Hash()); err != nil {
		t.Errorf("Verify = %v", err)
	}
}

func TestForgottenServerJoinsAnewWithANewKey(t *testing.T) {
	h, second := fleet(t)
	h.apply(h.server(forgotten("ps-2")))
	refuse(t, h, sign(t, h.server(joined("ps-2", signer("ps-2 again")))), events.ErrPayload) // uninvited
	h.apply(h.server(invited("ps-2")))
	refuse(t, h, sign(t, h.server(joined("ps-2", second))), events.ErrPayload)
	fresh := signer("ps-2 again")
	h.apply(h.server(joined("ps-2", fresh)))
	m, _ := h.state.Member("ps-2")
	if !m.Counts() || m.Forgotten != 0 {
		t.Errorf("joined anew = %+v", m)
	}
	refuse(t, h, h.by("ps-2", second, h.rollover("sso")), events.ErrSignature)
	h.take(h.by("ps-2", fresh, h.rollover("sso")))
	if _, err := events.Verify(all(h.records), h.records[0].Hash()); err != nil {
		t.Errorf("Verify = %v", err)
	}
}

func TestServerThatForgetsItselfHasTheLastWord(t *testing.T) {
	h, second := fleet(t)
	h.take(h.by("ps-2", second, h.server(forgotten("ps-2"))))
	if err := h.state.VerifyNewest(); err != nil {
		t.Errorf("VerifyNewest = %v", err)
	}
	if _, err := events.Verify(all(h.records), h.records[0].Hash()); err != nil {
		t.Errorf("Verify = %v", err)
	}
	refuse(t, h, h.by("ps-2", second, h.rollover("sso")), events.ErrForgotten)
}

func TestFounderIsAnOrdinaryMember(t *testing.T) {
	h, second := fleet(t)
	h.take(h.by("ps-2", second, h.server(forgotten("ps-1"))))
	if _, err := h.state.Apply(sign(t, h.rollover("sso"))); !errors.Is(err, events.ErrForgotten) {
		t.Errorf("Apply of the forgotten founder's event = %v", err)
	}
	h.take(h.by("ps-2", second, h.rollover("sso")))
	if err := h.state.VerifyNewest(); err != nil {
		t.Error(err)
	}
}

// makeMemberVectors is a ledger of keys in which ps-2 comes and goes, with events by
// both servers.
func makeMemberVectors(t *testing.T) vectors {
	h := newHistory(t, events.Keys)
	second := ed25519.NewKeyFromSeed(other.Seed())
	h.apply(h.server(invited("ps-2")))
	h.apply(h.server(joined("ps-2", second)))
	h.take(h.by("ps-2", second, h.event(events.TypeVoid, events.VoidPayload())))
	h.apply(h.server(excluded("ps-2")))
	h.take(h.by("ps-2", second, h.server(returned("ps-2"))))
	h.apply(h.server(events.ServerChange{Type: events.TypeServerExcluded, ID: "ps-2", Cause: events.ByMaxHold}))
	last := h.server(forgotten("ps-2"))
	last.Reason = "its machine was lost"
	h.apply(last)
	v := vectors{
		About: "Keytide event log, events/SPEC.md, section 3.4: the members of a ledger. Events by ps-1 are signed by the key below, " +
			"those by ps-2 by the one whose seed is the same text with a 2 at its end",
		Seed: hex.EncodeToString(private.Seed()), Public: hex.EncodeToString(public), Values: []vectorValue{},
		Refused: []vectorRefused{},
	}
	for _, rec := range h.records {
		v.History = append(v.History, vectorOf(t, rec))
	}
	return v
}

func TestMemberRefusals(t *testing.T) {
	forced := func(c events.ServerChange) events.ServerChange { c.Forced = true; return c }
	other := func(c events.ServerChange, change func(*events.ServerChange)) events.ServerChange {
		change(&c)
		return c
	}
	for _, c := range []struct {
		name   string
		before []events.ServerChange
		change events.ServerChange
		want   error
	}{
		{"a member is invited", nil, invited("ps-2"), keystore.ErrExists},
		{"an invitation that has expired", nil, other(invited("ps-3"), func(c *events.ServerChange) { c.Expires = day }), events.ErrPayload},
		{"uninvited", nil, joined("ps-3", signer("ps-3")), events.ErrPayload},
		{"a member joins", nil, joined("ps-2", signer("ps-3")), keystore.ErrExists},
		{"another's key", []events.ServerChange{invited("ps-3")}, joined("ps-3", signer("ps-2")), events.ErrPayload},
		{"another region", []events.ServerChange{invited("ps-3")},
			other(joined("ps-3", signer("ps-3")), func(c *events.ServerChange) { c.Region = "eu" }), events.ErrPayload},
		{"too late", []events.ServerChange{other(invited("ps-3"), func(c *events.ServerChange) { c.Expires = day.Add(5*time.Hour + time.Minute) })},
			joined("ps-3", signer("ps-3")), events.ErrPayload},
		{"an invitation that was ended", []events.ServerChange{invited("ps-3"), forgotten("ps-3")}, joined("ps-3", signer("ps-3")), events.ErrPayload},
		{"exclude a stranger", nil, excluded("ps-3"), keystore.ErrNotFound},
		{"exclude twice", []events.ServerChange{excluded("ps-2")}, excluded("ps-2"), keystore.ErrExists},
		{"exclude one that is invited", []events.ServerChange{invited("ps-3")}, excluded("ps-3"), keystore.ErrNotFound},
		{"exclude the last that counts", []events.ServerChange{excluded("ps-2")}, excluded("ps-1"), keystore.ErrRefused},
		{"forget the last that counts", []events.ServerChange{excluded("ps-2")}, forgotten("ps-1"), keystore.ErrRefused},
		{"forget the last member", []events.ServerChange{forgotten("ps-2")}, forced(forgotten("ps-1")), keystore.ErrRefused},
		{"forget a stranger", nil, forgotten("ps-3"), keystore.ErrNotFound},
		{"forget twice", []events.ServerChange{forgotten("ps-2")}, forgotten("ps-2"), keystore.ErrNotFound},
		{"return without an exclusion", nil, returned("ps-1"), events.ErrPayload},
		{"return by another's word", []events.ServerChange{excluded("ps-2")}, returned("ps-2"), events.ErrPayload},
		{"return of a forgotten one", []events.ServerChange{excluded("ps-2"), forgotten("ps-2")}, returned("ps-2"), keystore.ErrNotFound},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, _ := fleet(t)
			for _, before := range c.before {
				h.apply(h.server(before))
			}
			refuse(t, h, sign(t, h.server(c.change)), c.want)
			refuse(t, h, sign(t, h.server(c.change)), events.ErrPayload)
		})
	}
	h, _ := fleet(t)
	h.apply(h.server(excluded("ps-2")))
	h.apply(h.server(forced(excluded("ps-1"))))
	e := h.server(forgotten("ps-2"))
	e.Effects = []events.Effect{put(events.RingKey("sso"))}
	if _, err := h.state.Apply(sign(t, e)); !errors.Is(err, events.ErrPayload) {
		t.Errorf("a server's event with effects: Apply = %v", err)
	}
}

// A policy store's ledger takes over who is a member of the key store.
func TestServersJoinLedgersOfHostsUninvited(t *testing.T) {
	h := newHistory(t, events.Hosts)
	refuse(t, h, sign(t, h.server(invited("ps-2"))), events.ErrWrongKind)
	second := signer("ps-2")
	h.apply(h.server(joined("ps-2", second)))
	h.take(h.by("ps-2", second, h.register("web-1")))
	h.apply(h.server(excluded("ps-2")))
	h.take(h.by("ps-2", second, h.server(returned("ps-2"))))
	h.apply(h.server(forgotten("ps-2")))
	refuse(t, h, h.by("ps-2", second, h.register("web-2")), events.ErrForgotten)
}

// TestMembersKeepTheRules draws changes at random and checks who is a member, who
// counts, and whose signature is taken, against a model of a few lines.
func TestMembersKeepTheRules(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		h := newHistory(t, events.Keys)
		keys := map[string]ed25519.PrivateKey{"ps-1": private}
		live, counts, guest := map[string]bool{"ps-1": true}, map[string]bool{"ps-1": true}, map[string]bool{}
		ids := []string{"ps-1", "ps-2", "ps-3"}
		made := 0
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			id, author := rapid.SampledFrom(ids).Draw(rt, "id"), rapid.SampledFrom(ids).Draw(rt, "author")
			force := rapid.Bool().Draw(rt, "force")
			others := 0
			for o := range counts {
				if o != id {
					others++
				}
			}
			c, allowed := events.ServerChange{}, false
			switch rapid.IntRange(0, 4).Draw(rt, "change") {
			case 0:
				c, allowed = invited(id), !live[id]
			case 1:
				made++
				c, allowed = joined(id, signer(string(rune(made)))), guest[id] && !live[id]
			case 2:
				c = excluded(id)
				c.Forced = force
				allowed = live[id] && counts[id] && (others > 0 || force)
			case 3:
				c, allowed = returned(id), live[id] && !counts[id] && author == id
			case 4:
				c = forgotten(id)
				c.Forced = force
				alone := len(live) == 1
				allowed = guest[id] && !live[id] || live[id] && !alone && (others > 0 || force)
			}
			key := keys[author]
			if key == nil {
				key = private
			}
			allowed = allowed && live[author]
			rec := h.by(author, key, h.server(c))
			if _, err := h.state.Apply(rec); (err == nil) != allowed {
				rt.Fatalf("%v of %s by %s, live %v, counting %v, invited %v: Apply = %v", c.Type, id, author, live, counts, guest, err)
			}
			if !allowed {
				continue
			}
			h.records = append(h.records, rec)
			switch c.Type {
			case events.TypeServerInvited:
				guest[id] = true
			case events.TypeServerJoined:
				live[id], counts[id], keys[id] = true, true, signer(string(rune(made)))
				delete(guest, id)
			case events.TypeServerExcluded:
				delete(counts, id)
			case events.TypeServerReturned:
				counts[id] = true
			case events.TypeServerForgotten:
				delete(live, id)
				delete(counts, id)
				delete(guest, id)
			}
			for _, m := range h.state.Members() {
				if (m.Forgotten == 0) != live[m.ID] || m.Counts() != counts[m.ID] {
					rt.Fatalf("member %+v, live %v, counting %v", m, live, counts)
				}
			}
		}
		if s, err := events.Replay(all(h.records), nil); err != nil || summary(s) != summary(h.state) {
			rt.Fatalf("Replay differs from Apply: %v", err)
		}
		if _, err := events.Verify(all(h.records), h.records[0].Hash()); err != nil {
			rt.Fatalf("Verify = %v", err)
		}
	})
}

func TestServerChangesHaveTheFieldsOfTheirType(t *testing.T) {
	whole := []events.ServerChange{
		invited("ps-2"), joined("ps-2", other), excluded("ps-2"), returned("ps-2"), forgotten("ps-2"),
		{Type: events.TypeServerForgotten, ID: "ps-2", Forced: true},
		{Type: events.TypeServerExcluded, ID: "ps-2", Cause: events.ByMaxHold},
	}
	for _, c := range whole {
		payload, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := events.DecodeServerChange(c.Type, payload)
		if diff := cmp.Diff(c, got); diff != "" || err != nil {
			t.Errorf("%s: %v\n%s", c.Type, err, diff)
		}
		for _, t2 := range []events.Type{4, 5, 6, 7, 8} {
			same := t2 == c.Type || t2+c.Type == 15 && !c.Forced // returned and forgotten both have an id alone
			if _, err := events.DecodeServerChange(t2, payload); !same && !errors.Is(err, events.ErrMalformed) {
				t.Errorf("%s as %s: Decode = %v", c.Type, t2, err)
			}
		}
	}
	if _, err := events.DecodeServerChange(events.TypeVoid, events.VoidPayload()); !errors.Is(err, events.ErrUnknownType) {
		t.Errorf("a void event's payload: %v", err)
	}
	for name, c := range map[string]events.ServerChange{
		"no id":            {Type: events.TypeServerForgotten},
		"a bad id":         {Type: events.TypeServerForgotten, ID: "PS"},
		"no cause":         {Type: events.TypeServerExcluded, ID: "ps-2"},
		"an unknown cause": {Type: events.TypeServerExcluded, ID: "ps-2", Cause: 9},
		"another type":     {Type: events.TypeVoid, ID: "ps-2"},
		"another's nkey":   {Type: events.TypeServerReturned, ID: "ps-2", Nkey: "U"},
		"a forced return":  {Type: events.TypeServerReturned, ID: "ps-2", Forced: true},
		"no point": func() events.ServerChange {
			c := joined("ps-2", other)
			c.P256Key = slices.Repeat([]byte{4}, 65)
			return c
		}(),
		"a short key":       func() events.ServerChange { c := joined("ps-2", other); c.PublicKey = c.PublicKey[:31]; return c }(),
		"no MAC":            func() events.ServerChange { c := joined("ps-2", other); c.MAC = [32]byte{}; return c }(),
		"an upper-case one": func() events.ServerChange { c := invited("ps-2"); c.Region = "EU"; return c }(),
	} {
		if _, err := c.Encode(); !errors.Is(err, keystore.ErrInvalid) {
			t.Errorf("%s: Encode = %v, want keystore.ErrInvalid", name, err)
		}
	}
}
