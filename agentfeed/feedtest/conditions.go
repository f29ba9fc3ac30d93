package feedtest

import (
	"bytes"
	"maps"
	"net/http"
	"time"
)

// conditions are under what a server runs.
type conditions struct {
	skew                 time.Duration
	staleAfter, maxStale time.Duration
	buffered             bool
}

// Freeze stops, or lets go on, what the server knows of its core: it goes on
// answering and sending heartbeats, but the time for which it proves its rings
// stands still. Agents find themselves stale when Limits say so, by default 60 s
// later, and leave for a server that knows more, if there is one.
func (s *Server) Freeze(on bool) { s.store.freeze(on) }

// Limits sets after how long without proof agents are stale, and expired, in whole
// seconds: 0 stands for 60 s, and for never. It begins anew with every agent.
func (s *Server) Limits(staleAfter, maxStale time.Duration) {
	s.tb.Helper()
	s.restart(func() { s.staleAfter, s.maxStale = staleAfter, maxStale })
}

// Skew sets the server's clock off by d; 0 sets it right. It begins anew with every
// agent.
func (s *Server) Skew(d time.Duration) {
	s.tb.Helper()
	s.restart(func() { s.skew = d })
}

// Buffer puts a proxy in front of the server, or takes it away, that passes an
// answer on only when it has ended: polls get through, streams never do. It begins
// anew with every agent.
func (s *Server) Buffer(on bool) {
	s.tb.Helper()
	s.restart(func() { s.buffered = on })
}

// restart changes the conditions. A server that is stopped stays so.
func (s *Server) restart(change func()) {
	s.tb.Helper()
	running := s.http != nil
	s.Stop()
	change()
	if running {
		s.Start()
	}
}

// proxied is h behind the proxy that there is, if there is one.
func (s *Server) proxied(h http.Handler) http.Handler {
	if !s.buffered {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		held := &answer{header: make(http.Header), status: http.StatusOK}
		h.ServeHTTP(held, r)
		if r.Context().Err() != nil {
			return
		}
		maps.Copy(w.Header(), held.header)
		w.WriteHeader(held.status)
		w.Write(held.body.Bytes())
	})
}

// An answer is held back until it has ended.
type answer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (a *answer) Header() http.Header              { return a.header }
func (a *answer) WriteHeader(status int)           { a.status = status }
func (a *answer) Write(p []byte) (int, error)      { return a.body.Write(p) }
func (a *answer) Flush()                           {}
func (a *answer) SetWriteDeadline(time.Time) error { return nil }
