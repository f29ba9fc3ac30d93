package cookie_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/keytide/keytide/agentfeed/cookie"
	"github.com/keytide/keytide/keystore"
)

// maxPayload is the most bytes that fit: floor((4000-32)*3/4) - 36.
const maxPayload = 2940

func TestEveryLengthOpens(t *testing.T) {
	c := newCodec(t, cookie.Config{Ring: ringOf(dynamicSet(t, 5, 3))})
	payload := bytes.Repeat([]byte("0123456789abcdef"), maxPayload/16+1)
	last := 0
	for n := 0; n <= maxPayload; n++ {
		token := mustSeal(t, c, string(payload[:n]))
		mustOpen(t, c, token, string(payload[:n]))
		if len(token) < last {
			t.Fatalf("%d bytes make %d characters, one byte less %d", n, len(token), last)
		}
		last = len(token)
	}
	if last > cookie.MaxToken || last < cookie.MaxToken-1 {
		t.Errorf("the longest token has %d characters, want %d or one less", last, cookie.MaxToken)
	}
	if _, err := c.Seal(nil, payload[:maxPayload+1]); !errors.Is(err, cookie.ErrTooLong) {
		t.Errorf("Seal of %d bytes: %v, want ErrTooLong", maxPayload+1, err)
	}
	short := newCodec(t, cookie.Config{Ring: ringOf(dynamicSet(t, 5, 3)), MaxLen: 100})
	if token, err := short.Seal(nil, payload[:15]); err != nil || len(token) != 100 {
		t.Errorf("Seal of 15 bytes = %d characters, %v; want 100", len(token), err)
	}
	if _, err := short.Seal(nil, payload[:16]); !errors.Is(err, cookie.ErrTooLong) {
		t.Errorf("Seal of 16 bytes: %v, want ErrTooLong", err)
	}
	mustOpen(t, short, mustSeal(t, c, string(payload[:1000])), string(payload[:1000]))
}

func payloads() *rapid.Generator[[]byte] { return rapid.SliceOfN(rapid.Byte(), 0, 600) }

// TestChangedTokensAreRefused changes one character at every position, to another
// of the alphabet and to any byte, and cuts and extends at every length.
func TestChangedTokensAreRefused(t *testing.T) {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	rapid.Check(t, func(rt *rapid.T) {
		c := newCodec(t, cookie.Config{Ring: ringOf(dynamicSet(t, 5, 3))})
		token := mustSeal(t, c, string(rapid.SliceOfN(rapid.Byte(), 0, 60).Draw(rt, "payload")))
		reasons := []cookie.Reason{cookie.Malformed, cookie.UnknownKey, cookie.Unauthentic}
		for i := range token {
			changed := bytes.Clone(token)
			changed[i] = alphabet[rapid.IntRange(0, 63).Draw(rt, "character")]
			if rapid.Bool().Draw(rt, "any byte") {
				changed[i] = rapid.Byte().Draw(rt, "byte")
			}
			if changed[i] != token[i] {
				wantRefused(t, c, changed, reasons...)
			}
			wantRefused(t, c, token[:i], reasons...)
		}
		for n := 1; n < 9; n++ {
			wantRefused(t, c, slices.Concat(token, bytes.Repeat([]byte("A"), n)), reasons...)
		}
		for _, tail := range []string{"\n", "\r\n", "=", "==", " ", "\x00"} {
			wantRefused(t, c, slices.Concat(token, []byte(tail)), reasons...)
			wantRefused(t, c, slices.Concat([]byte(tail), token), reasons...)
		}
	})
}

func TestTokensAreBoundToTheirContext(t *testing.T) {
	// The lengths keep ("ab", "c") and ("a", "bc") apart.
	configs := []cookie.Config{
		{Name: "ab", Context: "c"}, {Name: "a", Context: "bc"}, {Name: "abc"}, {Name: "a", Context: "c"},
		{Name: "ab", Context: "c", Purpose: cookie.Credentials}, {Name: "ab", Context: "c", Purpose: cookie.Tracking},
	}
	set := dynamicSet(t, 3, 1)
	set.Mode = keystore.ModeStatic // one key for all purposes, so that only the binding differs
	for i := range set.Keys {
		set.Keys[i].Seals = set.Keys[i].Role == keystore.Static
	}
	for i, from := range configs {
		from.Ring = ringOf(set)
		token := mustSeal(t, newCodec(t, from), "hello")
		for j, to := range configs {
			to.Ring = ringOf(set)
			c := newCodec(t, to)
			if i == j {
				mustOpen(t, c, token, "hello")
				continue
			}
			wantRefused(t, c, token, cookie.Unauthentic)
		}
	}
}

func TestDstIsAppendedToAndOtherwiseUntouched(t *testing.T) {
	c := newCodec(t, cookie.Config{Ring: ringOf(dynamicSet(t, 5, 3))})
	rapid.Check(t, func(rt *rapid.T) {
		payload := payloads().Draw(rt, "payload")
		front := rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(rt, "front")
		dst := append(make([]byte, 0, len(front)+rapid.IntRange(0, 2000).Draw(rt, "room")), front...)
		sealed, err := c.Seal(dst, payload)
		if err != nil || !bytes.Equal(sealed[:len(front)], front) {
			rt.Fatalf("Seal = %q, %v; want it to begin with %q", sealed, err, front)
		}
		token := bytes.Clone(sealed[len(front):])
		opened, err := c.Open(dst, token)
		if err != nil || !bytes.Equal(opened.Payload, payload) || !bytes.Equal(dst, front) {
			rt.Fatalf("Open = %q, %v, dst %q; want %q and %q", opened.Payload, err, dst, payload, front)
		}
		if text, err := c.OpenString(nil, string(token)); err != nil || !bytes.Equal(text.Payload, payload) {
			rt.Fatalf("OpenString = %q, %v; want %q", text.Payload, err, payload)
		}
		token[rapid.IntRange(0, len(token)-1).Draw(rt, "at")] ^= 1
		if opened, err := c.Open(dst, token); err == nil || opened.Payload != nil || !bytes.Equal(dst, front) {
			rt.Fatalf("Open of a changed token = %q, %v, dst %q", opened.Payload, err, dst)
		}
		if got, err := c.Seal(dst, make([]byte, cookie.MaxToken)); !errors.Is(err, cookie.ErrTooLong) || !bytes.Equal(got, front) {
			rt.Fatalf("Seal of too much = %q, %v; want dst as it was", got, err)
		}
	})
}

// TestPayloadMayLieInTheRoom seals payloads that lie where the token will be.
func TestPayloadMayLieInTheRoom(t *testing.T) {
	c := newCodec(t, cookie.Config{Ring: ringOf(dynamicSet(t, 5, 3))})
	rapid.Check(t, func(rt *rapid.T) {
		payload := payloads().Draw(rt, "payload")
		buf := make([]byte, 2000)
		at := rapid.IntRange(0, len(buf)-len(payload)).Draw(rt, "at")
		copy(buf[at:], payload)
		token, err := c.Seal(buf[:0], buf[at:at+len(payload)])
		if err != nil {
			rt.Fatal(err)
		}
		if o, err := c.Open(nil, token); err != nil || !bytes.Equal(o.Payload, payload) {
			rt.Fatalf("Open = %q, %v; want %q", o.Payload, err, payload)
		}
	})
}

// TestContinuityOverRollovers: agents are at most one version apart, either way, and
// every token opens at each of them while its key is held.
func TestContinuityOverRollovers(t *testing.T) {
	const retained = 3
	type agent struct {
		*cookie.Codec
		ring    *ring
		version int
	}
	type sealed struct {
		token   []byte
		payload string
		by      int // the version that sealed it
	}
	rapid.Check(t, func(rt *rapid.T) {
		agents := make([]agent, rapid.IntRange(2, 5).Draw(rt, "agents"))
		for i := range agents {
			r := ringOf(dynamicSet(t, 5, retained))
			agents[i] = agent{newCodec(t, cookie.Config{Ring: r, Subkeys: 8}), r, 5}
		}
		low := func() int {
			return slices.MinFunc(agents, func(a, b agent) int { return a.version - b.version }).version
		}
		var tokens []sealed
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			a := &agents[rapid.IntRange(0, len(agents)-1).Draw(rt, "agent")]
			if rapid.Bool().Draw(rt, "roll over") && a.version == low() {
				a.version++
				a.ring.set.Store(dynamicSet(t, a.version, retained))
			}
			payload := rapid.StringN(0, 30, 60).Draw(rt, "payload")
			tokens = append(tokens, sealed{mustSeal(t, a.Codec, payload), payload, a.version})
			for _, token := range tokens {
				for _, b := range agents {
					if b.version-token.by > retained {
						continue // its key is destroyed
					}
					opened := mustOpen(t, b.Codec, token.token, token.payload)
					if opened.Reseal != (b.version != token.by) {
						rt.Fatalf("Reseal = %v of a token of version %d at version %d", opened.Reseal, token.by, b.version)
					}
				}
			}
		}
	})
}
