package main

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/keytide/keytide/agentfeed/cookie"
	"github.com/keytide/keytide/agentfeed/cookie/base64url"
	"github.com/keytide/keytide/keystore"
)

// cookieRows compare tokens with the least that any AES-256-GCM text token costs:
// a cached AEAD with random nonces, 32 bytes of associated data, and the same base64.
var cookieRows = []Row{
	{Names: []string{"cookie_seal"}, Measure: measureSeal},
	{Names: []string{"cookie_open"}, Measure: measureOpen},
	{Names: []string{"cookie_unknown"}, Measure: measureUnknown},
}

const (
	cookieGoal  = 1.1
	unknownGoal = 50 // ns
	sessionSize = 256
)

// sessionSizes are the payloads measured, in bytes; the row is that of sessionSize,
// the note names the others.
var sessionSizes = []int{sessionSize, 64, 1024, 2800}

// spread is how many lengths around a size are measured in turn: each remainder of a
// block of 16 bytes and of a group of 6 comes equally often. A token has 8 bytes more
// to encrypt than the bare operation; at a single length, the dearer end of a message
// that is no whole number of blocks would fall to one of the two by chance.
const spread = 48

// A cookieBench is a codec over a ring with the most keys a ring may have, and the
// bare operation.
type cookieBench struct {
	codec   *cookie.Codec
	aead    cipher.AEAD
	binding [32]byte
	buf     []byte
	scratch []byte
}

type fixedRing struct{ set *keystore.KeySet }

func (r fixedRing) Snapshot() *keystore.KeySet { return r.set }

func newCookieBench() (*cookieBench, error) {
	set, err := fullSet()
	if err != nil {
		return nil, err
	}
	codec, err := cookie.New(cookie.Config{Ring: fixedRing{set}, Name: "SESSION", Context: "example.com"})
	if err != nil {
		return nil, err
	}
	key := make([]byte, 32)
	rand.Read(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return &cookieBench{
		codec: codec, aead: aead,
		buf: make([]byte, 0, cookie.MaxToken), scratch: make([]byte, 0, cookie.MaxToken),
	}, nil
}

// fullSet makes a ring of 64 old keys, current, future and static.
func fullSet() (*keystore.KeySet, error) {
	set := &keystore.KeySet{Ring: "bench", Epoch: 1, Version: 65, Mode: keystore.ModeDynamic}
	roles := append([]keystore.Role{keystore.Current}, slices.Repeat([]keystore.Role{keystore.Old}, 64)...)
	for _, role := range append(roles, keystore.Future, keystore.Static) {
		secret := make([]byte, keystore.MaterialSize)
		rand.Read(secret)
		m, err := keystore.NewMaterial(secret)
		if err != nil {
			return nil, err
		}
		set.Keys = append(set.Keys, keystore.SetKey{KID: m.KID(), Role: role, Seals: role == keystore.Current, Material: m})
	}
	return set, nil
}

func (b *cookieBench) bareSeal(payload []byte) []byte {
	raw := b.aead.Seal(b.scratch, nil, payload, b.binding[:])
	text := b.buf[:base64url.EncodedLen(len(raw))]
	base64url.Encode(text, raw)
	return text
}

func (b *cookieBench) bareOpen(text []byte) error {
	raw := b.scratch[:base64url.DecodedLen(len(text))]
	if !base64url.Decode(raw, text) {
		return errors.New("the bare token does not decode")
	}
	_, err := b.aead.Open(b.buf, nil, raw, b.binding[:])
	return err
}

// An operation handles one of many inputs in turn.
type operation struct {
	inputs [][]byte
	next   int
	handle func(input []byte) error
	err    error // the last there was
}

func (o *operation) do() {
	if err := o.handle(o.inputs[o.next]); err != nil {
		o.err = err
	}
	if o.next++; o.next == len(o.inputs) {
		o.next = 0
	}
}

func measureSeal(ctx context.Context) ([]Result, error) {
	return measureSizes(ctx, func(b *cookieBench, payloads [][]byte) (product, bare *operation, err error) {
		product = &operation{inputs: payloads, handle: func(p []byte) error { _, err := b.codec.Seal(b.buf, p); return err }}
		bare = &operation{inputs: payloads, handle: func(p []byte) error { b.bareSeal(p); return nil }}
		return product, bare, nil
	})
}

func measureOpen(ctx context.Context) ([]Result, error) {
	return measureSizes(ctx, func(b *cookieBench, payloads [][]byte) (product, bare *operation, err error) {
		product = &operation{handle: func(text []byte) error { _, err := b.codec.Open(b.buf, text); return err }}
		bare = &operation{handle: b.bareOpen}
		for _, p := range payloads {
			token, err := b.codec.Seal(nil, p)
			if err != nil {
				return nil, nil, err
			}
			product.inputs = append(product.inputs, token)
			bare.inputs = append(bare.inputs, bytes.Clone(b.bareSeal(p)))
		}
		return product, bare, nil
	})
}

// measureSizes measures product against bare for each size.
func measureSizes(ctx context.Context, prepare func(b *cookieBench, payloads [][]byte) (product, bare *operation, err error)) ([]Result, error) {
	b, err := newCookieBench()
	if err != nil {
		return nil, err
	}
	result := Result{Unit: "ns", Goal: fmt.Sprintf("ratio <= %g, 0 allocations", cookieGoal)}
	allocs, others := 0.0, []string{}
	for _, size := range sessionSizes {
		product, bare, err := prepare(b, payloadsAround(size))
		if err != nil {
			return nil, err
		}
		allocs += testing.AllocsPerRun(1000, product.do)
		got, err := turns{rounds: 2000, ops: 2 * spread}.measure(ctx, product.do, bare.do)
		if err := errors.Join(err, product.err, bare.err); err != nil {
			return nil, err
		}
		if size == sessionSize {
			result.Value, result.Baseline, result.Ratio, result.Samples = got.product, got.bare, got.ratio, got.samples
			continue
		}
		others = append(others, fmt.Sprintf("%d B %.0f/%.0f ns = %.3f", size, got.product, got.bare, got.ratio))
	}
	result.Met = result.Ratio <= cookieGoal && allocs == 0
	result.Note = fmt.Sprintf("payloads of %d B ± %d, ring of 67 keys; allocs %g; others: %s",
		sessionSize, spread/2, allocs, strings.Join(others, "; "))
	return []Result{result}, nil
}

func payloadsAround(size int) (payloads [][]byte) {
	for i := range spread {
		payloads = append(payloads, bytes.Repeat([]byte("s"), size-spread/2+i))
	}
	return payloads
}

func measureUnknown(ctx context.Context) ([]Result, error) {
	b, err := newCookieBench()
	if err != nil {
		return nil, err
	}
	other, err := newCookieBench()
	if err != nil {
		return nil, err
	}
	token, err := other.codec.Seal(nil, make([]byte, sessionSize))
	if err != nil {
		return nil, err
	}
	open := func() { _, err = b.codec.Open(b.buf, token) }
	if open(); cookie.ReasonOf(err) != cookie.UnknownKey {
		return nil, fmt.Errorf("opening another ring's token: %v, want it refused for its key", err)
	}
	allocs := testing.AllocsPerRun(1000, open)
	got, err := turns{rounds: 4000, ops: 1000}.measure(ctx, open, func() {})
	if err != nil {
		return nil, err
	}
	return []Result{{
		Unit: "ns", Value: got.product, Samples: got.samples,
		Goal: fmt.Sprintf("< %d ns, 0 allocations", unknownGoal),
		Met:  got.product < unknownGoal && allocs == 0,
		Note: fmt.Sprintf("ring of 67 keys; allocs %g", allocs),
	}}, nil
}
