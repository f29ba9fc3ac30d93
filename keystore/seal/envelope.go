package seal

import (
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/keytide/keytide/keystore"
)

// A Content is what an envelope holds. It is authenticated: never renumber.
type Content uint8

const (
	ContentKSK Content = 1 // a key store key, 32 bytes
	ContentCA  Content = 2 // the private key of a store's certificate authority, PKCS #8
)

// An Address is for whom an envelope is, and what it holds. It is authenticated.
type Address struct {
	Store   string
	Epoch   keystore.Epoch
	Server  string
	Content Content
}

const (
	envelopeMark   = 'E'
	envelopeFormat = 1
	envelopeHeader = 2
	pointSize      = 65
	maxEnvelope    = 4 << 10 // of what is put in
)

// SealTo puts secret into an envelope that the holder of the P-256 key alone can
// open. key is its public half, an uncompressed point. The error wraps
// keystore.ErrInvalid.
func SealTo(key []byte, to Address, secret []byte) ([]byte, error) {
	if len(secret) == 0 || len(secret) > maxEnvelope || to.Content == 0 || to.Store == "" || to.Server == "" {
		return nil, fmt.Errorf("%w: an envelope of %d bytes for server %q of store %q", keystore.ErrInvalid, len(secret), to.Server, to.Store)
	}
	public, err := ecdh.P256().NewPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("%w: P-256 key of server %s: %w", keystore.ErrInvalid, to.Server, err)
	}
	once, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	shared, err := once.ECDH(public)
	if err != nil {
		return nil, fmt.Errorf("%w: P-256 key of server %s: %w", keystore.ErrInvalid, to.Server, err)
	}
	defer clear(shared)
	head := append([]byte{envelopeMark, envelopeFormat}, once.PublicKey().Bytes()...)
	return to.seal(shared, head, public.Bytes(), secret)
}

func (to Address) seal(shared, head, key, secret []byte) ([]byte, error) {
	wrap, err := envelopeKey(shared, head[envelopeHeader:], key)
	if err != nil {
		return nil, err
	}
	defer clear(wrap)
	aead, err := newAEAD(wrap)
	if err != nil {
		return nil, err
	}
	return aead.Seal(head, nil, secret, to.bind(head)), nil
}

// OpenFrom opens an envelope. One that is not for this key and address, or of which
// a byte changed, is refused with ErrNotAuthentic. The caller clears what it gets.
func OpenFrom(key *ecdh.PrivateKey, at Address, envelope []byte) ([]byte, error) {
	refused := fmt.Errorf("the envelope for server %s of store %s: %w", at.Server, at.Store, ErrNotAuthentic)
	if len(envelope) <= envelopeHeader+pointSize || envelope[0] != envelopeMark || envelope[1] != envelopeFormat {
		return nil, refused
	}
	head, box := envelope[:envelopeHeader+pointSize], envelope[envelopeHeader+pointSize:]
	once, err := ecdh.P256().NewPublicKey(head[envelopeHeader:])
	if err != nil {
		return nil, refused
	}
	shared, err := key.ECDH(once)
	if err != nil {
		return nil, refused
	}
	defer clear(shared)
	wrap, err := envelopeKey(shared, head[envelopeHeader:], key.PublicKey().Bytes())
	if err != nil {
		return nil, err
	}
	defer clear(wrap)
	aead, err := newAEAD(wrap)
	if err != nil {
		return nil, err
	}
	secret, err := aead.Open(nil, nil, box, at.bind(head))
	if err != nil {
		return nil, refused
	}
	return secret, nil
}

// SealTo puts the key store key into an envelope. to.Content is ContentKSK.
func (k *KSK) SealTo(key []byte, to Address) (envelope []byte, err error) {
	to.Content = ContentKSK
	err = k.secret.Use(func(secret []byte) error {
		envelope, err = SealTo(key, to, secret)
		return err
	})
	return envelope, err
}

// KSKFrom opens an envelope that holds the key store key of this id.
func KSKFrom(key *ecdh.PrivateKey, at Address, envelope []byte, id keystore.KID) (*KSK, error) {
	at.Content = ContentKSK
	secret, err := OpenFrom(key, at, envelope)
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	m, err := keystore.NewMaterial(secret)
	if err != nil {
		return nil, fmt.Errorf("the envelope for server %s: %w", at.Server, err)
	}
	k, err := newKSK(m)
	if err != nil {
		return nil, err
	}
	if k.id != id {
		return nil, fmt.Errorf("the envelope for server %s: %w: it holds key store key %s, want %s", at.Server, ErrWrongKey, k.id, id)
	}
	return k, nil
}

func envelopeKey(shared, once, key []byte) ([]byte, error) {
	salt := append(append(make([]byte, 0, 2*pointSize), once...), key...)
	return hkdf.Key(sha256.New, shared, salt, "kw1 envelope", 32)
}

// bind is the associated data: the envelope's head and the address.
func (to Address) bind(head []byte) []byte {
	b := append(make([]byte, 0, 192), head...)
	b = appendString(b, to.Store)
	b = binary.BigEndian.AppendUint64(b, uint64(to.Epoch))
	b = appendString(b, to.Server)
	return append(b, byte(to.Content))
}

// A Vouched is what a membership key vouches for: that this server, with these keys,
// is a member of this ledger.
type Vouched struct {
	Kind      string // of the ledger: keys or hosts
	Store     string
	StoreID   [16]byte
	Epoch     keystore.Epoch
	Server    string
	Region    string
	PublicKey []byte // Ed25519, 32 bytes
	P256Key   []byte // an uncompressed point
}

// Vouch returns the MAC of a member under the ledger's membership key.
func Vouch(membership keystore.Material, v Vouched) (mac [32]byte, err error) {
	err = membership.Use(func(secret []byte) error {
		key, err := hkdf.Expand(sha256.New, secret, "kw1 member", 32)
		if err != nil {
			return err
		}
		defer clear(key)
		h := hmac.New(sha256.New, key)
		h.Write(v.bytes())
		copy(mac[:], h.Sum(nil))
		return nil
	})
	return mac, err
}

// Vouches reports whether mac is that of Vouch.
func Vouches(membership keystore.Material, v Vouched, mac [32]byte) bool {
	want, err := Vouch(membership, v)
	return err == nil && hmac.Equal(want[:], mac[:])
}

func (v Vouched) bytes() []byte {
	b := append(make([]byte, 0, 256), "keytide member 1\x00"...)
	b = appendString(b, v.Kind)
	b = appendString(b, v.Store)
	b = append(b, v.StoreID[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(v.Epoch))
	b = appendString(b, v.Server)
	b = appendString(b, v.Region)
	b = appendString(b, string(v.PublicKey))
	return appendString(b, string(v.P256Key))
}
