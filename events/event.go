package events

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/keytide/keytide/keystore"
)

// The bounds of an event, in bytes unless said.
const (
	MaxRecordSize  = 128 << 10
	MaxPayloadSize = 32 << 10
	MaxEffects     = MaxBatch - 2 // count
	MaxActor       = 255
	MaxRequest     = 128
	MaxReason      = 1024

	maxServer    = 63
	maxEffectKey = 128
	maxMilli     = 1<<48 - 1 // the range of a ULID's time
)

// An Event is one entry of the log. Payload is packed by type; see Genesis.Encode,
// EncodeRingChange, EncodeHostChange and VoidPayload.
type Event struct {
	N       keystore.N `json:"n"`
	ID      ulid.ULID  `json:"id"`
	Prev    Hash       `json:"prev"` // the hash of event N-1; zero where N is 1
	Type    Type       `json:"type"`
	At      time.Time  `json:"at"`                // to the millisecond, UTC
	Server  string     `json:"server"`            // the member that wrote and signed it
	Actor   string     `json:"actor,omitempty"`   // who asked for it
	Request string     `json:"request,omitempty"` // a retried command has the same
	Reason  string     `json:"reason,omitempty"`
	Payload []byte     `json:"-"`
	Effects []Effect   `json:"effects,omitempty"` // sorted by key
}

// An Effect names a value that the event's batch puts or deletes.
type Effect struct {
	Key     string `json:"key"`
	Hash    Hash   `json:"hash,omitzero"` // of the value
	Deleted bool   `json:"deleted,omitempty"`
}

// Ref returns what states say of the event that made them.
func (e Event) Ref() keystore.EventRef {
	return keystore.EventRef{N: e.N, ID: e.ID.String(), Type: e.Type.String(), At: e.At}
}

// A Record is a signed event as it is stored. Nobody may change its bytes.
type Record []byte

// Hash returns what the next event's Prev must be.
func (r Record) Hash() Hash { return HashOf(r) }

// Verify reports ErrSignature if the record is not signed by this key. It does not
// decode the record.
func (r Record) Verify(key ed25519.PublicKey) error {
	at := len(r) - ed25519.SignatureSize
	if at < 0 || len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, r[:at], r[at:]) {
		return ErrSignature
	}
	return nil
}

// Sign encodes and signs an event. It sorts the effects, and cuts At to the
// millisecond. The error wraps keystore.ErrInvalid and names what is out of bounds.
func Sign(e Event, key ed25519.PrivateKey) (Record, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, invalid("signing key of %d bytes", len(key))
	}
	e.Effects = slices.Clone(e.Effects)
	slices.SortFunc(e.Effects, func(a, b Effect) int { return strings.Compare(a.Key, b.Key) })
	if err := e.check(); err != nil {
		return nil, fmt.Errorf("event %d: %w", e.N, err)
	}
	b := e.append(make([]byte, 0, 256+len(e.Payload)+64*len(e.Effects)))
	rec := Record(append(b, ed25519.Sign(key, b)...))
	// What does not decode must never be stored: this also proves payload and keys.
	if _, err := Decode(rec); err != nil {
		return nil, fmt.Errorf("event %d: %w: %w", e.N, keystore.ErrInvalid, err)
	}
	return rec, nil
}

// check bounds what append would pack wrongly. Decode judges the rest.
func (e Event) check() error {
	for _, text := range []struct {
		field, value string
		max          int
	}{{"server", e.Server, maxServer}, {"actor", e.Actor, MaxActor}, {"request", e.Request, MaxRequest}, {"reason", e.Reason, MaxReason}} {
		if err := CheckText(text.value, text.max); err != nil {
			return fmt.Errorf("%s: %w", text.field, err)
		}
	}
	if ms := e.At.UnixMilli(); ms <= 0 || ms > maxMilli {
		return invalid("time %v", e.At)
	}
	if len(e.Payload) > MaxPayloadSize {
		return invalid("payload of %d bytes; at most %d are allowed", len(e.Payload), MaxPayloadSize)
	}
	if len(e.Effects) > MaxEffects {
		return invalid("%d effects; at most %d are allowed", len(e.Effects), MaxEffects)
	}
	for _, effect := range e.Effects {
		if len(effect.Key) > maxEffectKey {
			return invalid("effect key of %d bytes; at most %d are allowed", len(effect.Key), maxEffectKey)
		}
	}
	return nil
}

// CheckText reports what keeps s out of an event: more than max bytes, bytes that
// are not UTF-8, control characters. The error wraps keystore.ErrInvalid.
func CheckText(s string, max int) error {
	if len(s) > max {
		return invalid("%d bytes; at most %d are allowed", len(s), max)
	}
	if !printable([]byte(s)) {
		return invalid("not UTF-8, or has control characters")
	}
	return nil
}

func (e Event) append(b []byte) []byte {
	b = append(b, eventHead, eventFormat)
	b = appendUint(b, uint64(e.N))
	b = appendBin(b, e.ID[:])
	b = appendBin(b, e.Prev[:])
	b = appendUint(b, uint64(e.Type))
	b = appendUint(b, uint64(e.At.UnixMilli()))
	b = appendStr(b, e.Server)
	b = appendStr(b, e.Actor)
	b = appendStr(b, e.Request)
	b = appendStr(b, e.Reason)
	b = append(b, e.Payload...)
	b = appendArray(b, len(e.Effects))
	for _, effect := range e.Effects {
		b = appendStr(appendArray(b, 2), effect.Key)
		if effect.Deleted {
			b = append(b, mpNil)
		} else {
			b = appendBin(b, effect.Hash[:])
		}
	}
	return b
}

// Decode takes a record apart. It checks its form (SPEC.md, section 2), not its
// signature nor what its payload says. The error wraps ErrMalformed.
func Decode(rec Record) (Event, error) {
	v, err := parse(rec)
	if err != nil {
		return Event{}, err
	}
	return v.event(), nil
}

const (
	eventHead   = mpFixArr | 12
	eventFormat = 1
)

// A view is a parsed record that shares its bytes.
type view struct {
	rec                            Record
	n                              keystore.N
	id, prev                       []byte // 16 and 32 bytes
	typ                            Type
	at                             uint64
	server, actor, request, reason []byte
	payload                        []byte
	effects                        []byte // packed, checked
	effectCount                    int
}

// parse checks a record's form in one pass, without allocating.
func parse(rec Record) (view, error) {
	if len(rec) > MaxRecordSize || len(rec) < ed25519.SignatureSize+2 {
		return view{}, malformed("record of %d bytes", len(rec))
	}
	r := reader{b: rec[:len(rec)-ed25519.SignatureSize]}
	if r.byte() != eventHead || r.byte() != eventFormat {
		return view{}, malformed("not an event of format %d", eventFormat)
	}
	v := view{rec: rec}
	v.n = keystore.N(r.uint())
	v.id = r.fixed(len(ulid.ULID{}))
	v.prev = r.fixed(len(Hash{}))
	v.typ = Type(r.uintMax(1<<16 - 1))
	v.at = r.uintMax(maxMilli)
	v.server = r.str(maxServer)
	v.actor = r.str(MaxActor)
	v.request = r.str(MaxRequest)
	v.reason = r.str(MaxReason)
	v.payload = r.payload()
	v.parseEffects(&r)
	if r.err == nil && (v.n == 0 || v.typ == 0 || v.at == 0 || len(v.server) == 0 || zero(v.id)) {
		r.fail("n, id, type, time or server is missing")
	}
	if r.err == nil && zero(v.prev) != (v.n == 1) {
		r.fail("event %d with a wrong kind of prev", v.n)
	}
	return v, r.end()
}

// payload reads past a map and returns its bytes.
func (r *reader) payload() []byte {
	if c := r.peek(); c&0xf0 != mpFixMap && c != mpMap16 {
		r.fail("payload is not a map")
		return nil
	}
	b, start := r.b, r.i
	r.skip()
	if r.err != nil {
		return nil
	}
	if size := r.i - start; size > MaxPayloadSize {
		r.fail("payload of %d bytes; at most %d are allowed", size, MaxPayloadSize)
		return nil
	}
	return b[start:r.i:r.i]
}

func (v *view) parseEffects(r *reader) {
	count := r.array(MaxEffects)
	b, start := r.b, r.i
	var last []byte
	for range count {
		key := r.effect()
		if r.err != nil {
			return
		}
		if bytes.Compare(last, key) >= 0 {
			r.fail("effect %q is out of order", string(key))
			return
		}
		if !isEffectKey(key) {
			r.fail("effect %q is not one that an event may have", string(key))
			return
		}
		last = key
	}
	if r.err == nil {
		v.effects, v.effectCount = b[start:r.i], count
	}
}

func (r *reader) effect() (key []byte) {
	if r.array(2) != 2 {
		r.fail("effect is not a pair")
	}
	key = r.str(maxEffectKey)
	if r.peek() == mpNil {
		r.byte()
		return key
	}
	r.fixed(len(Hash{}))
	return key
}

func (v *view) event() Event {
	e := Event{
		N: v.n, ID: ulid.ULID(v.id), Prev: Hash(v.prev), Type: v.typ, At: time.UnixMilli(int64(v.at)).UTC(),
		Server: string(v.server), Actor: string(v.actor), Request: string(v.request), Reason: string(v.reason),
		Payload: bytes.Clone(v.payload),
	}
	if v.effectCount > 0 {
		e.Effects = make([]Effect, 0, v.effectCount)
	}
	for left := v.effects; len(left) > 0; {
		key, hash, rest := nextEffect(left)
		effect := Effect{Key: string(key), Deleted: hash == nil}
		copy(effect.Hash[:], hash)
		e.Effects = append(e.Effects, effect)
		left = rest
	}
	return e
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
