package agentfeed

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keytide/keytide/agentfeed/internal/wire"
	"github.com/keytide/keytide/keystore"
)

// errBehind: a server offers less than the client holds, or other than that.
var errBehind = errors.New("the server is behind")

// apply takes over a state that opened, whole or not at all. asOf is its time on
// the client's monotonic clock; from, if not nil, names the server that feeds now.
func (c *Client) apply(v string, state *wire.State, asOf time.Time, from *Status) error {
	position, err := wire.ParsePosition(v)
	if err != nil || state.V != v {
		return fmt.Errorf("state %q: %w", v, errors.Join(err, errors.New("is not at its envelope's position")))
	}
	sets := make(map[keystore.RingName]*keystore.KeySet, len(state.Rings))
	for _, ring := range state.Rings {
		set, err := ring.KeySet()
		if err != nil {
			return fmt.Errorf("state %s: %w", v, err)
		}
		if sets[set.Ring] != nil {
			return fmt.Errorf("state %s: ring %s stands twice", v, set.Ring)
		}
		sets[set.Ring] = set
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.admit(position, sets); err != nil {
		return err
	}
	for name, set := range sets {
		if held := c.ring(name).held; held == nil || !same(held, set) {
			c.rings[name].hold(set)
			c.log.Info("ring applied", "ring", name, "epoch", set.Epoch, "version", set.Version)
		}
	}
	for name, ring := range c.rings {
		if sets[name] == nil && ring.held != nil {
			ring.hold(nil)
			c.log.Warn("ring is no longer this host's", "ring", name)
		}
	}
	c.servers = validServers(state.Servers)
	c.located(state.Servers, state.Regions)
	if state.CA == "" || checkCA([]byte(state.CA)) == nil {
		c.ca = state.CA
	}
	c.staleAfter = time.Duration(min(max(state.StaleAfter, 1), 3600)) * time.Second
	c.ready, c.refused, c.cached = true, false, false
	c.state, c.position = state, position
	c.expire(state.MaxStale)
	c.proved(asOf)
	c.show()
	c.fedBy(from)
	c.notify()
	return nil
}

// admit refuses a state that is older than the one held. It needs mu.
func (c *Client) admit(position wire.Position, sets map[keystore.RingName]*keystore.KeySet) error {
	if !c.ready {
		return nil
	}
	if position.Before(c.position) {
		return fmt.Errorf("%w: it is at %s, this agent at %s", errBehind, position, c.position)
	}
	for name, set := range sets {
		held := c.ring(name).held
		if held == nil || held.Newer(set.Epoch, set.Version) || same(held, set) {
			continue
		}
		return fmt.Errorf("%w: it has ring %s at version %d of epoch %d, this agent has version %d of epoch %d, and they differ",
			errBehind, name, set.Version, set.Epoch, held.Version, held.Epoch)
	}
	return nil
}

// same reports whether two sets are the same version with the same keys.
func same(a, b *keystore.KeySet) bool {
	return a.Epoch == b.Epoch && a.Version == b.Version && a.Mode == b.Mode && a.OpensStatic == b.OpensStatic &&
		slices.EqualFunc(a.Keys, b.Keys, func(x, y keystore.SetKey) bool {
			return x.KID == y.KID && x.Role == y.Role && x.Pending == y.Pending && x.Retired == y.Retired && x.Seals == y.Seals
		})
}

// fedBy notes which server feeds, if from is not nil. It needs mu.
func (c *Client) fedBy(from *Status) {
	if from != nil {
		c.feeding = *from
	}
}

// beat takes over a heartbeat that opened. from is as for apply.
func (c *Client) beat(v string, asOf time.Time, from *Status) error {
	position, err := wire.ParsePosition(v)
	if err != nil {
		return fmt.Errorf("heartbeat: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ready || position.Before(c.position) {
		return fmt.Errorf("%w: its heartbeat is at %s, this agent at %s", errBehind, position, c.position)
	}
	c.position, c.cached = position, false
	c.proved(asOf)
	c.fedBy(from)
	if c.show() {
		c.notify()
	}
	return nil
}

// proved notes that the rings were current at asOf, which is never in the future
// and never takes back what is known already. It needs mu.
func (c *Client) proved(asOf time.Time) {
	if now := time.Now(); asOf.After(now) {
		asOf = now
	}
	if asOf.After(c.proof) {
		c.proof = asOf
	}
}

// validServers leaves out what is no server's URL.
func validServers(servers []string) []string {
	return slices.DeleteFunc(slices.Clone(servers), func(s string) bool { return checkServer(s) != nil })
}
