package seal_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/seal"
)

func TestSealOpen(t *testing.T) {
	k := seal.NewKSK()
	m := seal.Generate()
	p := place(t, 0)
	p.KID = m.KID()
	rec, err := k.Seal(p, m)
	if err != nil || len(rec) != seal.RecordSize {
		t.Fatalf("Seal = %d bytes, %v; want %d", len(rec), err, seal.RecordSize)
	}
	if id, err := seal.RecordKSK(rec); err != nil || id != k.ID() {
		t.Errorf("RecordKSK = %v, %v; want %v", id, err, k.ID())
	}
	got, err := k.Open(p, rec)
	if err != nil || got.KID() != m.KID() {
		t.Errorf("Open = key %v, %v; want %v", got.KID(), err, m.KID())
	}
	again, err := k.Seal(p, m)
	if err != nil || bytes.Equal(rec, again) {
		t.Errorf("sealing twice gave the same bytes, or %v", err)
	}
}

// TestOpenElsewhere opens a record at places that differ in one field each.
func TestOpenElsewhere(t *testing.T) {
	k := kskFrom(t, 0x40)
	rec := sealed(t, k, 0x80)
	edits := map[string]func(*seal.Place){
		"store":      func(p *seal.Place) { p.Store = "test" },
		"owner":      func(p *seal.Place) { p.Owner = "ring:app" },
		"shifted":    func(p *seal.Place) { p.Store, p.Owner = "mainr", "ing:sso" },
		"kid":        func(p *seal.Place) { p.KID[7] ^= 1 },
		"generation": func(p *seal.Place) { p.Generation++ },
		"purpose":    func(p *seal.Place) { p.Purpose = seal.PurposeStatic },
		"alg":        func(p *seal.Place) { p.Alg = seal.AlgEd25519 },
		"created":    func(p *seal.Place) { p.Created = p.Created.Add(time.Millisecond) },
	}
	for name, edit := range edits {
		p := place(t, 0x80)
		edit(&p)
		_, err := k.Open(p, rec)
		if _, ok := errors.AsType[*seal.RecordError](err); !ok || !errors.Is(err, seal.ErrNotAuthentic) {
			t.Errorf("%s: Open = %v, want a RecordError", name, err)
		}
	}
	p := place(t, 0x80)
	p.Created = p.Created.Add(999 * time.Microsecond).In(time.FixedZone("", 3600))
	if _, err := k.Open(p, rec); err != nil {
		t.Errorf("Open with the same millisecond in another zone = %v, want nil", err)
	}
}

func TestOpenUnderAnotherKSK(t *testing.T) {
	a, b := kskFrom(t, 0x40), kskFrom(t, 0x41)
	_, err := b.Open(place(t, 0x80), sealed(t, a, 0x80))
	want := fmt.Sprintf("key %v of ring:sso in store main is sealed under key store key %v, not under %v", place(t, 0x80).KID, a.ID(), b.ID())
	if !errors.Is(err, seal.ErrWrongKey) || err.Error() != want {
		t.Errorf("Open = %v, want %s", err, want)
	}
}

// TestOpenEveryChange changes every bit of a record, cuts it at every length and
// extends it.
func TestOpenEveryChange(t *testing.T) {
	k := kskFrom(t, 0x40)
	p, rec := place(t, 0x80), sealed(t, k, 0x80)
	for i := range rec {
		for bit := range 8 {
			changed := bytes.Clone(rec)
			changed[i] ^= 1 << bit
			if m, err := k.Open(p, changed); err == nil || !m.IsZero() {
				t.Errorf("byte %d, bit %d: Open = %v, want an error and no material", i, bit, err)
			}
		}
	}
	for n := range rec {
		if _, err := k.Open(p, rec[:n]); !errors.Is(err, keystore.ErrInvalid) {
			t.Errorf("cut to %d bytes: Open = %v, want ErrInvalid", n, err)
		}
	}
	if _, err := k.Open(p, append(bytes.Clone(rec), 0)); !errors.Is(err, keystore.ErrInvalid) {
		t.Errorf("extended: Open = %v, want ErrInvalid", err)
	}
}

func TestSealRefuses(t *testing.T) {
	k := kskFrom(t, 0x40)
	edits := map[string]func(*seal.Place){
		"has no store or owner":           func(p *seal.Place) { p.Store = "" },
		"store or owner":                  func(p *seal.Place) { p.Owner = "" },
		"has no kid":                      func(p *seal.Place) { p.KID = keystore.KID{} },
		"bytes are those of key":          func(p *seal.Place) { p.KID[0] ^= 1 },
		"has no purpose or algorithm":     func(p *seal.Place) { p.Purpose = 0 },
		"no purpose or algorithm":         func(p *seal.Place) { p.Alg = 0 },
		"was created before 1970, or has": func(p *seal.Place) { p.Created = time.Time{} },
	}
	for want, edit := range edits {
		p := place(t, 0x80)
		edit(&p)
		rec, err := k.Seal(p, material(t, 0x80))
		if rec != nil || !errors.Is(err, keystore.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("Seal = %d bytes, %v; want ErrInvalid with %q", len(rec), err, want)
		}
	}
	if _, err := k.Seal(place(t, 0x80), keystore.Material{}); err == nil {
		t.Error("Seal of no material succeeded")
	}
}

func TestSealOpenProperty(t *testing.T) {
	k := kskFrom(t, 0x40)
	rapid.Check(t, func(rt *rapid.T) {
		m := material(t, rapid.Byte().Draw(rt, "material"))
		p := seal.Place{
			Store: rapid.StringN(1, 63, -1).Draw(rt, "store"), Owner: rapid.StringN(1, 80, -1).Draw(rt, "owner"),
			KID: m.KID(), Generation: rapid.Uint64().Draw(rt, "generation"),
			Purpose: seal.Purpose(rapid.ByteRange(1, 255).Draw(rt, "purpose")),
			Alg:     seal.Alg(rapid.ByteRange(1, 255).Draw(rt, "alg")),
			Created: time.UnixMilli(rapid.Int64Range(1, 1<<48).Draw(rt, "created")),
		}
		rec, err := k.Seal(p, m)
		if err != nil {
			rt.Fatalf("Seal: %v", err)
		}
		if got, err := k.Open(p, rec); err != nil || got.KID() != m.KID() {
			rt.Fatalf("Open = %v, %v; want %v", got.KID(), err, m.KID())
		}
	})
}

func FuzzOpen(f *testing.F) {
	// A vector, not a record sealed here: each process of a fuzzing run must know the
	// same one.
	v := readVectors(f).Records[0]
	k := mustKSK(f, v.KSK)
	f.Add([]byte(v.Record))
	f.Add([]byte(v.Record[:10]))
	f.Add([]byte{'W', 2})
	f.Fuzz(func(t *testing.T, in []byte) {
		m, err := k.Open(v.place(), in)
		if err == nil && !bytes.Equal(in, v.Record) {
			t.Fatalf("Open of bytes that were never sealed gave key %v", m.KID())
		}
		if err != nil && !errors.Is(err, keystore.ErrInvalid) && !errors.Is(err, seal.ErrNotAuthentic) && !errors.Is(err, seal.ErrWrongKey) {
			t.Fatalf("Open = %v, which is none of the errors promised", err)
		}
	})
}
