package host_test

import (
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/host"
)

var start = time.Date(2026, 11, 22, 9, 0, 0, 5e5, time.FixedZone("", 3600))

func secret(i byte) keystore.NewKey {
	sum := sha256.Sum256([]byte{i})
	return keystore.NewKey{KID: keystore.KIDOf(sum[:]), Created: start}
}

func ref(n keystore.N) keystore.EventRef {
	return keystore.EventRef{N: n, ID: "01KAS5XW000000000000000000", Type: "test", At: start}
}

func rings(names ...keystore.RingName) []keystore.RingName { return names }

func registered(tb testing.TB) host.Host {
	tb.Helper()
	c, err := host.Host{}.Register("web-1", rings("sso", "app"), secret(1), host.Grant{})
	if err != nil {
		tb.Fatalf("Register: %v", err)
	}
	return apply(tb, host.Host{}, c, ref(5))
}

func apply(tb testing.TB, h host.Host, c host.Change, ref keystore.EventRef) host.Host {
	tb.Helper()
	next, err := h.Apply(c, ref)
	if err != nil {
		tb.Fatalf("Apply: %v", err)
	}
	return next
}

func TestRegister(t *testing.T) {
	want := host.Host{
		Name: "web-1", Rings: rings("app", "sso"), Generation: 1, Registered: start, Last: ref(5),
		Secrets: []host.Secret{{KID: secret(1).KID, Created: time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC), Generation: 1}},
	}
	h := registered(t)
	if diff := cmp.Diff(want, h); diff != "" {
		t.Errorf("host (-want +got):\n%s", diff)
	}
	if s, ok := h.Secret(secret(1).KID); !ok || s.Generation != 1 {
		t.Errorf("Secret = %v, %v", s, ok)
	}
	if _, ok := h.Secret(secret(2).KID); ok {
		t.Error("Secret finds one that the host does not have")
	}
	if !h.Granted("sso") || h.Granted("other") {
		t.Errorf("Granted: sso %v, other %v; want true, false", h.Granted("sso"), h.Granted("other"))
	}
}

func TestRegisterRefuses(t *testing.T) {
	many := make([]keystore.RingName, host.MaxRings+1)
	for i := range many {
		many[i] = keystore.RingName("r" + strings.Repeat("a", i%60) + string(rune('a'+i/60)))
	}
	tests := []struct {
		name, host string
		rings      []keystore.RingName
		secret     keystore.NewKey
		want       string
	}{
		{"name", "Web.1", rings("sso"), secret(1), `host name "Web.1"`},
		{"no rings", "web-1", nil, secret(1), "is granted 0 rings; want 1 to 64"},
		{"too many rings", "web-1", many, secret(1), "is granted 65 rings"},
		{"ring twice", "web-1", rings("sso", "app", "sso"), secret(1), "ring sso is named twice"},
		{"ring name", "web-1", rings("SSO"), secret(1), `ring name "SSO"`},
		{"no kid", "web-1", rings("sso"), keystore.NewKey{Created: start}, "the secret has no kid"},
		{"no time", "web-1", rings("sso"), keystore.NewKey{KID: secret(1).KID}, "the secret has no creation time"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := host.Host{}.Register(tt.host, tt.rings, tt.secret, host.Grant{})
			if !errors.Is(err, keystore.ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Register = %v, want ErrInvalid with %q", err, tt.want)
			}
		})
	}
}

func TestRegisterTwice(t *testing.T) {
	h := registered(t)
	if _, err := h.Register("web-1", rings("sso"), secret(2), host.Grant{}); !errors.Is(err, keystore.ErrExists) {
		t.Errorf("Register of a registered host = %v, want ErrExists", err)
	}
	c, err := host.Host{}.Register("web-1", rings("sso"), secret(2), host.Grant{})
	if err != nil {
		t.Fatalf("Register: %v", err)
	}
	if _, err := h.Apply(c, ref(6)); !errors.Is(err, keystore.ErrExists) {
		t.Errorf("Apply on a registered host = %v, want ErrExists", err)
	}
}

func TestRevokeAndRegisterAgain(t *testing.T) {
	h := registered(t)
	c, err := h.Revoke()
	if err != nil || !cmp.Equal(c.Destroyed, []keystore.KID{secret(1).KID}) {
		t.Fatalf("Revoke = %+v, %v; want its secret destroyed", c, err)
	}
	revoked := apply(t, h, c, ref(6))
	if !revoked.Revoked || len(revoked.Secrets) != 0 || revoked.Granted("sso") || revoked.Last.N != 6 {
		t.Errorf("host = %+v, want it revoked, without secrets and rights", revoked)
	}
	if len(h.Secrets) != 1 || h.Revoked {
		t.Errorf("Apply changed its receiver: %+v", h)
	}
	if _, err := revoked.Revoke(); !errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("Revoke of a revoked host = %v, want ErrNotFound", err)
	}
	if _, err := (host.Host{}).Revoke(); !errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("Revoke of no host = %v, want ErrNotFound", err)
	}
	c, err = revoked.Register("web-1", rings("app"), secret(2), host.Grant{})
	if err != nil {
		t.Fatalf("Register again: %v", err)
	}
	again := apply(t, revoked, c, ref(7))
	if again.Revoked || again.Generation != 2 || again.Secrets[0].Generation != 2 || again.Granted("sso") || !again.Granted("app") {
		t.Errorf("host = %+v, want it registered for app alone, with generation 2", again)
	}
}

func TestApplyRefuses(t *testing.T) {
	h := registered(t)
	revoke, err := h.Revoke()
	if err != nil {
		t.Fatalf("Revoke: %v", err)
	}
	register, err := host.Host{}.Register("web-1", rings("app", "sso"), secret(2), host.Grant{})
	if err != nil {
		t.Fatalf("Register: %v", err)
	}
	with := func(c host.Change, edit func(*host.Change)) host.Change {
		c.Rings, c.Destroyed = slices.Clone(c.Rings), slices.Clone(c.Destroyed)
		edit(&c)
		return c
	}
	tests := []struct {
		name   string
		host   host.Host
		change host.Change
		n      keystore.N
	}{
		{"event not later", h, revoke, 5},
		{"another host", h, with(revoke, func(c *host.Change) { c.Host = "web-2" }), 6},
		{"unknown kind", h, with(revoke, func(c *host.Change) { c.Kind = 7 }), 6},
		{"revoked before it began", host.Host{}, revoke, 6},
		{"a secret would stay", h, with(revoke, func(c *host.Change) { c.Destroyed = nil }), 6},
		{"another secret", h, with(revoke, func(c *host.Change) { c.Destroyed[0] = secret(2).KID }), 6},
		{"revoked with rings", h, with(revoke, func(c *host.Change) { c.Rings = rings("sso") }), 6},
		{"registered and destroyed", host.Host{}, with(register, func(c *host.Change) { c.Destroyed = []keystore.KID{secret(1).KID} }), 6},
		{"generation skipped", host.Host{}, with(register, func(c *host.Change) { c.Secret.Generation = 2 }), 6},
		{"rings not sorted", host.Host{}, with(register, func(c *host.Change) { slices.Reverse(c.Rings) }), 6},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			next, err := tt.host.Apply(tt.change, ref(tt.n))
			if !errors.Is(err, keystore.ErrInvalid) || !next.IsZero() {
				t.Errorf("Apply = %+v, %v; want the zero host and ErrInvalid", next, err)
			}
		})
	}
}

// TestHostProperty registers and revokes at random: generations only rise, a revoked
// host has no secret, and no step changes the host before it.
func TestHostProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var h host.Host
		for i := range rapid.IntRange(1, 20).Draw(rt, "steps") {
			before := h
			before.Rings, before.Secrets = slices.Clone(h.Rings), slices.Clone(h.Secrets)
			c, err := h.Revoke()
			if rapid.Bool().Draw(rt, "register") {
				c, err = h.Register("web-1", rings("sso"), secret(byte(i)), host.Grant{})
			}
			if err != nil {
				continue
			}
			next := apply(t, h, c, ref(h.Last.N+1))
			if diff := cmp.Diff(before, h); diff != "" {
				rt.Fatalf("Apply changed its receiver (-want +got):\n%s", diff)
			}
			if next.Generation < h.Generation || next.Revoked != (len(next.Secrets) == 0) {
				rt.Fatalf("%+v follows %+v", next, h)
			}
			h = next
		}
	})
}

func TestKinds(t *testing.T) {
	for kind, want := range map[host.ChangeKind]string{1: "registered", 2: "revoked", 6: "retired", 7: "change(7)"} {
		if got := kind.String(); got != want {
			t.Errorf("kind %d = %q, want %q", kind, got, want)
		}
	}
}
