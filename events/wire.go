package events

import (
	"bytes"
	"math"
	"unicode/utf8"
)

// MessagePack's first bytes (SPEC.md, section 1).
const (
	mpNil   = 0xc0
	mpFalse = 0xc2
	mpTrue  = 0xc3
	mpBin8  = 0xc4
	mpBin16 = 0xc5
	mpU8    = 0xcc
	mpU16   = 0xcd
	mpU32   = 0xce
	mpU64   = 0xcf
	mpI8    = 0xd0
	mpI16   = 0xd1
	mpI32   = 0xd2
	mpI64   = 0xd3
	mpStr8  = 0xd9
	mpStr16 = 0xda
	mpArr16 = 0xdc
	mpMap16 = 0xde

	mpFixMap = 0x80
	mpFixArr = 0x90
	mpFixStr = 0xa0
	mpNegFix = 0xe0
	mpNever  = 0xc1 // begins nothing
)

const maxDepth = 8 // of nested arrays and maps

// A reader takes canonical MessagePack apart. The first fault sticks: err is set,
// the rest is dropped, and every method returns a zero value from then on. What it
// returns as bytes shares memory with its input.
type reader struct {
	b     []byte
	i     int // the next byte
	err   error
	depth int
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = malformed(format, args...)
	}
	r.b, r.i = nil, 0
}

// short is fail for input that ends too early, apart so that byte is inlined.
func (r *reader) short() { r.fail("cut short") }

// end reports the first fault, or that bytes follow.
func (r *reader) end() error {
	if r.err == nil && r.i != len(r.b) {
		r.fail("%d bytes follow", len(r.b)-r.i)
	}
	return r.err
}

func (r *reader) take(n int) []byte {
	end := r.i + n
	if end > len(r.b) {
		r.short()
		return nil
	}
	b := r.b[r.i:end:end]
	r.i = end
	return b
}

func (r *reader) byte() byte {
	if r.i < len(r.b) {
		c := r.b[r.i]
		r.i++
		return c
	}
	r.short()
	return 0
}

// peek returns the next byte; mpNever where there is none.
func (r *reader) peek() byte {
	if r.i < len(r.b) {
		return r.b[r.i]
	}
	return mpNever
}

// big reads size bytes of a big-endian number that must not fit in fewer.
func (r *reader) big(size int, least uint64) uint64 {
	b := r.take(size)
	if b == nil {
		return 0
	}
	var v uint64
	for _, c := range b {
		v = v<<8 | uint64(c)
	}
	if v < least {
		r.fail("number %d is not in its shortest form", v)
		return 0
	}
	return v
}

func (r *reader) uint() uint64 {
	switch c := r.byte(); {
	case c < mpFixMap:
		return uint64(c)
	case c == mpU8:
		return r.big(1, 1<<7)
	case c == mpU16:
		return r.big(2, 1<<8)
	case c == mpU32:
		return r.big(4, 1<<16)
	case c == mpU64:
		return r.big(8, 1<<32)
	default:
		r.fail("byte %#02x where a number is due", c)
		return 0
	}
}

// uintMax reads a number of at most max.
func (r *reader) uintMax(max uint64) uint64 {
	v := r.uint()
	if v > max {
		r.fail("number %d is more than %d", v, max)
		return 0
	}
	return v
}

// int reads a signed number.
func (r *reader) int() int64 {
	if c := r.peek(); c < mpFixMap || c >= mpU8 && c <= mpU64 {
		return int64(r.uintMax(math.MaxInt64))
	}
	c := r.byte()
	var v, most int64
	switch {
	case c >= mpNegFix:
		return int64(int8(c))
	case c == mpI8:
		v, most = int64(int8(r.big(1, 0))), -33
	case c == mpI16:
		v, most = int64(int16(r.big(2, 0))), math.MinInt8-1
	case c == mpI32:
		v, most = int64(int32(r.big(4, 0))), math.MinInt16-1
	case c == mpI64:
		v, most = int64(r.big(8, 0)), math.MinInt32-1
	default:
		r.fail("byte %#02x where a number is due", c)
		return 0
	}
	if v > most {
		r.fail("number %d is not in its shortest form", v)
		return 0
	}
	return v
}

func (r *reader) bool() bool {
	c := r.byte()
	if c != mpTrue && c != mpFalse {
		r.fail("byte %#02x where a boolean is due", c)
	}
	return c == mpTrue && r.err == nil
}

// str reads a string of at most max bytes.
func (r *reader) str(max int) []byte {
	n := 0
	switch c := r.byte(); {
	case c >= mpFixStr && c < mpNil:
		n = int(c - mpFixStr)
	case c == mpStr8:
		n = int(r.big(1, 32))
	case c == mpStr16:
		n = int(r.big(2, 256))
	default:
		r.fail("byte %#02x where a string is due", c)
		return nil
	}
	if n > max {
		r.fail("string of %d bytes; at most %d are allowed", n, max)
		return nil
	}
	s := r.take(n)
	if !printable(s) {
		r.fail("string is not UTF-8, or has control characters")
		return nil
	}
	return s
}

// printable reports whether s is UTF-8 without control characters.
func printable(s []byte) bool {
	for i, c := range s {
		if c >= utf8.RuneSelf {
			return printableRunes(s[i:])
		}
		if c < ' ' || c == 0x7f {
			return false
		}
	}
	return true
}

func printableRunes(s []byte) bool {
	for len(s) > 0 {
		c, size := utf8.DecodeRune(s)
		if c == utf8.RuneError && size == 1 || c < ' ' || c >= 0x7f && c < 0xa0 {
			return false
		}
		s = s[size:]
	}
	return true
}

// bin reads binary of at most max bytes.
func (r *reader) bin(max int) []byte {
	n := 0
	switch c := r.byte(); c {
	case mpBin8:
		n = int(r.big(1, 0))
	case mpBin16:
		n = int(r.big(2, 256))
	default:
		r.fail("byte %#02x where binary is due", c)
		return nil
	}
	if n > max {
		r.fail("binary of %d bytes; at most %d are allowed", n, max)
		return nil
	}
	return r.take(n)
}

// fixed reads binary of exactly n bytes.
func (r *reader) fixed(n int) []byte {
	b := r.bin(n)
	if r.err == nil && len(b) != n {
		r.fail("binary of %d bytes; want %d", len(b), n)
	}
	if r.err != nil {
		return nil
	}
	return b
}

// array reads the head of an array of at most max elements. The caller reads them.
func (r *reader) array(max int) int { return r.count(mpFixArr, mpArr16, "array", max) }

func (r *reader) count(fix, wide byte, what string, max int) int {
	n := 0
	switch c := r.byte(); {
	case c >= fix && c < fix+16:
		n = int(c - fix)
	case c == wide:
		n = int(r.big(2, 16))
	default:
		r.fail("byte %#02x where the head of a %s is due", c, what)
		return 0
	}
	if n > max {
		r.fail("%s of %d; at most %d are allowed", what, n, max)
		return 0
	}
	return n
}

// fields walks a map. Its fields are read between calls of next:
//
//	for f := r.fields(); f.next(); {
//		switch string(f.key) {
//		case "n": v.N = r.uint()
//		default: r.skip()
//		}
//	}
type fields struct {
	r    *reader
	left int
	key  []byte
}

const (
	maxFields   = 64
	maxKeyBytes = 64
)

func (r *reader) fields() fields {
	r.depth++
	if r.depth > maxDepth {
		r.fail("nested too deep")
	}
	return fields{r: r, left: r.count(mpFixMap, mpMap16, "map", maxFields)}
}

func (f *fields) next() bool {
	if f.left == 0 || f.r.err != nil {
		f.r.depth--
		return false
	}
	f.left--
	key := f.r.str(maxKeyBytes)
	if f.r.err == nil && f.key != nil && bytes.Compare(f.key, key) >= 0 {
		f.r.fail("field %q is out of order", string(key))
	}
	if key == nil {
		key = []byte{} // an empty key; f.key is nil only before the first
	}
	f.key = key
	return f.r.err == nil
}

// skip reads past one value of any allowed form.
func (r *reader) skip() {
	switch c := r.peek(); {
	case c < mpFixMap, c >= mpU8 && c <= mpU64:
		r.uint()
	case c >= mpI8 && c <= mpI64, c >= mpNegFix:
		r.int()
	case c < mpFixArr, c == mpMap16:
		for f := r.fields(); f.next(); {
			r.skip()
		}
	case c < mpFixStr, c == mpArr16:
		r.depth++
		if r.depth > maxDepth {
			r.fail("nested too deep")
		}
		for n := r.array(math.MaxUint16); n > 0 && r.err == nil; n-- {
			r.skip()
		}
		r.depth--
	case c < mpNil, c == mpStr8, c == mpStr16:
		r.str(math.MaxUint16)
	case c == mpBin8, c == mpBin16:
		r.bin(math.MaxUint16)
	case c == mpNil, c == mpFalse, c == mpTrue:
		r.byte()
	default:
		r.fail("byte %#02x begins nothing that is allowed", c)
	}
}
