package events

import (
	"bytes"
	"cmp"
	"crypto/ecdh"
	"crypto/ed25519"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/keytide/keytide/keystore"
)

// A Member is a policy server that may sign events, or that might once.
type Member struct {
	ID        string            `json:"id"`
	Region    string            `json:"region"`
	PublicKey ed25519.PublicKey `json:"public_key"` // its signatures are checked with it
	P256Key   []byte            `json:"p256_key"`   // what is for it alone is sealed to it: an uncompressed point

	Nkey string `json:"nkey,omitempty"` // its user at the core, if it has one there

	// MAC vouches for a member that joined, by the ledger's membership key; zero for
	// the founder. Whoever has that key checks it.
	MAC [32]byte `json:"-"`
	// Token is the hash of the token by which it was invited; zero for the founder,
	// and in ledgers of hosts.
	Token  Hash       `json:"-"`
	Joined keystore.N `json:"joined,omitempty"` // the event by which it is a member

	// Excluded is the event by which it holds nothing up until it returns; 0: it counts.
	Excluded keystore.N `json:"excluded,omitempty"`
	// Forgotten is the event by which it is gone for good; 0: it is a member.
	Forgotten keystore.N `json:"forgotten,omitempty"`
}

// Counts reports whether rollovers wait for the member.
func (m Member) Counts() bool { return m.Excluded == 0 && m.Forgotten == 0 }

// checkKeys reports what is wrong with the member's public keys.
func (m Member) checkKeys() error {
	if len(m.PublicKey) != ed25519.PublicKeySize || zero(m.PublicKey) {
		return invalid("public key of %d bytes", len(m.PublicKey))
	}
	if _, err := ecdh.P256().NewPublicKey(m.P256Key); err != nil {
		return invalid("P-256 key: %w", err)
	}
	return nil
}

// An Invitation lets a server join once, before it expires.
type Invitation struct {
	ID      string
	Region  string
	Token   Hash // of the token that the joining server shows
	Expires time.Time
	N       keystore.N // the event that invited
}

// members says who belongs to a ledger. It holds the rules by which that changes.
type members struct {
	byID    map[string]Member // forgotten ones included
	invited map[string]Invitation
	spent   map[string]bool // every signing key that a member ever had, by its bytes
}

func newMembers() members {
	return members{byID: map[string]Member{}, invited: map[string]Invitation{}, spent: map[string]bool{}}
}

func (m members) clone() members {
	return members{byID: maps.Clone(m.byID), invited: maps.Clone(m.invited), spent: maps.Clone(m.spent)}
}

func (m members) all() []Member {
	return slices.SortedFunc(maps.Values(m.byID), func(a, b Member) int { return cmp.Compare(a.ID, b.ID) })
}

func (m members) found(g Genesis) {
	founder := g.Founder
	founder.Joined = 1
	m.add(founder)
}

func (m members) add(member Member) {
	m.byID[member.ID] = member
	m.spent[string(member.PublicKey)] = true
	delete(m.invited, member.ID)
}

// author returns the member that wrote an event, if it may write.
func (m members) author(v *view) (Member, error) {
	member, ok := m.byID[string(v.server)]
	switch {
	case !ok:
		return Member{}, fmt.Errorf("%w: server %q", ErrNotMember, string(v.server))
	case member.Forgotten != 0:
		return Member{}, fmt.Errorf("%w: %w: server %s, by event %d", ErrNotMember, ErrForgotten, member.ID, member.Forgotten)
	}
	return member, nil
}

// decide judges a change of the members by event v of a ledger of this kind. The
// error wraps ErrPayload, and keystore.ErrExists, ErrNotFound or ErrRefused where
// that says more.
func (m members) decide(c ServerChange, v *view, kind Kind) error {
	have, known := m.byID[c.ID]
	live := known && have.Forgotten == 0
	_, invited := m.invited[c.ID]
	if c.Type != TypeServerInvited && c.Type != TypeServerJoined && !live && (c.Type != TypeServerForgotten || !invited) {
		return misfit(fmt.Errorf("server %s: %w", c.ID, keystore.ErrNotFound))
	}
	switch c.Type {
	case TypeServerInvited:
		if live {
			return misfit(fmt.Errorf("server %s: %w: it is a member", c.ID, keystore.ErrExists))
		}
		if !c.Expires.After(v.time()) {
			return unfit("invitation of server %s: it has expired when it is made", c.ID)
		}
	case TypeServerJoined:
		return m.decideJoined(c, v, kind, live)
	case TypeServerExcluded:
		if have.Excluded != 0 {
			return misfit(fmt.Errorf("server %s: %w: event %d excluded it", c.ID, keystore.ErrExists, have.Excluded))
		}
		return m.leaves(c)
	case TypeServerReturned:
		if have.Excluded == 0 {
			return unfit("server %s returns, but it is not excluded", c.ID)
		}
		if string(v.server) != c.ID {
			return unfit("server %s returns by the word of server %s", c.ID, string(v.server))
		}
	case TypeServerForgotten:
		if live {
			return m.leaves(c)
		}
	}
	return nil
}

func (m members) decideJoined(c ServerChange, v *view, kind Kind, live bool) error {
	if live {
		return misfit(fmt.Errorf("server %s: %w: it is a member", c.ID, keystore.ErrExists))
	}
	if m.spent[string(c.PublicKey)] {
		return unfit("server %s joins with a signing key that a member had", c.ID)
	}
	if kind != Keys {
		return nil // a policy store takes over who is a member of the key store
	}
	switch invited, ok := m.invited[c.ID]; {
	case !ok:
		return unfit("server %s joins uninvited", c.ID)
	case invited.Region != c.Region:
		return unfit("server %s of region %s joins; the invitation is for region %s", c.ID, c.Region, invited.Region)
	case v.time().After(invited.Expires):
		return unfit("server %s joins after its invitation has expired", c.ID)
	}
	return nil
}

// leaves reports why a server must not be left out of what counts: it is the last.
func (m members) leaves(c ServerChange) error {
	live, counting := 0, 0
	for id, other := range m.byID {
		if id == c.ID || other.Forgotten != 0 {
			continue
		}
		live++
		if other.Excluded == 0 {
			counting++
		}
	}
	switch {
	case c.Type == TypeServerForgotten && live == 0:
		return misfit(fmt.Errorf("server %s: %w: without it nobody could write to the ledger any more", c.ID, keystore.ErrRefused))
	case counting == 0 && !c.Forced:
		return misfit(fmt.Errorf("server %s: %w: it is the last one that counts", c.ID, keystore.ErrRefused))
	}
	return nil
}

// carryOut does what decide allowed.
func (m members) carryOut(c ServerChange, v *view) {
	have := m.byID[c.ID]
	switch c.Type {
	case TypeServerInvited:
		m.invited[c.ID] = Invitation{ID: c.ID, Region: c.Region, Token: c.Token, Expires: c.Expires, N: v.n}
	case TypeServerJoined:
		m.add(Member{
			ID: c.ID, Region: c.Region, PublicKey: bytes.Clone(c.PublicKey), P256Key: bytes.Clone(c.P256Key), Nkey: c.Nkey, MAC: c.MAC,
			Token: m.invited[c.ID].Token, Joined: v.n,
		})
	case TypeServerExcluded:
		have.Excluded = v.n
		m.byID[c.ID] = have
	case TypeServerReturned:
		have.Excluded = 0
		m.byID[c.ID] = have
	case TypeServerForgotten:
		delete(m.invited, c.ID)
		if have.ID != "" && have.Forgotten == 0 {
			have.Forgotten = v.n
			m.byID[c.ID] = have
		}
	}
}
