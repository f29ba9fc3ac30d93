package server

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

// This file tells a key's life from the whole log.

// A life is what the log says of a key in one ring.
type life struct {
	ring      keystore.RingName
	key       keystore.Key // as it was last
	roles     []adminapi.Tenure
	destroyed *adminapi.Event
}

// Key implements adminhttp.Reader.
func (s *service) Key(ctx context.Context, kid keystore.KID) (adminapi.KeyUses, error) {
	lives, err := s.lives(ctx, kid)
	if err != nil {
		return adminapi.KeyUses{}, err
	}
	answer := adminapi.KeyUses{KID: kid.String(), Uses: []adminapi.KeyUse{}}
	for _, l := range lives {
		var ring keystore.Ring
		s.keys.Replica().Read(func(state *events.State) { ring, _ = state.AnyRing(l.ring) })
		answer.Uses = append(answer.Uses, s.keyUse(ring, l))
	}
	if len(lives) == 0 {
		return adminapi.KeyUses{}, &hinted{
			error: fmt.Errorf("key %s: %w: no ring of key store %s has it or ever had it", kid, keystore.ErrNotFound, s.id.Store),
			hint:  "it may be another key store's: ask a server of that one with  --client FILE",
		}
	}
	return answer, nil
}

// lives follows a key through every event of the rings.
func (s *service) lives(ctx context.Context, kid keystore.KID) ([]life, error) {
	rings := make(map[keystore.RingName]keystore.Ring)
	found := make(map[keystore.RingName]*life)
	replica := s.keys.Replica()
	to, _ := replica.Watch()
	for rec, err := range replica.Records(1, to) {
		var e events.Event
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			e, err = events.Decode(rec)
		}
		if err != nil {
			return nil, err
		}
		c, ok := ringChange(e)
		if !ok {
			continue
		}
		ring, err := rings[c.Ring].Apply(c, e.Ref())
		if err != nil {
			return nil, fmt.Errorf("event %d: %w", e.N, err)
		}
		rings[c.Ring] = ring
		l := found[c.Ring]
		if _, there := ring.Key(kid); there && l == nil {
			l = &life{ring: c.Ring}
			found[c.Ring] = l
		}
		if l != nil {
			l.follow(kid, ring)
		}
	}
	lives := make([]life, 0, len(found))
	for _, l := range found {
		lives = append(lives, *l)
	}
	slices.SortFunc(lives, func(a, b life) int { return strings.Compare(string(a.ring), string(b.ring)) })
	return lives, nil
}

// follow notes what a ring's newest event did to the key.
func (l *life) follow(kid keystore.KID, ring keystore.Ring) {
	k, there := ring.Key(kid)
	var last *adminapi.Tenure
	if len(l.roles) > 0 {
		last = &l.roles[len(l.roles)-1]
	}
	if !there {
		if l.destroyed == nil {
			ref := refView(ring.Last)
			l.destroyed, last.To = &ref, ring.Version-1
		}
		return
	}
	l.key = k
	if last != nil && last.Role == k.Role.String() {
		return
	}
	if last != nil {
		last.To = ring.Version - 1
	}
	l.roles = append(l.roles, adminapi.Tenure{Role: k.Role.String(), From: ring.Version, Since: ring.Last.At.UTC()})
}

func (s *service) keyUse(r keystore.Ring, l life) adminapi.KeyUse {
	sealing, seals := r.Seals()
	use := adminapi.KeyUse{
		Ring: string(r.Name), Version: r.Version, Role: l.key.Role.String(),
		CreatedAt: l.key.Created.UTC(), Roles: l.roles, Destroyed: l.destroyed, Hosts: []string{}, Deleted: r.Deleted,
	}
	if seals {
		use.Mode, use.SealedWith = r.Mode.String(), sealing.KID.String()
	}
	if k, ok := r.Key(l.key.KID); ok {
		use.Seals, use.Pending = k.KID == sealing.KID, k.Pending
		use.Opens = k.Role != keystore.SessionTicket
		use.Reseal = !use.Seals && opensSessions(r, k.Role)
		use.OpensUntil, use.Retention = retained(r, k)
	} else {
		use.Retention = "it is destroyed"
	}
	s.hosts.Replica().Read(func(state *events.State) {
		for _, h := range state.Hosts() {
			if h.Granted(r.Name) {
				use.Hosts = append(use.Hosts, h.Name)
			}
		}
	})
	reach := s.reach(r.Name, r.Changed)
	use.Connected, use.Lacking = reach.Connected, reach.Lacking
	return use
}

// opensSessions is agentfeed/cookie's rule for sessions.
func opensSessions(r keystore.Ring, role keystore.Role) bool {
	switch role {
	case keystore.Current, keystore.Old, keystore.Future:
		return true
	case keystore.Static:
		return r.OpensStatic()
	}
	return false
}

// retained says until when a key opens at least, and why.
func retained(r keystore.Ring, k keystore.Key) (time.Time, string) {
	session := max(k.Session, r.Policy.MaxSession)
	switch {
	case k.Pending:
		return time.Time{}, "it is published, and seals once every policy server has confirmed it"
	case k.Role != keystore.Old && k.Retired != 0:
		return k.RetiredAt.Add(k.Session + keystore.RetainMargin).UTC(),
			fmt.Sprintf("%v (its overlap and %v) after every server has stopped to seal with it", k.Session+keystore.RetainMargin, keystore.RetainMargin)
	case k.Role == keystore.Static || k.Role == keystore.SessionTicket:
		return time.Time{}, "no rollover ends it"
	case k.Role != keystore.Old:
		return time.Time{}, fmt.Sprintf("it is kept for %v once a rollover has made it old", session+keystore.RetainMargin)
	case r.Policy.Retain != keystore.RetainAuto:
		return time.Time{}, fmt.Sprintf("the ring keeps %s old keys: later rollovers end it", r.Policy.Retain)
	}
	return k.RetiredAt.Add(session + keystore.RetainMargin).UTC(),
		fmt.Sprintf("%v (max_session and %v) after every server has stopped to seal with it", session+keystore.RetainMargin, keystore.RetainMargin)
}
