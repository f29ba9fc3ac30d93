package cookie

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/keytide/keytide/agentfeed/cookie/base64url"
	"github.com/keytide/keytide/keystore"
)

var (
	// ErrNoCookie says that a request has no cookie of this name, or none that
	// counts: then the error also wraps ErrBadToken, or what Unmarshal returned.
	ErrNoCookie = errors.New("cookie: none")
	// ErrBegun is returned for a change of the cookie after the head of the response
	// has been sent.
	ErrBegun = errors.New("cookie: the response has begun")
)

// maxSameName bounds how many cookies of one name are tried. Other hosts of the
// domain can add some, unless the name begins with __Host-.
const maxSameName = 4

// Held is what a Cookie holds.
type Held[T any] struct {
	Value    T
	Issued   time.Time    // when it began, in whole seconds, UTC
	Expires  time.Time    // when it ends; zero: never
	OpenedBy keystore.KID // the key of the cookie that came; zero: it began with this request
	SealedBy keystore.KID // the key of the cookie that the browser has after the response
	Resealed bool         // because the key of the cookie that came no longer seals

	opened Opened // for sealing it anew
}

// Get returns what the request's cookie holds; below Middleware, with the changes that
// were made since the request came.
//
// The error is ErrNoCookie, or ErrNoKey if there is a cookie and there are no keys
// yet: answer with 503, and leave the cookie alone.
func (c *Cookie[T]) Get(r *http.Request) (Held[T], error) {
	if s := c.stateOf(r); s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.held, s.err
	}
	return c.open(r)
}

// Set begins a session, in place of any that there is.
//
// The error is ErrNoKey, ErrTooLong, ErrBegun or what Marshal returned.
func (c *Cookie[T]) Set(w http.ResponseWriter, r *http.Request, value T) (Held[T], error) {
	now := time.Unix(c.codec.clock.now(), 0).UTC()
	s := Held[T]{Value: value, opened: Opened{Issued: now, MaxAge: time.Duration(c.codec.maxAge) * time.Second}}
	return c.seal(w, r, s)
}

// Update gives the request's session another value. It ends when it would have.
//
// The error is as for Get and Set.
func (c *Cookie[T]) Update(w http.ResponseWriter, r *http.Request, value T) (Held[T], error) {
	s, err := c.Get(r)
	if err != nil {
		return Held[T]{}, err
	}
	s.Value = value
	return c.seal(w, r, s)
}

// Clear ends the session in this browser. A copy of the cookie would go on until it
// ends by itself, as with every session that no server keeps.
//
// The error is ErrBegun.
func (c *Cookie[T]) Clear(w http.ResponseWriter, r *http.Request) error {
	return c.answer(w, r, "", Held[T]{}, ErrNoCookie)
}

// open reads the request's cookies.
func (c *Cookie[T]) open(r *http.Request) (Held[T], error) {
	last := ErrNoCookie
	for i, sent := range r.CookiesNamed(c.config.Name) {
		if i == maxSameName {
			break
		}
		s, err := c.openOne(sent.Value)
		if err == nil || errors.Is(err, ErrNoKey) {
			return s, err
		}
		last = fmt.Errorf("%w: %w", ErrNoCookie, err)
	}
	return Held[T]{}, last
}

func (c *Cookie[T]) openOne(token string) (s Held[T], err error) {
	opened, err := c.codec.OpenString(nil, token)
	if err != nil {
		return Held[T]{}, err
	}
	if err := c.config.Unmarshal(opened.Payload, &s.Value); err != nil {
		return Held[T]{}, err
	}
	s.OpenedBy, s.SealedBy = opened.KID, opened.KID
	s.times(opened)
	return s, nil
}

// reseal gives the cookie that replaces the one that came, or nil if that goes on:
// its key still seals, or no key does.
func (c *Cookie[T]) reseal(s *Held[T]) *http.Cookie {
	if !s.opened.Reseal {
		return nil
	}
	token, err := c.codec.Reseal(nil, s.opened)
	if err != nil {
		return nil
	}
	s.SealedBy, s.Resealed = kidOf(token), true
	return c.cookie(string(token), s.Expires)
}

func (s *Held[T]) times(opened Opened) {
	s.opened, s.Issued = opened, opened.Issued
	s.Expires = time.Time{}
	if end, ok := opened.Expires(); ok {
		s.Expires = end
	}
}

// seal makes s what the browser has.
func (c *Cookie[T]) seal(w http.ResponseWriter, r *http.Request, s Held[T]) (Held[T], error) {
	var err error
	if s.opened.Payload, err = c.config.Marshal(s.Value); err != nil {
		return Held[T]{}, err
	}
	token, err := c.codec.Reseal(nil, s.opened)
	if err != nil {
		return Held[T]{}, err
	}
	s.SealedBy, s.Resealed = kidOf(token), s.opened.Reseal
	s.times(s.opened)
	return s, c.answer(w, r, string(token), s, nil)
}

// answer lets the response set the cookie to token, and what Get returns to s and
// err.
func (c *Cookie[T]) answer(w http.ResponseWriter, r *http.Request, token string, s Held[T], err error) error {
	set := c.cookie(token, s.Expires)
	if state := c.stateOf(r); state != nil {
		return state.change(set, s, err)
	}
	c.put(w.Header(), set)
	return nil
}

// put replaces what the head says of this cookie, and keeps the response out of
// shared caches unless the application has said itself who may keep it.
func (c *Cookie[T]) put(head http.Header, set *http.Cookie) {
	lines := head["Set-Cookie"]
	head.Del("Set-Cookie")
	for _, line := range lines {
		if !strings.HasPrefix(line, c.config.Name+"=") {
			head.Add("Set-Cookie", line)
		}
	}
	head.Add("Set-Cookie", set.String())
	if head.Get("Cache-Control") == "" {
		head.Set("Cache-Control", "private, no-cache")
	}
}

// kidOf reads the kid of a token that was sealed here.
func kidOf(token []byte) (kid keystore.KID) {
	var raw [1 + kidSize]byte
	base64url.Decode(raw[:], token[:keyText])
	copy(kid[:], raw[1:])
	return kid
}
