package adminhttp

import (
	"log/slog"
	"net/http"
	"sync"
	"time"
)

// A Refusal is why a request was not let in.
type Refusal string

// The closed set of them; they are labels of a metric.
const (
	NoToken      Refusal = "no_token"      // it carried none
	UnknownToken Refusal = "unknown_token" // it carried one that is not this server's
)

// Refusals counts the requests that came without a good token, and logs one of them
// a second at most: somebody who tries tokens must not fill the disk. A token is
// neither kept nor logged, nor is anything else that the client chose but its
// address. The zero Refusals is ready; it is safe for concurrent use.
type Refusals struct {
	mu     sync.Mutex // guards the fields below
	counts map[Refusal]uint64
	logged time.Time // the last line's; with a monotonic reading
	left   int       // not logged since
}

// Note counts one.
func (r *Refusals) Note(log *slog.Logger, req *http.Request, why Refusal) {
	r.mu.Lock()
	if r.counts == nil {
		r.counts = make(map[Refusal]uint64)
	}
	r.counts[why]++
	now := time.Now()
	if !r.logged.IsZero() && now.Sub(r.logged) < time.Second {
		r.left++
		r.mu.Unlock()
		return
	}
	left := r.left
	r.logged, r.left = now, 0
	r.mu.Unlock()
	log.Warn("admin request refused", "why", string(why), "remote", req.RemoteAddr, "not_logged", left)
}

// Count returns how many there were.
func (r *Refusals) Count(why Refusal) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts[why]
}
