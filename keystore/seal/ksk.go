package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/keytide/keytide/keystore"
)

// A Purpose is what material is for. Stored, and authenticated: never renumber.
type Purpose uint8

const (
	PurposeDynamic       Purpose = 1 // a ring's old, current and future keys
	PurposeStatic        Purpose = 2 // a ring's static key
	PurposeSessionTicket Purpose = 3 // a ring's session ticket key
	PurposeHostSecret    Purpose = 4 // a trusted host's shared secret
	PurposeMembership    Purpose = 5 // a store's membership key
	PurposeServerKey     Purpose = 6 // a policy server's own keys: to sign, and to be sealed to
)

// An Alg is how material is used. Stored, and authenticated: never renumber.
type Alg uint8

const (
	AlgHKDFSHA256 Alg = 1 // 32 random bytes, the input of HKDF-SHA256
	AlgEd25519    Alg = 2 // the 32-byte seed of an Ed25519 key (RFC 8032)
	AlgP256       Alg = 3 // the 32-byte scalar of a P-256 key (SEC 1)
)

// A Place is where material belongs. It never changes during the material's life,
// and is authenticated with it; a key's role does change, so it is not part of it.
type Place struct {
	Store      string       // the store's name
	Owner      string       // "ring:sso", "host:web-1", "server:dev-1" or "member"
	KID        keystore.KID // of the material
	Generation uint64       // of a ring's key, the version that made it; of a secret, its count
	Purpose    Purpose
	Alg        Alg
	Created    time.Time // to the millisecond; not before 1970
}

func (p Place) String() string {
	return fmt.Sprintf("key %s of %s in store %s", p.KID, p.Owner, p.Store)
}

// RecordSize is the size of a sealed record, in bytes.
const RecordSize = 70

const (
	recordMark   = 'W'
	recordFormat = 1
	recordHeader = 10 // mark, format, KSK id
)

// A KSK is a key store key. It wraps material. It is safe for concurrent use, and
// prints as its id.
type KSK struct {
	id     keystore.KID
	secret keystore.Material
	aead   func() cipher.AEAD // behind a func, where printing does not reach it
}

// Generate makes material: 32 bytes of crypto/rand.
func Generate() keystore.Material {
	secret := make([]byte, keystore.MaterialSize)
	rand.Read(secret) // never fails: the program ends instead
	defer clear(secret)
	m, err := keystore.NewMaterial(secret)
	if err != nil {
		panic(fmt.Sprintf("seal: generating material: %v", err)) // 32 zero bytes by chance
	}
	return m
}

// NewKSK makes a key store key.
func NewKSK() *KSK {
	k, err := newKSK(Generate())
	if err != nil {
		panic(fmt.Sprintf("seal: making a key store key: %v", err))
	}
	return k
}

func newKSK(secret keystore.Material) (*KSK, error) {
	k := &KSK{secret: secret}
	return k, secret.Use(func(secret []byte) error {
		id, err := hkdf.Expand(sha256.New, secret, "kw1 id", len(k.id))
		if err != nil {
			return err
		}
		wrap, err := hkdf.Expand(sha256.New, secret, "kw1 wrap", 32)
		if err != nil {
			return err
		}
		defer clear(wrap)
		aead, err := newAEAD(wrap)
		k.id, k.aead = keystore.KID(id), func() cipher.AEAD { return aead }
		return err
	})
}

// newAEAD is AES-256-GCM that draws its own nonce and writes nonce, ciphertext and
// tag one after the other: the only form of GCM that FIPS enforcement allows.
func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// ID is the KSK's id: HKDF-Expand-SHA256(KSK, "kw1 id", 8).
func (k *KSK) ID() keystore.KID { return k.id }

func (k *KSK) String() string             { return "key store key " + k.id.String() }
func (k *KSK) GoString() string           { return k.String() }
func (k *KSK) Format(f fmt.State, _ rune) { fmt.Fprint(f, k.String()) }
func (k *KSK) LogValue() slog.Value       { return slog.StringValue(k.String()) }

// MarshalJSON refuses.
func (k *KSK) MarshalJSON() ([]byte, error) {
	return nil, errors.New("seal: refusing to marshal a key store key")
}

// Seal wraps m for its place, in a record of RecordSize bytes. It refuses, with an
// error that wraps keystore.ErrInvalid, a place that is incomplete or whose KID is
// not that of m.
func (k *KSK) Seal(p Place, m keystore.Material) (record []byte, err error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	if got := m.KID(); got != p.KID {
		return nil, fmt.Errorf("%w: %v: the bytes are those of key %s", keystore.ErrInvalid, p, got)
	}
	record = append(make([]byte, 0, RecordSize), recordMark, recordFormat)
	record = append(record, k.id[:]...)
	return record, m.Use(func(secret []byte) error {
		record = k.aead().Seal(record, nil, secret, p.bind(record))
		return nil
	})
}

// Open unwraps a record at its place. A record of another KSK is a *WrongKSKError;
// a record that is not the one sealed for this place, or of which a byte changed, is
// a *RecordError, as are bytes that derive another kid.
func (k *KSK) Open(p Place, rec []byte) (keystore.Material, error) {
	if err := p.check(); err != nil {
		return keystore.Material{}, err
	}
	id, err := RecordKSK(rec)
	if err != nil {
		return keystore.Material{}, fmt.Errorf("%v: %w", p, err)
	}
	if id != k.id {
		return keystore.Material{}, &WrongKSKError{Place: p, Have: k.id, Want: id}
	}
	header, box := rec[:recordHeader], rec[recordHeader:]
	secret, err := k.aead().Open(nil, nil, box, p.bind(header))
	if err != nil {
		return keystore.Material{}, &RecordError{Place: p, KSK: k.id}
	}
	defer clear(secret)
	m, err := keystore.NewMaterial(secret)
	if err != nil {
		return keystore.Material{}, fmt.Errorf("%v: %w", p, err)
	}
	if got := m.KID(); got != p.KID {
		return keystore.Material{}, &RecordError{Place: p, KSK: k.id, Found: got}
	}
	return m, nil
}

// RecordKSK reads the id of the KSK that a record is sealed under. The error wraps
// keystore.ErrInvalid.
func RecordKSK(rec []byte) (keystore.KID, error) {
	switch {
	case len(rec) != RecordSize:
		return keystore.KID{}, fmt.Errorf("%w: a sealed record has %d bytes; want %d", keystore.ErrInvalid, len(rec), RecordSize)
	case !bytes.HasPrefix(rec, []byte{recordMark, recordFormat}):
		return keystore.KID{}, fmt.Errorf("%w: not a sealed record of a known format (begins %x)", keystore.ErrInvalid, rec[:2])
	}
	return keystore.KID(rec[2:recordHeader]), nil
}

func (p Place) check() error {
	switch {
	case p.Store == "" || p.Owner == "":
		return fmt.Errorf("%w: %v: has no store or owner", keystore.ErrInvalid, p)
	case p.KID == keystore.KID{}:
		return fmt.Errorf("%w: %v: has no kid", keystore.ErrInvalid, p)
	case p.Purpose == 0 || p.Alg == 0:
		return fmt.Errorf("%w: %v: has no purpose or algorithm", keystore.ErrInvalid, p)
	case p.Created.UnixMilli() <= 0:
		return fmt.Errorf("%w: %v: was created before 1970, or has no creation time", keystore.ErrInvalid, p)
	}
	return nil
}

// bind is the associated data: the record's header and the place (SPEC.md).
func (p Place) bind(header []byte) []byte {
	b := append(make([]byte, 0, 128), header...)
	b = appendString(b, p.Store)
	b = appendString(b, p.Owner)
	b = append(b, p.KID[:]...)
	b = binary.BigEndian.AppendUint64(b, p.Generation)
	b = append(b, byte(p.Purpose), byte(p.Alg))
	return binary.BigEndian.AppendUint64(b, uint64(p.Created.UnixMilli()))
}

// appendString appends s behind its length, 4 bytes big-endian.
func appendString(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}
