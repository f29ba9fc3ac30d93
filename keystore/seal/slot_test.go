package seal_test

import (
	"bytes"
	"crypto/fips140"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/seal"
)

func TestFileSlot(t *testing.T) {
	k, u := seal.NewKSK(), fileKey(t, 1)
	slot := fileSlot(t, k, u, "main")
	if kind, _, err := seal.KindOf(slot); len(slot) != seal.SlotSize || kind != seal.SlotFile || err != nil {
		t.Fatalf("NewSlot = %d bytes of kind %v, %v; want %d of kind file", len(slot), kind, err, seal.SlotSize)
	}
	got, err := seal.OpenSlot(slot, u, "main")
	if err != nil || got.ID() != k.ID() {
		t.Fatalf("OpenSlot = %v, %v; want %v", got, err, k)
	}
	// The key that comes out is the one that went in: it opens what that sealed.
	if _, err := got.Open(place(t, 0x80), sealed(t, k, 0x80)); err != nil {
		t.Errorf("Open under the opened key: %v", err)
	}
}

func TestPassphraseSlot(t *testing.T) {
	k, u := seal.NewKSK(), phrase(t, passphrase)
	slot, err := seal.NewSlot(k, u, "main")
	if err != nil {
		t.Fatalf("NewSlot: %v", err)
	}
	if kind, _, err := seal.KindOf(slot); kind != passphraseKind() || err != nil {
		t.Errorf("KindOf = %v, %v; want %v", kind, err, passphraseKind())
	}
	want := []uint32{3, 256 * 1024}
	if fips140.Enabled() {
		want = []uint32{1_000_000, 0}
	}
	if p1, p2 := binary.BigEndian.Uint32(slot[2:]), binary.BigEndian.Uint32(slot[6:]); p1 != want[0] || p2 != want[1] {
		t.Errorf("parameters = %d, %d; want %v", p1, p2, want)
	}
	if got, err := seal.OpenSlot(slot, u, "main"); err != nil || got.ID() != k.ID() {
		t.Errorf("OpenSlot = %v, %v; want %v", got, err, k)
	}
}

// TestPBKDF2SlotOpensEverywhere: a slot made in FIPS mode opens outside it too.
func TestPBKDF2SlotOpensEverywhere(t *testing.T) {
	k, u := seal.NewKSK(), phrase(t, passphrase)
	slot, err := seal.CheapSlot(k, u, "main", seal.SlotPBKDF2)
	if err != nil {
		t.Fatalf("CheapSlot: %v", err)
	}
	if got, err := seal.OpenSlot(slot, u, "main"); err != nil || got.ID() != k.ID() {
		t.Errorf("OpenSlot = %v, %v; want %v", got, err, k)
	}
}

// TestWrongKeyMessages pins the words in which a start with a wrong unlock key ends:
// which file, which store, which key store key.
func TestWrongKeyMessages(t *testing.T) {
	k, other := kskFrom(t, 0x40), kskFrom(t, 0x41)
	right, wrong := fileKey(t, 1), fileKey(t, 2)
	words, wrongWords := phrase(t, passphrase), phrase(t, passphrase+"!")
	onFile, onWords := fileSlot(t, k, right, "main"), cheapSlot(t, k, words, "main")
	kind := passphraseKind()
	main := fmt.Sprintf("does not open the key store key %v of store main", k.ID())
	tests := []struct {
		name  string
		u     seal.UnlockKey
		slots [][]byte
		want  string
		hint  string
	}{
		{"file", wrong, [][]byte{onFile}, fmt.Sprintf("%v %s (file slot): its key is another, or the slot was changed", wrong, main),
			"name the unlock file with which store main was made"},
		{"passphrase", wrongWords, [][]byte{onWords}, fmt.Sprintf("%v %s (%v slot): the passphrase is another, or the slot was changed", wrongWords, main, kind),
			"name the passphrase file with which store main was made"},
		{"passphrase for a file", words, [][]byte{onFile}, fmt.Sprintf("%v %s: that has no slot of its kind, only file slot", words, main),
			"store main is unlocked by a 32-byte file"},
		{"file for a passphrase", right, [][]byte{onWords}, fmt.Sprintf("%v %s: that has no slot of its kind, only %v slot", right, main, kind),
			"store main is unlocked by a passphrase"},
		{"no slots", right, nil, fmt.Sprintf("%v %s: it has no unlock slot", right, main), "name the unlock file"},
		{"both kinds", wrong, [][]byte{onWords, onFile}, fmt.Sprintf("%v %s (%v, file slot): its key is another, or the slot was changed", wrong, main, kind), "name the unlock file"},
		{"another store's slot", right, [][]byte{fileSlot(t, k, right, "test")}, fmt.Sprintf("%v %s (file slot): its key is another", right, main), "name the unlock file"},
		{"another KSK", right, [][]byte{fileSlot(t, other, right, "main")}, fmt.Sprintf("%v %s: it opens key store key %v", right, main, other.ID()),
			"or the directory of the store that"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := seal.Unlock(k.ID(), tt.slots, tt.u, "main")
			e, ok := errors.AsType[*seal.WrongKeyError](err)
			if got != nil || !ok || !errors.Is(err, seal.ErrWrongKey) {
				t.Fatalf("Unlock = %v, %v; want a WrongKeyError", got, err)
			}
			if !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("message:\n%v\nwant\n%s", err, tt.want)
			}
			if !strings.Contains(e.Hint(), tt.hint) {
				t.Errorf("hint = %q, want %q in it", e.Hint(), tt.hint)
			}
		})
	}
}

func TestUnlockTriesEverySlot(t *testing.T) {
	k, u := kskFrom(t, 0x40), fileKey(t, 1)
	good := fileSlot(t, k, u, "main")
	later := bytes.Clone(good)
	later[1] = 5 // a kind that this program does not know
	broken := good[:20]
	got, err := seal.Unlock(k.ID(), [][]byte{later, broken, fileSlot(t, k, fileKey(t, 2), "main"), good}, u, "main")
	if err != nil || got.ID() != k.ID() {
		t.Errorf("Unlock = %v, %v; want it opened by the last slot", got, err)
	}
	_, err = seal.Unlock(k.ID(), [][]byte{later, broken}, u, "main")
	for _, want := range []string{"unknown kind of unlock slot 5", "not an unlock slot of 87 bytes"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Unlock = %v, want %q in it", err, want)
		}
	}
	if _, err := seal.Unlock(k.ID(), make([][]byte, seal.MaxSlots+1), u, "main"); !errors.Is(err, keystore.ErrInvalid) {
		t.Errorf("Unlock of too many slots = %v, want ErrInvalid", err)
	}
}

// TestOpenSlotEveryChange changes every bit of a slot, cuts it at every length and
// extends it.
func TestOpenSlotEveryChange(t *testing.T) {
	u := fileKey(t, 1)
	slot := fileSlot(t, seal.NewKSK(), u, "main")
	for i := range slot {
		for bit := range 8 {
			changed := bytes.Clone(slot)
			changed[i] ^= 1 << bit
			if _, err := seal.OpenSlot(changed, u, "main"); err == nil {
				t.Errorf("byte %d, bit %d: OpenSlot succeeded", i, bit)
			}
		}
	}
	for n := range slot {
		if _, err := seal.OpenSlot(slot[:n], u, "main"); !errors.Is(err, keystore.ErrInvalid) {
			t.Errorf("cut to %d bytes: OpenSlot = %v, want ErrInvalid", n, err)
		}
	}
	if _, err := seal.OpenSlot(append(bytes.Clone(slot), 0), u, "main"); !errors.Is(err, keystore.ErrInvalid) {
		t.Errorf("extended: OpenSlot = %v, want ErrInvalid", err)
	}
}

// TestPassphraseSlotHeader changes the header bytes that steer the derivation, one at
// a time, and one of the salt.
func TestPassphraseSlotHeader(t *testing.T) {
	u := phrase(t, passphrase)
	for _, kind := range []seal.SlotKind{passphraseKind(), seal.SlotPBKDF2} {
		slot, err := seal.CheapSlot(seal.NewKSK(), u, "main", kind)
		if err != nil {
			t.Fatalf("CheapSlot: %v", err)
		}
		for i := range 12 {
			changed := bytes.Clone(slot)
			changed[i] ^= 1
			if _, err := seal.OpenSlot(changed, u, "main"); err == nil {
				t.Errorf("%v: byte %d: OpenSlot succeeded", kind, i)
			}
		}
	}
}

// TestSlotBounds: parameters below are a downgrade, above would stall the start. They
// are refused before anything is derived.
func TestSlotBounds(t *testing.T) {
	u := phrase(t, passphrase)
	tests := []struct {
		kind   seal.SlotKind
		p1, p2 uint32
		p3     byte
	}{
		{seal.SlotArgon2id, 2, 64 * 1024, 4},
		{seal.SlotArgon2id, 17, 64 * 1024, 4},
		{seal.SlotArgon2id, 3, 64*1024 - 1, 4},
		{seal.SlotArgon2id, 3, 1024*1024 + 1, 4},
		{seal.SlotArgon2id, 3, 64 * 1024, 0},
		{seal.SlotArgon2id, 3, 64 * 1024, 17},
		{seal.SlotPBKDF2, 209_999, 0, 0},
		{seal.SlotPBKDF2, 10_000_001, 0, 0},
		{seal.SlotPBKDF2, 0xffffffff, 0, 0},
		{seal.SlotPBKDF2, 1_000_000, 1, 0},
		{seal.SlotPBKDF2, 1_000_000, 0, 1},
		{seal.SlotFile, 1, 0, 0},
		{0, 0, 0, 0},
		{4, 0, 0, 0},
	}
	for _, tt := range tests {
		slot := make([]byte, seal.SlotSize)
		slot[0], slot[1], slot[10] = 'S', byte(tt.kind), tt.p3
		binary.BigEndian.PutUint32(slot[2:], tt.p1)
		binary.BigEndian.PutUint32(slot[6:], tt.p2)
		if _, err := seal.OpenSlot(slot, u, "main"); !errors.Is(err, keystore.ErrInvalid) {
			t.Errorf("OpenSlot of %v (%d, %d, %d) = %v, want ErrInvalid", tt.kind, tt.p1, tt.p2, tt.p3, err)
		}
	}
}

// TestFIPSGate: in FIPS mode an argon2id slot is refused, by name, before it is used;
// outside it is not.
func TestFIPSGate(t *testing.T) {
	u := phrase(t, passphrase)
	slot := make([]byte, seal.SlotSize)
	slot[0], slot[1], slot[10] = 'S', byte(seal.SlotArgon2id), 4
	binary.BigEndian.PutUint32(slot[2:], 3)
	binary.BigEndian.PutUint32(slot[6:], 64*1024)
	_, err := seal.Unlock(keystore.KID{1}, [][]byte{slot}, u, "main")
	if got := errors.Is(err, seal.ErrNotApproved); got != fips140.Enabled() {
		t.Errorf("Unlock in FIPS mode %v = %v", fips140.Enabled(), err)
	}
	if got := errors.Is(err, seal.ErrWrongKey); got == fips140.Enabled() {
		t.Errorf("Unlock in FIPS mode %v = %v", fips140.Enabled(), err)
	}
}

func TestZeroUnlockKey(t *testing.T) {
	slot := fileSlot(t, seal.NewKSK(), fileKey(t, 1), "main")
	if _, err := seal.OpenSlot(slot, seal.UnlockKey{}, "main"); !errors.Is(err, keystore.ErrInvalid) {
		t.Errorf("OpenSlot = %v, want ErrInvalid", err)
	}
	if _, err := seal.NewSlot(seal.NewKSK(), seal.UnlockKey{}, "main"); !errors.Is(err, keystore.ErrInvalid) {
		t.Errorf("NewSlot = %v, want ErrInvalid", err)
	}
	if _, err := seal.FileKey(filepath.Join(t.TempDir(), "missing")); err == nil {
		t.Error("FileKey of a missing file succeeded")
	}
}

func FuzzOpenSlot(f *testing.F) {
	v := readVectors(f).Slots[0]
	u := v.unlockKey(f)
	f.Add([]byte(v.Slot))
	f.Add([]byte(v.Slot[:27]))
	f.Fuzz(func(t *testing.T, in []byte) {
		k, err := seal.OpenSlot(in, u, v.Store)
		if err == nil && !bytes.Equal(in, v.Slot) {
			t.Fatalf("OpenSlot of bytes that were never a slot gave %v", k)
		}
		if err != nil && !errors.Is(err, keystore.ErrInvalid) && !errors.Is(err, seal.ErrWrongKey) {
			t.Fatalf("OpenSlot = %v, which is none of the errors promised", err)
		}
	})
}
