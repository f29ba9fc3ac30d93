package sidecar

import (
	"crypto/hkdf"
	"crypto/sha256"

	"github.com/keytide/keytide/keystore"
)

// ticketKeySize is what nginx, HAProxy and Envoy want alike: a name of 16 bytes, a
// key of 32 bytes for HMAC-SHA256 and one of 32 bytes for AES-256, in an order that
// is each one's own (SPEC.md, section 2).
const ticketKeySize = 80

// useTicketKey derives the session ticket key of a ring key for one kind of server,
// and calls fn with it. Servers of different kinds cannot read each other's tickets,
// so they get different keys, and these never show the ring key.
func useTicketKey(k keystore.SetKey, target string, ring keystore.RingName, fn func(key []byte)) error {
	key, err := derive(k.Material, "stek "+target+"|"+string(ring), ticketKeySize)
	if err != nil {
		return err
	}
	defer clear(key)
	fn(key)
	return nil
}

// derive gives HKDF-Expand-SHA256(m, "keytide/v1 "+info, size) (RFC 5869, section 2.3).
func derive(m keystore.Material, info string, size int) ([]byte, error) {
	var key []byte
	err := m.Use(func(secret []byte) (err error) {
		key, err = hkdf.Expand(sha256.New, secret, "keytide/v1 "+info, size)
		return err
	})
	return key, err
}
