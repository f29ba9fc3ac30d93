package feedtest

import (
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/keytide/keytide/agentfeed/hub"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/ticket"
)

// maxOld is how many old keys a ring keeps.
const maxOld = 4

// maxSession is how long a session ticket may live.
const maxSession = 8 * time.Hour

// A store is the hub's source: rings and trusted hosts in memory.
type store struct {
	mu      sync.Mutex // guards the fields below
	keys    keystore.N // events of each ledger
	hosts   keystore.N
	state   *hub.State
	changed chan struct{}
	known   map[string]hub.Host
	all     map[string]bool // hosts that have every ring
	tickets map[keystore.RingName]hub.TicketKeys
	frozen  time.Time // if not zero, when the proofs ended
}

func newStore() *store {
	s := &store{changed: make(chan struct{}), known: make(map[string]hub.Host), all: make(map[string]bool), tickets: make(map[keystore.RingName]hub.TicketKeys), keys: 1, hosts: 1}
	s.state = &hub.State{V: s.position()}
	return s
}

func (s *store) position() string { return fmt.Sprintf("1.%d-1.%d", s.keys, s.hosts) }

func (s *store) Watch() (*hub.State, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state, s.changed
}

func (s *store) AsOf() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.frozen.IsZero() {
		return time.Now()
	}
	return s.frozen
}

func (s *store) freeze(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !on:
		s.frozen = time.Time{}
	case s.frozen.IsZero():
		s.frozen = time.Now()
	}
}

func (s *store) Host(name string) (hub.Host, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, ok := s.known[name]
	if ok && s.all[name] {
		h.Rings = slices.Sorted(maps.Keys(s.state.Rings))
	}
	return h, ok
}

// replace publishes a state that differs from the newest in what edit does. It
// needs mu.
func (s *store) replace(edit func(*hub.State)) {
	next := *s.state
	next.Rings = maps.Clone(s.state.Rings)
	if next.Rings == nil {
		next.Rings = make(map[keystore.RingName]*keystore.KeySet)
	}
	edit(&next)
	next.V = s.position()
	s.state = &next
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *store) serve(url string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replace(func(state *hub.State) { state.Servers = []string{url} })
}

func (s *store) register(name string, rings []keystore.RingName, secret keystore.Material) keystore.Material {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h, ok := s.known[name]; ok {
		return h.Secrets[0].Material
	}
	s.known[name] = hub.Host{Name: name, Rings: slices.Clone(rings), Secrets: []hub.Secret{{KID: secret.KID(), Material: secret}}}
	s.all[name] = len(rings) == 0
	s.hosts++
	s.replace(func(*hub.State) {})
	return secret
}

func (s *store) revoke(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.known[name]
	h.Revoked = true
	s.known[name] = h
	s.hosts++
	s.replace(func(*hub.State) {})
}

func (s *store) create(name keystore.RingName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys++
	s.replace(func(state *hub.State) {
		state.Rings[name] = &keystore.KeySet{Ring: name, Epoch: 1, Version: 1, Mode: keystore.ModeDynamic,
			Keys: []keystore.SetKey{newKey(keystore.Current), newKey(keystore.Future), newKey(keystore.Static)}}
	})
}

func (s *store) rollover(name keystore.RingName) *keystore.KeySet {
	s.mu.Lock()
	defer s.mu.Unlock()
	from := s.state.Rings[name]
	if from == nil {
		return nil
	}
	to := &keystore.KeySet{Ring: name, Epoch: from.Epoch, Version: from.Version + 1, Mode: from.Mode}
	var current, static keystore.SetKey
	var old []keystore.SetKey
	for _, k := range from.Keys {
		switch k.Role {
		case keystore.Current:
			k.Role, k.Seals = keystore.Old, false
			old = slices.Insert(old, 0, k)
		case keystore.Old:
			old = append(old, k)
		case keystore.Future:
			k.Role, k.Seals = keystore.Current, true
			current = k
		case keystore.Static:
			static = k
		}
	}
	to.Keys = slices.Concat([]keystore.SetKey{current}, old[:min(len(old), maxOld)], []keystore.SetKey{newKey(keystore.Future), static})
	s.keys++
	s.replace(func(state *hub.State) { state.Rings[name] = to })
	return to
}

func newKey(role keystore.Role) keystore.SetKey {
	m := newMaterial()
	return keystore.SetKey{KID: m.KID(), Role: role, Created: time.Now().UTC().Truncate(time.Second), Seals: role == keystore.Current, Material: m}
}

func newMaterial() keystore.Material {
	b := make([]byte, keystore.MaterialSize)
	rand.Read(b) // never fails: crypto/rand ends the program instead
	m, err := keystore.NewMaterial(b)
	if err != nil {
		panic(err) // 32 random bytes that are all zero
	}
	return m
}

// ticketKeys gives the session ticket keys of a ring.
func (s *store) ticketKeys(ring keystore.RingName) (hub.TicketKeys, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys, ok := s.tickets[ring]
	if !ok {
		return hub.TicketKeys{}, fmt.Errorf("feedtest: there is no ring %s", ring)
	}
	return keys, nil
}

// rollTicketKey makes a new session ticket key. The former ones go on opening.
func (s *store) rollTicketKey(ring keystore.RingName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := newMaterial()
	keys := hub.TicketKeys{Seals: m.KID(), Keys: maps.Clone(s.tickets[ring].Keys), MaxAge: maxSession}
	if keys.Keys == nil {
		keys.Keys = make(map[keystore.KID]keystore.Material)
	}
	keys.Keys[m.KID()] = m
	s.tickets[ring] = keys
}

func (s *store) allowTickets(name string, right ticket.Right) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, ok := s.known[name]
	h.Tickets = right
	s.known[name] = h
	s.hosts++
	s.replace(func(*hub.State) {})
	return ok
}
