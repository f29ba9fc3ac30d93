package hub

import (
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/keytide/keytide/agentfeed/internal/wire"
)

func problem(name string) *wire.Problem {
	p := wire.NewProblem(name)
	return &p
}

func writeProblem(w http.ResponseWriter, p wire.Problem) {
	if p.Status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", wire.Scheme)
	}
	if p.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(p.RetryAfter/time.Second)))
	}
	writeJSON(w, p.Status, "application/problem+json", p)
}

// refusalsPerSecond bounds the log lines that strangers can cause.
const refusalsPerSecond = 10

// A limitedLog logs refused requests: some each second, and how many it left out.
type limitedLog struct {
	out *slog.Logger

	mu      sync.Mutex // guards the fields below
	second  int64
	written int
	left    int // not logged since the last line
}

// refused logs the refusal of a request. The host's name is what the request
// claims: a checked name, but proved only when the problem comes after the MAC.
func (l *limitedLog) refused(r *http.Request, g *grant, p wire.Problem) {
	l.mu.Lock()
	if second := time.Now().Unix(); second != l.second {
		l.second, l.written = second, 0
	}
	if l.written >= refusalsPerSecond {
		l.left++
		l.mu.Unlock()
		return
	}
	l.written++
	left := l.left
	l.left = 0
	l.mu.Unlock()

	var host, kid string
	if g != nil {
		host, kid = g.host, g.kid.String()
	}
	l.out.Warn("feed request refused", "problem", strings.TrimPrefix(p.Type, wire.ProblemPrefix),
		"host", host, "kid", kid, "remote", r.RemoteAddr, "not_logged", left)
}
