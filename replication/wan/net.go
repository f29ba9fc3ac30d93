package wan

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

// A Net is the links between regions. Within a region a link has no latency, and no
// fault of its region touches it. All methods are safe for concurrent use.
type Net struct {
	latency time.Duration

	mu     sync.Mutex // guards the fields below; held until a fault has come into force
	faults map[string]Fault
	routes []route
	closed bool
}

// A route is a link, with the region whose connections it carries and that of its
// target.
type route struct {
	from, to string
	link     *Link
}

// NewNet returns a net without links, whose regions are latency apart, one way.
func NewNet(latency time.Duration) *Net {
	return &Net{latency: latency, faults: make(map[string]Fault)}
}

// Link makes the link by which region from reaches target, HOST:PORT, in region to.
// It is born with the faults that its regions have. The net closes it.
func (n *Net) Link(from, to, target string) (*Link, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, fmt.Errorf("wan: %w", net.ErrClosed)
	}
	cfg := Config{Target: target}
	if from != to {
		cfg.Latency = n.latency
	}
	link, err := Open(cfg)
	if err != nil {
		return nil, err
	}
	r := route{from, to, link}
	if err := r.set(n.faults); err != nil {
		return nil, errors.Join(err, link.Close())
	}
	n.routes = append(n.routes, r)
	return link, nil
}

// Cut puts a fault on every link between the region and others, as seen from the
// region: HoldForward holds what leaves it, whichever side connected, HoldBack what
// reaches it. It takes the place of the region's fault before. A link between two
// regions with faults has both. The errors are those of Link.Cut.
func (n *Net) Cut(region string, f Fault) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.faults[region] = f
	var errs []error
	for _, r := range n.routes {
		if r.from == region || r.to == region {
			errs = append(errs, r.set(n.faults))
		}
	}
	return errors.Join(errs...)
}

// Heal ends the region's fault. Links to a region that has one of its own keep that.
func (n *Net) Heal(region string) error { return n.Cut(region, 0) }

// Fault returns what Cut put on a region.
func (n *Net) Fault(region string) Fault {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.faults[region]
}

// Regions returns the names of all regions that a link joins, sorted.
func (n *Net) Regions() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var names []string
	for _, r := range n.routes {
		names = append(names, r.from, r.to)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Close closes every link. A second call does nothing.
func (n *Net) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	var errs []error
	for _, r := range n.routes {
		errs = append(errs, r.link.Close())
	}
	n.routes = nil
	return errors.Join(errs...)
}

// set puts the faults of both regions on the link between them.
func (r route) set(faults map[string]Fault) error {
	if r.from == r.to {
		return nil
	}
	return r.link.Cut(faults[r.from] | faults[r.to].turned())
}
