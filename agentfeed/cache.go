package agentfeed

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/keytide/keytide/agentfeed/internal/wire"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/secretfile"
)

// ErrCache: the cache file could not be used, or not be written.
var ErrCache = errors.New("agentfeed: cache")

// cachePeriod is how often the cache is written only to say that its state is
// still current: a restarted agent may take it for that much older than it is.
const cachePeriod = 5 * time.Minute

// A keeper keeps the newest state in the cache file (SPEC.md, section 9). One
// goroutine runs it.
type keeper struct {
	client   *Client
	path     string
	position wire.Position // of what the file holds
	state    *wire.State   // the same
	asOf     time.Time     // the same
}

// restore takes over the state of the cache file, if there is one. The agent goes
// on without it when it cannot be used, and says why.
func (k *keeper) restore() {
	c := k.client
	content, err := secretfile.Read(k.path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil && content[0] != wire.CacheFormat {
		err = errors.New("this file is no cache, and is left alone: name another")
	}
	if err != nil {
		k.path = "" // what the file is stays open: it must not be overwritten
		k.fault(err)
		return
	}
	cache, err := wire.OpenCache(content, c.host.Host, c.keys.all()...)
	if err == nil {
		// The monotonic clock does not outlive a process: the age is by the wall clock.
		age := max(0, time.Since(cache.AsOf))
		err = c.apply(cache.State.V, &cache.State, time.Now().Add(-age), nil)
	}
	if err != nil {
		k.fault(err)
		return
	}
	c.mu.Lock()
	c.cached = true
	k.asOf = c.proof
	if keystore.KID(content[1:]) == c.keys.inUse().KID() {
		k.state, k.position = c.state, c.position
	}
	c.mu.Unlock()
	c.log.Info("state taken from the cache", "position", cache.State.V, "age", c.Status().Age.Round(time.Second))
}

// run writes the file whenever the state changes, until ctx ends, and then a last
// time.
func (k *keeper) run(done <-chan struct{}) {
	tick := time.NewTicker(cachePeriod)
	defer tick.Stop()
	for k.path != "" {
		k.client.mu.Lock()
		changed := k.client.changed
		k.client.mu.Unlock()
		k.keep(cachePeriod)
		select {
		case <-changed:
		case <-tick.C:
		case <-done:
			k.keep(time.Second)
			return
		}
	}
}

// keep writes the file if it holds another state than the client, or one that the
// client knows to have been current for longer than period since.
func (k *keeper) keep(period time.Duration) {
	c := k.client
	c.mu.Lock()
	state, position, asOf := c.state, c.position, c.proof
	c.mu.Unlock()
	if state == nil || (state == k.state && position == k.position && asOf.Sub(k.asOf) < period) {
		return
	}
	held := *state
	held.V, held.Secret = position.String(), nil // a secret has its own file
	content, err := wire.SealCache(c.keys.inUse(), c.host.Host, wire.Cache{AsOf: asOf.UTC(), State: held})
	if err == nil {
		err = secretfile.Replace(k.path, content)
	}
	k.fault(err)
	if err == nil {
		k.state, k.position, k.asOf = state, position, asOf
	}
}

// fault notes what is wrong with the cache, nil = nothing any more, and logs a
// fault that is new.
func (k *keeper) fault(err error) {
	c := k.client
	if err != nil {
		err = fmt.Errorf("%w: %s: %w", ErrCache, c.config.CacheFile, err)
	}
	c.mu.Lock()
	before := c.cacheErr
	c.cacheErr = err
	c.mu.Unlock()
	if err != nil && (before == nil || before.Error() != err.Error()) {
		c.log.Warn("the cache cannot be used", "err", err)
	}
}
