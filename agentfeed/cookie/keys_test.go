package cookie_test

import (
	"errors"
	"testing"

	"github.com/keytide/keytide/agentfeed/cookie"
	"github.com/keytide/keytide/keystore"
)

func setOf(mode keystore.Mode, keys ...keystore.SetKey) *keystore.KeySet {
	return &keystore.KeySet{Ring: "sso", Epoch: 1, Version: 9, Mode: mode, Keys: keys}
}

func TestWhichKeySeals(t *testing.T) {
	key := func(word string, role keystore.Role, change func(*keystore.SetKey)) keystore.SetKey {
		k := setKey(t, word, role)
		if change != nil {
			change(&k)
		}
		return k
	}
	pending := func(k *keystore.SetKey) { k.Pending = true }
	seals := func(k *keystore.SetKey) { k.Seals = true }
	current, future, static := key("c", keystore.Current, nil), key("f", keystore.Future, nil), key("s", keystore.Static, nil)
	for _, test := range []struct {
		name    string
		set     *keystore.KeySet
		purpose cookie.Purpose
		want    keystore.KID // zero: none
	}{
		{"current", setOf(keystore.ModeDynamic, current, future, static), cookie.Session, current.KID},
		{"static for credentials", setOf(keystore.ModeDynamic, current, future, static), cookie.Credentials, static.KID},
		{"static for tracking", setOf(keystore.ModeDynamic, current, future, static), cookie.Tracking, static.KID},
		{"static mode", setOf(keystore.ModeStatic, key("s", keystore.Static, seals), key("c", keystore.Current, func(k *keystore.SetKey) { k.Seals = false })), cookie.Session, static.KID},
		{"a pending current", setOf(keystore.ModeDynamic, key("c", keystore.Current, pending), static), cookie.Session, keystore.KID{}},
		{"a pending static before another", setOf(keystore.ModeDynamic, current, key("p", keystore.Static, pending), static), cookie.Credentials, static.KID},
		{"a pending static alone", setOf(keystore.ModeDynamic, current, key("p", keystore.Static, pending)), cookie.Tracking, keystore.KID{}},
		{"a future key that claims to seal", setOf(keystore.ModeDynamic, key("f", keystore.Future, seals)), cookie.Session, keystore.KID{}},
		{"static that claims to seal in dynamic mode", setOf(keystore.ModeDynamic, key("s", keystore.Static, seals)), cookie.Session, keystore.KID{}},
		{"none that seals", setOf(keystore.ModeDynamic, key("c", keystore.Current, func(k *keystore.SetKey) { k.Seals = false })), cookie.Session, keystore.KID{}},
		{"an empty key", setOf(keystore.ModeDynamic, key("c", keystore.Current, func(k *keystore.SetKey) { k.Material = keystore.Material{} })), cookie.Session, keystore.KID{}},
		{"a kid of another key", setOf(keystore.ModeDynamic, key("c", keystore.Current, func(k *keystore.SetKey) { k.KID[0]++ })), cookie.Session, keystore.KID{}},
		{"no keys", setOf(keystore.ModeDynamic), cookie.Session, keystore.KID{}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newCodec(t, cookie.Config{Ring: ringOf(test.set), Purpose: test.purpose})
			token, err := c.Seal(nil, []byte("x"))
			if test.want == (keystore.KID{}) {
				if !errors.Is(err, cookie.ErrNoKey) {
					t.Fatalf("Seal = %q, %v; want ErrNoKey", token, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if e, err := cookie.Explain(string(token)); err != nil || e.KID != test.want || e.PayloadSize != 1 {
				t.Fatalf("Explain = %+v, %v; want key %v and 1 byte", e, err, test.want)
			}
			if o := mustOpen(t, c, token, "x"); o.KID != test.want || o.Reseal || o.Foreign {
				t.Fatalf("Open = %+v; want key %v and no reseal", o, test.want)
			}
		})
	}
}

func TestPurposesKeepToTheirKeys(t *testing.T) {
	dynamic := dynamicSet(t, 3, 1)
	// The same material as the current key, in a static role: only roles differ.
	asStatic := setOf(keystore.ModeDynamic, setKey(t, "d3", keystore.Static))
	staticMode := setOf(keystore.ModeStatic, setKey(t, "static", keystore.Static), setKey(t, "d3", keystore.Old))
	staticMode.Keys[0].Seals = true

	session := mustSeal(t, newCodec(t, cookie.Config{Ring: ringOf(dynamic)}), "x")
	wantRefused(t, newCodec(t, cookie.Config{Ring: ringOf(asStatic)}), session, cookie.UnknownKey)
	// In static mode the sessions from before go on, and are resealed.
	c := newCodec(t, cookie.Config{Ring: ringOf(staticMode)})
	if o := mustOpen(t, c, session, "x"); !o.Reseal {
		t.Error("a session from before static mode is not resealed")
	}
	wantRefused(t, newCodec(t, cookie.Config{Ring: ringOf(dynamic)}), mustSeal(t, c, "x"), cookie.UnknownKey)
	tracking := newCodec(t, cookie.Config{Ring: ringOf(dynamic), Purpose: cookie.Tracking})
	wantRefused(t, tracking, session, cookie.UnknownKey)
	// What static seals opens whatever the mode.
	credentials := mustSeal(t, newCodec(t, cookie.Config{Ring: ringOf(dynamic), Purpose: cookie.Credentials}), "x")
	mustOpen(t, newCodec(t, cookie.Config{Ring: ringOf(staticMode), Purpose: cookie.Credentials}), credentials, "x")
}

func TestNoKeysIsNoFaultOfTheToken(t *testing.T) {
	r := ringOf(dynamicSet(t, 3, 1))
	c := newCodec(t, cookie.Config{Ring: r})
	token := mustSeal(t, c, "x")
	r.set.Store(nil)
	if _, err := c.Open(nil, token); !errors.Is(err, cookie.ErrNoKey) || errors.Is(err, cookie.ErrBadToken) {
		t.Errorf("Open without keys: %v, want ErrNoKey alone", err)
	}
	if _, err := c.Seal(nil, nil); !errors.Is(err, cookie.ErrNoKey) {
		t.Errorf("Seal without keys: %v, want ErrNoKey", err)
	}
	if n := c.Subkeys(); n != 0 {
		t.Errorf("%d subkeys kept of keys that are gone", n)
	}
	r.set.Store(dynamicSet(t, 4, 1))
	if o := mustOpen(t, c, token, "x"); !o.Reseal {
		t.Error("Reseal = false for an old key")
	}
}

// TestSubkeysFollowTheKeys: a change keeps the subkeys of the keys that stay, drops
// those of the others, and an older snapshot that comes late changes nothing.
func TestSubkeysFollowTheKeys(t *testing.T) {
	r := ringOf(dynamicSet(t, 5, 1)) // opens d4, d5, d6
	c := newCodec(t, cookie.Config{Ring: r})
	var tokens [][]byte
	for v := 4; v <= 6; v++ {
		tokens = append(tokens, mustSeal(t, newCodec(t, cookie.Config{Ring: ringOf(dynamicSet(t, v, 1))}), "x"))
		mustOpen(t, c, tokens[v-4], "x")
	}
	if n := c.Subkeys(); n != 3 {
		t.Fatalf("%d subkeys kept, want 3", n)
	}
	older := r.Snapshot()
	r.set.Store(dynamicSet(t, 6, 1)) // opens d5, d6, d7
	wantRefused(t, c, tokens[0], cookie.UnknownKey)
	if n := c.Subkeys(); n != 2 {
		t.Errorf("%d subkeys kept, want those of 2 keys that stayed", n)
	}
	if n := testing.AllocsPerRun(100, func() { mustOpenQuietly(t, c, tokens[1]) }); n != 0 {
		t.Errorf("opening under a key that stayed: %v allocations, want none derived anew", n)
	}
	r.set.Store(older)
	wantRefused(t, c, tokens[0], cookie.UnknownKey)
	restored := dynamicSet(t, 4, 1)
	restored.Epoch = 2
	r.set.Store(restored)
	mustOpen(t, c, tokens[0], "x")
}

var room = make([]byte, 0, cookie.MaxToken)

func mustOpenQuietly(t *testing.T, c *cookie.Codec, token []byte) {
	if _, err := c.Open(room, token); err != nil {
		t.Fatal(err)
	}
}

// TestKIDIsUnique: of two keys with one kid the second is left out, so that a token
// has one key everywhere.
func TestKIDIsUnique(t *testing.T) {
	twice := setOf(keystore.ModeDynamic, setKey(t, "c", keystore.Current), setKey(t, "c", keystore.Old), setKey(t, "f", keystore.Future))
	c := newCodec(t, cookie.Config{Ring: ringOf(twice)})
	mustOpen(t, c, mustSeal(t, c, "x"), "x")
	if n := c.Openers(); n != 2 {
		t.Errorf("%d keys open, want 2", n)
	}
}

func TestEveryKeyOfAFullRingOpens(t *testing.T) {
	full := dynamicSet(t, 70, 64)
	c := newCodec(t, cookie.Config{Ring: ringOf(full)})
	for _, k := range full.Keys {
		if k.Role == keystore.Static {
			continue
		}
		k.Role, k.Seals = keystore.Current, true
		token := mustSeal(t, newCodec(t, cookie.Config{Ring: ringOf(setOf(keystore.ModeDynamic, k))}), "x")
		if o := mustOpen(t, c, token, "x"); o.KID != k.KID {
			t.Fatalf("opened with %v, want %v", o.KID, k.KID)
		}
	}
}

// TestStaticKeysAroundStaticMode: while a ring is about to enter static mode, or has left
// it lately, static keys open sessions; former and pending ones open and never seal.
func TestStaticKeysAroundStaticMode(t *testing.T) {
	current := setKey(t, "d1", keystore.Current)
	former, static, pending := setKey(t, "former", keystore.Static), setKey(t, "static", keystore.Static), setKey(t, "pending", keystore.Static)
	former.Retired, pending.Pending = true, true
	set := func(mode keystore.Mode, opensStatic bool, keys ...keystore.SetKey) *keystore.KeySet {
		return &keystore.KeySet{Ring: "sso", Epoch: 1, Version: 1, Mode: mode, OpensStatic: opensStatic, Keys: keys}
	}
	sealedBy := func(k keystore.SetKey, purpose cookie.Purpose) []byte {
		k.Retired, k.Pending, k.Seals = false, false, true
		token, err := newCodec(t, cookie.Config{Ring: ringOf(set(keystore.ModeStatic, true, k)), Purpose: purpose}).Seal(nil, []byte("v"))
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	for _, opens := range []bool{false, true} {
		ring := ringOf(set(keystore.ModeDynamic, opens, current, former, static, pending))
		for _, k := range []keystore.SetKey{former, static, pending} {
			_, err := newCodec(t, cookie.Config{Ring: ring}).Open(nil, sealedBy(k, cookie.Session))
			if (err == nil) != opens {
				t.Errorf("opens_static %t: a session under key %s: %v", opens, k.KID, err)
			}
			if _, err := newCodec(t, cookie.Config{Ring: ring, Purpose: cookie.Credentials}).Open(nil, sealedBy(k, cookie.Credentials)); err != nil {
				t.Errorf("opens_static %t: credentials under key %s: %v", opens, k.KID, err)
			}
		}
		for purpose, want := range map[cookie.Purpose]keystore.KID{cookie.Session: current.KID, cookie.Credentials: static.KID} {
			codec := newCodec(t, cookie.Config{Ring: ring, Purpose: purpose})
			token, err := codec.Seal(nil, []byte("v"))
			if err != nil {
				t.Fatal(err)
			}
			if opened, err := codec.Open(nil, token); err != nil || opened.KID != want {
				t.Errorf("opens_static %t: %v sealed with %s, %v; want %s", opens, purpose, opened.KID, err, want)
			}
		}
	}
}
