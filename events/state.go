package events

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/host"
)

// A State is the fold of a log: what a ledger says after event N. It is not safe
// for concurrent use. An event that is refused leaves it as it was.
type State struct {
	newest   Record // event n as it is stored; the state's own copy
	n        keystore.N
	hash     Hash
	genesis  Genesis
	epoch    epoch
	members  members
	rings    map[keystore.RingName]keystore.Ring
	hosts    map[string]host.Host
	tokens   map[keystore.KID]host.Token
	secrets  host.SecretPolicy
	ksk      ksks
	live     live // the hashes of the live values
	requests requests
}

// NewState returns the state before event 1.
func NewState() *State {
	return &State{
		members: newMembers(),
		rings:   map[keystore.RingName]keystore.Ring{},
		hosts:   map[string]host.Host{},
		tokens:  map[keystore.KID]host.Token{},
		live:    newLive(),
	}
}

// Clone returns a copy that shares nothing that changes.
func (s *State) Clone() *State {
	c := *s
	c.newest = slices.Clone(s.newest)
	c.members, c.rings, c.hosts = s.members.clone(), maps.Clone(s.rings), maps.Clone(s.hosts)
	c.tokens = maps.Clone(s.tokens)
	c.ksk = s.ksk.clone()
	c.live, c.requests = s.live.clone(), s.requests.clone()
	return &c
}

// N returns the number of the newest event; 0 before event 1.
func (s *State) N() keystore.N { return s.n }

// Hash returns the hash of the newest event.
func (s *State) Hash() Hash { return s.hash }

// Genesis returns what event 1 says; the zero Genesis before it.
func (s *State) Genesis() Genesis { return s.genesis }

// Head returns what the ledger's head must say.
func (s *State) Head() Head { return Head{Epoch: s.epoch.now.Number, N: s.n, Hash: s.hash} }

// Member returns the member with this id, forgotten ones included.
func (s *State) Member(id string) (Member, bool) {
	m, ok := s.members.byID[id]
	return m, ok
}

// Members returns the members, sorted by id, forgotten ones included.
func (s *State) Members() []Member { return s.members.all() }

// Invitation returns the invitation of the server with this id, unless it has
// joined by it. It may have expired.
func (s *State) Invitation(id string) (Invitation, bool) {
	i, ok := s.members.invited[id]
	return i, ok
}

// Ring returns the ring of this name, unless it is deleted.
func (s *State) Ring(name keystore.RingName) (keystore.Ring, bool) {
	r, ok := s.rings[name]
	if r.Deleted {
		return keystore.Ring{}, false
	}
	return r, ok
}

// AnyRing returns the ring of this name, or what a deleted one has left.
func (s *State) AnyRing(name keystore.RingName) (keystore.Ring, bool) {
	r, ok := s.rings[name]
	return r, ok
}

// Rings returns the rings that are not deleted, sorted by name.
func (s *State) Rings() []keystore.Ring {
	rings := make([]keystore.Ring, 0, len(s.rings))
	for _, r := range s.rings {
		if !r.Deleted {
			rings = append(rings, r)
		}
	}
	slices.SortFunc(rings, func(a, b keystore.Ring) int { return cmp.Compare(a.Name, b.Name) })
	return rings
}

// Host returns the trusted host of this name, revoked ones included.
func (s *State) Host(name string) (host.Host, bool) {
	h, ok := s.hosts[name]
	return h, ok
}

// Hosts returns the trusted hosts, sorted by name, revoked ones included.
func (s *State) Hosts() []host.Host {
	return slices.SortedFunc(maps.Values(s.hosts), func(a, b host.Host) int { return cmp.Compare(a.Name, b.Name) })
}

// Request returns the event that answered a request, if it is among the newest
// MaxRequests.
func (s *State) Request(id string) (keystore.N, bool) { return s.requests.find(id) }

// Expect returns the hash that the value of a KV key must have. ok is false for a
// key that no event put, or that an event deleted.
func (s *State) Expect(key string) (hash Hash, ok bool) { return s.live.find(key) }

// Live returns the KV keys that events have put and not deleted, sorted.
func (s *State) Live() []string {
	keys := s.live.keys()
	slices.Sort(keys)
	return keys
}

// Apply checks a record against the state, its signature included, folds it, and
// returns the event. The error names n and wraps ErrMalformed, ErrNotNext,
// ErrForked, ErrNotMember, ErrSignature, ErrUnknownType, ErrWrongKind, ErrEnded
// or ErrPayload; the state is then unchanged.
func (s *State) Apply(rec Record) (Event, error) {
	v, err := s.apply(rec, true)
	if err != nil {
		return Event{}, err
	}
	return v.event(), nil
}

// Fold does what Apply does but for the signature: it is for a record that the
// caller has verified before, or for a history whose newest record it verifies by
// VerifyNewest. The chain of hashes carries that signature back to all.
func (s *State) Fold(rec Record) error {
	_, err := s.apply(rec, false)
	return err
}

// VerifyNewest checks the signature of the newest event. The error wraps
// ErrNotMember or ErrSignature.
func (s *State) VerifyNewest() error {
	if s.n == 0 {
		return fmt.Errorf("event 1: %w", ErrNotNext)
	}
	v, err := parse(s.newest)
	if err == nil {
		err = s.members.verify(&v)
	}
	return atEvent(s.n, err)
}

func (s *State) apply(rec Record, signed bool) (view, error) {
	v, err := parse(rec)
	if err != nil {
		return view{}, fmt.Errorf("event after %d: %w", s.n, err)
	}
	if err := s.applyView(&v, signed); err != nil {
		return view{}, atEvent(v.n, err)
	}
	return v, nil
}

func atEvent(n keystore.N, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("event %d: %w", n, err)
}

func (s *State) applyView(v *view, signed bool) error {
	if err := follows(v, s.n, s.hash); err != nil {
		return err
	}
	st, err := s.decide(v)
	if err != nil {
		return err
	}
	author := st.genesis.Founder
	if v.n > 1 {
		if author, err = s.members.author(v); err != nil {
			return err
		}
	}
	if signed {
		if err := author.verify(v); err != nil {
			return err
		}
	}
	s.carryOut(v, st)
	return nil
}

// follows reports whether v is the event after event n of this hash.
func follows(v *view, n keystore.N, hash Hash) error {
	if v.n != n+1 {
		return fmt.Errorf("%w: want event %d", ErrNotNext, n+1)
	}
	if !bytes.Equal(v.prev, hash[:]) {
		return fmt.Errorf("%w: prev is %s, but event %d has hash %s", ErrForked, Hash(v.prev), n, hash)
	}
	return nil
}

// verify checks the newest event's signature. Its author may be the server that it
// made forgotten.
func (m members) verify(v *view) error {
	author, ok := m.byID[string(v.server)]
	if !ok {
		return fmt.Errorf("%w: server %q", ErrNotMember, string(v.server))
	}
	return author.verify(v)
}

func (m Member) verify(v *view) error {
	if err := v.rec.Verify(m.PublicKey); err != nil {
		return fmt.Errorf("%w: server %s", err, m.ID)
	}
	return nil
}

// A step is what an event changes, decided but not carried out.
type step struct {
	genesis Genesis
	epoch   epoch
	ring    keystore.Ring // zero: none
	server  ServerChange  // zero: none
	hosts   []host.Host
	token   host.Token         // zero: none
	secrets *host.SecretPolicy // nil: none
	ksk     KSKChange          // zero: none
}

// decide judges an event without changing the state.
func (s *State) decide(v *view) (step, error) {
	if !v.typ.known() {
		return step{}, &UnknownTypeError{N: v.n, Type: v.typ}
	}
	if (v.typ == TypeGenesis) != (v.n == 1) {
		return step{}, fmt.Errorf("%w: %s as event %d", ErrPayload, v.typ, v.n)
	}
	if v.n > 1 && !s.genesis.Kind.holds(v.typ) {
		return step{}, fmt.Errorf("%w: %s in a ledger of %s", ErrWrongKind, v.typ, s.genesis.Kind)
	}
	var st step
	var err error
	if st.epoch, err = s.epoch.decide(v, s.n, s.hash); err != nil {
		return step{}, err
	}
	switch v.typ {
	case TypeGenesis:
		st.genesis, err = decideGenesis(v)
		st.epoch = beginEpoch(st.genesis, v.rec.Hash())
	case TypeEpochBegun, TypeEpochEnded: // decided above
	case TypeVoid:
		err = decideVoid(v)
	case TypeServerInvited, TypeServerJoined, TypeServerExcluded, TypeServerReturned, TypeServerForgotten:
		st.server, err = s.members.decideServer(v, s.genesis.Kind)
	case TypeTokenCreated, TypeTokenRevoked:
		st.token, err = s.decideToken(v)
	case TypeSecretPolicySet:
		st.secrets, err = decideSecretPolicy(v)
	case TypeHostRegistered, TypeHostRevoked, TypeHostsExpired, TypeHostsSeen, TypeSecretsOffered, TypeSecretsRetired:
		st.hosts, st.token, err = s.decideHosts(v)
	case TypeRekeyBegun, TypeKSKTaken, TypeRekeyTurned, TypeMaterialRewrapped, TypeRekeyEnded, TypeSlotsSet:
		st.ksk, err = s.decideKSK(v)
	default:
		st.ring, err = s.decideRing(v)
	}
	return st, err
}

// misfit marks what keystore refuses as a payload that does not fit.
func misfit(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrPayload, err)
}

func decideGenesis(v *view) (Genesis, error) {
	g, err := DecodeGenesis(v.payload)
	if err != nil {
		return Genesis{}, misfit(err)
	}
	if g.Founder.ID != string(v.server) {
		return Genesis{}, unfit("founder %s, but server %s", g.Founder.ID, string(v.server))
	}
	need := wants{effects: v.effects}
	need.putKID(kskPrefix, g.KSK)
	need.putKID(materialPrefix, g.Membership)
	return g, need.exactly(v.effectCount)
}

func decideVoid(v *view) error {
	r := reader{b: v.payload}
	for f := r.fields(); f.next(); {
		r.skip()
	}
	if v.effectCount != 0 {
		return unfit("a void event with %d effects", v.effectCount)
	}
	return misfit(r.end())
}

// decideServer judges an event of the members. It writes nothing beside itself.
func (m members) decideServer(v *view, kind Kind) (ServerChange, error) {
	c, err := DecodeServerChange(v.typ, v.payload)
	if err != nil {
		return ServerChange{}, misfit(err)
	}
	if v.effectCount != 0 {
		return ServerChange{}, unfit("%s with %d effects", v.typ, v.effectCount)
	}
	return c, m.decide(c, v, kind)
}

func (s *State) decideRing(v *view) (keystore.Ring, error) {
	c, err := DecodeRingChange(v.typ, v.payload)
	if err != nil {
		return keystore.Ring{}, misfit(err)
	}
	next, err := s.rings[c.Ring].Apply(c, v.ref())
	if err != nil {
		return keystore.Ring{}, misfit(err)
	}
	need := wants{effects: v.effects}
	need.put(ringPrefix, string(c.Ring))
	for _, k := range c.Made {
		need.makeKID(s.live, k.KID)
	}
	for _, kid := range c.Destroyed {
		need.delKID(materialPrefix, kid)
	}
	return next, need.exactly(v.effectCount)
}

func (v *view) ref() keystore.EventRef {
	return keystore.EventRef{
		N: v.n, ID: ulid.ULID(v.id).String(), Type: v.typ.String(), At: v.time(),
	}
}

func (v *view) time() time.Time { return time.UnixMilli(int64(v.at)).UTC() }

// carryOut does what decide decided. Nothing here can fail.
func (s *State) carryOut(v *view, st step) {
	s.newest = append(s.newest[:0], v.rec...) // the caller's bytes may be a database's page
	s.n, s.hash, s.epoch = v.n, v.rec.Hash(), st.epoch
	switch {
	case v.n == 1:
		s.genesis = st.genesis
		s.members.found(st.genesis)
		s.ksk.Sealing = st.genesis.KSK
	case !st.ring.IsZero():
		s.rings[st.ring.Name] = st.ring
	case st.server.Type != 0:
		s.members.carryOut(st.server, v)
	case st.ksk.Type != 0:
		s.ksk.carryOut(st.ksk, v, s.live)
	}
	s.carryOutHosts(st)
	s.live.carryOut(v.effects)
	s.ksk.forget(v.effects, v.typ == TypeMaterialRewrapped)
	if v.typ != TypeVoid && len(v.request) > 0 {
		s.requests.add(string(v.request), v.n)
	}
}
