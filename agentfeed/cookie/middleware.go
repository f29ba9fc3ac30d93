package cookie

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
)

// A state is the session of one request that Middleware handles.
type state[T any] struct {
	mu    sync.Mutex // guards the fields below
	held  Held[T]    // what Get returns
	err   error
	set   *http.Cookie // goes out with the head; nil: none
	asked bool         // set by the application, not by a reseal alone
	begun bool         // the head has been sent
}

// stateKey finds a cookie's state in a request's context.
type stateKey[T any] struct{ of *Cookie[T] }

func (c *Cookie[T]) stateOf(r *http.Request) *state[T] {
	s, _ := r.Context().Value(stateKey[T]{c}).(*state[T])
	return s
}

func (s *state[T]) change(set *http.Cookie, held Held[T], err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.begun {
		return ErrBegun
	}
	s.set, s.asked, s.held, s.err = set, true, held, err
	return nil
}

// Middleware opens the session of each request once, for all calls of Get, and seals
// it anew under the key that seals now when its own no longer does: so users stay
// logged in over any number of rollovers, as long as they come back before their key
// is destroyed. The new cookie goes out with the head of the response; the session
// ends when it would have.
//
// A response that shared caches may keep (Cache-Control public or s-maxage) gets no
// cookie for this alone: a later one will.
//
// It answers nothing itself: whether a request needs a session is next's business.
func (c *Cookie[T]) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s := &state[T]{}
		if s.held, s.err = c.open(r); s.err == nil {
			s.set = c.reseal(&s.held)
		}
		out := &writer{ResponseWriter: w, begin: func() { c.begin(w.Header(), s) }}
		next.ServeHTTP(out, r.WithContext(context.WithValue(r.Context(), stateKey[T]{c}, s)))
		out.begin() // for a handler that wrote nothing
	})
}

// begin is called before the head of the response is sent, and maybe again.
func (c *Cookie[T]) begin(head http.Header, s *state[T]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.begun {
		return
	}
	s.begun = true
	if s.set != nil && (s.asked || !shared(head)) {
		c.put(head, s.set)
	}
}

// shared reports whether the head lets shared caches keep the response.
func shared(head http.Header) bool {
	for _, line := range head["Cache-Control"] {
		for directive := range strings.SplitSeq(strings.ToLower(line), ",") {
			name, _, _ := strings.Cut(strings.TrimSpace(directive), "=")
			if name == "public" || name == "s-maxage" {
				return true
			}
		}
	}
	return false
}

// A writer calls begin before anything of the response is sent.
type writer struct {
	http.ResponseWriter
	begin func()
}

// Unwrap lets http.ResponseController reach what this writer has not.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *writer) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols { // else the real head is still to come
		w.begin()
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *writer) Write(p []byte) (int, error) {
	w.begin()
	return w.ResponseWriter.Write(p)
}

// ReadFrom keeps the way of the kernel from file to socket.
func (w *writer) ReadFrom(src io.Reader) (int64, error) {
	w.begin()
	return io.Copy(w.ResponseWriter, src)
}

// FlushError is what http.ResponseController calls, before Unwrap.
func (w *writer) FlushError() error {
	w.begin()
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Flush is for handlers that ask for an http.Flusher.
func (w *writer) Flush() { _ = w.FlushError() }

// Hijack is for handlers that ask for an http.Hijacker. No head is sent then: the
// handler writes its own.
func (w *writer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(w.ResponseWriter).Hijack()
}
