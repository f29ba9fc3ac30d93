package cookie_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keytide/keytide/agentfeed/cookie"
	"github.com/keytide/keytide/keystore"
	_ "github.com/keytide/keytide/keystore/fips/fipstest"
)

// A ring is a cookie.Ring that tests change.
type ring struct {
	set atomic.Pointer[keystore.KeySet]
}

func (r *ring) Snapshot() *keystore.KeySet { return r.set.Load() }

func ringOf(set *keystore.KeySet) *ring {
	r := &ring{}
	r.set.Store(set)
	return r
}

// setKey makes a key from a word: the same word, the same key.
func setKey(tb testing.TB, word string, role keystore.Role) keystore.SetKey {
	tb.Helper()
	sum := sha256.Sum256([]byte(word))
	m, err := keystore.NewMaterial(sum[:])
	if err != nil {
		tb.Fatal(err)
	}
	return keystore.SetKey{KID: m.KID(), Role: role, Material: m, Seals: role == keystore.Current}
}

// dynamicSet is a ring of `old` old keys after as many rollovers: the current key of
// version v is d<v>, its future key d<v+1>.
func dynamicSet(tb testing.TB, v, old int) *keystore.KeySet {
	tb.Helper()
	dynamic := func(i int, role keystore.Role) keystore.SetKey { return setKey(tb, fmt.Sprint("d", i), role) }
	set := &keystore.KeySet{
		Ring: "sso", Epoch: 1, Version: keystore.Version(v), Mode: keystore.ModeDynamic,
		Keys: []keystore.SetKey{dynamic(v, keystore.Current)},
	}
	for i := range min(old, v-1) {
		set.Keys = append(set.Keys, dynamic(v-1-i, keystore.Old))
	}
	set.Keys = append(set.Keys, dynamic(v+1, keystore.Future), setKey(tb, "static", keystore.Static))
	return set
}

func newCodec(tb testing.TB, config cookie.Config) *cookie.Codec {
	tb.Helper()
	if config.Name == "" {
		config.Name = "SESSION"
	}
	c, err := cookie.New(config)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func mustSeal(tb testing.TB, c *cookie.Codec, payload string) []byte {
	tb.Helper()
	token, err := c.Seal(nil, []byte(payload))
	if err != nil {
		tb.Fatalf("Seal: %v", err)
	}
	return token
}

func mustOpen(tb testing.TB, c *cookie.Codec, token []byte, want string) cookie.Opened {
	tb.Helper()
	o, err := c.Open(nil, token)
	if err != nil {
		tb.Fatalf("Open: %v (%v)", err, cookie.ReasonOf(err))
	}
	if string(o.Payload) != want {
		tb.Fatalf("Payload = %q, want %q", o.Payload, want)
	}
	return o
}

// changedAt returns the token with another character of the alphabet at i.
func changedAt(token []byte, i int) []byte {
	changed := bytes.Clone(token)
	if changed[i] = 'A'; token[i] == 'A' {
		changed[i] = 'B'
	}
	return changed
}

func wantRefused(tb testing.TB, c *cookie.Codec, token []byte, want ...cookie.Reason) {
	tb.Helper()
	o, err := c.Open(nil, token)
	got := cookie.ReasonOf(err)
	for _, w := range want {
		if got == w {
			return
		}
	}
	tb.Fatalf("Open = %q, %v (%v), want it refused as %v", o.Payload, err, got, want)
}

const hour = time.Hour
