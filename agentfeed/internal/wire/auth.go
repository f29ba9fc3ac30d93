package wire

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/keytide/keytide/keystore"
)

// Scheme is the authentication scheme of the Authorization header.
const Scheme = "KEYTIDE1-HMAC-SHA256"

// Window is how far an agent's clock may be from the server's.
const Window = 300 * time.Second

// maxAuthorization bounds the header, in bytes.
const maxAuthorization = 1024

// ErrAuthorization: the header is missing or malformed.
var ErrAuthorization = errors.New("malformed authorization")

// B64 is base64url without padding, one text for one value.
var B64 = base64.RawURLEncoding.Strict()

// A Nonce is 16 random bytes, of the client or the server.
type Nonce [16]byte

// NewNonce draws a nonce.
func NewNonce() Nonce {
	var n Nonce
	rand.Read(n[:]) // never fails: crypto/rand ends the program instead
	return n
}

func (n Nonce) String() string { return B64.EncodeToString(n[:]) }

// ParseNonce reads the 22 characters of a nonce.
func ParseNonce(s string) (Nonce, error) {
	var n Nonce
	b, err := decodeFixed(s, len(n))
	if err != nil {
		return n, err
	}
	return Nonce(b), nil
}

// decodeFixed reads the base64url text of exactly size bytes.
func decodeFixed(s string, size int) ([]byte, error) {
	if len(s) != B64.EncodedLen(size) || strings.ContainsAny(s, "\r\n") {
		return nil, fmt.Errorf("want %d characters of base64url", B64.EncodedLen(size))
	}
	b, err := B64.DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("want %d characters of base64url", B64.EncodedLen(size))
	}
	return b, nil
}

// ParseInstance reads the 16 hexadecimal digits of an instance's id, not all zero.
func ParseInstance(s string) (id [8]byte, err error) {
	raw, err := hex.DecodeString(s)
	if err != nil || len(raw) != len(id) || strings.ToLower(s) != s || [8]byte(raw) == id {
		return id, errors.New("want 16 lower-case hexadecimal digits, not all zero")
	}
	return [8]byte(raw), nil
}

// An Authorization is what an agent says about itself in one request.
type Authorization struct {
	Host    string
	KID     keystore.KID
	Time    int64 // unix seconds
	Nonce   Nonce
	Applied string // the position held; empty: not said
	// Instance tells the copies of a secret apart, 16 hexadecimal digits; empty: not
	// said. Keeps says that this one can keep a new secret.
	Instance string
	Keeps    bool
	MAC      [sha256.Size]byte

	Body string // SHA-256 of a POST's body, which the MAC covers, in hexadecimal; empty: there is none
}

// Sign fills in the MAC of a request with this method and target.
func (a *Authorization) Sign(secret keystore.Material, method, target string) error {
	mac, err := a.mac(secret, method, target)
	if err == nil {
		a.MAC = mac
	}
	return err
}

// Verify reports whether the MAC is that of this request under secret. It takes
// the same time whatever the MAC is.
func (a *Authorization) Verify(secret keystore.Material, method, target string) bool {
	mac, err := a.mac(secret, method, target)
	return err == nil && hmac.Equal(mac[:], a.MAC[:])
}

func (a *Authorization) mac(secret keystore.Material, method, target string) ([sha256.Size]byte, error) {
	var sum [sha256.Size]byte
	err := secret.Use(func(secret []byte) error {
		key, err := hkdf.Key(sha256.New, secret, nil, "keytide/v1 auth|"+a.Host, sha256.Size)
		if err != nil {
			return err
		}
		h := hmac.New(sha256.New, key)
		fmt.Fprintf(h, "KEYTIDE1\n%s\n%s\n%s\n%s\n%d\n%s", method, target, a.Host, a.KID, a.Time, a.Nonce)
		if a.Applied != "" {
			fmt.Fprintf(h, "\napplied=%s", a.Applied)
		}
		if a.Instance != "" {
			fmt.Fprintf(h, "\ninstance=%s", a.Instance)
		}
		if a.Keeps {
			fmt.Fprint(h, "\nkeeps=1")
		}
		if a.Body != "" {
			fmt.Fprintf(h, "\nbody=%s", a.Body)
		}
		h.Sum(sum[:0])
		return nil
	})
	return sum, err
}

// String is the header's value.
func (a *Authorization) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, `%s host="%s", kid="%s", ts="%d", nonce="%s"`, Scheme, a.Host, a.KID, a.Time, a.Nonce)
	if a.Applied != "" {
		fmt.Fprintf(&b, `, applied="%s"`, a.Applied)
	}
	if a.Instance != "" {
		fmt.Fprintf(&b, `, instance="%s"`, a.Instance)
	}
	if a.Keeps {
		b.WriteString(`, keeps="1"`)
	}
	fmt.Fprintf(&b, `, mac="%s"`, B64.EncodeToString(a.MAC[:]))
	return b.String()
}

// ParseAuthorization reads the header's value strictly. The error wraps
// ErrAuthorization.
func ParseAuthorization(header string) (*Authorization, error) {
	a, err := parseAuthorization(header)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrAuthorization, err)
	}
	return a, nil
}

func parseAuthorization(header string) (*Authorization, error) {
	if header == "" {
		return nil, errors.New("there is none")
	}
	if len(header) > maxAuthorization {
		return nil, fmt.Errorf("more than %d bytes", maxAuthorization)
	}
	rest, ok := strings.CutPrefix(header, Scheme+" ")
	if !ok {
		return nil, fmt.Errorf("the scheme is not %s", Scheme)
	}
	var a Authorization
	seen := make(map[string]bool, 8)
	for part := range strings.SplitSeq(rest, ", ") {
		name, quoted, ok := strings.Cut(part, `="`)
		value, closed := strings.CutSuffix(quoted, `"`)
		if !ok || !closed || seen[name] {
			return nil, errors.New(`want each parameter once, as name="value", separated by ", "`)
		}
		seen[name] = true
		if err := a.set(name, value); err != nil {
			return nil, err
		}
	}
	for _, name := range [...]string{"host", "kid", "ts", "nonce", "mac"} {
		if !seen[name] {
			return nil, fmt.Errorf("parameter %s is missing", name)
		}
	}
	return &a, nil
}

// set reads one parameter. Each value has one text only, so that what was parsed
// prints as what was sent.
func (a *Authorization) set(name, value string) (err error) {
	switch name {
	case "host":
		a.Host = value
		err = keystore.CheckName(value)
	case "kid":
		a.KID, err = keystore.ParseKID(value)
		if err == nil && a.KID.String() != value {
			err = errors.New("want lower case")
		}
	case "ts":
		a.Time, err = strconv.ParseInt(value, 10, 64)
		if err != nil || a.Time < 0 || strconv.FormatInt(a.Time, 10) != value {
			err = errors.New("want unix seconds")
		}
	case "nonce":
		a.Nonce, err = ParseNonce(value)
	case "applied":
		a.Applied = value
		_, err = ParsePosition(value)
	case "instance":
		a.Instance = value
		_, err = ParseInstance(value)
	case "keeps":
		if a.Keeps = value == "1"; !a.Keeps {
			err = errors.New("want 1")
		}
	case "mac":
		var mac []byte
		if mac, err = decodeFixed(value, len(a.MAC)); err == nil {
			a.MAC = [sha256.Size]byte(mac)
		}
	default:
		return errors.New("unknown parameter")
	}
	if err != nil {
		return fmt.Errorf("parameter %s: %w", name, err)
	}
	return nil
}
