package seal_test

import (
	"bytes"
	"crypto/fips140"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"testing/cryptotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/seal"
)

var update = flag.Bool("update", false, "write testdata/vectors anew")

const vectorFile = "testdata/vectors/seal.json"

// hexBytes is hexadecimal in JSON.
type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h), nil }
func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.AppendDecode(nil, text)
	return err
}

// vectors is the file that other implementations test themselves with. SPEC.md says
// what the fields are.
type vectors struct {
	Comment string         `json:"comment"`
	KSKs    []kskVector    `json:"ksks"`
	Records []recordVector `json:"records"`
	Slots   []slotVector   `json:"slots"`
	Refused []refusal      `json:"refused"`
}

type kskVector struct {
	KSK  hexBytes `json:"ksk"`
	ID   hexBytes `json:"id"`
	Wrap hexBytes `json:"wrapping_key"`
}

type recordVector struct {
	KSK        hexBytes `json:"ksk"`
	Store      string   `json:"store"`
	Owner      string   `json:"owner"`
	KID        hexBytes `json:"kid"`
	Generation uint64   `json:"generation"`
	Purpose    uint8    `json:"purpose"`
	Alg        uint8    `json:"alg"`
	Created    int64    `json:"created_ms"`
	AAD        hexBytes `json:"associated_data"`
	Material   hexBytes `json:"material"`
	Record     hexBytes `json:"record"`
}

type slotVector struct {
	Kind   uint8    `json:"kind"`
	Unlock hexBytes `json:"unlock_key"` // the file's 32 bytes, or the passphrase's UTF-8
	Store  string   `json:"store"`
	KEK    hexBytes `json:"wrapping_key"`
	AAD    hexBytes `json:"associated_data"`
	KSK    hexBytes `json:"ksk"`
	Slot   hexBytes `json:"slot"`
}

// A refusal is a changed copy of the first record or the first slot: no
// implementation may open it.
type refusal struct {
	Why    string   `json:"why"`
	Record hexBytes `json:"record,omitempty"`
	Slot   hexBytes `json:"slot,omitempty"`
}

func (v recordVector) place() seal.Place {
	return seal.Place{
		Store: v.Store, Owner: v.Owner, KID: keystore.KID(v.KID), Generation: v.Generation,
		Purpose: seal.Purpose(v.Purpose), Alg: seal.Alg(v.Alg), Created: time.UnixMilli(v.Created),
	}
}

func mustMaterial(tb testing.TB, secret []byte) keystore.Material {
	tb.Helper()
	m, err := keystore.NewMaterial(secret)
	if err != nil {
		tb.Fatalf("NewMaterial: %v", err)
	}
	return m
}

func mustKSK(tb testing.TB, secret []byte) *seal.KSK {
	tb.Helper()
	k, err := seal.KSKOf(mustMaterial(tb, secret))
	if err != nil {
		tb.Fatalf("KSKOf: %v", err)
	}
	return k
}

func (v slotVector) unlockKey(tb testing.TB) seal.UnlockKey {
	tb.Helper()
	if seal.SlotKind(v.Kind) != seal.SlotFile {
		return phrase(tb, string(v.Unlock))
	}
	u, err := seal.FileKey(secretFile(tb, "unlock.key", string(v.Unlock)))
	if err != nil {
		tb.Fatalf("FileKey: %v", err)
	}
	return u
}

func readVectors(t testing.TB) vectors {
	t.Helper()
	text, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatalf("%s: %v", vectorFile, err)
	}
	return v
}

// TestVectors opens every vector with the package, and takes each apart anew, by
// SPEC.md alone.
func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	v := readVectors(t)
	if len(v.KSKs) == 0 || len(v.Records) == 0 || len(v.Slots) == 0 || len(v.Refused) == 0 {
		t.Fatalf("%s has an empty part", vectorFile)
	}
	for _, k := range v.KSKs {
		if diff := cmp.Diff(k, specKSK(t, k.KSK)); diff != "" {
			t.Errorf("ksk (-file +spec):\n%s", diff)
		}
		if got := mustKSK(t, k.KSK).ID(); !bytes.Equal(got[:], k.ID) {
			t.Errorf("ID = %v, want %x", got, []byte(k.ID))
		}
	}
	for i, r := range v.Records {
		if diff := cmp.Diff(r, specRecord(t, r)); diff != "" {
			t.Errorf("record %d (-file +spec):\n%s", i, diff)
		}
		m, err := mustKSK(t, r.KSK).Open(r.place(), r.Record)
		if err != nil || m.KID() != keystore.KID(r.KID) {
			t.Errorf("record %d: Open = key %v, %v; want %x", i, m.KID(), err, []byte(r.KID))
		}
	}
	for i, s := range v.Slots {
		k, err := seal.OpenSlot(s.Slot, s.unlockKey(t), s.Store)
		if fips140.Enabled() && seal.SlotKind(s.Kind) == seal.SlotArgon2id {
			if !errors.Is(err, seal.ErrNotApproved) {
				t.Errorf("slot %d: OpenSlot in FIPS mode = %v, want ErrNotApproved", i, err)
			}
			continue
		}
		if err != nil || k.ID() != mustKSK(t, s.KSK).ID() {
			t.Errorf("slot %d: OpenSlot = %v, %v", i, k, err)
		}
		if diff := cmp.Diff(s, specSlot(t, s)); diff != "" {
			t.Errorf("slot %d (-file +spec):\n%s", i, diff)
		}
	}
}

func TestVectorsRefused(t *testing.T) {
	v := readVectors(t)
	record, slot := v.Records[0], v.Slots[0]
	for _, r := range v.Refused {
		if r.Record != nil {
			if _, err := mustKSK(t, record.KSK).Open(record.place(), r.Record); err == nil {
				t.Errorf("record, %s: Open succeeded", r.Why)
			}
		}
		if r.Slot != nil {
			if _, err := seal.OpenSlot(r.Slot, slot.unlockKey(t), slot.Store); err == nil {
				t.Errorf("slot, %s: OpenSlot succeeded", r.Why)
			}
		}
	}
}

func writeVectors(t *testing.T) {
	t.Helper()
	if fips140.Enabled() {
		t.Fatal("-update wants a run outside FIPS mode: there are argon2id slots to make")
	}
	cryptotest.SetGlobalRandom(t, 1)
	ksk := bytesFrom(0)
	v := vectors{
		Comment: "Sealed records and unlock slots: see keystore/seal/SPEC.md. Bytes are hexadecimal. The keys are for tests only.",
		KSKs:    []kskVector{specKSK(t, ksk), specKSK(t, bytesFrom(0xc0))},
	}
	for i, r := range []recordVector{
		{Store: "main", Owner: "ring:sso", Generation: 1, Purpose: 1, Alg: 1, Created: 1795300200123},
		{Store: "main", Owner: "ring:sso", Generation: 42, Purpose: 2, Alg: 1, Created: 1795300200123},
		{Store: "main", Owner: "host:web-1", Generation: 3, Purpose: 4, Alg: 1, Created: 1},
		{Store: "main", Owner: "member", Generation: 1, Purpose: 5, Alg: 1, Created: 1795300200000},
		{Store: "a", Owner: "server:ps-1", Generation: 1<<53 - 1, Purpose: 6, Alg: 2, Created: 1<<53 - 1},
	} {
		r.KSK, r.Material = ksk, bytesFrom(byte(0x20+0x20*i))
		m := mustMaterial(t, r.Material)
		kid := m.KID()
		r.KID = kid[:]
		rec, err := mustKSK(t, ksk).Seal(r.place(), m)
		if err != nil {
			t.Fatalf("Seal: %v", err)
		}
		r.Record = rec
		v.Records = append(v.Records, specRecord(t, r))
	}
	for _, s := range []slotVector{
		{Kind: 3, Unlock: bytesFrom(0x60)},
		{Kind: 2, Unlock: []byte("correct horse battery staple")},
		{Kind: 1, Unlock: []byte("correct horse battery staple")},
		{Kind: 1, Unlock: []byte("żółta łódź podwodna")},
	} {
		s.KSK, s.Store = ksk, "main"
		v.Slots = append(v.Slots, makeSlot(t, s))
	}
	v.Refused = makeRefused(v.Records[0].Record, v.Slots[0].Slot)
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(vectorFile), 0o755), os.WriteFile(vectorFile, append(text, '\n'), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func makeSlot(t *testing.T, s slotVector) slotVector {
	t.Helper()
	k, u := mustKSK(t, s.KSK), s.unlockKey(t)
	slot, err := seal.CheapSlot(k, u, s.Store, seal.SlotKind(s.Kind))
	if seal.SlotKind(s.Kind) == seal.SlotFile {
		slot, err = seal.NewSlot(k, u, s.Store)
	}
	if err != nil {
		t.Fatalf("slot of kind %d: %v", s.Kind, err)
	}
	s.Slot = slot
	return specSlot(t, s)
}

func makeRefused(record, slot []byte) []refusal {
	change := func(b []byte, at int) hexBytes {
		c := bytes.Clone(b)
		c[at] ^= 1
		return c
	}
	return []refusal{
		{Why: "another mark", Record: change(record, 0)},
		{Why: "another format", Record: change(record, 1)},
		{Why: "another KSK id", Record: change(record, 9)},
		{Why: "nonce changed", Record: change(record, 10)},
		{Why: "ciphertext changed", Record: change(record, 22)},
		{Why: "tag changed", Record: change(record, 69)},
		{Why: "a byte too few", Record: record[:69]},
		{Why: "a byte too many", Record: append(bytes.Clone(record), 0)},
		{Why: "another mark", Slot: change(slot, 0)},
		{Why: "another kind", Slot: change(slot, 1)},
		{Why: "a parameter that a file slot does not have", Slot: change(slot, 5)},
		{Why: "salt changed", Slot: change(slot, 11)},
		{Why: "nonce changed", Slot: change(slot, 27)},
		{Why: "ciphertext changed", Slot: change(slot, 39)},
		{Why: "tag changed", Slot: change(slot, 86)},
		{Why: "a byte too few", Slot: slot[:86]},
	}
}
