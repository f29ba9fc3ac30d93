package bundle

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"slices"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"
)

const (
	maxText = 128 << 10 // of a bundle and of its signed part: 64 keys have about 30 KB

	iterations    = 600_000   // p2c of what is made here
	minIterations = 1_000     // RFC 7518, section 4.8.1.2
	maxIterations = 1_000_000 // more would stall whoever opens it
	minSalt       = 8         // bytes, RFC 7518, section 4.8.1.1
	maxSalt       = 64

	passphraseLock = "passphrase"
	recipientLock  = "recipient"
)

// Close encrypts what Sign made, for a passphrase. Its rules (length) are the
// caller's. The text is one line, without an ending.
func Close(signed string, passphrase []byte) (string, error) {
	return closeWith(signed, jose.Recipient{
		Algorithm: jose.PBES2_HS512_A256KW, Key: passphrase, PBES2Count: iterations,
	})
}

// CloseFor encrypts what Sign made for a recipient, the owner of the private key.
func CloseFor(signed string, recipient Recipient) (string, error) {
	id, err := recipient.Fingerprint()
	if err != nil {
		return "", err
	}
	return closeWith(signed, jose.Recipient{Algorithm: jose.ECDH_ES_A256KW, Key: recipient.key, KeyID: string(id)})
}

func closeWith(signed string, recipient jose.Recipient) (string, error) {
	options := (&jose.EncrypterOptions{}).WithType(Kind).WithContentType("jose")
	encrypter, err := jose.NewEncrypter(jose.A256CBC_HS512, recipient, options)
	if err != nil {
		return "", err
	}
	jwe, err := encrypter.Encrypt([]byte(signed))
	if err != nil {
		return "", err
	}
	text, err := jwe.CompactSerialize()
	if err == nil && len(text) > maxText {
		err = malformed("%d bytes; at most %d are allowed", len(text), maxText)
	}
	return text, err
}

// Open decrypts a bundle that was closed with a passphrase, and returns its signed
// part. The error wraps ErrMalformed, or is an *OpenError.
func Open(text, passphrase []byte) (signed string, err error) {
	return open(text, func(h header) (any, *OpenError) {
		if h.Alg != string(jose.PBES2_HS512_A256KW) {
			return nil, &OpenError{Lock: recipientLock, Want: h.KID}
		}
		return passphrase, &OpenError{Lock: passphraseLock}
	})
}

// OpenAs decrypts a bundle that was closed for a recipient, as Open does.
func OpenAs(text []byte, key RecipientKey) (signed string, err error) {
	id, err := key.Recipient().Fingerprint()
	if err != nil {
		return "", err
	}
	return open(text, func(h header) (any, *OpenError) {
		if h.Alg != string(jose.ECDH_ES_A256KW) {
			return nil, &OpenError{Lock: passphraseLock, Have: string(id)}
		}
		problem := &OpenError{Lock: recipientLock, Want: h.KID, Have: string(id)}
		if h.KID == "" { // other implementations need not name it
			problem.Want = problem.Have
		}
		return key.key(), problem
	})
}

// open reads the header, asks for the key that fits it (nil: none), and decrypts.
func open(text []byte, keyFor func(header) (any, *OpenError)) (string, error) {
	line := string(bytes.TrimRight(text, "\r\n"))
	h, err := readHeader(line)
	if err != nil {
		return "", err
	}
	key, problem := keyFor(h)
	if key == nil || problem.Want != problem.Have {
		return "", problem
	}
	jwe, err := jose.ParseEncryptedCompact(line,
		[]jose.KeyAlgorithm{jose.PBES2_HS512_A256KW, jose.ECDH_ES_A256KW}, []jose.ContentEncryption{jose.A256CBC_HS512})
	if err != nil {
		return "", malformed("not a compact JWE of a known algorithm")
	}
	signed, err := jwe.Decrypt(key)
	if err != nil {
		return "", problem
	}
	return string(signed), nil
}

// A header is a bundle's protected header. It is not authenticated before it is used,
// so what it may say is bounded here: members that would change how the rest is read
// (zip, crit) or fetch something (jku, x5u) refuse the bundle.
type header struct {
	Alg string `json:"alg"`
	Enc string `json:"enc"`
	Typ string `json:"typ"`
	Cty string `json:"cty"`
	KID string `json:"kid"`
	P2C int64  `json:"p2c"`
	P2S string `json:"p2s"`
	EPK struct {
		Kty string `json:"kty"`
		Crv string `json:"crv"`
		X   string `json:"x"`
		Y   string `json:"y"`
	} `json:"epk"`
}

func readHeader(line string) (header, error) {
	if len(line) > maxText {
		return header{}, malformed("more than %d bytes", maxText)
	}
	parts, err := parseParts(line, 5)
	if err != nil {
		return header{}, err
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(parts[0], &members); err != nil {
		return header{}, malformed("the JSON of its header cannot be read")
	}
	for name := range members {
		if !slices.Contains(allowed, name) {
			return header{}, malformed("its header has %q", name)
		}
	}
	var h header
	if err := json.Unmarshal(parts[0], &h); err != nil {
		return header{}, malformed("its header has a member of the wrong type")
	}
	return h, h.check()
}

var allowed = []string{"alg", "enc", "typ", "cty", "kid", "p2c", "p2s", "epk", "apu", "apv"}

func (h header) check() error {
	if h.Enc != string(jose.A256CBC_HS512) {
		return malformed("content encryption %q; want %s", h.Enc, jose.A256CBC_HS512)
	}
	switch h.Alg {
	case string(jose.PBES2_HS512_A256KW):
		salt, err := strict64.DecodeString(h.P2S)
		switch {
		case h.P2C < minIterations || h.P2C > maxIterations:
			return malformed("p2c %d; want %d to %d", h.P2C, minIterations, maxIterations)
		case err != nil || len(salt) < minSalt || len(salt) > maxSalt:
			return malformed("p2s is not a salt of %d to %d bytes", minSalt, maxSalt)
		}
	case string(jose.ECDH_ES_A256KW):
		if h.EPK.Kty != "EC" || h.EPK.Crv != "P-256" {
			return malformed("its ephemeral key is not a P-256 key")
		}
	default:
		return malformed("algorithm %q; want %s or %s", h.Alg, jose.PBES2_HS512_A256KW, jose.ECDH_ES_A256KW)
	}
	return nil
}

func onP256(key *ecdsa.PublicKey) bool { return key.Curve == elliptic.P256() }
