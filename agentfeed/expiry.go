package agentfeed

import (
	"slices"
	"time"

	"github.com/keytide/keytide/keystore"
)

// expire notes what the newest state says of expiry. It needs mu.
func (c *Client) expire(maxStale int64) {
	const most = 10 * 365 * 24 * 3600
	c.maxStale = time.Duration(min(max(maxStale, 0), most)) * time.Second
	if c.maxStale > 0 && c.expiry == nil {
		c.expiry = time.AfterFunc(c.maxStale, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.show() {
				c.notify()
			}
		})
	}
}

// show gives out the rings as they may be used now: without sealing keys when they
// are expired. It reports whether a ring has changed, and needs mu.
func (c *Client) show() (changed bool) {
	left := c.maxStale - time.Since(c.proof)
	expired := c.maxStale > 0 && left <= 0
	if c.maxStale > 0 && !expired {
		c.expiry.Reset(left)
	}
	switch {
	case expired && !c.expired:
		c.log.Error("rings are expired: opening only, until a server proves that they are current", "max_stale", c.maxStale)
	case !expired && c.expired:
		c.log.Info("rings are no longer expired")
	}
	c.expired = expired
	for _, r := range c.rings {
		if r.show(expired) {
			changed = true
		}
	}
	return changed
}

// hold takes set, which may be nil, for the newest. It needs the client's mu.
func (r *Ring) hold(set *keystore.KeySet) { r.held, r.opens = set, nil }

// show gives out the newest keys, and reports whether they differ from those given
// out before. It needs the client's mu.
func (r *Ring) show(expired bool) bool {
	set := r.held
	if expired && set != nil {
		if r.opens == nil {
			r.opens = opening(set)
		}
		set = r.opens
	}
	return r.set.Swap(set) != set
}

// opening is set without a sealing key.
func opening(set *keystore.KeySet) *keystore.KeySet {
	opens := *set
	opens.Keys = slices.Clone(set.Keys)
	for i := range opens.Keys {
		opens.Keys[i].Seals = false
	}
	return &opens
}
