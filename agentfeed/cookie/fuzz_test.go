package cookie_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"testing"

	"github.com/keytide/keytide/agentfeed/cookie"
)

// FuzzOpen opens any text, and seals any payload and changes its token. What opens
// must be the only text of its bytes and seal to something that opens to the same;
// all else must give the one error.
func FuzzOpen(f *testing.F) {
	c := newCodec(f, cookie.Config{Ring: ringOf(dynamicSet(f, 5, 3))})
	for _, payload := range []string{"", "x", "hello", "0123456789abcdef"} {
		f.Add(mustSeal(f, c, payload), []byte(payload), uint16(len(payload)), byte(1))
	}
	f.Add([]byte("AUWsvTQaZWpkoKGio6SlpqeoqaqrrK2uwMHCw8TFxsfIycrLfdTs7rDOCjlU-3SnTOe5WQXZMriA"), []byte("p"), uint16(80), byte(0x80))
	f.Fuzz(func(t *testing.T, text, payload []byte, at uint16, flip byte) {
		check(t, c, text)
		token, err := c.Seal(nil, payload)
		if err != nil {
			if len(payload) <= maxPayload || !errors.Is(err, cookie.ErrTooLong) {
				t.Fatalf("Seal of %d bytes: %v", len(payload), err)
			}
			return
		}
		if opened, ok := check(t, c, token); !ok || !bytes.Equal(opened.Payload, payload) {
			t.Fatalf("sealed %q, opened %q %v", payload, opened.Payload, ok)
		}
		changed := bytes.Clone(token)
		changed[int(at)%len(changed)] ^= flip
		if _, ok := check(t, c, changed); ok != (flip == 0) {
			t.Fatalf("%q opens: %v; it is %q with one character changed by %#x", changed, ok, token, flip)
		}
		// The given text behind a good header reaches the decryption.
		if _, ok := check(t, c, append(bytes.Clone(token[:32]), text...)); ok && !bytes.Equal(text, token[32:]) {
			t.Fatalf("%q opens behind the header of %q", text, token)
		}
	})
}

func check(t *testing.T, c *cookie.Codec, text []byte) (cookie.Opened, bool) {
	t.Helper()
	before := bytes.Clone(text)
	opened, err := c.Open(nil, text)
	if !bytes.Equal(text, before) {
		t.Fatalf("Open changed its token %q to %q", before, text)
	}
	if err != nil {
		if !errors.Is(err, cookie.ErrBadToken) || cookie.ReasonOf(err) == 0 || opened.Payload != nil {
			t.Fatalf("Open(%q) = %+v, %v; want the one error alone", text, opened, err)
		}
		return opened, false
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(string(text))
	if err != nil || base64.RawURLEncoding.EncodeToString(raw) != string(text) {
		t.Fatalf("%q opens, but is not the text of its bytes: %v", text, err)
	}
	again, err := c.Reseal(nil, opened)
	if err != nil {
		t.Fatal(err)
	}
	back, err := c.Open(nil, again)
	if err != nil || !bytes.Equal(back.Payload, opened.Payload) || !back.Issued.Equal(opened.Issued) || back.MaxAge != opened.MaxAge {
		t.Fatalf("resealed %+v, opened %+v, %v", opened, back, err)
	}
	return opened, true
}
