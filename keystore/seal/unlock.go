package seal

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"log/slog"
	"unicode"
	"unicode/utf8"

	"github.com/keytide/keytide/keystore/secretfile"
)

const (
	unlockKeySize = 32

	// MinPassphrase is the fewest characters that a passphrase may have.
	MinPassphrase = 14
	maxPassphrase = 1024 // bytes
)

// An UnlockKey opens unlock slots: the 32 bytes of a file, a passphrase, or a key that
// a key management service never gives away. It prints as the kind and path of its file,
// or the URL of its key.
type UnlockKey struct {
	what   string // "unlock file", "passphrase file" or "KMS key"
	path   string
	secret func() []byte // behind a func, where printing does not reach it; nil: a service's
	keeper Keeper        // of a key management service; nil: of none
}

func (u UnlockKey) isPassphrase() bool { return u.what == passphraseFile }

const (
	keyFile        = "unlock file"
	passphraseFile = "passphrase file"
	kmsKey         = "KMS key"
)

// FileKey reads an unlock key of 32 bytes from a secret file: as they are, or as 64
// hexadecimal digits or base64 on one line. It refuses what secretfile.Read refuses.
func FileKey(path string) (UnlockKey, error) {
	content, err := secretfile.Read(path)
	if err != nil {
		return UnlockKey{}, err
	}
	key := parseFileKey(content)
	if len(key) != unlockKeySize || bytes.Equal(key, make([]byte, unlockKeySize)) {
		return UnlockKey{}, &secretfile.Error{
			Path: path, Why: "does not hold 32 bytes (raw, hexadecimal or base64), or they are all zero",
			Next: "name the store's unlock file, or make one for a new store:  (umask 077; openssl rand -hex 32 >" + path + ")",
		}
	}
	return newUnlockKey(keyFile, path, key), nil
}

// parseFileKey returns something other than 32 bytes when content is no key. The
// three forms differ in length, so no content has two readings.
func parseFileKey(content []byte) []byte {
	if len(content) == unlockKeySize {
		return content
	}
	line := bytes.TrimSuffix(bytes.TrimSuffix(content, []byte("\n")), []byte("\r"))
	var key []byte
	var err error
	switch len(line) {
	case 64:
		key, err = hex.AppendDecode(nil, line)
	case 43:
		key, err = base64.RawURLEncoding.Strict().AppendDecode(nil, urlSafe(line))
	case 44:
		key, err = base64.URLEncoding.Strict().AppendDecode(nil, urlSafe(line))
	}
	if err != nil {
		return nil
	}
	return key
}

// urlSafe turns the standard base64 alphabet into the one for URLs.
func urlSafe(line []byte) []byte {
	return bytes.ReplaceAll(bytes.ReplaceAll(line, []byte("+"), []byte("-")), []byte("/"), []byte("_"))
}

// Passphrase reads a passphrase from a secret file: its one line, without the line
// ending, of MinPassphrase printable characters at least. It refuses what
// secretfile.Read refuses.
func Passphrase(path string) (UnlockKey, error) {
	line, err := ReadPassphrase(path)
	if err != nil {
		return UnlockKey{}, err
	}
	return newUnlockKey(passphraseFile, path, line), nil
}

// ReadPassphrase reads the line of a passphrase file, as Passphrase does.
func ReadPassphrase(path string) ([]byte, error) {
	content, err := secretfile.Read(path)
	if err != nil {
		return nil, err
	}
	line := bytes.TrimSuffix(bytes.TrimSuffix(content, []byte("\n")), []byte("\r"))
	if why := checkPassphrase(line); why != "" {
		return nil, &secretfile.Error{
			Path: path, Why: why,
			Next: fmt.Sprintf("put one line of %d printable characters or more into it; better, let one be generated", MinPassphrase),
		}
	}
	return line, nil
}

func checkPassphrase(line []byte) string {
	switch {
	case !utf8.Valid(line):
		return "is not UTF-8 text"
	case len(line) > maxPassphrase:
		return fmt.Sprintf("has a passphrase of more than %d bytes", maxPassphrase)
	case utf8.RuneCount(line) < MinPassphrase:
		return fmt.Sprintf("has a passphrase of fewer than %d characters", MinPassphrase)
	case bytes.ContainsFunc(line, unicode.IsControl):
		return "has more than one line, or control characters"
	}
	return ""
}

func newUnlockKey(what, path string, secret []byte) UnlockKey {
	held := bytes.Clone(secret)
	return UnlockKey{what: what, path: path, secret: func() []byte { return held }}
}

func (u UnlockKey) String() string             { return u.what + " " + u.path }
func (u UnlockKey) GoString() string           { return u.String() }
func (u UnlockKey) Format(f fmt.State, _ rune) { fmt.Fprint(f, u.String()) }
func (u UnlockKey) LogValue() slog.Value       { return slog.StringValue(u.String()) }

// MarshalJSON refuses.
func (u UnlockKey) MarshalJSON() ([]byte, error) {
	return nil, fmt.Errorf("seal: refusing to marshal the secret of %v", u)
}

// GenerateFileKey makes the content of an unlock file: 32 bytes of crypto/rand as a
// line of 64 hexadecimal digits.
func GenerateFileKey() []byte {
	var line []byte
	Generate().Use(func(secret []byte) error { // never fails: Generate gives material
		line = append(hex.AppendEncode(nil, secret), '\n')
		return nil
	})
	return line
}

// GeneratePassphrase makes the content of a passphrase file: a line of five groups
// of five letters and digits, 125 bits of crypto/rand.
func GeneratePassphrase() []byte {
	const alphabet = "0123456789abcdefghjkmnpqrstvwxyz" // 32, without i, l, o and u
	random := make([]byte, 25)
	rand.Read(random) // never fails: the program ends instead
	line := make([]byte, 0, 30)
	for i, b := range random {
		if i > 0 && i%5 == 0 {
			line = append(line, '-')
		}
		line = append(line, alphabet[b%32])
	}
	clear(random)
	return append(line, '\n')
}
