package seal_test

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"testing"

	"golang.org/x/crypto/argon2"

	"github.com/keytide/keytide/keystore/seal"
)

// This file is a second reading of SPEC.md, written apart from the package: it takes
// vectors apart with nothing but primitives, and fills in what they must say.

func specExpand(tb testing.TB, key []byte, label string, size int) []byte {
	tb.Helper()
	out, err := hkdf.Expand(sha256.New, key, label, size)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

func specKSK(tb testing.TB, ksk []byte) kskVector {
	tb.Helper()
	return kskVector{KSK: ksk, ID: specExpand(tb, ksk, "kw1 id", 8), Wrap: specExpand(tb, ksk, "kw1 wrap", 32)}
}

// specOpen opens nonce, ciphertext and tag.
func specOpen(tb testing.TB, key, box, aad []byte) []byte {
	tb.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		tb.Fatal(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		tb.Fatal(err)
	}
	plain, err := aead.Open(nil, nil, box, aad)
	if err != nil {
		tb.Errorf("by the specification, a vector does not open: %v", err)
	}
	return plain
}

func specString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

func specRecord(tb testing.TB, r recordVector) recordVector {
	tb.Helper()
	k := specKSK(tb, r.KSK)
	aad := append([]byte{'W', 1}, k.ID...)
	aad = specString(specString(aad, r.Store), r.Owner)
	aad = append(aad, specExpand(tb, r.Material, "kt1 kid", 8)...)
	aad = binary.BigEndian.AppendUint64(aad, r.Generation)
	aad = append(aad, r.Purpose, r.Alg)
	r.AAD = binary.BigEndian.AppendUint64(aad, uint64(r.Created))
	r.Material = specOpen(tb, k.Wrap, r.Record[10:70], r.AAD)
	return r
}

func specSlot(tb testing.TB, s slotVector) slotVector {
	tb.Helper()
	p1, p2, p3, salt := binary.BigEndian.Uint32(s.Slot[2:6]), binary.BigEndian.Uint32(s.Slot[6:10]), s.Slot[10], s.Slot[11:27]
	var err error
	switch seal.SlotKind(s.Kind) {
	case seal.SlotArgon2id:
		s.KEK = argon2.IDKey(s.Unlock, salt, p1, p2, p3, 32)
	case seal.SlotPBKDF2:
		s.KEK, err = pbkdf2.Key(sha512.New, string(s.Unlock), salt, int(p1), 32)
	case seal.SlotFile:
		s.KEK = specExpand(tb, s.Unlock, "kw1 slot"+string(salt), 32)
	}
	if err != nil {
		tb.Fatal(err)
	}
	s.AAD = specString(append([]byte{'S', s.Kind}, s.Slot[2:27]...), s.Store)
	s.KSK = specOpen(tb, s.KEK, s.Slot[27:87], s.AAD)
	return s
}
