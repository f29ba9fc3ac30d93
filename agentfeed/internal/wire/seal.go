package wire

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/keytide/keytide/keystore"
)

// ErrSeal: a message does not open, or is not the one that comes next.
var ErrSeal = errors.New("message does not open")

// An Envelope carries one sealed message.
type Envelope struct {
	SN     string `json:"sn,omitempty"`     // the server nonce; in polls only
	Server string `json:"server,omitempty"` // its id; in polls only
	V      string `json:"v"`                // the position
	N      uint64 `json:"n"`                // 1, 2, 3 … in one response
	CT     string `json:"ct"`
}

// A Channel seals, or opens, the messages of one response in their order. It is
// not safe for concurrent use.
type Channel struct {
	aead cipher.AEAD
	host string
	n    uint64
}

// NewChannel derives the key that one response is sealed under.
func NewChannel(secret keystore.Material, host string, client, server Nonce) (*Channel, error) {
	c := &Channel{host: host}
	err := secret.Use(func(secret []byte) error {
		salt := append(client[:len(client):len(client)], server[:]...)
		key, err := hkdf.Key(sha256.New, secret, salt, "keytide/v1 seal|"+host, 32)
		if err != nil {
			return err
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return err
		}
		c.aead, err = cipher.NewGCMWithRandomNonce(block)
		return err
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Channel) data(event, v string, n uint64) []byte {
	aad := make([]byte, 0, 128)
	aad = append(aad, "keytide/v1|"...)
	aad = append(append(aad, event...), '|')
	aad = append(append(aad, c.host...), '|')
	aad = append(append(aad, v...), '|')
	return strconv.AppendUint(aad, n, 10)
}

// Seal seals the JSON of message as the next one.
func (c *Channel) Seal(event, v string, message any) (Envelope, error) {
	plain, err := json.Marshal(message)
	if err != nil {
		return Envelope{}, err
	}
	c.n++
	ct := c.aead.Seal(nil, nil, plain, c.data(event, v, c.n))
	clear(plain)
	return Envelope{V: v, N: c.n, CT: B64.EncodeToString(ct)}, nil
}

// AppendEvent appends the event that carries plain, sealed as the next message: the
// same bytes as AppendEvent of what Seal gives, without the garbage.
func (c *Channel) AppendEvent(dst []byte, e Event, v string, plain []byte) []byte {
	c.n++
	dst = appendFields(dst, e)
	dst = append(append(dst, `{"v":"`...), v...)
	dst = strconv.AppendUint(append(dst, `","n":`...), c.n, 10)
	dst = append(dst, `,"ct":"`...)
	size := len(plain) + c.aead.Overhead()
	start, end := len(dst), len(dst)+B64.EncodedLen(size)
	dst = slices.Grow(dst, end-start+size)
	// The ciphertext is made in the room behind its text.
	ct := c.aead.Seal(dst[end:end], nil, plain, c.data(e.Name, v, c.n))
	dst = dst[:end]
	B64.Encode(dst[start:end], ct)
	return append(dst, "\"}\n\n"...)
}

// Open opens the next message into the value that message points to. After an
// error, which wraps ErrSeal, the response must not be read any further.
func (c *Channel) Open(event string, e Envelope, message any) error {
	if e.N != c.n+1 {
		return fmt.Errorf("%w: %s has number %d; %d comes next", ErrSeal, event, e.N, c.n+1)
	}
	ct, err := B64.DecodeString(e.CT)
	if err != nil || len(e.CT) != B64.EncodedLen(len(ct)) {
		return fmt.Errorf("%w: %s %d is not base64url", ErrSeal, event, e.N)
	}
	plain, err := c.aead.Open(nil, nil, ct, c.data(event, e.V, e.N))
	if err != nil {
		return fmt.Errorf("%w: %s %d was not sealed under this secret for this request", ErrSeal, event, e.N)
	}
	defer clear(plain)
	// The text of an error of encoding/json may quote what it read, here key bytes.
	if json.Unmarshal(plain, message) != nil {
		return fmt.Errorf("%w: %s %d holds no valid message", ErrSeal, event, e.N)
	}
	c.n = e.N
	return nil
}
