package main

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/gorilla/securecookie"
	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/tink"

	"github.com/keytide/keytide/agentfeed/cookie"
	"github.com/keytide/keytide/keystore"
)

const name = "session"

func all() ([]contender, error) {
	var out []contender
	for _, make := range []func() (contender, error){ofKeytide, ofSecureCookie, ofTink, ofJOSE} {
		c, err := make()
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

func secret() []byte {
	b := make([]byte, 32)
	rand.Read(b)
	return b
}

// fixed is a ring that does not change.
type fixed struct{ set *keystore.KeySet }

func (f fixed) Snapshot() *keystore.KeySet { return f.set }

func ofKeytide() (contender, error) {
	ring := func(held []keystore.SetKey) fixed {
		return fixed{&keystore.KeySet{Ring: "sso", Epoch: 1, Version: keys, Mode: keystore.ModeDynamic, Keys: held}}
	}
	var set []keystore.SetKey
	for range keys {
		m, err := keystore.NewMaterial(secret())
		if err != nil {
			return contender{}, err
		}
		set = append(set, keystore.SetKey{KID: m.KID(), Role: keystore.Old, Material: m})
	}
	oldest := set[keys-1] // as it was when it sealed
	oldest.Role, oldest.Seals = keystore.Current, true
	set[0].Role, set[0].Seals = keystore.Current, true
	codec, err := cookie.New(cookie.Config{Ring: ring(set), Name: name})
	if err != nil {
		return contender{}, err
	}
	before, err := cookie.New(cookie.Config{Ring: ring([]keystore.SetKey{oldest}), Name: name})
	if err != nil {
		return contender{}, err
	}
	sealed, opened := make([]byte, 0, cookie.MaxToken), make([]byte, 0, cookie.MaxToken)
	return contender{
		name: "keytide kt1",
		seal: func(payload []byte, old bool) (string, error) {
			c := codec
			if old {
				c = before
			}
			token, err := c.Seal(sealed, payload)
			return string(token), err
		},
		open: func(token string) ([]byte, error) {
			o, err := codec.OpenString(opened, token)
			return o.Payload, err
		},
	}, nil
}

// ofSecureCookie: AES-256-CTR and HMAC-SHA256. It tries key after key.
func ofSecureCookie() (contender, error) {
	var codecs []securecookie.Codec
	for range keys {
		c := securecookie.New(secret(), secret())
		c.SetSerializer(securecookie.NopEncoder{}) // bytes, as the others; its gob would cost more
		c.MaxAge(int((8 * time.Hour).Seconds()))
		c.MaxLength(0)
		codecs = append(codecs, c)
	}
	return contender{
		name: "gorilla/securecookie",
		seal: func(payload []byte, old bool) (string, error) {
			payload = bytes.Clone(payload) // it encrypts in place
			if old {
				return codecs[keys-1].Encode(name, payload)
			}
			return codecs[0].Encode(name, payload)
		},
		open: func(token string) (payload []byte, err error) {
			err = securecookie.DecodeMulti(name, token, &payload, codecs...)
			return payload, err
		},
	}, nil
}

// ofTink: AES-256-GCM with Tink's prefix, which names the key; base64url around it.
func ofTink() (contender, error) {
	manager := keyset.NewManager()
	var primitives []tink.AEAD // sealing with the oldest key, with the newest
	for i := range keys {
		id, err := manager.Add(aead.AES256GCMKeyTemplate())
		if err != nil {
			return contender{}, err
		}
		if i > 0 && i < keys-1 {
			continue
		}
		if err := manager.SetPrimary(id); err != nil {
			return contender{}, err
		}
		handle, err := manager.Handle()
		if err != nil {
			return contender{}, err
		}
		primitive, err := aead.New(handle)
		if err != nil {
			return contender{}, err
		}
		primitives = append(primitives, primitive)
	}
	before, now := primitives[0], primitives[1]
	return contender{
		name: "tink-go",
		seal: func(payload []byte, old bool) (string, error) {
			p := now
			if old {
				p = before
			}
			raw, err := p.Encrypt(payload, []byte(name))
			return base64.RawURLEncoding.EncodeToString(raw), err
		},
		open: func(token string) ([]byte, error) {
			raw, err := base64.RawURLEncoding.DecodeString(token)
			if err != nil {
				return nil, err
			}
			return now.Decrypt(raw, []byte(name))
		},
	}, nil
}

// ofJOSE: a compact JWE, A256GCM with a key given directly, whose kid is in the header.
func ofJOSE() (contender, error) {
	var set jose.JSONWebKeySet
	for i := range keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: secret(), KeyID: fmt.Sprintf("%016x", i), Algorithm: string(jose.DIRECT)})
	}
	var encrypters []jose.Encrypter // with the newest key, with the oldest
	for _, k := range []jose.JSONWebKey{set.Keys[0], set.Keys[keys-1]} {
		e, err := jose.NewEncrypter(jose.A256GCM, jose.Recipient{Algorithm: jose.DIRECT, Key: k}, nil)
		if err != nil {
			return contender{}, err
		}
		encrypters = append(encrypters, e)
	}
	return contender{
		name: "go-jose JWE",
		seal: func(payload []byte, old bool) (string, error) {
			e := encrypters[0]
			if old {
				e = encrypters[1]
			}
			jwe, err := e.Encrypt(payload)
			if err != nil {
				return "", err
			}
			return jwe.CompactSerialize()
		},
		open: func(token string) ([]byte, error) {
			jwe, err := jose.ParseEncryptedCompact(token, []jose.KeyAlgorithm{jose.DIRECT}, []jose.ContentEncryption{jose.A256GCM})
			if err != nil {
				return nil, err
			}
			return jwe.Decrypt(set)
		},
	}, nil
}
