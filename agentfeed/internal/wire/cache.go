package wire

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keytide/keytide/keystore"
)

// CacheFormat is the first byte of a cache file.
const CacheFormat = 1

const (
	cacheSalt   = 16
	cacheHeader = 1 + len(keystore.KID{}) + cacheSalt // format, kid, salt
)

// ErrCache: a cache that does not open.
var ErrCache = errors.New("cache does not open")

// A Cache is what an agent keeps over a restart.
type Cache struct {
	AsOf  time.Time `json:"as_of"` // the state was current then, by the agent's clock
	State State     `json:"state"`
}

// SealCache gives the bytes of a cache file for this host, under its secret.
func SealCache(secret keystore.Material, host string, c Cache) ([]byte, error) {
	kid := secret.KID()
	file := append(make([]byte, 0, 4096), CacheFormat)
	file = append(file, kid[:]...)
	salt := make([]byte, cacheSalt)
	rand.Read(salt) // never fails: crypto/rand ends the program instead
	file = append(file, salt...)
	aead, err := cacheAEAD(secret, host, salt)
	if err != nil {
		return nil, err
	}
	plain, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	defer clear(plain)
	return aead.Seal(file, nil, plain, cacheData(host, file)), nil
}

// OpenCache opens a cache file of this host that was sealed under one of these
// secrets. The error wraps ErrCache.
func OpenCache(file []byte, host string, secrets ...keystore.Material) (Cache, error) {
	if len(file) < cacheHeader || file[0] != CacheFormat {
		return Cache{}, fmt.Errorf("%w: it is no cache of format %d", ErrCache, CacheFormat)
	}
	header := file[:cacheHeader:cacheHeader]
	kid := keystore.KID(header[1:])
	i := slices.IndexFunc(secrets, func(m keystore.Material) bool { return !m.IsZero() && m.KID() == kid })
	if i < 0 {
		return Cache{}, fmt.Errorf("%w: it was sealed under secret %s, which is not this host's", ErrCache, kid)
	}
	aead, err := cacheAEAD(secrets[i], host, header[cacheHeader-cacheSalt:])
	if err != nil {
		return Cache{}, err
	}
	plain, err := aead.Open(nil, nil, file[cacheHeader:], cacheData(host, header))
	if err != nil {
		return Cache{}, fmt.Errorf("%w: it is another host's, or was changed", ErrCache)
	}
	defer clear(plain)
	var c Cache
	// The text of an error of encoding/json may quote what it read, here key bytes.
	if json.Unmarshal(plain, &c) != nil {
		return Cache{}, fmt.Errorf("%w: it holds no valid state", ErrCache)
	}
	return c, nil
}

// cacheAEAD derives the key of one file: each has a salt of its own.
func cacheAEAD(secret keystore.Material, host string, salt []byte) (aead cipher.AEAD, err error) {
	err = secret.Use(func(secret []byte) error {
		key, err := hkdf.Key(sha256.New, secret, salt, "keytide/v1 cache|"+host, 32)
		if err != nil {
			return err
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return err
		}
		aead, err = cipher.NewGCMWithRandomNonce(block)
		return err
	})
	return aead, err
}

func cacheData(host string, header []byte) []byte {
	return append([]byte("keytide/v1|cache|"+host+"|"), header...)
}
