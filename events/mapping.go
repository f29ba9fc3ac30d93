package events

import (
	"slices"
	"time"

	"github.com/keytide/keytide/keystore"
)

// A packer writes maps: fields in the order of their keys, zero ones left out.
// The first fault sticks in err.
type packer struct {
	b     []byte
	at    int // where the open map's head is
	count int // fields of the open map
	err   error
}

type openMap struct{ at, count int }

// begin opens a map; end closes it. In between, count its fields.
func (p *packer) begin() openMap {
	outer := openMap{p.at, p.count}
	p.at, p.count = len(p.b), 0
	p.b = append(p.b, mpFixMap)
	return outer
}

// end fills in the number of fields: in one byte up to 15, in three above.
func (p *packer) end(outer openMap) {
	if p.count < 16 {
		p.b[p.at] = mpFixMap | byte(p.count)
	} else {
		p.b[p.at] = mpMap16
		p.b = slices.Insert(p.b, p.at+1, byte(p.count>>8), byte(p.count))
	}
	p.at, p.count = outer.at, outer.count
}

func (p *packer) fail(format string, args ...any) {
	if p.err == nil {
		p.err = invalid(format, args...)
	}
}

func (p *packer) field(key string) {
	p.count++
	p.b = appendStr(p.b, key)
}

func (p *packer) uint(key string, v uint64) {
	if v != 0 {
		p.field(key)
		p.b = appendUint(p.b, v)
	}
}

func (p *packer) int(key string, v int64) {
	if v != 0 {
		p.field(key)
		p.b = appendInt(p.b, v)
	}
}

// number packs a count that is small.
func (p *packer) number(key string, v, max int) {
	if v < 0 || v > max {
		p.fail("%s: %d; want 0 to %d", key, v, max)
		return
	}
	p.uint(key, uint64(v))
}

func (p *packer) bool(key string, v bool) {
	if v {
		p.field(key)
		p.b = append(p.b, mpTrue)
	}
}

func (p *packer) str(key, v string, max int) {
	if v == "" {
		return
	}
	if err := CheckText(v, max); err != nil {
		p.fail("%s: %w", key, err)
		return
	}
	p.field(key)
	p.b = appendStr(p.b, v)
}

func (p *packer) name(key, v string) {
	if err := keystore.CheckName(v); v != "" && err != nil {
		p.fail("%s: %w", key, err)
	}
	p.str(key, v, maxServer)
}

func (p *packer) bin(key string, v []byte, max int) {
	if len(v) > max {
		p.fail("%s: %d bytes; at most %d are allowed", key, len(v), max)
		return
	}
	if len(v) > 0 {
		p.field(key)
		p.b = appendBin(p.b, v)
	}
}

// fixed packs an array of bytes; all zero is left out.
func (p *packer) fixed(key string, v []byte) {
	if !zero(v) {
		p.bin(key, v, len(v))
	}
}

// time packs a time to the millisecond.
func (p *packer) time(key string, t time.Time) {
	if t.IsZero() {
		return
	}
	ms := t.UnixMilli()
	if ms <= 0 || ms > maxMilli {
		p.fail("%s: time %v", key, t)
		return
	}
	p.uint(key, uint64(ms))
}

// duration packs a whole number of milliseconds.
func (p *packer) duration(key string, d time.Duration) {
	if d < 0 || d%time.Millisecond != 0 {
		p.fail("%s: %v is not a whole number of milliseconds", key, d)
		return
	}
	p.uint(key, uint64(d/time.Millisecond))
}

// array packs the head of an array; the caller appends its elements to p.b.
func (p *packer) array(key string, n, max int) {
	if n > max {
		p.fail("%s: %d; at most %d are allowed", key, n, max)
		return
	}
	if n > 0 {
		p.field(key)
		p.b = appendArray(p.b, n)
	}
}

func (p *packer) kids(key string, kids []keystore.KID, max int) {
	p.array(key, len(kids), max)
	for _, kid := range kids {
		p.b = appendBin(p.b, kid[:])
	}
}

// done returns the packed map.
func (p *packer) done() ([]byte, error) {
	if p.err != nil {
		return nil, p.err
	}
	return p.b, nil
}

// The methods below read a field's value. Zero has no encoding but absence.

func (f *fields) zero() { f.r.fail("field %q is zero; it is left out instead", string(f.key)) }

func (f *fields) uint(max uint64) uint64 {
	v := f.r.uintMax(max)
	if v == 0 && f.r.err == nil {
		f.zero()
	}
	return v
}

func (f *fields) int() int64 {
	v := f.r.int()
	if v == 0 && f.r.err == nil {
		f.zero()
	}
	return v
}

func (f *fields) bool() bool {
	v := f.r.bool()
	if !v && f.r.err == nil {
		f.zero()
	}
	return v
}

func (f *fields) str(max int) string {
	v := f.r.str(max)
	if len(v) == 0 && f.r.err == nil {
		f.zero()
	}
	return string(v)
}

func (f *fields) name() string {
	v := f.r.str(maxServer)
	if f.r.err == nil && !isName(v) {
		f.r.fail("%s %q is not a name", string(f.key), string(v))
	}
	return string(v)
}

func (f *fields) bin(max int) []byte {
	v := f.r.bin(max)
	if len(v) == 0 && f.r.err == nil {
		f.zero()
	}
	return append([]byte(nil), v...)
}

// fixed reads into an array of bytes.
func (f *fields) fixed(to []byte) {
	v := f.r.fixed(len(to))
	if f.r.err == nil && zero(v) {
		f.zero()
	}
	copy(to, v)
}

func (f *fields) time() time.Time {
	ms := f.uint(maxMilli)
	if f.r.err != nil {
		return time.Time{}
	}
	return time.UnixMilli(int64(ms)).UTC()
}

const maxDuration = uint64(1<<63-1) / uint64(time.Millisecond)

func (f *fields) duration() time.Duration {
	return time.Duration(f.uint(maxDuration)) * time.Millisecond
}

// array reads the head of an array.
func (f *fields) array(max int) int {
	n := f.r.array(max)
	if n == 0 && f.r.err == nil {
		f.zero()
	}
	return n
}

func (f *fields) kids(max int) []keystore.KID {
	n := f.array(max)
	kids := make([]keystore.KID, 0, n)
	for range n {
		kid := f.r.fixed(len(keystore.KID{}))
		if f.r.err != nil {
			return nil
		}
		kids = append(kids, keystore.KID(kid))
	}
	return kids
}

// open opens a map within; an empty one is refused.
func (f *fields) open() fields {
	inner := f.r.fields()
	if inner.left == 0 && f.r.err == nil {
		f.zero()
	}
	return inner
}

// names packs names, which must not be empty.
func (p *packer) names(key string, names []string, max int) {
	p.array(key, len(names), max)
	for _, name := range names {
		if err := keystore.CheckName(name); err != nil {
			p.fail("%s: %w", key, err)
		}
		p.b = appendStr(p.b, name)
	}
}

func (f *fields) names(max int) []string {
	names := make([]string, f.array(max))
	for i := range names {
		name := f.r.str(maxServer)
		if f.r.err == nil && !isName(name) {
			f.r.fail("%s: %q is not a name", string(f.key), string(name))
			return nil
		}
		names[i] = string(name)
	}
	return names
}
