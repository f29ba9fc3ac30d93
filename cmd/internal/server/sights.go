package server

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/keytide/keytide/agentfeed/hub"
	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/host"
	"github.com/keytide/keytide/keystore/seal"
	"github.com/keytide/keytide/replication"
)

const (
	sightPeriod  = time.Second      // between two rounds
	slowPeriod   = 10 * time.Second // between two looks at what is due by time alone
	livePeriod   = 10 * time.Minute // between two looks at the streams that are open
	settlePeriod = time.Minute      // that all servers have had to say what they have seen; agents come back sooner
	recordLimit  = 20 * time.Second // the age of a server's record at which it is not heard of
	// hostsPerEvent is how many hosts change in one event: each puts a state and one
	// key's material, and a batch has 256 messages at most.
	hostsPerEvent     = 100
	instancesPerEvent = 250 // so that the payload stays within its bound
)

// sights is what this server has seen of trusted hosts since it started, and the loop
// that does what follows from it: marks in the ledger, the end of secrets that nobody
// needs any more, of ephemeral hosts that nobody has seen, and rollovers by age.
//
// A mark is coarse: an instance is marked when it is new, shows another secret, or a
// day after its last mark. A server that stops between a sight and its mark, a second
// at most, loses the sight; the agent comes again.
type sights struct {
	service *service
	log     *slog.Logger

	mu      sync.Mutex // guards the fields below
	seen    map[string]map[host.InstanceID]sighting
	pending map[string]bool // hosts that were seen since the last round

	// The loop's alone.
	slow, live time.Time // the last looks
	calm       calm
}

// A sighting is the last that was seen of an instance.
type sighting struct {
	kid   keystore.KID
	keeps bool
	from  netip.Addr
	at    time.Time
}

func newSights(s *service, log *slog.Logger) *sights {
	return &sights{service: s, log: log, seen: make(map[string]map[host.InstanceID]sighting), pending: make(map[string]bool)}
}

// see notes an agent that has proved a secret. It is hub.Config.Seen.
func (k *sights) see(s hub.Sight) {
	k.mu.Lock()
	defer k.mu.Unlock()
	instances := k.seen[s.Host]
	if instances == nil {
		instances = make(map[host.InstanceID]sighting)
		k.seen[s.Host] = instances
	}
	id := host.InstanceID(s.Instance)
	if _, known := instances[id]; !known && len(instances) > 2*host.MaxInstances {
		return // more than are kept count of, and that is known
	}
	instances[id] = sighting{kid: s.KID, keeps: s.Keeps, from: s.From, at: time.Now()}
	k.pending[s.Host] = true
}

// last is when this server last saw a host; zero: not since it started.
func (k *sights) last(name string) (last time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range k.seen[name] {
		if s.at.After(last) {
			last = s.at
		}
	}
	return last
}

// run goes round until ctx ends. A round that fails is logged, and the next one tries
// again.
func (k *sights) run(ctx context.Context) error {
	ticker := time.NewTicker(sightPeriod)
	defer ticker.Stop()
	for {
		if err := k.round(ctx, time.Now()); err != nil && ctx.Err() == nil {
			k.log.Warn("what was seen of trusted hosts is not written; trying again", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (k *sights) round(ctx context.Context, at time.Time) error {
	s := k.service
	if s.hosts.Freshness().State != events.Fresh {
		k.calm = calm{}
		return nil
	}
	if at.Sub(k.live) >= livePeriod {
		k.live = at
		for _, sight := range s.hub.Sights() {
			k.see(sight)
		}
	}
	if err := k.mark(ctx); err != nil {
		return err
	}
	settled := k.calm.settled(s, at)
	due := k.due(at, settled, at.Sub(k.slow) >= slowPeriod)
	if at.Sub(k.slow) >= slowPeriod {
		k.slow = at
	}
	return errors.Join(
		k.each(ctx, due.retire, "every instance has the new secret", func(h host.Host) (host.Change, error) { return h.Retire(at) }),
		k.each(ctx, due.expire, "not seen for too long", func(h host.Host) (host.Change, error) { return h.Expire(k.last(h.Name), at) }),
		s.rollDue(ctx, due.roll, at),
	)
}

// each commits the same change of many hosts, some at a time. Those for which it does
// not hold any more are left out.
func (k *sights) each(ctx context.Context, names []string, reason string, decide func(host.Host) (host.Change, error)) error {
	for batch := range slices.Chunk(names, hostsPerEvent) {
		_, _, err := k.service.commitHosts(ctx, replication.Proposal{Actor: "keytide", Reason: reason}, batch, nil, decide)
		if err != nil {
			return err
		}
	}
	return nil
}

// mark writes what is news of the hosts that were seen since the last round.
func (k *sights) mark(ctx context.Context) error {
	k.mu.Lock()
	pending := k.pending
	k.pending = make(map[string]bool)
	k.mu.Unlock()
	names := k.news(slices.Sorted(maps.Keys(pending)))
	for len(names) > 0 {
		batch := k.batch(names)
		_, _, err := k.service.commitHosts(ctx, replication.Proposal{Actor: "keytide", Reason: "seen"}, batch, nil,
			func(h host.Host) (host.Change, error) { return h.See(k.marks(h)) })
		if err != nil {
			k.mu.Lock()
			for _, name := range names {
				k.pending[name] = true
			}
			k.mu.Unlock()
			return err
		}
		names = names[len(batch):]
	}
	return nil
}

// news are those of the hosts of which something is to be marked.
func (k *sights) news(names []string) (left []string) {
	k.service.hosts.Replica().Read(func(state *events.State) {
		for _, name := range names {
			if h, ok := state.Host(name); ok && len(k.marks(h)) > 0 {
				left = append(left, name)
			}
		}
	})
	return left
}

// batch is the first of the hosts, as many as one event can mark.
func (k *sights) batch(names []string) []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	instances := 0
	for i, name := range names {
		instances += min(len(k.seen[name]), host.MaxInstances)
		if i > 0 && (instances > instancesPerEvent || i == hostsPerEvent) {
			return names[:i]
		}
	}
	return names
}

// marks are the sights of a host that are news to the ledger.
func (k *sights) marks(h host.Host) (marks []host.Instance) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for id, s := range k.seen[h.Name] {
		secret, ok := h.Secret(s.kid)
		if !ok || s.at.Before(h.Registered) {
			continue // of a secret, or a registration, that has ended
		}
		i := host.Instance{ID: id, Seen: s.at, Generation: secret.Generation, Keeps: s.keeps}
		if h.Marks(i) && len(marks) < host.MaxInstances {
			marks = append(marks, i)
		}
	}
	return marks
}

// due is what time or proof has brought about, by names of hosts.
type due struct{ retire, expire, roll []string }

// due looks at all hosts: for secrets that end, and, if all, at what is due by time.
// settled is the last event that every server has applied, and has had the time to
// contradict.
func (k *sights) due(at time.Time, settled keystore.N, all bool) (d due) {
	k.service.hosts.Replica().Read(func(state *events.State) {
		policy := state.SecretPolicy()
		for h := range state.EachHost() {
			switch {
			case h.Revoked:
			case h.Rolling():
				if h.Last.N <= settled && h.Proved(at) {
					d.retire = append(d.retire, h.Name)
				}
			case all && h.Ephemeral > 0 && h.Last.N <= settled:
				if _, err := h.Expire(k.last(h.Name), at); err == nil {
					d.expire = append(d.expire, h.Name)
				} else if policy.Due(h, at) {
					d.roll = append(d.roll, h.Name)
				}
			case all && policy.Due(h, at):
				d.roll = append(d.roll, h.Name)
			}
		}
	})
	for _, names := range [][]string{d.retire, d.expire, d.roll} {
		slices.Sort(names)
	}
	return d
}

// calm is what all servers have applied, over the last while in which all of them
// were heard of. A server that is not heard of may feed agents of which it cannot
// tell, whether it is excluded or not: only one that is forgotten does not count.
type calm struct {
	samples []sample // oldest first
	n       keystore.N
}

type sample struct {
	at time.Time
	n  keystore.N // that every server had applied then
}

func (c *calm) settled(s *service, at time.Time) keystore.N {
	n, others, all := s.appliedByAll()
	switch {
	case !all:
		*c = calm{}
		return 0
	case !others:
		return n // there is nobody else who may have seen anything
	}
	c.samples = append(c.samples, sample{at, n})
	for len(c.samples) > 0 && at.Sub(c.samples[0].at) >= settlePeriod {
		c.n = max(c.n, c.samples[0].n)
		c.samples = c.samples[1:]
	}
	return c.n
}

// appliedByAll returns the last event of the hosts' ledger that every member has
// applied, if all are heard of and fresh.
func (s *service) appliedByAll() (n keystore.N, others, all bool) {
	records := make(map[string]replication.ServerView)
	for _, v := range s.hosts.Servers() {
		records[v.Record.ID] = v
	}
	n, _ = s.hosts.Replica().Durable()
	all = true
	s.hosts.Replica().Read(func(state *events.State) {
		for _, m := range state.Members() {
			if m.ID == s.id.Server || m.Forgotten != 0 {
				continue
			}
			others = true
			v, ok := records[m.ID]
			if !ok || v.Age > recordLimit || v.Record.State != events.Fresh {
				all = false
				continue
			}
			n = min(n, v.Record.Applied.N)
		}
	})
	return n, others, all
}

// errNothing ends a commit that finds nothing to do.
var errNothing = errors.New("no host is to be changed")

// A skipped host is one that a change of many has left out.
type skipped struct {
	name string
	why  error
}

// commitHosts commits the changes that decide makes of these hosts, in one event, and
// returns them with the hosts that it left out. made gives new secrets by host. If
// there is nothing to do it writes no event.
func (s *service) commitHosts(ctx context.Context, p replication.Proposal, names []string, made map[string]keystore.Material, decide func(host.Host) (host.Change, error)) (replication.Receipt, []skipped, error) {
	var left []skipped
	receipt, err := s.hosts.Commit(ctx, func(state *events.State) (replication.Proposal, error) {
		left = left[:0]
		if _, done := state.Request(p.Request); done && p.Request != "" {
			return p, nil
		}
		var changes []host.Change
		p.Puts = nil
		for _, name := range names {
			h, ok := state.Host(name)
			if !ok {
				left = append(left, skipped{name, keystore.ErrNotFound})
				continue
			}
			c, err := decide(h)
			if err != nil {
				left = append(left, skipped{name, err})
				continue
			}
			if m := made[name]; !m.IsZero() {
				put, err := s.sealSecret(state, name, c.Secret, m)
				if err != nil {
					return p, err
				}
				p.Puts = append(p.Puts, put)
			}
			changes = append(changes, c)
		}
		if len(changes) == 0 {
			return p, errNothing
		}
		var err error
		p.Type, p.Payload, err = events.EncodeHostChange(changes...)
		return p, err
	})
	if errors.Is(err, errNothing) {
		err = nil
	}
	return receipt, left, err
}

// offer makes and offers new secrets for these hosts, of which there are no more than
// one event can change.
func (s *service) offer(ctx context.Context, p replication.Proposal, names []string, at time.Time) (replication.Receipt, []skipped, error) {
	made := make(map[string]keystore.Material, len(names))
	for _, name := range names {
		made[name] = seal.Generate()
	}
	return s.commitHosts(ctx, p, names, made, func(h host.Host) (host.Change, error) {
		return h.Offer(keystore.NewKey{KID: made[h.Name].KID(), Created: at}, at)
	})
}

// rollDue rolls over the secrets that are old enough.
func (s *service) rollDue(ctx context.Context, names []string, at time.Time) error {
	for batch := range slices.Chunk(names, hostsPerEvent) {
		if _, _, err := s.offer(ctx, replication.Proposal{Actor: "keytide", Reason: "by age"}, batch, at); err != nil {
			return err
		}
	}
	return nil
}
