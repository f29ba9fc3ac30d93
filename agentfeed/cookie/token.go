package cookie

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	"github.com/keytide/keytide/agentfeed/cookie/base64url"
	"github.com/keytide/keytide/keystore"
)

// The layout of a kt1 token; SPEC.md is its description. Sizes are in bytes of the
// token, or in characters of its text where so named.
const (
	version    = 0x01
	kidSize    = 8
	saltSize   = 15
	headerSize = 1 + kidSize + saltSize // 24: exactly headerText characters
	nonceSize  = 12
	tagSize    = 16
	timesSize  = 4 + 4 // issued-at and maximum age, before the payload
	bodySize   = nonceSize + timesSize + tagSize

	keyText    = 12 // characters of version and kid: which key
	headerText = 32 // characters of the header: which subkey
)

// minToken is the length of a token with an empty payload: 80 characters.
var minToken = headerText + base64url.EncodedLen(bodySize)

// A header is the text of a token's header, as words that are quick to compare. Its
// 24 bytes fill the characters without a rest, so one header has one text, and texts
// can be compared instead of bytes.
type header [headerText / 8]uint64

func headerOf(text []byte) header {
	t := (*[headerText]byte)(text)
	return header{
		binary.LittleEndian.Uint64(t[0:]), binary.LittleEndian.Uint64(t[8:]),
		binary.LittleEndian.Uint64(t[16:]), binary.LittleEndian.Uint64(t[24:]),
	}
}

// put writes the header's text.
func (h *header) put(text []byte) {
	t := (*[headerText]byte)(text)
	for i, word := range h {
		binary.LittleEndian.PutUint64(t[8*i:], word)
	}
}

// A label is the text of a token's version and kid, as words: which key.
type label struct {
	first uint32 // version and the kid's first bits
	rest  uint64
}

func labelOf(text []byte) label {
	t := (*[keyText]byte)(text)
	return label{first: binary.LittleEndian.Uint32(t[:]), rest: binary.LittleEndian.Uint64(t[4:])}
}

// subkeyOf makes the AEAD of the tokens with this header under the key:
// AES-256-GCM under HKDF-Expand-SHA256(key, "kt1 sub" || header, 32), with the
// nonce drawn at random and put in front.
func subkeyOf(m keystore.Material, raw *[headerSize]byte) (aead cipher.AEAD, err error) {
	err = m.Use(func(secret []byte) error {
		sub, err := hkdf.Expand(sha256.New, secret, "kt1 sub"+string(raw[:]), 32)
		if err != nil {
			return err
		}
		defer clear(sub)
		block, err := aes.NewCipher(sub)
		if err != nil {
			return err
		}
		aead, err = cipher.NewGCMWithRandomNonce(block)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("cookie: deriving a subkey: %w", err)
	}
	return aead, nil
}

// bindingOf is the associated data of a codec's tokens: SHA-256("kt1 ctx" ||
// lp(purpose) || lp(name) || lp(context)), where lp is the length in 4 bytes, big
// endian, and the bytes.
func bindingOf(purpose Purpose, name, context string) [sha256.Size]byte {
	b := []byte("kt1 ctx")
	for _, s := range []string{purpose.String(), name, context} {
		b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
		b = append(b, s...)
	}
	return sha256.Sum256(b)
}

// labelOfKey returns how every token of a key begins.
func labelOfKey(kid keystore.KID) label {
	raw, text := [1 + kidSize]byte{version}, [keyText]byte{}
	copy(raw[1:], kid[:])
	base64url.Encode(text[:], raw[:])
	return labelOf(text[:])
}

// beginsNative reports whether the first byte that text encodes is the version: six
// bits in the first character, two in the second.
func beginsNative(text []byte) bool {
	second := text[1]
	return text[0] == 'A' && (second >= 'Q' && second <= 'Z' || second >= 'a' && second <= 'f')
}

// An Explanation is what a token shows without any key.
type Explanation struct {
	Format string       `json:"format"` // kt1
	KID    keystore.KID `json:"kid"`    // the key that sealed it
	// Sealer is the salt, 30 hexadecimal digits: tokens sealed by the same process
	// within 12 hours have it in common.
	Sealer string `json:"sealer"`
	// PayloadSize is the payload's size in bytes.
	PayloadSize int `json:"payload_size"`
}

// Explain reads what a token shows to anybody. It proves nothing: the token may be
// forged. The error is ErrBadToken if it is no kt1 token.
func Explain(token string) (Explanation, error) {
	text := []byte(token)
	if len(text) < minToken || len(text) > MaxToken || !beginsNative(text) {
		return Explanation{}, refusal(Malformed)
	}
	head, body := make([]byte, headerSize), make([]byte, base64url.DecodedLen(len(text)-headerText))
	if !base64url.Decode(head, text[:headerText]) || !base64url.Decode(body, text[headerText:]) {
		return Explanation{}, refusal(Malformed)
	}
	return Explanation{
		Format:      "kt1",
		KID:         keystore.KID(head[1 : 1+kidSize]),
		Sealer:      fmt.Sprintf("%x", head[1+kidSize:]),
		PayloadSize: len(body) - bodySize,
	}, nil
}
