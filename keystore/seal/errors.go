package seal

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/keytide/keytide/keystore"
)

var (
	// ErrWrongKey: an unlock key, or a key store key, that does not open what it
	// should.
	ErrWrongKey = errors.New("wrong key")
	// ErrNotAuthentic: a sealed record that is not the one sealed for its place.
	ErrNotAuthentic = errors.New("not authentic")
	// ErrNotApproved: an algorithm that FIPS mode does not allow.
	ErrNotApproved = errors.New("not approved in FIPS mode")
)

// WrongKeyError reports an unlock key that does not open a store's key store key.
// It wraps ErrWrongKey.
type WrongKeyError struct {
	Unlock string       // "unlock file", "passphrase file" or "KMS key"
	Path   string       // of that file, or the URL of that key
	Store  string       // the store's name
	Slots  []SlotKind   // the slots that it did not open
	Tried  bool         // one of them was of its own kind
	Want   keystore.KID // the KSK that the store names; zero = not known
	Found  keystore.KID // another KSK, which a slot held; zero = none
}

func (e *WrongKeyError) Error() string {
	ksk := "the key store key"
	if e.Want != (keystore.KID{}) {
		ksk += " " + e.Want.String()
	}
	head := fmt.Sprintf("%s %s does not open %s of store %s", e.Unlock, e.Path, ksk, e.Store)
	switch {
	case e.Found != keystore.KID{}:
		return fmt.Sprintf("%s: it opens key store key %s", head, e.Found)
	case len(e.Slots) == 0:
		return head + ": it has no unlock slot"
	case !e.Tried:
		return fmt.Sprintf("%s: that has no slot of its kind, only %s", head, kinds(e.Slots))
	case e.Unlock == passphraseFile:
		return fmt.Sprintf("%s (%s): the passphrase is another, or the slot was changed", head, kinds(e.Slots))
	}
	return fmt.Sprintf("%s (%s): its key is another, or the slot was changed", head, kinds(e.Slots))
}

// Hint says what next.
func (e *WrongKeyError) Hint() string {
	if !e.Tried && slices.Contains(e.Slots, SlotFile) {
		return fmt.Sprintf("store %s is unlocked by a 32-byte file: name that file as the unlock file", e.Store)
	}
	if !e.Tried && slices.Contains(e.Slots, SlotKMS) {
		return fmt.Sprintf("store %s is unlocked by a KMS key: name its URL as the unlock key (keytide slot list shows it)", e.Store)
	}
	if !e.Tried && len(e.Slots) > 0 {
		return fmt.Sprintf("store %s is unlocked by a passphrase: name its file as the passphrase file", e.Store)
	}
	return fmt.Sprintf("name the %s with which store %s was made, or the directory of the store that %s belongs to", e.Unlock, e.Store, e.Path)
}

func (e *WrongKeyError) Unwrap() error { return ErrWrongKey }

func kinds(slots []SlotKind) string {
	var words []string
	for _, k := range slots {
		if w := k.String(); !slices.Contains(words, w) {
			words = append(words, w)
		}
	}
	return strings.Join(words, ", ") + " slot"
}

// WrongKSKError reports a record that is sealed under another key store key. It
// wraps ErrWrongKey.
type WrongKSKError struct {
	Place      Place
	Have, Want keystore.KID // the KSK at hand, and the one that the record names
}

func (e *WrongKSKError) Error() string {
	return fmt.Sprintf("%v is sealed under key store key %s, not under %s", e.Place, e.Want, e.Have)
}
func (e *WrongKSKError) Unwrap() error { return ErrWrongKey }

// RecordError reports a record that is not the one sealed for its place: it was
// changed, moved from another place, or holds another key. It wraps ErrNotAuthentic.
type RecordError struct {
	Place Place
	KSK   keystore.KID
	Found keystore.KID // the key that it does hold; zero = the record does not open here
}

func (e *RecordError) Error() string {
	if e.Found != (keystore.KID{}) {
		return fmt.Sprintf("%v: the record holds key %s", e.Place, e.Found)
	}
	return fmt.Sprintf("%v: the record was changed, or sealed for another place (key store key %s)", e.Place, e.KSK)
}
func (e *RecordError) Unwrap() error { return ErrNotAuthentic }

// NotApprovedError reports an unlock slot that FIPS mode does not allow. It wraps
// ErrNotApproved.
type NotApprovedError struct {
	Kind SlotKind
}

func (e *NotApprovedError) Error() string {
	return fmt.Sprintf("%v slot: FIPS mode does not allow it", e.Kind)
}

// Hint says what next.
func (e *NotApprovedError) Hint() string {
	return "unlock with a 32-byte file, or with a passphrase whose slot was made in FIPS mode (pbkdf2-sha512)"
}
func (e *NotApprovedError) Unwrap() error { return ErrNotApproved }
