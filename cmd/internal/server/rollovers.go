package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/replication"
)

// This file holds the rollovers that administrators ask for, what they would do, and
// the end of a ring.

// A reference is the clock by which slots are due: the servers' common one. ok is
// false where this server's clock is off it, or nobody knows.
type reference func() (now time.Time, ok bool)

// now is the reference, or this server's clock where that is not known: what an
// administrator asks for does not wait for a clock.
func (s *service) now() time.Time {
	if at, ok := s.reference(); ok {
		return at.UTC().Truncate(time.Millisecond)
	}
	return now()
}

// A roll is a rollover that somebody asked for, with the keys that it makes.
type roll struct {
	req  adminapi.Rollover
	keys keystore.Rollover
	made map[keystore.KID]keystore.Material
}

// newRoll checks what is asked for and makes keys.
func newRoll(req adminapi.Rollover) (roll, error) {
	asked := 0
	r := roll{req: req, keys: keystore.Rollover{Trigger: keystore.Manual, Force: req.Force}}
	for _, kind := range []struct {
		set     bool
		trigger keystore.Trigger
	}{{req.Fresh, keystore.Fresh}, {req.Emergency, keystore.Emergency}, {req.Undo, keystore.Manual}} {
		if kind.set {
			asked++
			r.keys.Trigger = kind.trigger
		}
	}
	switch {
	case asked > 1:
		return roll{}, fmt.Errorf("%w: fresh, emergency and undo: want one of them at most", keystore.ErrInvalid)
	case len(req.With) > 0 && !req.Emergency:
		return roll{}, fmt.Errorf("%w: with %s: goes with emergency", keystore.ErrInvalid, strings.Join(req.With, ","))
	case req.Undo:
		return r, nil
	}
	keys, made := material(now(), 4)
	r.keys.Future, r.made = keys[0], made
	unused := keys[1:]
	if r.keys.Trigger != keystore.Manual {
		r.keys.Current, unused = keys[1], keys[2:]
	}
	for _, with := range req.With {
		switch {
		case with == "static" && r.keys.Static == keystore.NewKey{}:
			r.keys.Static = unused[0]
		case with == "ticket" && r.keys.SessionTicket == keystore.NewKey{}:
			r.keys.SessionTicket = unused[0]
		default:
			return roll{}, fmt.Errorf("%w: with %q: want static, ticket, or both once each", keystore.ErrInvalid, with)
		}
		unused = unused[1:]
	}
	for _, k := range unused {
		delete(r.made, k.KID)
	}
	return r, nil
}

// decide decides on a ring as it stands now.
func (s *service) decide(r roll, ring keystore.Ring, servers []keystore.Confirmation) (keystore.Change, error) {
	if r.req.Undo {
		return ring.Undo()
	}
	req := r.keys
	var err error
	if req.Plan, err = s.plans.of(ring.Policy); err != nil {
		return keystore.Change{}, err
	}
	req.Now, req.Servers = s.now(), servers
	return ring.Rollover(req)
}

// Rollover implements adminhttp.Changer.
func (s *service) Rollover(ctx context.Context, actor string, name keystore.RingName, req adminapi.Rollover) (adminapi.RolledOver, error) {
	r, err := newRoll(req)
	if err != nil {
		return adminapi.RolledOver{}, err
	}
	confirmed := s.confirmer()
	receipt, ring, err := s.commitRing(ctx, order{
		actor: actor, intent: req.Intent, ring: name, made: r.made,
		decide: func(state *events.State) (keystore.Change, error) {
			ring, err := ringOf(state, name)
			if err != nil {
				return keystore.Change{}, err
			}
			return s.decide(r, ring, confirmed(state))
		},
	})
	if err != nil {
		return adminapi.RolledOver{}, err
	}
	return adminapi.RolledOver{
		Ring: string(name), Version: ring.Version, N: receipt.N, ID: receipt.ID.String(), Keys: keysView(ring),
		Replicas: receipt.HeldBy,
	}, nil
}

// Preview implements adminhttp.Reader.
func (s *service) Preview(_ context.Context, name keystore.RingName, req adminapi.Rollover) (adminapi.Preview, error) {
	ring, err := s.ring(name)
	if err != nil {
		return adminapi.Preview{}, err
	}
	r, err := newRoll(req)
	if err != nil {
		return adminapi.Preview{}, err
	}
	servers := s.confirmations()
	change, err := s.decide(r, ring, servers)
	answer := adminapi.Preview{
		Ring: string(name), Version: ring.Version + 1, Allowed: err == nil,
		Changes: []adminapi.RoleChange{}, Destroyed: []string{}, Behind: behind(ring, servers), LoggedOut: "nobody",
	}
	if err != nil {
		if !errors.Is(err, keystore.ErrRefused) {
			return adminapi.Preview{}, err
		}
		problem, _ := adminhttp.ProblemOf(err)
		answer.Refused = &problem
		r.keys.Force = true
		if change, err = s.decide(r, ring, servers); err != nil {
			return answer, nil // what is refused with force too has no effects to show
		}
	}
	after, err := ring.Apply(change, keystore.EventRef{N: ring.Last.N + 1, At: s.now()})
	if err != nil {
		return adminapi.Preview{}, err
	}
	answer.Changes = roleChanges(ring, after)
	answer.Destroyed = append(answer.Destroyed, kidTexts(change.Destroyed)...)
	answer.LoggedOut = loggedOut(ring, change, answer.Behind)
	return answer, nil
}

func roleChanges(before, after keystore.Ring) []adminapi.RoleChange {
	changes := []adminapi.RoleChange{}
	for _, k := range after.Keys {
		old, ok := before.Key(k.KID)
		switch {
		case !ok:
			changes = append(changes, adminapi.RoleChange{To: k.Role.String()})
		case old.Role != k.Role:
			changes = append(changes, adminapi.RoleChange{KID: k.KID.String(), From: old.Role.String(), To: k.Role.String()})
		}
	}
	for _, k := range before.Keys {
		if _, ok := after.Key(k.KID); !ok {
			changes = append(changes, adminapi.RoleChange{KID: k.KID.String(), From: k.Role.String()})
		}
	}
	return changes
}

// loggedOut says whose sessions a rollover would end.
func loggedOut(r keystore.Ring, c keystore.Change, behind []string) string {
	if c.Trigger == keystore.Emergency {
		return emergencyLogsOut(r, c)
	}
	var parts []string
	for _, kid := range c.Destroyed {
		if k, ok := r.Key(kid); ok && k.Role == keystore.Old && now().Before(k.RetiredAt.Add(max(k.Session, r.Policy.MaxSession))) {
			parts = append(parts, fmt.Sprintf("sessions under key %s, which was current until %s", kid, k.RetiredAt.UTC().Format(time.RFC3339)))
		}
	}
	switch {
	case c.Trigger == keystore.Fresh:
		parts = append(parts, "agents that have not been given the new current key yet refuse cookies sealed with it until they have")
	case len(behind) > 0 && c.Kind == keystore.RolledOver:
		parts = append(parts, "agents of servers that are behind would refuse cookies sealed elsewhere until they have caught up")
	}
	if len(parts) == 0 {
		return "nobody"
	}
	return strings.Join(parts, "; ")
}

// emergencyLogsOut names what an emergency rollover ends: all that the ring's sessions
// were sealed with.
func emergencyLogsOut(r keystore.Ring, c keystore.Change) string {
	sealing, _ := r.Seals()
	text := "everybody: every session that the ring's dynamic keys sealed"
	if r.Mode == keystore.ModeStatic && !slices.Contains(c.Destroyed, sealing.KID) {
		text = "whoever has a session that the ring's dynamic keys sealed; sessions under the static key go on"
	}
	for _, k := range r.Keys {
		if !slices.Contains(c.Destroyed, k.KID) {
			continue
		}
		switch k.Role {
		case keystore.Static:
			text += "; what the static key sealed"
		case keystore.SessionTicket:
			text += "; every session ticket"
		}
	}
	return text
}

// Slots implements adminhttp.Reader.
func (s *service) Slots(_ context.Context, name keystore.RingName, from time.Time, count int) (adminapi.Slots, error) {
	ring, err := s.ring(name)
	if err != nil {
		return adminapi.Slots{}, err
	}
	plan, err := s.plans.of(ring.Policy)
	answer := adminapi.Slots{Slots: []time.Time{}}
	if err != nil || plan == nil {
		return answer, err
	}
	slot, ok := ring.NextSlot, !ring.NextSlot.IsZero()
	switch {
	case from.IsZero() || from.Equal(slot):
	case ok && from.After(slot):
		slot, ok = plan.Following(slot, from.Add(-1))
	default:
		slot, ok = plan.Next(from.Add(-1))
	}
	for ; ok && len(answer.Slots) < count; slot, ok = plan.Next(slot) {
		answer.Slots = append(answer.Slots, slot.UTC())
	}
	return answer, nil
}

// DeleteRing implements adminhttp.Changer.
func (s *service) DeleteRing(ctx context.Context, actor string, name keystore.RingName, req adminapi.DeleteRing) (adminapi.RingDeleted, error) {
	hosts := s.granted(name)
	receipt, ring, err := s.commitRing(ctx, order{
		actor: actor, intent: req.Intent, ring: name,
		decide: func(state *events.State) (keystore.Change, error) {
			ring, err := ringOf(state, name)
			if err != nil {
				return keystore.Change{}, err
			}
			return ring.Delete(hosts, req.Force)
		},
	})
	if err != nil {
		return adminapi.RingDeleted{}, err
	}
	return s.deleted(receipt, ring, hosts, req)
}

func (s *service) deleted(receipt replication.Receipt, ring keystore.Ring, hosts []string, req adminapi.DeleteRing) (adminapi.RingDeleted, error) {
	change, ok := ringChange(receipt.Event)
	if !ok || change.Kind != keystore.Deleted {
		return adminapi.RingDeleted{}, usedRequest(req.Request, receipt.N)
	}
	return adminapi.RingDeleted{
		Receipt: receiptView(receipt), Ring: string(ring.Name), Version: change.Version,
		Destroyed: kidTexts(change.Destroyed), Hosts: hosts,
	}, nil
}

// granted lists the trusted hosts that may have a ring.
func (s *service) granted(name keystore.RingName) []string {
	hosts := []string{}
	s.hosts.Replica().Read(func(state *events.State) {
		for _, h := range state.Hosts() {
			if h.Granted(name) {
				hosts = append(hosts, h.Name)
			}
		}
	})
	return hosts
}
