package host_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/host"
)

func newToken(edit func(*host.Token)) host.Token {
	t := host.Token{
		ID: secret(70).KID, PublicKey: [32]byte{1}, Rings: rings("sso", "app"), Uses: 2, Created: start, Expires: start.Add(time.Hour),
	}
	if edit != nil {
		edit(&t)
	}
	return t
}

func made(tb testing.TB, edit func(*host.Token)) host.Token {
	tb.Helper()
	c, err := host.NewToken(newToken(edit))
	if err != nil {
		tb.Fatalf("NewToken: %v", err)
	}
	token, err := host.Token{}.Apply(c, ref(3))
	if err != nil {
		tb.Fatalf("Apply: %v", err)
	}
	return token
}

func TestNewTokenRefuses(t *testing.T) {
	for _, tt := range []struct {
		want string
		edit func(*host.Token)
	}{
		{"no id", func(t *host.Token) { t.ID = keystore.KID{} }},
		{"no public key", func(t *host.Token) { t.PublicKey = [32]byte{} }},
		{"uses: 0", func(t *host.Token) { t.Uses = 0 }},
		{"uses: 1048577", func(t *host.Token) { t.Uses = host.MaxUses + 1 }},
		{"used", func(t *host.Token) { t.Used = 1 }},
		{"expires", func(t *host.Token) { t.Expires = start }},
		{"expires", func(t *host.Token) { t.Expires = start.Add(host.MaxLife + time.Hour) }},
		{"granted 0 rings", func(t *host.Token) { t.Rings = nil }},
		{"ephemeral 1m0s", func(t *host.Token) { t.Ephemeral = time.Minute }},
		{"label", func(t *host.Token) { t.Labels = []host.Label{{Key: "a b", Value: "c"}} }},
		{"label a", func(t *host.Token) { t.Labels = []host.Label{{Key: "a", Value: "b"}, {Key: "a", Value: "c"}} }},
		{"address range", func(t *host.Token) { t.Addresses = []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8")} }},
	} {
		if _, err := host.NewToken(newToken(tt.edit)); !errors.Is(err, keystore.ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("NewToken = %v, want ErrInvalid with %q", err, tt.want)
		}
	}
}

func TestTokenRefuses(t *testing.T) {
	inside, outside := netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("192.0.2.1")
	token := made(t, func(t *host.Token) { t.Addresses = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} })
	used, revoked := token, token
	used.Used, revoked.Revoked = 2, true
	for _, tt := range []struct {
		token host.Token
		from  netip.Addr
		at    time.Time
		want  string
	}{
		{token, inside, start, ""},
		{token, netip.MustParseAddr("::ffff:10.1.2.3"), start, ""},
		{token, outside, start, "it may not be used from 192.0.2.1"},
		{token, netip.Addr{}, start, "it may not be used from invalid IP"},
		{token, inside, start.Add(time.Hour), "it expired at"},
		{used, inside, start, "all of its uses (2) are used up"},
		{revoked, inside, start, "it is revoked"},
	} {
		err := tt.token.Refuses(tt.from, tt.at)
		if (err == nil) != (tt.want == "") || err != nil && (!errors.Is(err, keystore.ErrRefused) || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("Refuses(%s, %s) = %v, want %q", tt.from, tt.at, err, tt.want)
		}
	}
}

// TestTokenRegistersOnce retries a registration: it is one host and one use, with one
// secret, until the host ends.
func TestTokenRegistersOnce(t *testing.T) {
	token := made(t, func(t *host.Token) { t.Ephemeral = time.Hour })
	id, from := host.Registration{9}, netip.MustParseAddr("10.1.2.3")
	c, err := token.Register(host.Host{}, "web-1", id, secret(1), from, start)
	if err != nil {
		t.Fatal(err)
	}
	web := apply(t, host.Host{}, c, ref(5))
	token, err = token.Use(c, ref(5))
	if err != nil || token.Used != 1 {
		t.Fatalf("Use = %+v, %v", token, err)
	}
	if s, ok := token.Registered(web, id); !ok || s.KID != secret(1).KID {
		t.Errorf("Registered = %v, %v; want the first secret", s, ok)
	}
	if _, ok := token.Registered(web, host.Registration{8}); ok {
		t.Error("another registration counts as the host's")
	}
	if _, err := token.Register(web, "web-1", host.Registration{8}, secret(2), from, start); !errors.Is(err, keystore.ErrExists) {
		t.Errorf("Register of a name that is taken = %v, want ErrExists", err)
	}
	revoke, err := web.Revoke()
	if err != nil {
		t.Fatal(err)
	}
	revoked := apply(t, web, revoke, ref(6))
	if _, ok := token.Registered(revoked, id); ok {
		t.Error("a revoked host's registration still gives its secret")
	}
	if _, err := token.Register(revoked, "web-1", id, secret(2), from, start); !errors.Is(err, keystore.ErrRefused) {
		t.Errorf("Register of a revoked host = %v, want ErrRefused", err)
	}

	if _, err := web.Expire(start.Add(time.Minute), start.Add(time.Hour)); !errors.Is(err, keystore.ErrRefused) {
		t.Errorf("Expire of a host that was seen = %v, want ErrRefused", err)
	}
	expire, err := web.Expire(time.Time{}, start.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	expired := apply(t, web, expire, ref(6))
	if !expired.Revoked || !expired.Expired || len(expired.Secrets) != 0 {
		t.Errorf("host = %+v, want it expired", expired)
	}
	c, err = token.Register(expired, "web-1", id, secret(2), from, start)
	if err != nil || c.Secret.Generation != 2 {
		t.Errorf("Register of an expired host = %+v, %v; want generation 2", c, err)
	}
	other := c
	other.AllowRoll = true
	if _, err := token.Use(other, ref(7)); !errors.Is(err, keystore.ErrInvalid) {
		t.Errorf("Use for a host with more rights = %v, want ErrInvalid", err)
	}
}
