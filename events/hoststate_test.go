package events_test

import (
	"encoding/hex"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/host"
	"github.com/keytide/keytide/keystore/ticket"
)

func hostsPayload(t testing.TB) []byte {
	instance := func(id byte) host.Instance {
		return host.Instance{ID: host.InstanceID{id}, Seen: day, Generation: 2, Keeps: id%2 == 0}
	}
	_, payload, err := events.EncodeHostChange(
		host.Change{Kind: host.Seen, Host: "web-2", Instances: []host.Instance{instance(3)}, Crowded: true},
		host.Change{Kind: host.Seen, Host: "web-1", Instances: []host.Instance{instance(1), instance(2)}},
	)
	if err != nil {
		t.Fatal(err)
	}
	return payload
}

// newToken is a token for two hosts with all that one can say.
func newToken(t testing.TB) host.TokenChange {
	c, err := host.NewToken(host.Token{
		ID: kid(0x77), PublicKey: [32]byte(public), Rings: []keystore.RingName{"sso"}, Uses: 2, Created: day, Expires: day.Add(time.Hour),
		Grant: host.Grant{
			Labels:    []host.Label{{Key: "env", Value: "prod"}, {Key: "dc", Value: "eu/1"}},
			Ephemeral: 24 * time.Hour, AllowRoll: true, Tickets: ticket.MayOpen,
		},
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func tokenPayload(t testing.TB) []byte {
	_, payload, err := events.EncodeTokenChange(newToken(t))
	if err != nil {
		t.Fatal(err)
	}
	return payload
}

func sampleToken(t testing.TB) host.Token {
	h := newHistory(t, events.Hosts)
	h.apply(h.tokenEvent(newToken(t)))
	h.apply(h.byToken("web-9", 9))
	token, _ := h.state.Token(kid(0x77))
	return token
}

func samplePolicy() host.SecretPolicy {
	return host.SecretPolicy{Every: 30 * 24 * time.Hour, Last: keystore.EventRef{N: 7, ID: "01KAS5XW000000000000000000", Type: "secret_policy_set", At: day}}
}

func (h *history) tokenEvent(c host.TokenChange) events.Event {
	kind, payload, err := events.EncodeTokenChange(c)
	if err != nil {
		h.t.Fatal(err)
	}
	return h.event(kind, payload, put(events.TokenKey(c.Token.ID)))
}

// byToken is a host's registration by the token of newToken.
func (h *history) byToken(name string, secret byte) events.Event {
	token, _ := h.state.Token(kid(0x77))
	before, _ := h.state.Host(name)
	c, err := token.Register(before, name, host.Registration{secret}, keystore.NewKey{KID: kid(uint64(secret)), Created: day}, netip.MustParseAddr("10.1.2.3"), day)
	if err != nil {
		h.t.Fatal(err)
	}
	kind, payload, err := events.EncodeHostChange(c)
	if err != nil {
		h.t.Fatal(err)
	}
	return h.event(kind, payload, put(events.HostKey(name)), put(events.TokenKey(token.ID)), put(events.MaterialKey(c.Secret.KID)))
}

func (h *history) hostsEvent(changes ...host.Change) events.Event {
	kind, payload, err := events.EncodeHostChange(changes...)
	if err != nil {
		h.t.Fatal(err)
	}
	var effects []events.Effect
	for _, c := range changes {
		effects = append(effects, put(events.HostKey(c.Host)))
		if c.Secret != (host.Secret{}) {
			effects = append(effects, put(events.MaterialKey(c.Secret.KID)))
		}
		for _, k := range c.Destroyed {
			effects = append(effects, events.Effect{Key: events.MaterialKey(k), Deleted: true})
		}
	}
	return h.event(kind, payload, effects...)
}

func (h *history) refuses(e events.Event, why string) {
	h.t.Helper()
	before := summary(h.state)
	if _, err := h.state.Apply(sign(h.t, e)); !errors.Is(err, events.ErrPayload) {
		h.t.Errorf("%s: Apply = %v, want ErrPayload", why, err)
	}
	if summary(h.state) != before {
		h.t.Errorf("%s: refused, but the state changed", why)
	}
}

// TestTokensRegisterHosts uses a token up.
func TestTokensRegisterHosts(t *testing.T) {
	h := newHistory(t, events.Hosts)
	h.apply(h.tokenEvent(newToken(t)))
	third := func() events.Event { e := h.byToken("web-3", 3); return e }()
	h.apply(h.byToken("web-1", 1))
	swapped := h.byToken("web-2", 2)
	swapped.Effects = swapped.Effects[:0]
	h.refuses(swapped, "a registration without effects")
	h.apply(h.byToken("web-2", 2))

	token, _ := h.state.Token(kid(0x77))
	if token.Used != 2 || token.Last.N != 4 || len(h.state.Tokens()) != 1 {
		t.Errorf("token = %+v, want both uses counted", token)
	}
	web, _ := h.state.Host("web-1")
	if web.Token != token.ID || web.Registration != (host.Registration{1}) || !web.AllowRoll || web.Ephemeral != 24*time.Hour || len(web.Labels) != 2 {
		t.Errorf("host = %+v, want what the token grants", web)
	}
	third.N, third.Prev = h.state.N()+1, h.state.Hash()
	h.refuses(third, "a third use of two")

	revoke, err := token.Revoke()
	if err != nil {
		t.Fatal(err)
	}
	h.apply(h.tokenEvent(revoke))
	if token, _ = h.state.Token(kid(0x77)); !token.Revoked {
		t.Error("the token is not revoked")
	}
	h.refuses(h.tokenEvent(revoke), "revoked twice")
	read, err := events.DecodeToken(mustEncode(t, token))
	if diff := cmp.Diff(token, read, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" || err != nil {
		t.Errorf("token reads back: %v\n%s", err, diff)
	}
}

func mustEncode(t *testing.T, token host.Token) []byte {
	b, err := events.EncodeToken(token)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestSecretsRollOverInOneEvent offers and retires the secrets of two hosts.
func TestSecretsRollOverInOneEvent(t *testing.T) {
	h := newHistory(t, events.Hosts)
	h.apply(h.register("web-1"))
	h.apply(h.register("web-2"))
	each := func(decide func(host.Host, byte) (host.Change, error)) []host.Change {
		var changes []host.Change
		for i, name := range []string{"web-1", "web-2"} {
			web, _ := h.state.Host(name)
			c, err := decide(web, byte(i))
			if err != nil {
				t.Fatal(err)
			}
			changes = append(changes, c)
		}
		return changes
	}
	see := func(generation uint64) {
		h.apply(h.hostsEvent(each(func(web host.Host, i byte) (host.Change, error) {
			return web.See([]host.Instance{{ID: host.InstanceID{i + 1}, Seen: day, Generation: generation, Keeps: true}})
		})...))
	}
	see(1)
	h.apply(h.hostsEvent(each(func(web host.Host, i byte) (host.Change, error) {
		return web.Offer(keystore.NewKey{KID: kid(0x60 + uint64(i)), Created: day}, day)
	})...))
	web, _ := h.state.Host("web-2")
	if !web.Rolling() || web.Secrets[0].KID != kid(0x61) {
		t.Fatalf("host = %+v, want two secrets", web)
	}
	see(2)
	first := web.Secrets[1].KID
	h.apply(h.hostsEvent(each(func(web host.Host, _ byte) (host.Change, error) { return web.Retire(day) })...))
	if web, _ = h.state.Host("web-2"); web.Rolling() || web.Generation != 2 {
		t.Errorf("host = %+v, want one secret", web)
	}
	if _, live := h.state.Expect(events.MaterialKey(first)); live {
		t.Error("the retired secret's material is still expected")
	}
	twice := each(func(web host.Host, i byte) (host.Change, error) {
		return web.See([]host.Instance{{ID: host.InstanceID{7}, Seen: day, Generation: 1}})
	})
	twice[1].Host = "web-1"
	if _, payload, err := events.EncodeHostChange(twice...); err != nil {
		t.Fatal(err)
	} else if _, err := events.DecodeHostChanges(events.TypeHostsSeen, payload); !errors.Is(err, events.ErrMalformed) {
		t.Errorf("one host twice in an event: %v, want ErrMalformed", err)
	}
}

func TestSecretPolicy(t *testing.T) {
	h := newHistory(t, events.Hosts)
	payload, err := events.EncodeSecretPolicy(host.SecretPolicy{Every: 48 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	set := func(payload []byte) events.Event {
		return h.event(events.TypeSecretPolicySet, payload, put(events.PolicyKey(events.SecretPolicyName)))
	}
	h.apply(set(payload))
	if p := h.state.SecretPolicy(); p.Every != 48*time.Hour || p.Last.N != 2 {
		t.Errorf("policy = %+v", p)
	}
	short, err := events.EncodeSecretPolicy(host.SecretPolicy{Every: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	h.refuses(set(short), "a policy of a minute")
}

// makeHostVectors is a policy store's history: a token, two hosts that register by it,
// and all that becomes of them and of their secrets.
func makeHostVectors(t *testing.T) vectors {
	h := newHistory(t, events.Hosts)
	h.apply(h.tokenEvent(newToken(t)))
	h.apply(h.byToken("web-1", 1))
	h.apply(h.byToken("web-2", 2))
	each := func(decide func(web host.Host, i byte) (host.Change, error)) {
		var changes []host.Change
		for i, name := range []string{"web-1", "web-2"} {
			web, _ := h.state.Host(name)
			c, err := decide(web, byte(i))
			if err != nil {
				t.Fatal(err)
			}
			changes = append(changes, c)
		}
		h.apply(h.hostsEvent(changes...))
	}
	see := func(generation uint64) {
		each(func(web host.Host, i byte) (host.Change, error) {
			return web.See([]host.Instance{{ID: host.InstanceID{i + 1}, Seen: day, Generation: generation, Keeps: true}})
		})
	}
	see(1)
	each(func(web host.Host, i byte) (host.Change, error) {
		return web.Offer(keystore.NewKey{KID: kid(0x60 + uint64(i)), Created: day}, day)
	})
	see(2)
	each(func(web host.Host, _ byte) (host.Change, error) { return web.Retire(day) })
	each(func(web host.Host, _ byte) (host.Change, error) { return web.Expire(day, day.Add(48*time.Hour)) })
	v := vectors{
		About: "Keytide event log of a policy store, events/SPEC.md; every record is by the key of ledger.json",
		Seed:  hex.EncodeToString(private.Seed()), Public: hex.EncodeToString(public),
		Values: []vectorValue{}, Refused: []vectorRefused{},
	}
	for _, rec := range h.records {
		v.History = append(v.History, vectorOf(t, rec))
	}
	return v
}
