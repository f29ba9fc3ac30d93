package hub

import (
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/keytide/keytide/agentfeed/internal/wire"
)

// Failed authentications are counted by address, since no host is proved. The bound
// is high, because thousands of agents may sit behind one address, and each asks
// again after some minutes when it is refused; and whoever authenticates passes,
// whatever others at his address do.
const (
	failureSpan  = time.Minute
	maxFailures  = 6000    // of one address in a span
	maxAddresses = 1 << 16 // that are told apart in a span; the others count together
)

// failures counts failed authentications.
type failures struct {
	mu    sync.Mutex // guards the fields below
	since time.Time  // when the span began
	count map[netip.Prefix]int
}

func newFailures() *failures { return &failures{count: make(map[netip.Prefix]int)} }

// note counts one of an address, and reports whether that makes too many.
func (f *failures) note(from netip.Prefix, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now.Sub(f.since) >= failureSpan {
		f.since = now
		clear(f.count)
	}
	if _, known := f.count[from]; !known && len(f.count) >= maxAddresses {
		from = netip.Prefix{}
	}
	f.count[from]++
	return f.count[from] > maxFailures
}

// addressOf is where a request comes from: an IPv4 address, or an IPv6 network of
// 64 bits, which is what one customer of a provider has at least.
func addressOf(r *http.Request) netip.Prefix {
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Prefix{}
	}
	address, bits := at.Addr().Unmap(), 64
	if address.Is4() {
		bits = 32
	}
	network, err := address.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return network
}

// strange reports whether a problem is one of those that whoever knows no secret
// gets.
func strange(p wire.Problem) bool {
	switch strings.TrimPrefix(p.Type, wire.ProblemPrefix) {
	case wire.AuthRequired, wire.BadMAC, wire.NotCurrent:
		return true
	}
	return false
}
