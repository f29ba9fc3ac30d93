package server

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/keytide/keytide/agentfeed/hub"
	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/host"
	"github.com/keytide/keytide/replication"
)

// A source is what the hub delivers: both replicas' states with the material
// opened. It is where the ledger and the feed meet.
type source struct {
	keys, hosts  *replication.Member
	vault        *vault
	self         string   // base URL of this server's own feed
	region       string   // where it stands
	fixed        []string // base URLs as configured, instead of those that members tell
	fixedRegions []string // of fixed, or none
	ca           []byte
	log          *slog.Logger
	unopened     map[string]bool // hosts whose secrets did not open; rebuild's alone
	rings        []keystore.Ring // of the newest state; rebuild's alone
	learn        func()          // takes key store keys that a rekey has published; nil: none

	mu      sync.Mutex // guards the fields below
	state   *hub.State
	at      position
	known   map[string]knownHost
	changed chan struct{} // closed and replaced at every new state
	faults  []fault       // of the newest state: what it should have and does not open
	proved  time.Time     // what AsOf said last
}

// A fault is something that does not open, since when.
type fault struct {
	err   error
	since time.Time
}

// A position is an event of each ledger.
type position struct{ keys, hosts events.Head }

func (p position) String() string {
	return fmt.Sprintf("%d.%d-%d.%d", p.keys.Epoch, p.keys.N, p.hosts.Epoch, p.hosts.N)
}

// A knownHost is a host as the hub wants it, and the event that it stands at.
type knownHost struct {
	hub.Host
	at keystore.N
}

// Watch implements hub.Source.
func (s *source) Watch() (*hub.State, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state, s.changed
}

// AsOf implements hub.Source: the older of both ledgers' proofs. They prove what the
// replicas hold; so while the hub has not got all of that, because an event is on
// its way or a key does not open, the proof stands still.
func (s *source) AsOf() time.Time {
	asOf := earlier(s.keys.Freshness().AsOf, s.hosts.Freshness().AsOf)
	keys, _ := s.keys.Replica().Watch()
	hosts, _ := s.hosts.Replica().Watch()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.faults) == 0 && s.at.keys.N == keys && s.at.hosts.N == hosts {
		s.proved = asOf
	}
	return s.proved
}

// unfed lists what the feed should have and does not, because it does not open.
func (s *source) unfed() []fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.faults)
}

// Host implements hub.Source.
func (s *source) Host(name string) (hub.Host, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, ok := s.known[name]
	return h.Host, ok
}

// run brings the state up to every event until ctx ends. A key that does not open
// is logged, and its ring or host stays as it was: a wrong key is never fed.
func (s *source) run(ctx context.Context) error {
	moved := time.NewTicker(serversPeriod)
	defer moved.Stop()
	for {
		_, keys := s.keys.Replica().Watch()
		_, hosts := s.hosts.Replica().Watch()
		for _, err := range s.rebuild() {
			s.log.Error("material does not open; the feed keeps what it had", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-keys:
		case <-hosts:
		case <-moved.C: // servers tell their addresses in no event
		}
	}
}

// serversPeriod is how often the servers' addresses are looked at.
const serversPeriod = 5 * time.Second

// servers are the base URLs of the feeds of all policy servers: as configured, or as
// the members told them in their records, by id; this one's own comes first. regions
// are where they stand, or none.
func (s *source) servers() (urls, regions []string) {
	if len(s.fixed) > 0 {
		return s.fixed, s.fixedRegions
	}
	urls, regions = []string{s.self}, []string{s.region}
	for _, v := range s.keys.Servers() {
		if address := v.Record.Address; !v.Self && address != "" && !slices.Contains(urls, address) {
			urls, regions = append(urls, address), append(regions, v.Record.Region)
		}
	}
	return urls, regions
}

// rebuild makes a state of what both replicas hold now, and wakes the hub. It
// looks at the hosts that have changed alone, so that registering many hosts does
// not cost their number squared.
func (s *source) rebuild() []error {
	if s.learn != nil {
		s.learn()
	}
	before := s.position()
	var at position
	var rings []keystore.Ring
	s.keys.Replica().Read(func(state *events.State) { at.keys, rings = state.Head(), state.Rings() })
	s.hosts.Replica().Read(func(state *events.State) { at.hosts = state.Head() })
	sets, faults := s.keySets(at.keys.Epoch, rings)
	hosts, destroyed := s.changedHosts(before.hosts.N, at.hosts.N)
	known, more := s.openHosts(hosts)
	faults = append(faults, more...)
	s.noteFaults(faults)
	servers, regions := s.servers()
	s.publish(&hub.State{V: at.String(), Rings: sets, Servers: servers, Regions: regions, CA: s.ca}, at, known)
	s.vault.forget(append(destroyed, destroyedKeys(s.rings, rings)...))
	s.rings = rings
	return faults
}

// destroyedKeys are the keys that rings had, and have no more: of deleted rings, all.
func destroyedKeys(before, after []keystore.Ring) (kids []keystore.KID) {
	now := make(map[keystore.RingName]keystore.Ring, len(after))
	for _, r := range after {
		now[r.Name] = r
	}
	for _, r := range before {
		if now[r.Name].Version == r.Version {
			continue
		}
		for _, k := range r.Keys {
			if _, ok := now[r.Name].Key(k.KID); !ok {
				kids = append(kids, k.KID)
			}
		}
	}
	return kids
}

// noteFaults replaces the list; a fault that was there already keeps its time.
func (s *source) noteFaults(faults []error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := make([]fault, len(faults))
	for i, err := range faults {
		next[i] = fault{err, now()}
		for _, old := range s.faults {
			if old.err.Error() == err.Error() {
				next[i] = old
			}
		}
	}
	s.faults = next
}

// changedHosts returns the hosts that events after from, up to at least to, have
// changed, as they are now, those whose secrets did not open the last time, and the
// secrets that these events destroyed. From 0 on that is every host.
func (s *source) changedHosts(from, to keystore.N) (hosts []host.Host, destroyed []keystore.KID) {
	names := make(map[string]bool)
	maps.Copy(names, s.unopened)
	replica := s.hosts.Replica()
	all := from == 0
	if !all {
		for rec, err := range replica.Records(from+1, to) {
			var e events.Event
			if err == nil {
				e, err = events.Decode(rec)
			}
			if err != nil {
				s.log.Error("the newest events of the hosts are not readable; looking at every host", "err", err)
				all = true
				break
			}
			changes, err := events.DecodeHostChanges(e.Type, e.Payload)
			if err != nil {
				continue // of no host
			}
			for _, c := range changes {
				names[c.Host] = true
				destroyed = append(destroyed, c.Destroyed...)
			}
		}
	}
	replica.Read(func(state *events.State) {
		if all {
			hosts = state.Hosts()
			return
		}
		for name := range names {
			if h, ok := state.Host(name); ok {
				hosts = append(hosts, h)
			}
		}
	})
	return hosts, destroyed
}

func (s *source) keySets(epoch keystore.Epoch, rings []keystore.Ring) (map[keystore.RingName]*keystore.KeySet, []error) {
	before, _ := s.Watch()
	if before == nil {
		before = &hub.State{}
	}
	sets := make(map[keystore.RingName]*keystore.KeySet, len(rings))
	var faults []error
	for _, r := range rings {
		set, err := s.keySet(epoch, r, before.Rings[r.Name])
		if err != nil {
			faults = append(faults, err)
		}
		if set != nil {
			sets[r.Name] = set
		}
	}
	return sets, faults
}

// openHosts opens the secrets of hosts. One whose secrets do not open stays as it
// was, and is tried again at the next event.
func (s *source) openHosts(hosts []host.Host) (map[string]knownHost, []error) {
	known := make(map[string]knownHost, len(hosts))
	var faults []error
	for _, h := range hosts {
		next, err := s.host(h)
		delete(s.unopened, h.Name)
		if err != nil {
			s.unopened[h.Name] = true
			faults = append(faults, err)
		}
		if next.Name != "" {
			known[h.Name] = next
		}
	}
	return known, faults
}

// publish makes state the newest one, with the hosts that have changed.
func (s *source) publish(state *hub.State, at position, changed map[string]knownHost) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.Copy(s.known, changed)
	if s.state != nil && s.state.V == state.V && slices.Equal(s.state.Servers, state.Servers) && slices.Equal(s.state.Regions, state.Regions) {
		return
	}
	s.state, s.at = state, at
	close(s.changed)
	s.changed = make(chan struct{})
}

// keySet opens a ring's keys. A ring that has not changed keeps its set, and so,
// with an error, does one whose keys do not open.
func (s *source) keySet(epoch keystore.Epoch, r keystore.Ring, before *keystore.KeySet) (*keystore.KeySet, error) {
	if before != nil && before.Epoch == epoch && before.Version == r.Version {
		return before, nil
	}
	set, err := r.KeySet(epoch, func(kid keystore.KID) (keystore.Material, error) {
		return s.vault.open(s.keys.Replica(), ringOwner(r.Name), kid)
	})
	if err != nil {
		return before, fmt.Errorf("ring %s version %d: %w", r.Name, r.Version, err)
	}
	return set, nil
}

func (s *source) host(h host.Host) (knownHost, error) {
	s.mu.Lock()
	before, ok := s.known[h.Name]
	s.mu.Unlock()
	if ok && before.at == h.Last.N {
		return before, nil
	}
	next := knownHost{at: h.Last.N, Host: hub.Host{Name: h.Name, Rings: h.Rings, Revoked: h.Revoked, Tickets: h.Tickets}}
	for _, secret := range h.Secrets {
		m, err := s.vault.open(s.hosts.Replica(), hostOwner(h.Name), secret.KID)
		if err != nil {
			return before, fmt.Errorf("host %s: %w", h.Name, err)
		}
		next.Secrets = append(next.Secrets, hub.Secret{KID: secret.KID, Material: m})
	}
	if h.Revoked { // its secrets are destroyed; those that it had let it be told so
		next.Secrets = before.Secrets
		return next, nil
	}
	next.Secrets = append(next.Secrets, retired(before, next)...)
	if len(next.Secrets) > 1 {
		next.Offer = &next.Secrets[0]
	}
	return next, nil
}

// retiredGrace is how long a server that holds a secret in memory still admits with it
// once it is retired: for agents that it alone has fed while it was cut off, so that
// they get the new one. A server that starts meanwhile does not know it any more.
const retiredGrace = time.Minute

// retired are the secrets that a host had and has no more, the newest few.
func retired(before knownHost, next knownHost) (gone []hub.Secret) {
	for _, s := range before.Secrets {
		if slices.ContainsFunc(next.Secrets, func(n hub.Secret) bool { return n.KID == s.KID }) {
			continue
		}
		if !s.Retired {
			s.Retired, s.Until = true, time.Now().Add(retiredGrace)
		}
		gone = append(gone, s)
	}
	return gone[:min(len(gone), 2)]
}

// position returns the events that the hub has been given.
func (s *source) position() position {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at
}
