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
	// Reserved: 4 key management service.
)

func (k SlotKind) String() string {
	switch k {
	case SlotArgon2id:
		return "argon2id"
	case SlotPBKDF2:
		return "pbkdf2-sha512"
	case SlotFile:
		return "file"
	}
	return fmt.Sprintf("slot(%d)", uint8(k))
}

// SlotSize is the size of an unlock slot, in bytes.
const SlotSize = 87

const (
	slotMark   = 'S'
	slotHeader = 27 // mark, kind, three parameters, salt
	saltSize   = 16
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
	case SlotFile:
		ok = c == cost{}
	default:
		return fmt.Errorf("%w: unknown kind of unlock slot %d", keystore.ErrInvalid, uint8(kind))
	}
	if !ok {
		return fmt.Errorf("%w: %v slot with parameters out of bounds (%d, %d, %d)", keystore.ErrInvalid, kind, c.p1, c.p2, c.p3)
	}
	return nil
}

// NewSlot wraps k under u, for the store of this name, in SlotSize bytes. A
// passphrase gives an argon2id slot, and in FIPS mode a PBKDF2 slot; both cost
// about a second.
func NewSlot(k *KSK, u UnlockKey, store string) ([]byte, error) {
	switch {
	case !u.isPassphrase():
		return newSlot(k, u, store, slotParams{SlotFile, cost{}})
	case fips140.Enabled():
		return newSlot(k, u, store, slotParams{SlotPBKDF2, costPBKDF2})
	}
	return newSlot(k, u, store, slotParams{SlotArgon2id, costArgon2id})
}

type slotParams struct {
	kind SlotKind
	cost cost
}

func newSlot(k *KSK, u UnlockKey, store string, p slotParams) ([]byte, error) {
	if store == "" || u.secret == nil {
		return nil, fmt.Errorf("%w: unlock slot without a store or an unlock key", keystore.ErrInvalid)
	}
	slot := append(make([]byte, 0, SlotSize), slotMark, byte(p.kind))
	slot = binary.BigEndian.AppendUint32(slot, p.cost.p1)
	slot = binary.BigEndian.AppendUint32(slot, p.cost.p2)
	slot = append(slot, p.cost.p3)
	slot = slot[:slotHeader]
	rand.Read(slot[slotHeader-saltSize:]) // never fails: the program ends instead
	kek, err := p.derive(u, slot[slotHeader-saltSize:])
	if err != nil {
		return nil, err
	}
	defer clear(kek)
	aead, err := newAEAD(kek)
	if err != nil {
		return nil, err
	}
	return slot, k.secret.Use(func(secret []byte) error {
		slot = aead.Seal(slot, nil, secret, bindSlot(slot, store))
		return nil
	})
}

func bindSlot(header []byte, store string) []byte {
	return appendString(bytes.Clone(header), store)
}

// derive gives the 32-byte key that wraps the KSK.
func (p slotParams) derive(u UnlockKey, salt []byte) ([]byte, error) {
	switch p.kind {
	case SlotArgon2id:
		if fips140.Enabled() {
			return nil, &NotApprovedError{Kind: p.kind}
		}
		return argon2.IDKey(u.secret(), salt, p.cost.p1, p.cost.p2, p.cost.p3, 32), nil
	case SlotPBKDF2:
		return pbkdf2.Key(sha512.New, string(u.secret()), salt, int(p.cost.p1), 32)
	default:
		return hkdf.Expand(sha256.New, u.secret(), "kw1 slot"+string(salt), 32)
	}
}

// parseSlot reads a slot's header. The error wraps keystore.ErrInvalid.
func parseSlot(slot []byte) (slotParams, error) {
	if len(slot) != SlotSize || slot[0] != slotMark {
		return slotParams{}, fmt.Errorf("%w: not an unlock slot of %d bytes", keystore.ErrInvalid, SlotSize)
	}
	p := slotParams{SlotKind(slot[1]), cost{
		binary.BigEndian.Uint32(slot[2:]), binary.BigEndian.Uint32(slot[6:]), slot[10],
	}}
	return p, p.cost.check(p.kind)
}

// KindOf reads which kind of slot this is. The error wraps keystore.ErrInvalid.
func KindOf(slot []byte) (SlotKind, error) {
	p, err := parseSlot(slot)
	return p.kind, err
}

// OpenSlot opens one slot of the store of this name. A slot that u does not open is
// a *WrongKeyError; an argon2id slot in FIPS mode is a *NotApprovedError; what is no
// slot wraps keystore.ErrInvalid. A server starts with Unlock, which also checks
// that it is the KSK that the store names.
func OpenSlot(slot []byte, u UnlockKey, store string) (*KSK, error) {
	p, err := parseSlot(slot)
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", store, err)
	}
	if u.secret == nil {
		return nil, fmt.Errorf("store %s: %w: no unlock key", store, keystore.ErrInvalid)
	}
	wrong := &WrongKeyError{Unlock: u.what, Path: u.path, Store: store, Slots: []SlotKind{p.kind}}
	if u.isPassphrase() == (p.kind == SlotFile) {
		return nil, wrong
	}
	kek, err := p.derive(u, slot[slotHeader-saltSize:slotHeader])
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", store, err)
	}
	defer clear(kek)
	aead, err := newAEAD(kek)
	if err != nil {
		return nil, err
	}
	wrong.Tried = true
	secret, err := aead.Open(nil, nil, slot[slotHeader:], bindSlot(slot[:slotHeader], store))
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

// MaxSlots is the most slots that Unlock looks at: each passphrase slot may cost
// seconds, and slots come from the ledger.
const MaxSlots = 16

// Unlock opens the key store key want of the store of this name by the first of its
// slots that u opens. Slots that cannot be read, or are of a kind unknown here, do
// not stop it from trying the others.
//
// If none opens, the error says why of each: a *WrongKeyError, also when the slot
// that opened holds another KSK, or a *NotApprovedError when only slots were left
// that FIPS mode does not allow.
func Unlock(want keystore.KID, slots [][]byte, u UnlockKey, store string) (*KSK, error) {
	if len(slots) > MaxSlots {
		return nil, fmt.Errorf("store %s: %w: %d unlock slots; at most %d are allowed", store, keystore.ErrInvalid, len(slots), MaxSlots)
	}
	wrong := &WrongKeyError{Unlock: u.what, Path: u.path, Store: store, Want: want}
	var others []error
	notApproved := false
	for _, slot := range slots {
		k, err := OpenSlot(slot, u, store)
		if err == nil && k.ID() == want {
			return k, nil
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
		notApproved = notApproved || errors.Is(err, ErrNotApproved)
		others = append(others, err)
	}
	if notApproved && !wrong.Tried {
		return nil, errors.Join(others...)
	}
	return nil, errors.Join(append([]error{wrong}, others...)...)
}
