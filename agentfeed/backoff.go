package agentfeed

import (
	"math/rand/v2"
	"time"
)

const (
	firstBackoff = 500 * time.Millisecond
	maxBackoff   = 30 * time.Second
	maxAsked     = 5 * time.Minute  // the longest wait that a server may ask for
	settled      = 60 * time.Second // a stream that lived so long was a good one
)

// refusedWait is between rounds over servers that all refuse this host.
var refusedWait = [2]time.Duration{150 * time.Second, 300 * time.Second}

// An outcome is how one attempt ended.
type outcome struct {
	lived     time.Duration     // from the first message that opened; 0: none did
	retry     time.Duration     // the server's bound for the first wait after a stream
	bye       *[2]time.Duration // the range that the server asked for when it drained
	asked     time.Duration     // Retry-After
	refused   bool              // the server refuses this host
	delivered bool              // a message opened
	marked    bool              // streams do not get through from this server
	again     bool              // it is no failure: the same server is to be asked, at once
	better    string            // it is no failure: this server is to be asked, at once
}

// A backoff says how long to wait between attempts. It is pure but for the
// randomness that is passed in.
type backoff struct {
	failures int
	refusals int // in a row
}

// wait returns the time until the next attempt. servers is how many there are.
func (b *backoff) wait(o outcome, servers int, random *rand.Rand) time.Duration {
	if o.refused {
		b.refusals++
	} else {
		b.refusals = 0
	}
	if o.delivered && o.lived >= settled {
		b.failures = 0
	}
	bound := min(firstBackoff<<min(b.failures, 10), maxBackoff)
	switch {
	case o.bye != nil:
		return between(o.bye[0], o.bye[1], random)
	case o.delivered && o.lived >= settled:
		return between(0, o.retry, random)
	case o.delivered:
		bound = max(bound, o.retry)
	case b.refusals >= servers:
		b.failures++
		return between(refusedWait[0], refusedWait[1], random)
	}
	b.failures++
	return o.asked + between(0, bound, random)
}

// between returns a random time from low to high.
func between(low, high time.Duration, random *rand.Rand) time.Duration {
	if high <= low {
		return low
	}
	return low + time.Duration(random.Int64N(int64(high-low)+1))
}
