package cookie

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/keytide/keytide/agentfeed/cookie/base64url"
	"github.com/keytide/keytide/keystore"
)

// ClockSkew is how far in the future a token's issue time may lie: clocks of agents
// differ. The ring keeps old keys as much longer than a session.
const ClockSkew = 5 * time.Minute

// A Codec seals and opens the tokens of one cookie. It is safe for concurrent use.
type Codec struct {
	ring     Ring
	purpose  Purpose
	binding  [sha256.Size]byte
	maxAge   uint32 // seconds; 0: no end
	maxLen   int    // characters
	fallback Opener

	clock  clock
	cache  *cache
	view   atomic.Pointer[view] // of the newest keys seen; nil: none
	change sync.Mutex           // held while view is replaced
}

// New makes a codec. It reads no keys yet. The error reports all faults of the
// configuration and wraps keystore.ErrInvalid.
func New(config Config) (*Codec, error) {
	config = config.withDefaults()
	if err := config.check(); err != nil {
		return nil, err
	}
	return &Codec{
		ring:     config.Ring,
		purpose:  config.Purpose,
		binding:  bindingOf(config.Purpose, config.Name, config.Context),
		maxAge:   uint32(config.MaxAge / time.Second),
		maxLen:   config.MaxLen,
		fallback: config.Fallback,
		cache:    newCache(config.Subkeys),
	}, nil
}

// current returns the view of the ring's newest keys, or nil if there are none.
func (c *Codec) current() *view {
	set := c.ring.Snapshot()
	if v := c.view.Load(); v != nil && v.set == set {
		return v
	}
	return c.follow(set)
}

// follow makes set the codec's keys unless it has newer ones: of two goroutines,
// the one with the older snapshot may come last.
func (c *Codec) follow(set *keystore.KeySet) *view {
	c.change.Lock()
	defer c.change.Unlock()
	v := c.view.Load()
	switch {
	case set == nil && v == nil:
		return nil
	case set == nil:
		v = nil
	case v != nil && (v.set == set || set.Newer(v.set.Epoch, v.set.Version)):
		return v
	default:
		v = newView(set, c.purpose, v)
	}
	c.view.Store(v)
	c.cache.sweep(&c.view)
	return v
}

// Seal appends a token for payload, issued now, to dst. It allocates only if dst
// lacks room. payload may lie anywhere, in dst's spare room too.
//
// The error is ErrNoKey, ErrTooLong or ErrTime.
func (c *Codec) Seal(dst, payload []byte) ([]byte, error) {
	now := c.clock.now()
	return c.seal(dst, payload, times{issued: now, maxAge: int64(c.maxAge), now: now})
}

// Reseal appends a token for what Open returned to dst, sealed with the key that
// seals now. Issue time and maximum age stay, so the session ends when it would
// have. Errors are as for Seal.
func (c *Codec) Reseal(dst []byte, opened Opened) ([]byte, error) {
	return c.seal(dst, opened.Payload, times{
		issued: opened.Issued.Unix(), maxAge: int64(opened.MaxAge / time.Second), now: c.clock.now(),
	})
}

// times are seconds; issued and now since 1970.
type times struct{ issued, maxAge, now int64 }

func (c *Codec) seal(dst, payload []byte, t times) ([]byte, error) {
	v := c.current()
	if v == nil || v.seals == nil {
		return dst, ErrNoKey
	}
	if t.issued != int64(uint32(t.issued)) || t.maxAge != int64(uint32(t.maxAge)) {
		return dst, ErrTime
	}
	body := bodySize + len(payload)
	length := headerText + base64url.EncodedLen(body)
	if length > c.maxLen {
		return dst, ErrTooLong
	}
	s := v.seals.sealer.Load()
	if s == nil || s.spent(t.now) {
		var err error
		if s, err = v.seals.renew(t.now); err != nil {
			return dst, err
		}
		c.cache.insert(&s.subkey, &c.view)
	}
	n := len(dst)
	dst = slices.Grow(dst, length)[:n+length]
	text := dst[n:]
	// The body is made at the end of its text's room and encoded from there.
	raw := text[length-body:]
	plain := raw[:timesSize+len(payload)]
	copy(plain[timesSize:], payload) // first: payload may lie in the room
	binary.BigEndian.PutUint64(plain, uint64(t.issued)<<32|uint64(t.maxAge))
	s.aead.Seal(raw[:0], nil, plain, c.binding[:])
	s.counted(raw)
	s.head.put(text)
	base64url.Encode(text[headerText:], raw)
	return dst, nil
}

// Opened is what a token held.
type Opened struct {
	Payload []byte        // in the spare room of Open's dst, if it was enough
	KID     keystore.KID  // of the key that sealed it
	Issued  time.Time     // when the session began, in whole seconds, UTC
	MaxAge  time.Duration // how long after Issued it opens; 0: no end
	Reseal  bool          // another key seals now: answer with a token from Codec.Reseal
	Foreign bool          // the Fallback opened it
}

// Expires returns when the token ends. It is false for one without an end.
func (o Opened) Expires() (time.Time, bool) { return o.Issued.Add(o.MaxAge), o.MaxAge != 0 }

// Open opens token. It uses the spare room of dst, not dst's bytes, and allocates
// only if that is smaller than the token; token must not lie there.
//
// The error is ErrNoKey if there are no keys, else ErrBadToken (see ReasonOf).
func (c *Codec) Open(dst, token []byte) (Opened, error) {
	v := c.current()
	if v == nil {
		return Opened{}, ErrNoKey
	}
	if len(token) < minToken || len(token) > MaxToken {
		return c.openForeign(v, dst, token, Malformed)
	}
	head := headerOf(token)
	s := c.cache.find(&head)
	known := s != nil
	if !known {
		var why Reason
		if s, why = derive(v, head, token); why != 0 {
			return c.openForeign(v, dst, token, why)
		}
	}
	n, body := len(dst), base64url.DecodedLen(len(token)-headerText)
	raw := slices.Grow(dst, body)[n : n+body]
	if !base64url.Decode(raw, token[headerText:]) {
		return Opened{}, refusal(Malformed)
	}
	plain, err := s.aead.Open(raw[:0], nil, raw, c.binding[:])
	if err != nil {
		return Opened{}, refusal(Unauthentic)
	}
	if !known { // now it is proven: a forger's header leaves nothing behind
		c.cache.insert(s, &c.view)
	}
	t := binary.BigEndian.Uint64(plain)
	issued, maxAge := int64(t>>32), int64(uint32(t))
	if why := whyNot(issued, maxAge, c.clock.now()); why != 0 {
		clear(plain)
		return Opened{}, refusal(why)
	}
	return Opened{
		Payload: plain[timesSize:],
		KID:     s.key.kid,
		Issued:  time.Unix(issued, 0).UTC(),
		MaxAge:  time.Duration(maxAge) * time.Second,
		Reseal:  v.seals != s.key && v.seals != nil,
	}, nil
}

// OpenString is Open for the string that net/http gives for a cookie's value.
func (c *Codec) OpenString(dst []byte, token string) (Opened, error) {
	if c.fallback != nil { // may be anybody's code: give it bytes of its own
		return c.Open(dst, []byte(token))
	}
	// Open only reads token, and nothing keeps it.
	return c.Open(dst, unsafe.Slice(unsafe.StringData(token), len(token)))
}

// derive makes the subkey that a token's header asks for, or says why there is none.
func derive(v *view, head header, token []byte) (*subkey, Reason) {
	k := v.find(labelOf(token))
	if k == nil {
		if beginsNative(token) {
			return nil, UnknownKey
		}
		return nil, Malformed
	}
	var raw [headerSize]byte
	if !base64url.Decode(raw[:], token[:headerText]) {
		return nil, Malformed
	}
	aead, err := subkeyOf(k.material, &raw)
	if err != nil { // not by any token: a key that was checked derives
		return nil, UnknownKey
	}
	return &subkey{head: head, key: k, aead: aead}, 0
}

// whyNot returns why a token of this issue time and maximum age, in seconds, does
// not open now, or 0.
func whyNot(issued, maxAge, now int64) Reason {
	switch {
	case issued > now+int64(ClockSkew/time.Second):
		return Premature
	case maxAge != 0 && now >= issued+min(maxAge, math.MaxUint32):
		return Expired
	}
	return 0
}
