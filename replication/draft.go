package replication

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
)

// A draft is an event that was decided on, signed and checked, or the n of the
// event that has answered the same request before.
type draft struct {
	answered keystore.N
	event    events.Event
	batch    events.Batch
}

// draft decides on the newest state and makes the batch. What the fold would refuse
// is refused here: an event that nobody can apply would halt every replica.
func (m *Member) draft(decide Decide) (draft, error) {
	m.mu.Lock()
	head := m.tip
	m.mu.Unlock()
	m.replica.Read(m.follows)
	// From here on no lock is held: a decision may take its time, and ask the replica.
	s := m.trial
	p, err := decide(s)
	if n, ok := s.Request(p.Request); ok && p.Request != "" {
		return draft{answered: n}, nil
	}
	if err != nil {
		return draft{}, err
	}
	var d draft
	if head.n != s.N() {
		// The state is ahead of the tip only between two of the follower's steps.
		head.revision = m.replica.Revision(events.HeadKey)
	}
	if !m.isMember(s) {
		return draft{}, fmt.Errorf("%w: %w: server %s with its key", events.ErrUnavailable, events.ErrNotMember, m.id.Server)
	}
	d.event = events.Event{
		N: s.N() + 1, ID: newULID(), Prev: s.Hash(), Type: p.Type, At: time.Now().UTC().Truncate(time.Millisecond),
		Server: m.id.Server, Actor: p.Actor, Request: p.Request, Reason: p.Reason, Payload: p.Payload,
	}
	puts, err := completePuts(s, d.event, p.Puts)
	if err != nil {
		return draft{}, err
	}
	for i := range puts {
		if puts[i].Expect, err = m.expected(s, puts[i]); err != nil {
			return draft{}, err
		}
		d.event.Effects = append(d.event.Effects, puts[i].Effect())
	}
	return m.signed(d, puts, head)
}

// expected returns the revision that a put must find. Key material that does not live
// must never have been there: a destroyed key has the revision of its deletion, and
// does not come back. (The fold refuses to make a key that lives.)
func (m *Member) expected(s *events.State, p events.Put) (events.Revision, error) {
	revision := m.replica.Revision(p.Key)
	if _, live := s.Expect(p.Key); !live && !p.Delete && isMaterial(p.Key) && revision != 0 {
		return 0, fmt.Errorf("%w: %s was there before; a destroyed key never comes back", keystore.ErrInvalid, p.Key)
	}
	return revision, nil
}

// follows brings the trial state to s. In a steady run of commits it is there
// already: it has folded the event that landed.
func (m *Member) follows(s *events.State) {
	if m.trial == nil || m.trial.N() != s.N() || m.trial.Hash() != s.Hash() {
		m.trial = s.Clone()
	}
}

func (m *Member) signed(d draft, puts []events.Put, head tip) (draft, error) {
	rec, err := events.Sign(d.event, m.id.Key)
	if err != nil {
		return draft{}, err
	}
	if err := m.trial.Fold(rec); err != nil {
		return draft{}, fmt.Errorf("%w: %w", keystore.ErrInvalid, err)
	}
	d.batch = events.Batch{N: d.event.N, Record: rec, Puts: puts, Head: m.trial.Head(), HeadRevision: head.revision}
	return d, d.batch.Check()
}

// completePuts adds what the payload implies and the proposal left out: the state
// afterwards, and the deletion of destroyed material. It sorts by key.
func completePuts(s *events.State, ev events.Event, given []events.Put) ([]events.Put, error) {
	implied, err := impliedPuts(s, ev)
	if err != nil {
		return nil, err
	}
	puts := slices.Clone(given)
	for _, p := range implied {
		if !slices.ContainsFunc(given, func(g events.Put) bool { return g.Key == p.Key }) {
			puts = append(puts, p)
		}
	}
	slices.SortFunc(puts, func(a, b events.Put) int { return strings.Compare(a.Key, b.Key) })
	return puts, nil
}

func impliedPuts(s *events.State, ev events.Event) ([]events.Put, error) {
	if ev.Type.OfRing() {
		return ringPuts(s, ev)
	}
	return impliedHostPuts(s, ev)
}

// ringPuts are the state of the ring afterwards, and the end of destroyed material.
func ringPuts(s *events.State, ev events.Event) ([]events.Put, error) {
	c, err := events.DecodeRingChange(ev.Type, ev.Payload)
	if err != nil {
		return nil, err
	}
	before, _ := s.AnyRing(c.Ring)
	after, err := before.Apply(c, ev.Ref())
	if err != nil {
		return nil, err
	}
	value, err := events.EncodeRing(after)
	return withDeleted(events.Put{Key: events.RingKey(c.Ring), Value: value}, c.Destroyed), err
}

func withDeleted(state events.Put, destroyed []keystore.KID) []events.Put {
	puts := []events.Put{state}
	for _, kid := range destroyed {
		puts = append(puts, events.Put{Key: events.MaterialKey(kid), Delete: true})
	}
	return puts
}

// isMember reports whether the ledger knows this server with its key: others take
// nothing that it signs otherwise.
func (m *Member) isMember(s *events.State) bool {
	member, ok := s.Member(m.id.Server)
	return ok && member.Forgotten == 0 && member.PublicKey.Equal(m.id.Key.Public())
}

// speaks reports whether this server may say anything in the ledger yet: it has
// read what was there when it started, and is a member.
func (m *Member) speaks() (ok bool) {
	if m.reached.load() == 0 {
		return false // a term or counter of its own may be in what it has not read
	}
	m.replica.Read(func(s *events.State) { ok = m.isMember(s) })
	return ok
}
