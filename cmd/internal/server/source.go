package server

import (
	"context"
	"fmt"
	"log/slog"
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
	keys, hosts *replication.Member
	vault       *vault
	servers     []string
	ca          []byte
	log         *slog.Logger

	mu      sync.Mutex // guards the fields below
	state   *hub.State
	at      position
	known   map[string]knownHost
	changed chan struct{} // closed and replaced at every new state
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

// AsOf implements hub.Source: the older of both ledgers' proofs.
func (s *source) AsOf() time.Time {
	return earlier(s.keys.Freshness().AsOf, s.hosts.Freshness().AsOf)
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
		}
	}
}

// rebuild makes a state of what both replicas hold now, and wakes the hub.
func (s *source) rebuild() []error {
	var at position
	var rings []keystore.Ring
	var hosts []host.Host
	s.keys.Replica().Read(func(state *events.State) { at.keys, rings = state.Head(), state.Rings() })
	s.hosts.Replica().Read(func(state *events.State) { at.hosts, hosts = state.Head(), state.Hosts() })
	sets, faults := s.keySets(at.keys.Epoch, rings)
	known, more := s.openHosts(hosts)
	s.vault.keep(liveKIDs(rings, hosts))
	s.publish(&hub.State{V: at.String(), Rings: sets, Servers: s.servers, CA: s.ca}, at, known)
	return append(faults, more...)
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

func (s *source) openHosts(hosts []host.Host) (map[string]knownHost, []error) {
	known := make(map[string]knownHost, len(hosts))
	var faults []error
	for _, h := range hosts {
		next, err := s.host(h)
		if err != nil {
			faults = append(faults, err)
		}
		if next.Name != "" {
			known[h.Name] = next
		}
	}
	return known, faults
}

// liveKIDs are all keys and secrets that there are.
func liveKIDs(rings []keystore.Ring, hosts []host.Host) map[keystore.KID]bool {
	live := make(map[keystore.KID]bool)
	for _, r := range rings {
		for _, k := range r.Keys {
			live[k.KID] = true
		}
	}
	for _, h := range hosts {
		for _, secret := range h.Secrets {
			live[secret.KID] = true
		}
	}
	return live
}

func (s *source) publish(state *hub.State, at position, known map[string]knownHost) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != nil && s.state.V == state.V {
		return
	}
	s.state, s.at, s.known = state, at, known
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
	next := knownHost{at: h.Last.N, Host: hub.Host{Name: h.Name, Rings: h.Rings, Revoked: h.Revoked}}
	for _, secret := range h.Secrets {
		m, err := s.vault.open(s.hosts.Replica(), hostOwner(h.Name), secret.KID)
		if err != nil {
			return before, fmt.Errorf("host %s: %w", h.Name, err)
		}
		next.Secrets = append(next.Secrets, hub.Secret{KID: secret.KID, Material: m})
	}
	if h.Revoked { // its secrets are destroyed; those that it had let it be told so
		next.Secrets = before.Secrets
	}
	return next, nil
}

// position returns the events that the hub has been given.
func (s *source) position() position {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at
}
