package cookie_test

import (
	"bytes"
	"testing"

	"github.com/keytide/keytide/agentfeed/cookie"
)

// TestAllocatesNothing covers every way through Seal and Open but the first token of
// a sealer, whose subkey has to be made.
func TestAllocatesNothing(t *testing.T) {
	r := ringOf(dynamicSet(t, 70, 64))
	c := newCodec(t, cookie.Config{Ring: r})
	payload := bytes.Repeat([]byte("p"), 256)
	good := mustSeal(t, c, string(payload))
	mustOpen(t, c, good, string(payload))
	unknown := mustSeal(t, newCodec(t, cookie.Config{Ring: ringOf(dynamicSet(t, 200, 0))}), string(payload))
	elsewhere := mustSeal(t, newCodec(t, cookie.Config{Ring: r, Context: "elsewhere"}), string(payload))
	mustOpen(t, newCodec(t, cookie.Config{Ring: r, Context: "elsewhere"}), elsewhere, string(payload))
	flipped := changedAt(good, 100)
	badCharacter := bytes.Clone(good)
	badCharacter[100] = '\n'
	garbage := bytes.Repeat([]byte("x"), len(good))

	buf := make([]byte, 0, cookie.MaxToken)
	text := string(good)
	opened := mustOpen(t, c, good, string(payload))
	for name, fn := range map[string]func() error{
		"seal":   func() error { _, err := c.Seal(buf, payload); return err },
		"reseal": func() error { _, err := c.Reseal(buf, opened); return err },
		"open":   func() error { _, err := c.Open(buf, good); return err },
		"string": func() error { _, err := c.OpenString(buf, text); return err },
	} {
		if n := testing.AllocsPerRun(1000, func() {
			if err := fn(); err != nil {
				t.Fatal(name, err)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations, want 0", name, n)
		}
	}
	for name, token := range map[string][]byte{
		"unknown key": unknown, "bit flip": flipped, "bad character": badCharacter, "garbage": garbage,
		"empty": nil, "one": good[:1], "header alone": good[:32], "truncated": good[:len(good)-1],
		"cut to the least": good[:80], "too long": bytes.Repeat([]byte("A"), cookie.MaxToken+1),
		"another version": append([]byte("AgAA"), good[4:]...),
	} {
		if n := testing.AllocsPerRun(1000, func() {
			if _, err := c.Open(buf, token); err == nil {
				t.Fatal(name, "opened")
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations, want 0", name, n)
		}
	}
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := c.Seal(buf, make([]byte, cookie.MaxToken)); err != cookie.ErrTooLong {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("too long to seal: %v allocations, want 0", n)
	}
}
