package hub

import (
	"sync"
	"time"

	"github.com/keytide/keytide/agentfeed/internal/wire"
)

// A nonce must be remembered while a request with it can pass the check of its
// time: from Window before the server's clock to Window after it.
const (
	nonceSpan = 2 * wire.Window
	// maxHostNonces and maxNonces bound what is remembered in one span. A host, or
	// all hosts together, that send more are refused until the span is over: to
	// forget nonces would let replays in. 2^18 nonces take about 20 MB.
	maxHostNonces = 1 << 12
	maxNonces     = 1 << 18
)

type nonceUse int

const (
	nonceNew nonceUse = iota
	nonceUsed
	nonceFull
)

// nonces remembers the client nonces of authenticated requests for at least
// nonceSpan, in two generations that take turns.
type nonces struct {
	mu      sync.Mutex // guards the fields below
	since   time.Time  // when current began
	current generation
	before  generation
}

type generation struct {
	hosts map[string]map[wire.Nonce]struct{}
	count int
}

func newNonces() *nonces { return &nonces{current: newGeneration(), before: newGeneration()} }

func newGeneration() generation {
	return generation{hosts: make(map[string]map[wire.Nonce]struct{})}
}

func (g *generation) has(host string, n wire.Nonce) bool {
	_, ok := g.hosts[host][n]
	return ok
}

// use remembers that host has used n at now, and says whether it had before.
func (c *nonces) use(host string, n wire.Nonce, now time.Time) nonceUse {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch age := now.Sub(c.since); {
	case age >= 2*nonceSpan || age < -nonceSpan: // idle for long, or the clock was set back
		c.before, c.current, c.since = newGeneration(), newGeneration(), now
	case age >= nonceSpan:
		c.before, c.current, c.since = c.current, newGeneration(), now
	}
	if c.current.has(host, n) || c.before.has(host, n) {
		return nonceUsed
	}
	used := c.current.hosts[host]
	if len(used) >= maxHostNonces || c.current.count >= maxNonces {
		return nonceFull
	}
	if used == nil {
		used = make(map[wire.Nonce]struct{}, 1)
		c.current.hosts[host] = used
	}
	used[n] = struct{}{}
	c.current.count++
	return nonceNew
}
