package wire

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/keytide/keytide/keystore"
)

// TokenPrefix marks a registration token, so that searches for leaked secrets find
// it.
const TokenPrefix = "keytide_host_"

// MaxRegister bounds a registration's request and its answer, in bytes.
const MaxRegister = 256 << 10

const (
	publicSize = 65 // of an uncompressed point of P-256
	maxRequest = 1 << 10
)

// ErrRegister: a request, answer or token that cannot be read.
var ErrRegister = errors.New("malformed registration")

// TokenText is a token's one text.
func TokenText(secret keystore.Material) (text string) {
	secret.Use(func(secret []byte) error { // the callback returns nil, and so does Use
		text = TokenPrefix + B64.EncodeToString(secret)
		return nil
	})
	return text
}

// ParseToken reads a token's text. The error shows nothing of it.
func ParseToken(text string) (keystore.Material, error) {
	digits, ok := strings.CutPrefix(text, TokenPrefix)
	if !ok {
		return keystore.Material{}, fmt.Errorf("%w: a token begins with %q", ErrRegister, TokenPrefix)
	}
	raw, err := decodeFixed(digits, keystore.MaterialSize)
	if err != nil {
		return keystore.Material{}, fmt.Errorf("%w: a token is %q and 43 characters of base64url", ErrRegister, TokenPrefix)
	}
	defer clear(raw)
	return keystore.NewMaterial(raw)
}

// tokenKey derives the signing half of a token's key.
func tokenKey(secret keystore.Material) (key ed25519.PrivateKey, err error) {
	err = secret.Use(func(secret []byte) error {
		seed, err := hkdf.Key(sha256.New, secret, nil, "keytide/v1 register", ed25519.SeedSize)
		if err == nil {
			key = ed25519.NewKeyFromSeed(seed)
		}
		return err
	})
	return key, err
}

// TokenPublic is the half of a token's key by which its signatures are checked.
func TokenPublic(secret keystore.Material) (public [ed25519.PublicKeySize]byte, err error) {
	key, err := tokenKey(secret)
	if err != nil {
		return public, err
	}
	return [ed25519.PublicKeySize]byte(key.Public().(ed25519.PublicKey)), nil
}

// A Register is the request of an agent that has a token and wants to be a trusted
// host. The token itself does not travel: its holder signs.
type Register struct {
	Token        keystore.KID `json:"token"`
	Host         string       `json:"host"`
	Registration string       `json:"registration"` // a nonce's text: the agent's id for this registration
	Key          string       `json:"key"`          // its public key of P-256, for the answer
	Signature    string       `json:"signature"`    // Ed25519, by the token's key
}

// RegisterKey is the agent's half of the key that the answer is sealed under.
type RegisterKey struct{ private *ecdh.PrivateKey }

// NewRegister makes and signs a request.
func NewRegister(token keystore.Material, host string, id Nonce) (Register, RegisterKey, error) {
	private, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return Register{}, RegisterKey{}, err
	}
	signing, err := tokenKey(token)
	if err != nil {
		return Register{}, RegisterKey{}, err
	}
	r := Register{Token: token.KID(), Host: host, Registration: id.String(), Key: B64.EncodeToString(private.PublicKey().Bytes())}
	r.Signature = B64.EncodeToString(ed25519.Sign(signing, r.signed()))
	return r, RegisterKey{private}, nil
}

func (r Register) signed() []byte {
	return []byte("KEYTIDE1 register\n" + r.Token.String() + "\n" + r.Host + "\n" + r.Registration + "\n" + r.Key)
}

// ParseRegister reads a request strictly. The error wraps ErrRegister.
func ParseRegister(body []byte) (Register, error) {
	var r Register
	if len(body) > maxRequest {
		return r, fmt.Errorf("%w: more than %d bytes", ErrRegister, maxRequest)
	}
	if err := strictJSON(body, &r); err != nil {
		return r, fmt.Errorf("%w: %w", ErrRegister, err)
	}
	if err := keystore.CheckName(r.Host); err != nil {
		return r, fmt.Errorf("%w: host: %w", ErrRegister, err)
	}
	if _, err := ParseNonce(r.Registration); err != nil {
		return r, fmt.Errorf("%w: registration: %w", ErrRegister, err)
	}
	if _, err := r.public(); err != nil {
		return r, fmt.Errorf("%w: key: %w", ErrRegister, err)
	}
	if _, err := decodeFixed(r.Signature, ed25519.SignatureSize); err != nil {
		return r, fmt.Errorf("%w: signature: %w", ErrRegister, err)
	}
	return r, nil
}

// strictJSON reads one JSON object with known members only.
func strictJSON(body []byte, v any) error {
	d := json.NewDecoder(strings.NewReader(string(body)))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return errors.New("want one JSON object with known members")
	}
	if d.More() || d.InputOffset() != int64(len(strings.TrimRight(string(body), " \r\n\t"))) {
		return errors.New("something follows the JSON object")
	}
	return nil
}

func (r Register) public() (*ecdh.PublicKey, error) {
	raw, err := decodeFixed(r.Key, publicSize)
	if err != nil {
		return nil, err
	}
	return ecdh.P256().NewPublicKey(raw)
}

// Verify reports whether the holder of the token signed the request.
func (r Register) Verify(public [ed25519.PublicKeySize]byte) bool {
	signature, err := decodeFixed(r.Signature, ed25519.SignatureSize)
	return err == nil && ed25519.Verify(public[:], r.signed(), signature)
}

// ID is the SHA-256 of the agent's id for the registration.
func (r Register) ID() [sha256.Size]byte {
	id, err := ParseNonce(r.Registration)
	if err != nil {
		return [sha256.Size]byte{}
	}
	return sha256.Sum256(id[:])
}

// A Registered is what a registration gives: all that the host file holds.
type Registered struct {
	Host    string              `json:"host"`
	KID     keystore.KID        `json:"kid"`
	Secret  Bytes               `json:"secret"`
	Rings   []keystore.RingName `json:"rings"`
	Servers []string            `json:"servers"`
	Regions []string            `json:"regions,omitempty"` // of Servers, in their order; or none
	CA      string              `json:"ca"`
}

// A RegisterAnswer carries a Registered, sealed for the agent that asked.
type RegisterAnswer struct {
	Key string `json:"key"` // the server's public key of P-256, for this answer alone
	CT  string `json:"ct"`
}

// Answer seals what the registration gives.
func (r Register) Answer(given Registered) (RegisterAnswer, error) {
	agent, err := r.public()
	if err != nil {
		return RegisterAnswer{}, err
	}
	private, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return RegisterAnswer{}, err
	}
	answer := RegisterAnswer{Key: B64.EncodeToString(private.PublicKey().Bytes())}
	aead, err := registerAEAD(private, agent, r.Key, answer.Key)
	if err != nil {
		return RegisterAnswer{}, err
	}
	plain, err := json.Marshal(given)
	if err != nil {
		return RegisterAnswer{}, err
	}
	defer clear(plain)
	answer.CT = B64.EncodeToString(aead.Seal(nil, nil, plain, r.data()))
	return answer, nil
}

// Open opens the answer to r. The error wraps ErrRegister or ErrSeal.
func (k RegisterKey) Open(r Register, body []byte) (given Registered, err error) {
	var answer RegisterAnswer
	if json.Unmarshal(body, &answer) != nil {
		return given, fmt.Errorf("%w: the answer cannot be read", ErrRegister)
	}
	server, err := Register{Key: answer.Key}.public()
	if err != nil {
		return given, fmt.Errorf("%w: the answer's key: %w", ErrRegister, err)
	}
	aead, err := registerAEAD(k.private, server, r.Key, answer.Key)
	if err != nil {
		return given, err
	}
	ct, err := B64.DecodeString(answer.CT)
	if err != nil {
		return given, fmt.Errorf("%w: the answer is not base64url", ErrSeal)
	}
	plain, err := aead.Open(nil, nil, ct, r.data())
	if err != nil {
		return given, fmt.Errorf("%w: the answer was not sealed for this request", ErrSeal)
	}
	defer clear(plain)
	// The text of an error of encoding/json may quote what it read, here a secret.
	if json.Unmarshal(plain, &given) != nil || given.Secret.IsZero() {
		return Registered{}, fmt.Errorf("%w: the answer holds no registration", ErrRegister)
	}
	if given.Host != r.Host || given.KID != given.Secret.KID() {
		return Registered{}, fmt.Errorf("%w: the answer is another host's", ErrRegister)
	}
	return given, nil
}

func (r Register) data() []byte {
	return []byte("keytide/v1|register|" + r.Host + "|" + r.Registration)
}

func registerAEAD(own *ecdh.PrivateKey, other *ecdh.PublicKey, agent, server string) (cipher.AEAD, error) {
	shared, err := own.ECDH(other)
	if err != nil {
		return nil, err
	}
	defer clear(shared)
	key, err := hkdf.Key(sha256.New, shared, []byte(agent+"|"+server), "keytide/v1 register seal", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}
