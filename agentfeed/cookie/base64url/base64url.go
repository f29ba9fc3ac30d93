// Package base64url is a strict codec for unpadded base64url text (RFC 4648,
// section 5).
//
// One text stands for one value: padding, line breaks, any other character, an
// impossible length and trailing bits that are not zero are all refused. The
// standard library's decoder, even when strict, passes over line breaks. Encode
// and Decode work in buffers of the caller's and allocate nothing.
//
// The codec looks up tables by its input, so its time may depend on the bytes: it
// is for ciphertext and other public text, not for keys.
package base64url

import "encoding/binary"

const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// pairs holds the two characters of each 12-bit value, the first in the low byte.
var pairs = makePairs()

// places holds, for each of the four places in a group, a character's six bits
// where they belong in the group's 24, or bad.
var places = makePlaces()

// bad marks a character outside the alphabet: a bit above the 24 of a group.
const bad = 1 << 31

func makePairs() *[1 << 12]uint16 {
	var t [1 << 12]uint16
	for i := range t {
		t[i] = uint16(alphabet[i>>6]) | uint16(alphabet[i&63])<<8
	}
	return &t
}

func makePlaces() *[4][256]uint32 {
	var t [4][256]uint32
	for place := range t {
		for c := range t[place] {
			t[place][c] = bad
		}
		for v := range len(alphabet) {
			t[place][alphabet[v]] = uint32(v) << (18 - 6*place)
		}
	}
	return &t
}

// EncodedLen returns the number of characters that encode n bytes.
func EncodedLen(n int) int { return n/3*4 + (n%3*8+5)/6 }

// DecodedLen returns the number of bytes that n characters encode. It means
// nothing for lengths of which n mod 4 is 1: no text has them.
func DecodedLen(n int) int { return n/4*3 + n%4*6/8 }

// Encode writes the EncodedLen(len(src)) characters of src to dst, which must have
// room for them. The two may overlap if src ends exactly where the text ends, or
// later: reading stays ahead of writing.
func Encode(dst, src []byte) {
	dst = dst[:EncodedLen(len(src))]
	// Eight bytes are read for six used, so that one load does.
	for len(src) >= 8 && len(dst) >= 8 {
		v := binary.BigEndian.Uint64(src)
		binary.LittleEndian.PutUint64(dst, uint64(pairs[v>>52])|
			uint64(pairs[v>>40&0xfff])<<16|
			uint64(pairs[v>>28&0xfff])<<32|
			uint64(pairs[v>>16&0xfff])<<48)
		src, dst = src[6:], dst[8:]
	}
	for len(src) >= 3 {
		v := uint32(src[0])<<16 | uint32(src[1])<<8 | uint32(src[2])
		binary.LittleEndian.PutUint32(dst, uint32(pairs[v>>12])|uint32(pairs[v&0xfff])<<16)
		src, dst = src[3:], dst[4:]
	}
	switch len(src) {
	case 1:
		binary.LittleEndian.PutUint16(dst, pairs[uint32(src[0])<<4])
	case 2:
		v := uint32(src[0])<<16 | uint32(src[1])<<8
		dst[2] = alphabet[v>>6&63]
		binary.LittleEndian.PutUint16(dst, pairs[v>>12])
	}
}

// Decode writes the DecodedLen(len(src)) bytes that src encodes to dst, which must
// have room for them, and reports whether src is the text that Encode gives for
// them. If it is not, what was written to dst means nothing. The two must not
// overlap.
func Decode(dst, src []byte) bool {
	if len(src)%4 == 1 {
		return false
	}
	dst = dst[:DecodedLen(len(src))]
	var seen uint32 // collects bad over all groups
	// Eight bytes are written for six meant, so that one store does; the next
	// round or the end writes over the other two.
	for len(src) >= 8 && len(dst) >= 8 {
		s := (*[8]byte)(src)
		hi := places[0][s[0]] | places[1][s[1]] | places[2][s[2]] | places[3][s[3]]
		lo := places[0][s[4]] | places[1][s[5]] | places[2][s[6]] | places[3][s[7]]
		seen |= hi | lo
		binary.BigEndian.PutUint64(dst, uint64(hi)<<40|uint64(lo)<<16)
		src, dst = src[8:], dst[6:]
	}
	for len(src) >= 4 {
		v := places[0][src[0]] | places[1][src[1]] | places[2][src[2]] | places[3][src[3]]
		seen |= v
		dst[0], dst[1], dst[2] = byte(v>>16), byte(v>>8), byte(v)
		src, dst = src[4:], dst[3:]
	}
	return seen&bad == 0 && decodeEnd(dst, src)
}

// decodeEnd decodes the last group, of no, two or three characters. The bits that
// do not fill a byte must be zero.
func decodeEnd(dst, src []byte) bool {
	switch len(src) {
	case 2:
		v := places[0][src[0]] | places[1][src[1]]
		dst[0] = byte(v >> 16)
		return v&(bad|0xffff) == 0
	case 3:
		v := places[0][src[0]] | places[1][src[1]] | places[2][src[2]]
		dst[0], dst[1] = byte(v>>16), byte(v>>8)
		return v&(bad|0xff) == 0
	}
	return true
}
