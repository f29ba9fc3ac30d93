package cookie

import (
	"bytes"
	"crypto/cipher"
	"crypto/rand"
	"sync"
	"sync/atomic"

	"github.com/keytide/keytide/agentfeed/cookie/base64url"
	"github.com/keytide/keytide/keystore"
)

// A sealer ends after this many tokens or seconds. Random nonces collide within
// 2^24 tokens with a chance of 2^-49; a new salt makes a new subkey.
const (
	maxTokens  = 1 << 24
	maxSeconds = 12 * 60 * 60
)

// A key is one key of a ring. It outlives changes of the ring that keep it.
type key struct {
	kid      keystore.KID
	label    label
	material keystore.Material

	sealer atomic.Pointer[sealer] // nil until first sealed with
	making sync.Mutex             // held while a sealer is made
}

// newKey returns nil if the material is empty or is not what its kid says.
func newKey(k *keystore.SetKey) *key {
	if k.Material.IsZero() || k.Material.KID() != k.KID {
		return nil
	}
	return &key{kid: k.KID, label: labelOfKey(k.KID), material: k.Material}
}

// holds reports whether the key has just these bytes, not only their kid.
func (k *key) holds(m keystore.Material) bool {
	same := false
	err := k.material.Use(func(mine []byte) error {
		return m.Use(func(other []byte) error {
			same = bytes.Equal(mine, other) // two copies of our own: nobody times this
			return nil
		})
	})
	return err == nil && same
}

// A sealer seals under one salt of its key.
type sealer struct {
	subkey
	born  int64 // Unix seconds
	count atomic.Uint64
}

// spent reports whether another sealer is due. A clock that went back counts as
// time over.
func (s *sealer) spent(now int64) bool {
	return s.count.Load() >= maxTokens || uint64(now-s.born) >= maxSeconds
}

// counted counts a token by its nonce: one nonce in 256 counts for all. The count
// is off by a few in a thousand, and cores do not wait for each other at each token.
func (s *sealer) counted(nonce []byte) {
	if nonce[0] == 0 {
		s.count.Add(256)
	}
}

// renew replaces the sealer that is missing or spent, unless somebody else just did.
func (k *key) renew(now int64) (*sealer, error) {
	k.making.Lock()
	defer k.making.Unlock()
	if s := k.sealer.Load(); s != nil && !s.spent(now) {
		return s, nil
	}
	s, err := k.newSealer(now)
	if err != nil {
		return nil, err
	}
	k.sealer.Store(s)
	return s, nil
}

func (k *key) newSealer(now int64) (*sealer, error) {
	raw, text := [headerSize]byte{version}, [headerText]byte{}
	copy(raw[1:], k.kid[:])
	rand.Read(raw[1+kidSize:]) // never fails
	aead, err := subkeyOf(k.material, &raw)
	if err != nil {
		return nil, err
	}
	base64url.Encode(text[:], raw[:])
	return &sealer{subkey: subkey{head: headerOf(text[:]), key: k, aead: aead}, born: now}, nil
}

// A subkey opens the tokens of one header.
type subkey struct {
	head header
	key  *key
	aead cipher.AEAD
}
