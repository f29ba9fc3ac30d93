package base64url_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/keytide/keytide/agentfeed/cookie/base64url"
)

// strict is the standard library's nearest: it passes over line breaks, which is
// where this package differs on purpose.
var strict = base64.RawURLEncoding.Strict()

func encode(b []byte) []byte {
	text := make([]byte, base64url.EncodedLen(len(b)))
	base64url.Encode(text, b)
	return text
}

func decode(text []byte) ([]byte, bool) {
	b := make([]byte, base64url.DecodedLen(len(text)))
	ok := base64url.Decode(b, text)
	return b, ok
}

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

func TestEveryLengthAgreesWithTheStandardLibrary(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 400 {
		b := randomBytes(r, n)
		text := encode(b)
		if want := strict.EncodeToString(b); string(text) != want {
			t.Fatalf("Encode of %d bytes = %q, want %q", n, text, want)
		}
		if back, ok := decode(text); !ok || !bytes.Equal(back, b) {
			t.Fatalf("Decode(%q) = %x %v, want %x", text, back, ok, b)
		}
	}
}

func TestEncodeInPlace(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for n := range 400 {
		b := randomBytes(r, n)
		buf := make([]byte, base64url.EncodedLen(n))
		src := buf[len(buf)-n:]
		copy(src, b)
		base64url.Encode(buf, src)
		if want := encode(b); !bytes.Equal(buf, want) {
			t.Fatalf("%d bytes in place: got %q, want %q", n, buf, want)
		}
	}
}

func TestDecodeWritesNoFurther(t *testing.T) {
	for n := range 60 {
		text := encode(bytes.Repeat([]byte{0x5a}, n))
		buf := bytes.Repeat([]byte{0xee}, n+16)
		if !base64url.Decode(buf, text) {
			t.Fatalf("Decode of %d characters refused", len(text))
		}
		if !bytes.Equal(buf[n:], bytes.Repeat([]byte{0xee}, 16)) {
			t.Fatalf("Decode of %d bytes wrote behind them: %x", n, buf[n:])
		}
	}
}

// TestOneTextAValue changes each character of texts of all shapes to each of the
// 256 bytes: what still decodes must be another value's only text.
func TestOneTextAValue(t *testing.T) {
	for n := 1; n <= 14; n++ {
		value := bytes.Repeat([]byte{0xa7}, n)
		text := encode(value)
		for i := range text {
			for c := range 256 {
				if byte(c) == text[i] {
					continue
				}
				changed := bytes.Clone(text)
				changed[i] = byte(c)
				if back, ok := decode(changed); ok && (bytes.Equal(back, value) || !bytes.Equal(encode(back), changed)) {
					t.Fatalf("%q decodes to %x, whose text is %q", changed, back, encode(back))
				}
			}
		}
	}
}

func TestRefuses(t *testing.T) {
	for _, text := range []string{"A", "AAAAA", "AA==", "AAA=", "AB", "AAB", "AA\n", "\nAA", "AA\r\nAA", "AA AA", "AA+A", "AA/A", "AAAAAAA\n", "ÄÄAA"} {
		if b, ok := decode([]byte(text)); ok {
			t.Errorf("Decode(%q) = %x, want it refused", text, b)
		}
	}
}

func TestAllocatesNothing(t *testing.T) {
	b := make([]byte, 300)
	text := encode(b)
	if n := testing.AllocsPerRun(100, func() {
		base64url.Encode(text, b)
		if !base64url.Decode(b, text) {
			t.Fatal("Decode refused its own text")
		}
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func FuzzBase64(f *testing.F) {
	for _, s := range []string{"", "AA", "AAA", "AUWsvTQaZWpkoKGio6SlpqeoqaqrrK2uwMHCw8TFxsfIycrL", "AB", "A\n", "AAAAAAAAAAA="} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if got, want := encode(text), strict.EncodeToString(text); string(got) != want {
			t.Fatalf("Encode(%x) = %q, want %q", text, got, want)
		}
		got, ok := decode(text)
		want, err := strict.DecodeString(string(text))
		breaks := bytes.ContainsAny(text, "\r\n")
		if ok != (err == nil && !breaks) {
			t.Fatalf("Decode(%q) = %v; the standard library says %v", text, ok, err)
		}
		if ok && (!bytes.Equal(got, want) || !bytes.Equal(encode(got), text)) {
			t.Fatalf("Decode(%q) = %x, want %x with this text alone", text, got, want)
		}
	})
}

func BenchmarkCodec(b *testing.B) {
	for _, n := range []int{100, 292, 3000} {
		raw := make([]byte, n)
		text := encode(raw)
		std := make([]byte, len(text))
		b.Run(fmt.Sprintf("encode/%d", n), func(b *testing.B) {
			for b.Loop() {
				base64url.Encode(text, raw)
			}
		})
		b.Run(fmt.Sprintf("decode/%d", n), func(b *testing.B) {
			for b.Loop() {
				base64url.Decode(raw, text)
			}
		})
		b.Run(fmt.Sprintf("standard-encode/%d", n), func(b *testing.B) {
			for b.Loop() {
				strict.Encode(std, raw)
			}
		})
		b.Run(fmt.Sprintf("standard-decode/%d", n), func(b *testing.B) {
			for b.Loop() {
				strict.Decode(raw, text)
			}
		})
	}
}
