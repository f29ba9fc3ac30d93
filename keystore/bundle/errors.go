package bundle

import (
	"errors"
	"fmt"

	"github.com/keytide/keytide/keystore"
)

var (
	// ErrMalformed: not a bundle, or one that is beyond the limits. Wraps
	// keystore.ErrInvalid.
	ErrMalformed = fmt.Errorf("%w: not a bundle of keys", keystore.ErrInvalid)
	// ErrNotOpened: the passphrase or private key does not open the bundle, or a byte
	// of it was changed; which of them, nobody can tell.
	ErrNotOpened = errors.New("the bundle does not open")
	// ErrSignature: the signature is not that of the key which the bundle names.
	ErrSignature = errors.New("the bundle's signature is wrong")
)

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
}

// An OpenError says why a bundle does not open, and what next. It wraps ErrNotOpened.
type OpenError struct {
	Lock string // "passphrase" or "recipient"
	Want string // of a recipient: the fingerprint of the key that the bundle is for
	Have string // of a recipient: the fingerprint of the key at hand
}

func (e *OpenError) Error() string {
	switch {
	case e.Lock == passphraseLock && e.Have != "":
		return ErrNotOpened.Error() + ": it was closed with a passphrase, not for a recipient"
	case e.Lock == recipientLock && e.Have == "":
		return ErrNotOpened.Error() + ": it was closed for recipient " + e.Want + ", not with a passphrase"
	case e.Want != e.Have:
		return fmt.Sprintf("%v: it was closed for recipient %s, and this is the key of %s", ErrNotOpened, e.Want, e.Have)
	}
	return fmt.Sprintf("%v with this %s key: it is another, or the bundle was changed", ErrNotOpened, e.Lock)
}

// Hint says what next.
func (e *OpenError) Hint() string {
	if e.Lock == recipientLock {
		return "name the private key file that keytide recipient create made:  --recipient-key FILE"
	}
	return "name the file of the passphrase that the bundle was exported with:  --passphrase-file FILE"
}

func (e *OpenError) Unwrap() error { return ErrNotOpened }
