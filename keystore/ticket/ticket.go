package ticket

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/keytide/keytide/keystore"
)

var (
	// ErrTicket: not a ticket of this ring, or one that was changed.
	ErrTicket = errors.New("not a valid ticket")
	// ErrUnknownKey: a ticket under a key that is not there, or not any more.
	ErrUnknownKey = fmt.Errorf("%w: its key is not known", ErrTicket)
	// ErrExpired: a good ticket whose age is over.
	ErrExpired = errors.New("the ticket has expired")
)

const (
	// MaxPayload is the most bytes that a ticket may carry.
	MaxPayload = 8 << 10
	// MaxAge is the longest that a ticket may live.
	MaxAge = 366 * 24 * time.Hour
	// Skew is how far ahead of the clock an issue time may be: servers' clocks differ.
	Skew = time.Minute

	version  = 0x21 // no cookie token begins so
	kidSize  = 8
	saltSize = 16
	header   = 1 + kidSize + saltSize
	overhead = header + 12 + 16 // and nonce and tag

	maxHost = 63
	maxText = ((overhead+9+maxHost+MaxPayload)*4 + 2) / 3
)

// A Ticket is what is within the seal.
type Ticket struct {
	Host    string        // the trusted host that had it sealed
	Issued  time.Time     // in whole seconds, UTC
	MaxAge  time.Duration // in whole seconds, at least one
	Payload []byte        // the host's; at most MaxPayload bytes
}

// Expires is when the ticket's age is over.
func (t Ticket) Expires() time.Time { return t.Issued.Add(t.MaxAge) }

func (t Ticket) check() error {
	fault := ""
	switch {
	case keystore.CheckName(t.Host) != nil:
		fault = "its host has no name"
	case len(t.Payload) > MaxPayload:
		fault = fmt.Sprintf("%d bytes; at most %d are allowed", len(t.Payload), MaxPayload)
	case t.MaxAge < time.Second || t.MaxAge > MaxAge:
		fault = fmt.Sprintf("maximum age %v; want 1s to %v", t.MaxAge, MaxAge)
	case t.Issued.Unix() <= 0 || t.Issued.Unix() > 1<<32-1:
		fault = "it has no issue time"
	}
	if fault != "" {
		return fmt.Errorf("%w: ticket: %s", keystore.ErrInvalid, fault)
	}
	return nil
}

var text64 = base64.RawURLEncoding.Strict()

// Seal makes the text of a ticket of this ring under its session ticket key. The
// error wraps keystore.ErrInvalid.
func Seal(key keystore.Material, ring keystore.RingName, t Ticket) (string, error) {
	if err := t.check(); err != nil {
		return "", err
	}
	kid := key.KID()
	raw := append(make([]byte, 0, overhead+9+len(t.Host)+len(t.Payload)), version)
	raw = append(raw, kid[:]...)
	raw = raw[:header]
	rand.Read(raw[1+kidSize:]) // never fails: the program ends instead
	aead, err := subkey(key, raw)
	if err != nil {
		return "", err
	}
	plain := t.plain()
	defer clear(plain)
	return text64.EncodeToString(aead.Seal(raw, nil, plain, context(ring))), nil
}

// KIDOf reads which key a ticket is sealed under. The error is ErrTicket.
func KIDOf(text string) (keystore.KID, error) {
	var raw [1 + kidSize]byte // 12 characters
	if len(text) > maxText || len(text) < text64.EncodedLen(overhead) || strings.ContainsAny(text[:12], "\r\n") {
		return keystore.KID{}, ErrTicket
	}
	if n, err := text64.Decode(raw[:], []byte(text[:12])); err != nil || n != len(raw) || raw[0] != version {
		return keystore.KID{}, ErrTicket
	}
	return keystore.KID(raw[1:]), nil
}

// Open opens a ticket of this ring at now, by the key that it names: keys returns it.
// The error is ErrUnknownKey, ErrExpired or ErrTicket.
func Open(text string, ring keystore.RingName, now time.Time, keys func(keystore.KID) (keystore.Material, bool)) (Ticket, error) {
	kid, err := KIDOf(text)
	if err != nil || strings.ContainsAny(text, "\r\n") {
		return Ticket{}, ErrTicket
	}
	raw, err := text64.DecodeString(text)
	if err != nil || len(raw) < overhead {
		return Ticket{}, ErrTicket
	}
	key, ok := keys(kid)
	if !ok || key.KID() != kid {
		return Ticket{}, ErrUnknownKey
	}
	aead, err := subkey(key, raw[:header])
	if err != nil {
		return Ticket{}, err
	}
	plain, err := aead.Open(nil, nil, raw[header:], context(ring))
	if err != nil {
		return Ticket{}, ErrTicket
	}
	t, ok := parse(plain)
	switch {
	case !ok || t.Issued.After(now.Add(Skew)):
		return Ticket{}, ErrTicket
	case !now.Before(t.Expires()):
		return Ticket{}, ErrExpired
	}
	return t, nil
}

// plain is what is sealed; parse reads it.
func (t Ticket) plain() []byte {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, 9+len(t.Host)+len(t.Payload)), uint32(t.Issued.Unix()))
	b = binary.BigEndian.AppendUint32(b, uint32(t.MaxAge/time.Second))
	b = append(append(b, byte(len(t.Host))), t.Host...)
	return append(b, t.Payload...)
}

func parse(plain []byte) (Ticket, bool) {
	if len(plain) < 9 || len(plain) < 9+int(plain[8]) {
		return Ticket{}, false
	}
	end := 9 + int(plain[8])
	t := Ticket{
		Issued:  time.Unix(int64(binary.BigEndian.Uint32(plain)), 0).UTC(),
		MaxAge:  time.Duration(binary.BigEndian.Uint32(plain[4:])) * time.Second,
		Host:    string(plain[9:end]),
		Payload: bytes.Clone(plain[end:]),
	}
	return t, t.check() == nil
}

// subkey is the key of one ticket: its salt is the ticket's own, so that random
// nonces never add up to a risk, however many tickets a key seals.
func subkey(key keystore.Material, head []byte) (aead cipher.AEAD, err error) {
	err = key.Use(func(secret []byte) error {
		sub, err := hkdf.Expand(sha256.New, secret, "st1 sub"+string(head), 32)
		if err != nil {
			return err
		}
		defer clear(sub)
		block, err := aes.NewCipher(sub)
		if err != nil {
			return err
		}
		aead, err = cipher.NewGCMWithRandomNonce(block)
		return err
	})
	return aead, err
}

// context is the associated data: a ticket of one ring is none of another.
func context(ring keystore.RingName) []byte {
	b := binary.BigEndian.AppendUint32([]byte("st1 ctx"), uint32(len(ring)))
	return append(b, ring...)
}
