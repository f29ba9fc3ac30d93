package cookie_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"fmt"
	"testing"

	"github.com/keytide/keytide/agentfeed/cookie"
	"github.com/keytide/keytide/agentfeed/cookie/base64url"
)

// bare is the least that any AES-256-GCM text token costs: a cached AEAD with random
// nonces, 32 bytes of associated data and the same base64.
type bare struct {
	aead    cipher.AEAD
	binding [32]byte
	scratch []byte
}

func newBare(tb testing.TB) *bare {
	block, err := aes.NewCipher(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		tb.Fatal(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		tb.Fatal(err)
	}
	return &bare{aead: aead, scratch: make([]byte, 0, 4096)}
}

func (b *bare) seal(dst, payload []byte) []byte {
	raw := b.aead.Seal(b.scratch, nil, payload, b.binding[:])
	dst = dst[:base64url.EncodedLen(len(raw))]
	base64url.Encode(dst, raw)
	return dst
}

func (b *bare) open(dst, token []byte) []byte {
	raw := b.scratch[:base64url.DecodedLen(len(token))]
	if !base64url.Decode(raw, token) {
		return nil
	}
	plain, err := b.aead.Open(dst, nil, raw, b.binding[:])
	if err != nil {
		return nil
	}
	return plain
}

// BenchmarkToken runs product and bare in turns.
func BenchmarkToken(b *testing.B) {
	c := newCodec(b, cookie.Config{Ring: ringOf(dynamicSet(b, 10, 3))})
	floor := newBare(b)
	buf := make([]byte, 0, cookie.MaxToken)
	for _, n := range []int{64, 256, 1024, 2800} {
		payload := bytes.Repeat([]byte("p"), n)
		token := mustSeal(b, c, string(payload))
		bareToken := floor.seal(make([]byte, 0, cookie.MaxToken), payload)
		for round := range 2 {
			run := func(name string, fn func()) {
				b.Run(fmt.Sprintf("%s/%d/round=%d", name, n, round), func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						fn()
					}
				})
			}
			run("seal", func() { _, _ = c.Seal(buf, payload) })
			run("seal-bare", func() { floor.seal(buf, payload) })
			run("open", func() { _, _ = c.Open(buf, token) })
			run("open-bare", func() { floor.open(buf, bareToken) })
		}
	}
}

// BenchmarkRefuse measures what a forger makes an agent pay.
func BenchmarkRefuse(b *testing.B) {
	c := newCodec(b, cookie.Config{Ring: ringOf(dynamicSet(b, 70, 64))})
	good := mustSeal(b, c, string(bytes.Repeat([]byte("p"), 256)))
	unknown := mustSeal(b, newCodec(b, cookie.Config{Ring: ringOf(dynamicSet(b, 200, 0))}), "p")
	buf := make([]byte, 0, cookie.MaxToken)
	for name, token := range map[string][]byte{
		"unknown": unknown, "garbage": bytes.Repeat([]byte("x"), 400), "flipped": changedAt(good, 100), "forged-salt": changedAt(good, 20),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = c.Open(buf, token)
			}
		})
	}
}
