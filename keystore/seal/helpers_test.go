package seal_test

import (
	"crypto/fips140"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/seal"
)

const passphrase = "correct horse battery staple"

// bytesFrom is 32 bytes that count up from first.
func bytesFrom(first byte) []byte {
	b := make([]byte, 32)
	for i := range b {
		b[i] = first + byte(i)
	}
	return b
}

func material(tb testing.TB, first byte) keystore.Material {
	tb.Helper()
	m, err := keystore.NewMaterial(bytesFrom(first))
	if err != nil {
		tb.Fatalf("NewMaterial: %v", err)
	}
	return m
}

func kskFrom(tb testing.TB, first byte) *seal.KSK {
	tb.Helper()
	k, err := seal.KSKOf(material(tb, first))
	if err != nil {
		tb.Fatalf("KSKOf: %v", err)
	}
	return k
}

// secretFile makes a secret file of this name in a directory of the test.
func secretFile(tb testing.TB, name, content string) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

func fileKey(tb testing.TB, first byte) seal.UnlockKey {
	tb.Helper()
	u, err := seal.FileKey(secretFile(tb, "unlock.key", hex.EncodeToString(bytesFrom(first))+"\n"))
	if err != nil {
		tb.Fatalf("FileKey: %v", err)
	}
	return u
}

func phrase(tb testing.TB, text string) seal.UnlockKey {
	tb.Helper()
	u, err := seal.Passphrase(secretFile(tb, "passphrase", text+"\n"))
	if err != nil {
		tb.Fatalf("Passphrase: %v", err)
	}
	return u
}

// passphraseKind is the kind of slot that a passphrase gets here.
func passphraseKind() seal.SlotKind {
	if fips140.Enabled() {
		return seal.SlotPBKDF2
	}
	return seal.SlotArgon2id
}

func cheapSlot(tb testing.TB, k *seal.KSK, u seal.UnlockKey, store string) []byte {
	tb.Helper()
	slot, err := seal.CheapSlot(k, u, store, passphraseKind())
	if err != nil {
		tb.Fatalf("CheapSlot: %v", err)
	}
	return slot
}

func fileSlot(tb testing.TB, k *seal.KSK, u seal.UnlockKey, store string) []byte {
	tb.Helper()
	slot, err := seal.NewSlot(k, u, store)
	if err != nil {
		tb.Fatalf("NewSlot: %v", err)
	}
	return slot
}

// place is where the material that counts up from first belongs.
func place(tb testing.TB, first byte) seal.Place {
	tb.Helper()
	return seal.Place{
		Store: "main", Owner: "ring:sso", KID: material(tb, first).KID(), Generation: 7,
		Purpose: seal.PurposeDynamic, Alg: seal.AlgHKDFSHA256,
		Created: time.Date(2026, 11, 22, 2, 30, 0, 123e6, time.UTC),
	}
}

func sealed(tb testing.TB, k *seal.KSK, first byte) []byte {
	tb.Helper()
	rec, err := k.Seal(place(tb, first), material(tb, first))
	if err != nil {
		tb.Fatalf("Seal: %v", err)
	}
	return rec
}
