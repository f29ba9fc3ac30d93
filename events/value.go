package events

import (
	"fmt"
	"time"

	"github.com/keytide/keytide/keystore"
)

const (
	maxOwner  = 128
	maxSealed = 1024
)

// valueReader reads a stored value of bounded size.
func valueReader(value []byte) reader {
	r := reader{b: value}
	if len(value) > MaxValueSize {
		r.fail("value of %d bytes; at most %d are allowed", len(value), MaxValueSize)
	}
	return r
}

// A Head says where a log ends: at event N of this hash.
type Head struct {
	Epoch keystore.Epoch `json:"epoch"`
	N     keystore.N     `json:"n"`
	Hash  Hash           `json:"hash"`
}

// Encode packs a head, as head holds it.
func (h Head) Encode() []byte {
	var p packer
	p.head(h)
	return p.b
}

func (p *packer) head(h Head) {
	outer := p.begin()
	p.uint("epoch", uint64(h.Epoch))
	p.fixed("hash", h.Hash[:])
	p.uint("n", uint64(h.N))
	p.end(outer)
}

// DecodeHead takes a head apart. The error wraps ErrMalformed.
func DecodeHead(value []byte) (Head, error) {
	r := valueReader(value)
	h := r.head(r.fields())
	if err := r.end(); err != nil {
		return Head{}, fmt.Errorf("head: %w", err)
	}
	return h, nil
}

func (r *reader) head(in fields) Head {
	var h Head
	for in.next() {
		switch string(in.key) {
		case "epoch":
			h.Epoch = keystore.Epoch(in.uint(1<<64 - 1))
		case "hash":
			in.fixed(h.Hash[:])
		case "n":
			h.N = keystore.N(in.uint(1<<64 - 1))
		default:
			in.r.skip()
		}
	}
	return h
}

// A MaterialValue is sealed key bytes, as material.<kid> holds them, with what the
// seal authenticates. Purpose and Alg are numbered by the package that seals.
type MaterialValue struct {
	Purpose    uint8
	Alg        uint8
	Generation uint64
	Created    time.Time
	Owner      string // ring:<name>, host:<name>, server:<id> or member
	Record     []byte
}

// Encode packs the value. The error wraps keystore.ErrInvalid.
func (m MaterialValue) Encode() ([]byte, error) {
	var p packer
	outer := p.begin()
	p.uint("alg", uint64(m.Alg))
	p.time("created", m.Created)
	p.uint("generation", m.Generation)
	p.str("owner", m.Owner, maxOwner)
	p.uint("purpose", uint64(m.Purpose))
	p.bin("record", m.Record, maxSealed)
	p.end(outer)
	return p.done()
}

// DecodeMaterial takes sealed key bytes apart. The error wraps ErrMalformed.
func DecodeMaterial(value []byte) (MaterialValue, error) {
	r := valueReader(value)
	var m MaterialValue
	for f := r.fields(); f.next(); {
		switch string(f.key) {
		case "alg":
			m.Alg = uint8(f.uint(1<<8 - 1))
		case "created":
			m.Created = f.time()
		case "generation":
			m.Generation = f.uint(1<<64 - 1)
		case "owner":
			m.Owner = f.str(maxOwner)
		case "purpose":
			m.Purpose = uint8(f.uint(1<<8 - 1))
		case "record":
			m.Record = f.bin(maxSealed)
		default:
			r.skip()
		}
	}
	if err := r.end(); err != nil {
		return MaterialValue{}, fmt.Errorf("material: %w", err)
	}
	return m, nil
}
