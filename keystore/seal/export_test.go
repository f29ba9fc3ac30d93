package seal

import "github.com/keytide/keytide/keystore"

// KSKOf is the key store key of these bytes.
func KSKOf(secret keystore.Material) (*KSK, error) { return newKSK(secret) }

// CheapSlot is NewSlot for a passphrase at the least cost that a slot may have.
func CheapSlot(k *KSK, u UnlockKey, store string, kind SlotKind) ([]byte, error) {
	p := slotParams{kind: kind, cost: cost{p1: 3, p2: 64 * 1024, p3: 4}}
	if kind == SlotPBKDF2 {
		p.cost = cost{p1: 210_000}
	}
	prepared, err := prepare(u, p)
	if err != nil {
		return nil, err
	}
	return k.Slot(prepared, store)
}

// KSKBytes is what printing must never show of a key store key.
func KSKBytes(k *KSK) []byte {
	var b []byte
	k.secret.Use(func(secret []byte) error { b = append(b, secret...); return nil })
	return b
}

// UnlockBytes is what printing must never show of an unlock key.
func UnlockBytes(u UnlockKey) []byte { return u.secret() }
