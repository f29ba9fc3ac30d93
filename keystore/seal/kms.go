package seal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keytide/keytide/keystore"
)

// A Keeper is a key at a key management service. Both methods return a *KMSError, or
// an error of ctx. They are safe for concurrent use.
type Keeper interface {
	Encrypt(ctx context.Context, plain []byte) ([]byte, error)
	Decrypt(ctx context.Context, blob []byte) ([]byte, error)
}

// KMSKey is an unlock key that a key management service keeps: url says which.
func KMSKey(url string, keeper Keeper) (UnlockKey, error) {
	if len(url) == 0 || len(url) > maxKMSURL || keeper == nil {
		return UnlockKey{}, fmt.Errorf("%w: URL of a KMS key of %d characters; want 1 to %d", keystore.ErrInvalid, len(url), maxKMSURL)
	}
	return UnlockKey{what: kmsKey, path: url, keeper: keeper}, nil
}

// kmsPatience is how long a key management service may take to answer.
const kmsPatience = 20 * time.Second

func (u UnlockKey) encrypt(m keystore.Material) (blob []byte, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), kmsPatience)
	defer cancel()
	err = m.Use(func(secret []byte) error {
		blob, err = u.keeper.Encrypt(ctx, secret)
		return err
	})
	if err == nil && (len(blob) == 0 || len(blob) > maxKMSBlob) {
		err = &KMSError{URL: u.path, Err: fmt.Errorf("it answers with %d bytes; want 1 to %d", len(blob), maxKMSBlob)}
	}
	return blob, err
}

func (u UnlockKey) decrypt(blob []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), kmsPatience)
	defer cancel()
	secret, err := u.keeper.Decrypt(ctx, blob)
	if err == nil && len(secret) != unlockKeySize {
		clear(secret)
		err = &KMSError{URL: u.path, Err: errors.New("what it decrypts is no unlock key")}
	}
	return secret, err
}

// ErrKMS: a key management service that does not do what it is asked for.
var ErrKMS = errors.New("key management service")

// KMSError reports that a key management service did not encrypt or decrypt. It
// wraps ErrKMS.
type KMSError struct {
	URL  string // of the key
	Gone bool   // the service answers that it does not have the key, or that the key is disabled
	Err  error
}

func (e *KMSError) Error() string {
	if e.Gone {
		return fmt.Sprintf("KMS key %s: the service does not have it any more, or it is disabled: %v", e.URL, e.Err)
	}
	return fmt.Sprintf("KMS key %s: the service does not answer as it should: %v", e.URL, e.Err)
}

// Hint says what next.
func (e *KMSError) Hint() string {
	if e.Gone {
		return "if it is scheduled for deletion, take that back there; otherwise start with another unlock key of the store (unlock in the configuration):\n" +
			"a key that is destroyed never comes back, and with the last unlock key the store is lost"
	}
	return "nothing is lost: when the service answers again, start again; or start with another unlock key of the store (unlock in the configuration)"
}

func (e *KMSError) Unwrap() []error { return []error{ErrKMS, e.Err} }
