package agentfeed

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keytide/keytide/agentfeed/internal/wire"
	"github.com/keytide/keytide/keystore"
)

// ErrClosed: the client is closed.
var ErrClosed = errors.New("agentfeed: client is closed")

// A State is how sure an agent is that its rings are current.
type State string

const (
	StateWaiting State = "waiting" // holds no rings yet
	StateCached  State = "cached"  // holds those of its cache file; no server has been reached since the start
	StateFresh   State = "fresh"
	StateStale   State = "stale"   // no proof for 60 s; goes on with the rings it has
	StateExpired State = "expired" // no proof for longer than the policy allows: opens, but no longer seals
)

// Status is what a client knows about itself.
type Status struct {
	State    State
	Age      time.Duration // since the rings were last known to be current
	AsOf     time.Time     // the same on this machine's clock; zero while waiting
	Position string        // of the state held, "<keys epoch>.<keys n>-<hosts epoch>.<hosts n>"
	Server   string        // id of the policy server that feeds; "" while there is none
	URL      string        // where that server is

	Transport Transport // how it feeds; "" while there is none
	Err       error     // why there is none; nil while there is one, and before the first is asked
	CacheErr  error     // why the cache file cannot be used or written; wraps ErrCache
	SecretErr error     // why the shared secret cannot be rolled over; wraps ErrSecret
}

// A Client holds the rings of one trusted host. All methods are safe for
// concurrent use.
type Client struct {
	host   HostFile // its secrets are those that the client was started with
	config Config

	hostRegions map[string]string // of servers, as host says
	keys        *secrets
	log         *slog.Logger
	cancel      context.CancelFunc
	done        chan struct{} // closed when the goroutines have ended

	tickets ticketHTTP

	mu         sync.Mutex // guards the fields below
	changed    chan struct{}
	rings      map[keystore.RingName]*Ring
	ready      bool
	cached     bool        // the rings are the cache file's
	cacheErr   error       // Status.CacheErr
	state      *wire.State // the newest, as it came; nil while there is none
	position   wire.Position
	servers    []string          // as the newest state says
	ca         string            // as the newest state says
	regions    map[string]string // of servers, as the newest state says
	staleAfter time.Duration
	maxStale   time.Duration // then the rings are expired; 0: never
	expired    bool          // the rings are shown without sealing keys
	expiry     *time.Timer   // looks whether they are; nil before maxStale was told
	proof      time.Time     // the rings were current then, by the monotonic clock
	feeding    Status        // its fields Server, URL, Transport, Err
	refused    bool          // all servers refuse this host
	failures   []Failure     // what does not follow the rings
}

// A Ring is a handle of one ring. It stays valid, whatever happens to the ring.
type Ring struct {
	client *Client
	name   keystore.RingName
	set    atomic.Pointer[keystore.KeySet] // what Snapshot shows: held or opens

	held  *keystore.KeySet // the newest; guarded by the client's mu
	opens *keystore.KeySet // held without a sealing key, once that is needed; likewise
}

// New makes a client and begins to connect in the background. It reads the files
// that c names and does no other I/O. A cache file that cannot be used is no error:
// Status says why. Close ends it.
func New(c Config) (*Client, error) {
	host, err := c.hostFile()
	if err != nil {
		return nil, err
	}
	log := c.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	log = log.With("host", host.Host)
	keys, err := newSecrets(c, host, log)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	client := &Client{
		host: host, config: c, hostRegions: regionsOf(host.Servers, host.Regions), keys: keys, log: log,
		cancel: cancel, done: make(chan struct{}),
		changed: make(chan struct{}), rings: make(map[keystore.RingName]*Ring),
	}
	client.start(ctx, &follower{client: client, random: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))})
	return client, nil
}

// start takes over the cache and starts the client's goroutines, which end with ctx.
func (c *Client) start(ctx context.Context, f *follower) {
	k := &keeper{client: c, path: c.config.CacheFile}
	var running sync.WaitGroup
	if k.path != "" {
		k.restore()
		running.Go(func() { k.run(ctx.Done()) })
	}
	running.Go(func() { f.run(ctx) })
	running.Go(func() { newReporter(c).follow(ctx) })
	go func() {
		running.Wait()
		close(c.done)
	}()
}

// Close ends the feed and waits for it. Rings keep the keys they have.
func (c *Client) Close() error {
	c.cancel()
	<-c.done
	c.tickets.close()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.expiry != nil {
		c.expiry.Stop()
	}
	return nil
}

// WaitReady waits until the client holds its rings, from a server or from its cache
// file: Status says which. It returns earlier, with a
// *ProblemError, when every server refuses this host: a wrong secret or a revoked
// host, which waiting does not mend. The client nevertheless goes on trying.
func (c *Client) WaitReady(ctx context.Context) error {
	for {
		c.mu.Lock()
		ready, refused, changed, cause := c.ready, c.refused, c.changed, c.feeding.Err
		c.mu.Unlock()
		switch {
		case ready:
			return nil
		case refused:
			return cause
		}
		select {
		case <-changed:
		case <-c.done:
			return ErrClosed
		case <-ctx.Done():
			if cause == nil {
				return ctx.Err()
			}
			return fmt.Errorf("%w; last: %w", ctx.Err(), cause)
		}
	}
}

// Ring returns the handle of a ring, whether or not the host has it.
func (c *Client) Ring(name keystore.RingName) *Ring {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ring(name)
}

func (c *Client) ring(name keystore.RingName) *Ring {
	r := c.rings[name]
	if r == nil {
		r = &Ring{client: c, name: name}
		c.rings[name] = r
	}
	return r
}

// Name returns the ring's name.
func (r *Ring) Name() keystore.RingName { return r.name }

// Snapshot returns the ring's newest keys, nil while there are none. It never
// blocks. The set does not change: hold one for the time of one request. While the
// rings are expired no key of it seals.
func (r *Ring) Snapshot() *keystore.KeySet { return r.set.Load() }

// Updates yields the ring's keys, now and whenever they change, until ctx or the
// client ends. A slow loop skips versions, never the newest; nil means that the
// host has lost the ring.
func (r *Ring) Updates(ctx context.Context) iter.Seq[*keystore.KeySet] {
	return func(yield func(*keystore.KeySet) bool) {
		var last *keystore.KeySet
		for range r.client.changes(ctx) {
			if set := r.set.Load(); set != last {
				last = set
				if !yield(set) {
					return
				}
			}
		}
	}
}

// Snapshot returns all rings that the host has, by name.
func (c *Client) Snapshot() []*keystore.KeySet {
	c.mu.Lock()
	defer c.mu.Unlock()
	var sets []*keystore.KeySet
	for _, name := range slices.Sorted(maps.Keys(c.rings)) {
		if set := c.rings[name].set.Load(); set != nil {
			sets = append(sets, set)
		}
	}
	return sets
}

// Updates yields all rings once they are there, and whenever one changes, until
// ctx or the client ends. A slow loop skips versions, never the newest.
func (c *Client) Updates(ctx context.Context) iter.Seq[[]*keystore.KeySet] {
	return func(yield func([]*keystore.KeySet) bool) {
		var last []*keystore.KeySet
		told := false
		for range c.changes(ctx) {
			c.mu.Lock()
			ready := c.ready
			c.mu.Unlock()
			if sets := c.Snapshot(); ready && (!told || !slices.Equal(sets, last)) {
				last, told = sets, true
				if !yield(sets) {
					return
				}
			}
		}
	}
}

// changes yields at once and after every change of the client, until ctx or the
// client ends.
func (c *Client) changes(ctx context.Context) iter.Seq[struct{}] {
	return func(yield func(struct{}) bool) {
		for {
			c.mu.Lock()
			changed := c.changed
			c.mu.Unlock()
			if ctx.Err() != nil || !yield(struct{}{}) {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			case <-c.done:
				return
			}
		}
	}
}

// Status says how current the rings are, and who feeds them.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.feeding
	s.CacheErr, s.SecretErr = c.cacheErr, c.keys.err()
	if !c.ready {
		s.State = StateWaiting
		return s
	}
	s.Age = max(0, time.Since(c.proof))
	s.AsOf = c.proof.Round(0)
	s.Position = c.position.String()
	switch {
	case c.maxStale > 0 && s.Age >= c.maxStale:
		s.State = StateExpired
	case c.cached:
		s.State = StateCached
	case s.Age >= c.staleAfter:
		s.State = StateStale
	default:
		s.State = StateFresh
	}
	return s
}

// notify wakes those who wait for a change. It needs mu.
func (c *Client) notify() {
	close(c.changed)
	c.changed = make(chan struct{})
}
