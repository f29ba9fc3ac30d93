package console

import (
	"net/netip"
	"sync"
	"time"
)

const (
	maxTries  = 5                // wrong tokens in a row from one address
	tryEvery  = 10 * time.Second // and one more after each of these
	maxPeople = 1024             // addresses that are remembered
)

// A limiter counts wrong tokens by address. Tokens are random and cannot be
// guessed; what it bounds is the noise in the log and the work.
type limiter struct {
	mu    sync.Mutex // guards the field below
	tries map[netip.Prefix]tries
}

// tries are wrong tokens that have not been forgiven yet, as of a time.
type tries struct {
	count int
	at    time.Time
}

func (t tries) now(now time.Time) tries {
	forgiven := int(now.Sub(t.at) / tryEvery)
	if forgiven >= t.count {
		return tries{at: now}
	}
	return tries{count: t.count - forgiven, at: t.at.Add(time.Duration(forgiven) * tryEvery)}
}

// wait is how long an address has to wait before it may try a token; 0: not at all.
func (l *limiter) wait(address string, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.tries[networkOf(address)].now(now)
	if t.count < maxTries {
		return 0
	}
	return t.at.Add(tryEvery).Sub(now)
}

// wrong counts a wrong token.
func (l *limiter) wrong(address string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	network := networkOf(address)
	t := l.tries[network].now(now)
	t.count++
	if _, known := l.tries[network]; !known {
		l.makeRoom(now)
	}
	l.tries[network] = t
}

// makeRoom forgets the addresses that are forgiven, and if that is not enough the
// one that tried longest ago.
func (l *limiter) makeRoom(now time.Time) {
	if l.tries == nil {
		l.tries = make(map[netip.Prefix]tries)
	}
	if len(l.tries) < maxPeople {
		return
	}
	var oldest netip.Prefix
	for network, t := range l.tries {
		if t.now(now).count == 0 {
			delete(l.tries, network)
		} else if o, ok := l.tries[oldest]; !ok || t.at.Before(o.at) {
			oldest = network
		}
	}
	if len(l.tries) >= maxPeople {
		delete(l.tries, oldest)
	}
}

// networkOf takes the port off; of an IPv6 address it takes the 64 bits that one
// site is given. What is no address counts as one.
func networkOf(remote string) netip.Prefix {
	address, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Prefix{}
	}
	ip := address.Addr().Unmap()
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	network, _ := ip.WithZone("").Prefix(bits)
	return network
}
