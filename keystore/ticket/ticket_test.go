package ticket_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/ticket"
)

var start = time.Date(2026, 11, 24, 9, 0, 0, 0, time.UTC)

func key(tb testing.TB, seed string) keystore.Material {
	tb.Helper()
	sum := sha256.Sum256([]byte(seed))
	m, err := keystore.NewMaterial(sum[:])
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

// ring gives the keys of a ring, by kid.
func ring(keys ...keystore.Material) func(keystore.KID) (keystore.Material, bool) {
	return func(kid keystore.KID) (keystore.Material, bool) {
		for _, k := range keys {
			if k.KID() == kid {
				return k, true
			}
		}
		return keystore.Material{}, false
	}
}

func aTicket() ticket.Ticket {
	return ticket.Ticket{Host: "web-1", Issued: start, MaxAge: time.Hour, Payload: []byte("user=amira")}
}

func seal(tb testing.TB, k keystore.Material, t ticket.Ticket) string {
	tb.Helper()
	text, err := ticket.Seal(k, "sso", t)
	if err != nil {
		tb.Fatalf("Seal: %v", err)
	}
	return text
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		want := ticket.Ticket{
			Host:    rapid.StringMatching(`[a-z0-9][a-z0-9-]{0,62}`).Draw(rt, "host"),
			Issued:  start.Add(time.Duration(rapid.IntRange(-1e6, 0).Draw(rt, "issued")) * time.Second),
			MaxAge:  time.Duration(rapid.IntRange(1e6+1, 31_622_400).Draw(rt, "age")) * time.Second,
			Payload: rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(rt, "payload"),
		}
		now, old := key(t, "now"), key(t, "old")
		text := seal(t, now, want)
		if again := seal(t, now, want); again == text {
			rt.Fatal("two tickets of the same content are the same")
		}
		kid, err := ticket.KIDOf(text)
		if err != nil || kid != now.KID() {
			rt.Fatalf("KIDOf = %s, %v; want %s", kid, err, now.KID())
		}
		got, err := ticket.Open(text, "sso", start, ring(old, now))
		if err != nil {
			rt.Fatalf("Open: %v", err)
		}
		if diff := cmp.Diff(want, got, cmp.Transformer("bytes", func(b []byte) string { return string(b) })); diff != "" {
			rt.Fatalf("(-want +got):\n%s", diff)
		}
	})
}

func TestEveryBitCounts(t *testing.T) {
	k := key(t, "now")
	raw, err := base64.RawURLEncoding.DecodeString(seal(t, k, aTicket()))
	if err != nil {
		t.Fatal(err)
	}
	for i := range 8 * len(raw) {
		changed := bytes.Clone(raw)
		changed[i/8] ^= 1 << (i % 8)
		text := base64.RawURLEncoding.EncodeToString(changed)
		if _, err := ticket.Open(text, "sso", start, ring(k)); !errors.Is(err, ticket.ErrTicket) {
			t.Fatalf("bit %d changed: %v, want ErrTicket", i, err)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	k := key(t, "now")
	text := seal(t, k, aTicket())
	open := func(text string, r keystore.RingName, now time.Time, keys ...keystore.Material) error {
		_, err := ticket.Open(text, r, now, ring(keys...))
		return err
	}
	tests := []struct {
		name string
		got  error
		want error
	}{
		{"another ring", open(text, "app", start, k), ticket.ErrTicket},
		{"another key", open(text, "sso", start, key(t, "other")), ticket.ErrUnknownKey},
		{"no key", open(text, "sso", start), ticket.ErrUnknownKey},
		{"the last moment", open(text, "sso", start.Add(time.Hour-time.Nanosecond), k), nil},
		{"too old", open(text, "sso", start.Add(time.Hour), k), ticket.ErrExpired},
		{"a clock behind", open(text, "sso", start.Add(-ticket.Skew), k), nil},
		{"from the future", open(text, "sso", start.Add(-ticket.Skew-time.Second), k), ticket.ErrTicket},
		{"empty", open("", "sso", start, k), ticket.ErrTicket},
		{"cut", open(text[:len(text)-1], "sso", start, k), ticket.ErrTicket},
		{"longer", open(text+"A", "sso", start, k), ticket.ErrTicket},
		{"padded", open(text+"=", "sso", start, k), ticket.ErrTicket},
		{"a line ending", open(text+"\n", "sso", start, k), ticket.ErrTicket},
		{"a line break within", open(text[:20]+"\n"+text[20:], "sso", start, k), ticket.ErrTicket},
		{"far too long", open(strings.Repeat(text, 200), "sso", start, k), ticket.ErrTicket},
	}
	for _, tt := range tests {
		if !errors.Is(tt.got, tt.want) || tt.want == nil && tt.got != nil {
			t.Errorf("%s: %v, want %v", tt.name, tt.got, tt.want)
		}
	}
	lying := func(keystore.KID) (keystore.Material, bool) { return key(t, "other"), true }
	if _, err := ticket.Open(text, "sso", start, lying); !errors.Is(err, ticket.ErrUnknownKey) {
		t.Errorf("a key of another kid: %v, want ErrUnknownKey", err)
	}
}

func TestSealRefuses(t *testing.T) {
	with := func(edit func(*ticket.Ticket)) ticket.Ticket {
		one := aTicket()
		edit(&one)
		return one
	}
	for name, one := range map[string]ticket.Ticket{
		"no host":     with(func(t *ticket.Ticket) { t.Host = "" }),
		"long host":   with(func(t *ticket.Ticket) { t.Host = strings.Repeat("a", 64) }),
		"payload":     with(func(t *ticket.Ticket) { t.Payload = make([]byte, ticket.MaxPayload+1) }),
		"no age":      with(func(t *ticket.Ticket) { t.MaxAge = time.Second - 1 }),
		"long age":    with(func(t *ticket.Ticket) { t.MaxAge = ticket.MaxAge + time.Second }),
		"no time":     with(func(t *ticket.Ticket) { t.Issued = time.Time{} }),
		"far in time": with(func(t *ticket.Ticket) { t.Issued = time.Unix(1<<32, 0) }),
	} {
		if text, err := ticket.Seal(key(t, "now"), "sso", one); !errors.Is(err, keystore.ErrInvalid) || text != "" {
			t.Errorf("%s: Seal = %v, want ErrInvalid", name, err)
		}
	}
	if _, err := ticket.Seal(keystore.Material{}, "sso", aTicket()); !errors.Is(err, keystore.ErrNoMaterial) {
		t.Errorf("no key: %v, want ErrNoMaterial", err)
	}
	full := with(func(t *ticket.Ticket) {
		t.Payload, t.Host = make([]byte, ticket.MaxPayload), strings.Repeat("a", 63)
	})
	k := key(t, "now")
	if _, err := ticket.Open(seal(t, k, full), "sso", start, ring(k)); err != nil {
		t.Errorf("the longest ticket does not open: %v", err)
	}
}

// FuzzOpen: what opens is what was sealed; anything else is one of the errors.
func FuzzOpen(f *testing.F) {
	first := readVectors(f).Tickets[0] // the same in every process that fuzzes
	k, good := first.key(f), first.Ticket
	f.Add(good)
	f.Add(good[:71])
	f.Add("IQ")
	f.Fuzz(func(t *testing.T, text string) {
		_, err := ticket.Open(text, "sso", start, ring(k))
		if err == nil && text != good {
			t.Errorf("%q opens", text)
		}
		if err != nil && !errors.Is(err, ticket.ErrTicket) {
			t.Errorf("%v, want ErrTicket", err)
		}
	})
}

// FuzzParse: what is within the seal is checked like what is outside.
func FuzzParse(f *testing.F) {
	f.Add([]byte("\x6a\x00\x00\x00\x00\x00\x0e\x10\x05web-1user"))
	f.Add([]byte("\x6a\x00\x00\x00\x00\x00\x0e\x10\xff"))
	f.Fuzz(func(t *testing.T, plain []byte) {
		one, ok := ticket.Parse(plain)
		if !ok {
			return
		}
		if got := ticket.Plain(one); !bytes.Equal(got, plain) {
			t.Errorf("%x parses to %+v, which is %x", plain, one, got)
		}
	})
}
