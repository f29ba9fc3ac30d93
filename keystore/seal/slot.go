package seal

import (
	"bytes"
	"crypto/fips140"
	"crypto/hkdf"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/crypto/argon2"

	"github.com/keytide/keytide/keystore"
)

// A SlotKind says how a slot's wrapping key comes from its unlock key. Stored, and
// authenticated: never renumber.
type SlotKind uint8

const (
	SlotArgon2id SlotKind = 1 // of a passphrase, by argon2id (RFC 9106)
	SlotPBKDF2   SlotKind = 2 // of a passphrase, by PBKDF2-HMAC-SHA-512 (RFC 8018); FIPS mode
	SlotFile     SlotKind = 3 // of a 32-byte file, by HKDF-SHA256
	SlotKMS      SlotKind = 4 // of 32 bytes that a key management service keeps encrypted, by HKDF-SHA256
)

func (k SlotKind) String() string {
	switch k {
	case SlotArgon2id:
		return "argon2id"
	case SlotPBKDF2:
		return "pbkdf2-sha512"
	case SlotFile:
		return "file"
	case SlotKMS:
		return "kms"
	}
	return fmt.Sprintf("slot(%d)", uint8(k))
}

// SlotSize is the size of an unlock slot, in bytes; one of a key management service
// has its URL and what it encrypted besides.
const SlotSize = 87

const (
	slotMark   = 'S'
	slotHeader = 27 // mark, kind, three parameters, salt
	saltSize   = 16
	slotBox    = SlotSize - slotHeader
	maxKMSURL  = 512
	maxKMSBlob = 1024
)

// cost is a slot's parameters.
type cost struct {
	p1, p2 uint32 // argon2id: passes, KiB of memory; PBKDF2: iterations, 0; file: 0, 0
	p3     uint8  // argon2id: lanes; otherwise 0
}

// New slots cost about a second (argon2id) and half a second (PBKDF2) of one core.
var (
	costArgon2id = cost{3, 256 * 1024, 2}
	costPBKDF2   = cost{1_000_000, 0, 0}
)

// check bounds what is read from a slot, which is not authenticated before it is
// used: below, a slot would be a downgrade; above, it would stall the start.
func (c cost) check(kind SlotKind) error {
	ok := false
	switch kind {
	case SlotArgon2id: // RFC 9106 section 4 names 3 passes over 64 MiB as its lesser choice
		ok = c.p1 >= 3 && c.p1 <= 16 && c.p2 >= 64*1024 && c.p2 <= 1024*1024 && c.p3 >= 1 && c.p3 <= 16
	case SlotPBKDF2:
		ok = c.p1 >= 210_000 && c.p1 <= 10_000_000 && c.p2 == 0 && c.p3 == 0
	case SlotFile, SlotKMS:
		ok = c == cost{}
	default:
		return fmt.Errorf("%w: unknown kind of unlock slot %d", keystore.ErrInvalid, uint8(kind))
	}
	if !ok {
		return fmt.Errorf("%w: %v slot with parameters out of bounds (%d, %d, %d)", keystore.ErrInvalid, kind, c.p1, c.p2, c.p3)
	}
	return nil
}

// NewSlot wraps k under u, for the store of this name. A passphrase gives an argon2id
// slot, and in FIPS mode a PBKDF2 slot; both cost about a second.
func NewSlot(k *KSK, u UnlockKey, store string) ([]byte, error) {
	p, err := Prepare(u, 0)
	if err != nil {
		return nil, err
	}
	return k.Slot(p, store)
}

// A Prepared is an unlock slot without the key store key: its head, and the wrapping
// key that comes from an unlock key. So whoever has the unlock key need not have the
// key store key, nor the other way round. It prints as its kind.
type Prepared struct {
	Head []byte // the slot's bytes before its box
	KEK  keystore.Material
}

// Prepare derives what a slot for u needs. kind is that of a passphrase's slot; 0 is
// the default: argon2id, and in FIPS mode PBKDF2.
func Prepare(u UnlockKey, kind SlotKind) (Prepared, error) {
	p := slotParams{kind: SlotFile}
	switch {
	case u.keeper != nil:
		p.kind = SlotKMS
	case !u.isPassphrase():
	case kind == SlotPBKDF2, kind == 0 && fips140.Enabled():
		p = slotParams{kind: SlotPBKDF2, cost: costPBKDF2}
	default:
		p = slotParams{kind: SlotArgon2id, cost: costArgon2id}
	}
	if kind != 0 && kind != p.kind {
		return Prepared{}, fmt.Errorf("%w: %v gives no %v slot", keystore.ErrInvalid, u, kind)
	}
	return prepare(u, p)
}

type slotParams struct {
	kind      SlotKind
	cost      cost
	url       string // of SlotKMS: the key at the service
	blob      []byte // of SlotKMS: what the service encrypted
	head, box []byte // of a slot that was read
}

func prepare(u UnlockKey, p slotParams) (Prepared, error) {
	if u.secret == nil && u.keeper == nil {
		return Prepared{}, fmt.Errorf("%w: unlock slot without an unlock key", keystore.ErrInvalid)
	}
	head := append(make([]byte, 0, SlotSize), slotMark, byte(p.kind))
	head = binary.BigEndian.AppendUint32(head, p.cost.p1)
	head = binary.BigEndian.AppendUint32(head, p.cost.p2)
	head = append(head, p.cost.p3)
	head = head[:slotHeader]
	salt := head[slotHeader-saltSize:]
	rand.Read(salt) // never fails: the program ends instead
	secret := u.secret
	if p.kind == SlotKMS {
		kept := Generate()
		var err error
		if p.blob, err = u.encrypt(kept); err != nil {
			return Prepared{}, err
		}
		p.url = u.path
		head = appendShort(appendShort(head, p.url), string(p.blob))
		secret = func() (b []byte) {
			kept.Use(func(secret []byte) error { b = secret; return nil })
			return b
		}
	}
	kek, err := p.derive(secret(), salt)
	if err != nil {
		return Prepared{}, err
	}
	defer clear(kek)
	m, err := keystore.NewMaterial(kek)
	return Prepared{Head: head, KEK: m}, err
}

// Slot wraps k in a prepared slot, for the store of this name. It refuses a head that
// is none, and in FIPS mode one that FIPS mode does not allow.
func (k *KSK) Slot(p Prepared, store string) ([]byte, error) {
	params, err := parseHead(p.Head)
	if err == nil && store == "" {
		err = fmt.Errorf("%w: unlock slot without a store", keystore.ErrInvalid)
	}
	if err == nil && params.kind == SlotArgon2id && fips140.Enabled() {
		err = &NotApprovedError{Kind: params.kind}
	}
	if err != nil {
		return nil, err
	}
	var slot []byte
	return slot, p.KEK.Use(func(kek []byte) error {
		aead, err := newAEAD(kek)
		if err != nil {
			return err
		}
		return k.secret.Use(func(secret []byte) error {
			slot = aead.Seal(bytes.Clone(p.Head), nil, secret, bindSlot(p.Head, store))
			return nil
		})
	})
}

func bindSlot(head []byte, store string) []byte {
	return appendString(bytes.Clone(head), store)
}

// derive gives the 32-byte key that wraps the KSK.
func (p slotParams) derive(secret, salt []byte) ([]byte, error) {
	switch p.kind {
	case SlotArgon2id:
		if fips140.Enabled() {
			return nil, &NotApprovedError{Kind: p.kind}
		}
		return argon2.IDKey(secret, salt, p.cost.p1, p.cost.p2, p.cost.p3, 32), nil
	case SlotPBKDF2:
		return pbkdf2.Key(sha512.New, string(secret), salt, int(p.cost.p1), 32)
	default:
		return hkdf.Expand(sha256.New, secret, "kw1 slot"+string(salt), 32)
	}
}

// parseSlot takes a slot apart. The error wraps keystore.ErrInvalid.
func parseSlot(slot []byte) (slotParams, error) {
	if len(slot) < SlotSize || slot[0] != slotMark {
		return slotParams{}, fmt.Errorf("%w: not an unlock slot of %d bytes", keystore.ErrInvalid, SlotSize)
	}
	at := len(slot) - slotBox
	p, err := parseHead(slot[:at])
	p.box = slot[at:]
	return p, err
}

// parseHead reads what is before a slot's box.
func parseHead(head []byte) (slotParams, error) {
	if len(head) < slotHeader || head[0] != slotMark {
		return slotParams{}, fmt.Errorf("%w: not the head of an unlock slot", keystore.ErrInvalid)
	}
	p := slotParams{
		kind: SlotKind(head[1]), head: head,
		cost: cost{binary.BigEndian.Uint32(head[2:]), binary.BigEndian.Uint32(head[6:]), head[10]},
	}
	if err := p.cost.check(p.kind); err != nil {
		return p, err
	}
	rest := head[slotHeader:]
	if p.kind == SlotKMS {
		var url []byte
		var ok, also bool
		url, rest, ok = cutShort(rest, maxKMSURL)
		p.blob, rest, also = cutShort(rest, maxKMSBlob)
		if p.url = string(url); !ok || !also {
			return p, fmt.Errorf("%w: kms slot without a key's URL, or without what it encrypted", keystore.ErrInvalid)
		}
	}
	if len(rest) > 0 {
		return p, fmt.Errorf("%w: not an unlock slot: %d bytes too many", keystore.ErrInvalid, len(rest))
	}
	return p, nil
}

// appendShort appends s behind its length, 2 bytes big-endian.
func appendShort(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

func cutShort(b []byte, most int) (s, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if n == 0 || n > most || n > len(b)-2 {
		return nil, nil, false
	}
	return b[2 : 2+n], b[2+n:], true
}

// KindOf reads which kind of slot this is, and the URL of its key if that is one of a
// key management service. The error wraps keystore.ErrInvalid.
func KindOf(slot []byte) (kind SlotKind, kms string, err error) {
	p, err := parseSlot(slot)
	return p.kind, p.url, err
}

// OpenSlot opens one slot of the store of this name. A slot that u does not open is
// a *WrongKeyError; an argon2id slot in FIPS mode is a *NotApprovedError; a key
// management service that does not decrypt is a *KMSError; what is no slot wraps
// keystore.ErrInvalid. A server starts with Unlock, which also checks that it is the KSK
// that the store names.
func OpenSlot(slot []byte, u UnlockKey, store string) (*KSK, error) {
	p, err := parseSlot(slot)
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", store, err)
	}
	if u.secret == nil && u.keeper == nil {
		return nil, fmt.Errorf("store %s: %w: no unlock key", store, keystore.ErrInvalid)
	}
	wrong := &WrongKeyError{Unlock: u.what, Path: u.path, Store: store, Slots: []SlotKind{p.kind}}
	if !u.fits(p) {
		return nil, wrong
	}
	kek, err := u.wrappingKey(p)
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", store, err)
	}
	defer clear(kek)
	aead, err := newAEAD(kek)
	if err != nil {
		return nil, err
	}
	wrong.Tried = true
	secret, err := aead.Open(nil, nil, p.box, bindSlot(p.head, store))
	if err != nil {
		return nil, wrong
	}
	defer clear(secret)
	m, err := keystore.NewMaterial(secret)
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", store, err)
	}
	return newKSK(m)
}

// fits reports whether a slot is of u's kind.
func (u UnlockKey) fits(p slotParams) bool {
	switch p.kind {
	case SlotKMS:
		return u.keeper != nil && u.path == p.url
	case SlotFile:
		return u.secret != nil && !u.isPassphrase()
	}
	return u.isPassphrase()
}

func (u UnlockKey) wrappingKey(p slotParams) ([]byte, error) {
	salt := p.head[slotHeader-saltSize : slotHeader]
	if p.kind != SlotKMS {
		return p.derive(u.secret(), salt)
	}
	secret, err := u.decrypt(p.blob)
	if err != nil {
		return nil, err
	}
	defer clear(secret)
	return p.derive(secret, salt)
}

// MaxSlots is the most slots that Unlock looks at: each passphrase slot may cost
// seconds, and slots come from the ledger.
const MaxSlots = 16

// Unlock opens the key store key want of the store of this name by the first of its
// slots that u opens. Slots that cannot be read, or are of a kind unknown here, do
// not stop it from trying the others.
//
// If none opens, the error says why of each: a *WrongKeyError, also when the slot
// that opened holds another KSK, or a *NotApprovedError or *KMSError when only slots
// were left that FIPS mode does not allow, or that a service did not decrypt.
func Unlock(want keystore.KID, slots [][]byte, u UnlockKey, store string) (*KSK, error) {
	k, _, err := UnlockBy(want, slots, u, store)
	return k, err
}

// UnlockBy does what Unlock does, and returns the slot that opened.
func UnlockBy(want keystore.KID, slots [][]byte, u UnlockKey, store string) (*KSK, []byte, error) {
	if len(slots) > MaxSlots {
		return nil, nil, fmt.Errorf("store %s: %w: %d unlock slots; at most %d are allowed", store, keystore.ErrInvalid, len(slots), MaxSlots)
	}
	wrong := &WrongKeyError{Unlock: u.what, Path: u.path, Store: store, Want: want}
	var others []error
	notApproved := false
	for _, slot := range slots {
		k, err := OpenSlot(slot, u, store)
		if err == nil && k.ID() == want {
			return k, slot, nil
		}
		if err == nil {
			wrong.Found, wrong.Tried = k.ID(), true
			continue
		}
		if one, ok := errors.AsType[*WrongKeyError](err); ok {
			wrong.Slots = append(wrong.Slots, one.Slots...)
			wrong.Tried = wrong.Tried || one.Tried
			continue
		}
		notApproved = notApproved || errors.Is(err, ErrNotApproved) || errors.Is(err, ErrKMS)
		others = append(others, err)
	}
	if notApproved && !wrong.Tried {
		return nil, nil, errors.Join(others...)
	}
	return nil, nil, errors.Join(append([]error{wrong}, others...)...)
}
