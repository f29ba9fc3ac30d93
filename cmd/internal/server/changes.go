package server

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/keystore/host"
	"github.com/keytide/keytide/keystore/seal"
	"github.com/keytide/keytide/replication"
)

// This file holds what changes the ledgers. keystore decides, inside the commit;
// new material is made before and sealed for its place once that is known.

// now is the time as events keep it.
func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

// An order is one change of a ring that somebody asked for.
type order struct {
	actor  string
	intent adminapi.Intent
	ring   keystore.RingName
	// decide returns the change; it runs anew whenever somebody else was first.
	decide func(*events.State) (keystore.Change, error)
	// made is the material of the keys that the change makes.
	made map[keystore.KID]keystore.Material
	// given: it was made elsewhere, and came in with the request.
	given bool
}

// commitRing carries an order out, or finds the event that answered it before, and
// returns the ring as that event left it.
func (s *service) commitRing(ctx context.Context, o order) (replication.Receipt, keystore.Ring, error) {
	if len(o.made) > 0 && !o.given && !s.generate {
		return replication.Receipt{}, keystore.Ring{}, &hinted{
			error: fmt.Errorf("ring %s: %w: key generation is turned off at server %s", o.ring, keystore.ErrRefused, s.id.Server),
			hint:  "ask another policy server, or set  generate: true  in this one's configuration",
		}
	}
	receipt, err := s.keys.Commit(ctx, func(state *events.State) (replication.Proposal, error) {
		p := replication.Proposal{Actor: o.actor, Request: o.intent.Request, Reason: o.intent.Reason}
		if _, done := state.Request(p.Request); done {
			return p, nil // the commit answers with that event
		}
		change, err := o.decide(state)
		if err != nil {
			return p, err
		}
		if p.Type, p.Payload, err = events.EncodeRingChange(change); err != nil {
			return p, err
		}
		p.Puts, err = s.sealed(state, change, o.made)
		return p, err
	})
	if err != nil {
		return receipt, keystore.Ring{}, err
	}
	if c, ok := ringChange(receipt.Event); !ok || c.Ring != o.ring {
		return receipt, keystore.Ring{}, usedRequest(o.intent.Request, receipt.N)
	}
	ring, err := s.ringAfter(ctx, o.ring, receipt.N)
	s.log.Info("ring changed", "ring", string(o.ring), "version", uint64(ring.Version), "n", uint64(receipt.N),
		"type", receipt.Event.Type.String(), "actor", o.actor)
	return receipt, ring, err
}

// sealed wraps the material that a change makes.
func (s *service) sealed(state *events.State, c keystore.Change, made map[keystore.KID]keystore.Material) ([]events.Put, error) {
	var puts []events.Put
	for _, k := range c.Made {
		value, err := s.vault.seal(state.KSK().Sealing, seal.Place{
			Owner: ringOwner(c.Ring), Generation: uint64(c.Version), Purpose: purposes[k.Role], Created: k.Created,
		}, made[k.KID])
		if err != nil {
			return nil, err
		}
		puts = append(puts, events.Put{Key: events.MaterialKey(k.KID), Value: value})
	}
	return puts, nil
}

func usedRequest(id string, n keystore.N) error {
	return fmt.Errorf("%w: request %s has made event %d, which is another change", keystore.ErrInvalid, id, n)
}

// ringAfter returns a ring as event n left it: mostly the newest state.
func (s *service) ringAfter(ctx context.Context, name keystore.RingName, n keystore.N) (keystore.Ring, error) {
	var ring keystore.Ring
	s.keys.Replica().Read(func(state *events.State) { ring, _ = state.AnyRing(name) })
	if ring.Last.N <= n {
		return ring, nil
	}
	state := events.NewState()
	for rec, err := range s.keys.Replica().Records(1, n) {
		if err == nil {
			err = errors.Join(ctx.Err(), state.Fold(rec))
		}
		if err != nil {
			return keystore.Ring{}, err
		}
	}
	ring, _ = state.AnyRing(name)
	return ring, nil
}

func receiptView(r replication.Receipt) adminapi.Receipt {
	return adminapi.Receipt{N: r.N, ID: r.ID.String(), Replicas: r.HeldBy}
}

func (s *service) changed(r replication.Receipt, ring keystore.Ring) adminapi.RingChanged {
	return adminapi.RingChanged{Receipt: receiptView(r), Ring: ringView(s.id.Epoch, ring)}
}

// material makes keys and returns them with their bytes, by kid.
func material(at time.Time, count int) ([]keystore.NewKey, map[keystore.KID]keystore.Material) {
	made := make(map[keystore.KID]keystore.Material, count)
	keys := make([]keystore.NewKey, count)
	for i := range keys {
		m := seal.Generate()
		keys[i] = keystore.NewKey{KID: m.KID(), Created: at}
		made[m.KID()] = m
	}
	return keys, made
}

// CreateRing implements adminhttp.Changer.
func (s *service) CreateRing(ctx context.Context, actor string, req adminapi.CreateRing) (adminapi.RingChanged, error) {
	name, err := keystore.ParseRingName(req.Name)
	if err != nil {
		return adminapi.RingChanged{}, err
	}
	policy, err := changedPolicy(keystore.DefaultPolicy(), req.Policy)
	if err != nil {
		return adminapi.RingChanged{}, err
	}
	plan, err := s.plans.of(policy)
	if err != nil {
		return adminapi.RingChanged{}, err
	}
	keys, made := material(now(), 4)
	receipt, ring, err := s.commitRing(ctx, order{
		actor: actor, intent: req.Intent, ring: name, made: made,
		decide: func(state *events.State) (keystore.Change, error) {
			if err := s.checkGuard(req.Policy.GuardAgents); err != nil {
				return keystore.Change{}, err
			}
			before, _ := state.AnyRing(name)
			change, err := before.Create(keystore.Creation{
				Name: name, Policy: policy, Now: s.now(), Plan: plan, Force: req.Force, Keys: keystore.FirstKeys{
					Current: keys[0], Future: keys[1], Static: keys[2], SessionTicket: keys[3],
				},
			})
			return change, creating(name, err)
		},
	})
	if err != nil {
		return adminapi.RingChanged{}, err
	}
	return s.changed(receipt, ring), nil
}

// creating says what to do with a ring that is there already.
func creating(name keystore.RingName, err error) error {
	if errors.Is(err, keystore.ErrExists) {
		return &hinted{error: err, hint: "change its policy with:  keytide ring set " + string(name)}
	}
	return err
}

// SetPolicy implements adminhttp.Changer.
func (s *service) SetPolicy(ctx context.Context, actor string, name keystore.RingName, req adminapi.SetPolicy) (adminapi.RingChanged, error) {
	receipt, ring, err := s.commitRing(ctx, order{
		actor: actor, intent: req.Intent, ring: name,
		decide: func(state *events.State) (keystore.Change, error) {
			ring, err := ringOf(state, name)
			if err != nil {
				return keystore.Change{}, err
			}
			policy, err := changedPolicy(ring.Policy, req.Policy)
			if err := errors.Join(err, s.checkGuard(req.Policy.GuardAgents)); err != nil {
				return keystore.Change{}, err
			}
			plan, err := s.plans.of(policy)
			if err != nil {
				return keystore.Change{}, err
			}
			return ring.SetPolicy(keystore.PolicyRequest{Policy: policy, Plan: plan, Now: s.now(), Force: req.Force})
		},
	})
	if err != nil {
		return adminapi.RingChanged{}, err
	}
	return s.changed(receipt, ring), nil
}

// RegisterHost implements adminhttp.Changer.
func (s *service) RegisterHost(ctx context.Context, actor string, req adminapi.RegisterHost) (adminapi.Registered, error) {
	rings, err := s.grantable(req.Rings)
	if err != nil {
		return adminapi.Registered{}, err
	}
	if err := keystore.CheckName(req.Name); err != nil {
		return adminapi.Registered{}, fmt.Errorf("host name %q: %w", req.Name, err)
	}
	grant, err := grantOf(req.HostGrant)
	if err != nil {
		return adminapi.Registered{}, err
	}
	at := now()
	secret := seal.Generate()
	receipt, err := s.hosts.Commit(ctx, func(state *events.State) (replication.Proposal, error) {
		p := replication.Proposal{Actor: actor, Request: req.Request, Reason: req.Reason}
		if _, done := state.Request(p.Request); done {
			return p, nil
		}
		before, _ := state.Host(req.Name)
		change, err := before.Register(req.Name, rings, keystore.NewKey{KID: secret.KID(), Created: at}, grant)
		if err != nil {
			return p, registering(req.Name, err)
		}
		if p.Type, p.Payload, err = events.EncodeHostChange(change); err != nil {
			return p, err
		}
		value, err := s.sealSecret(state, req.Name, change.Secret, secret)
		p.Puts = []events.Put{value}
		return p, err
	})
	if err != nil {
		return adminapi.Registered{}, err
	}
	s.log.Info("host registered", "host", req.Name, "n", uint64(receipt.N), "actor", actor)
	return s.registered(receipt, req)
}

func registering(name string, err error) error {
	if !errors.Is(err, keystore.ErrExists) {
		return err
	}
	return &hinted{error: err, hint: "see which hosts there are:  keytide host list\nchoose another name; a host's secret is shown once, when it is registered"}
}

// grantable checks that there are such rings.
func (s *service) grantable(names []string) ([]keystore.RingName, error) {
	var rings []keystore.RingName
	var faults []error
	for _, text := range names {
		name, err := keystore.ParseRingName(text)
		if err == nil {
			_, err = s.ring(name)
		}
		rings, faults = append(rings, name), append(faults, err)
	}
	return rings, errors.Join(faults...)
}

// registered answers with the secret that the event registered: for a request that
// was answered before, the same as then.
func (s *service) registered(receipt replication.Receipt, req adminapi.RegisterHost) (adminapi.Registered, error) {
	change, ok := hostChange(receipt.Event)
	if !ok || change.Kind != host.Registered || change.Host != req.Name {
		return adminapi.Registered{}, usedRequest(req.Request, receipt.N)
	}
	secret, err := s.vault.open(s.hosts.Replica(), hostOwner(req.Name), change.Secret.KID)
	if err != nil {
		return adminapi.Registered{}, err
	}
	servers, regions := s.source.servers()
	answer := adminapi.Registered{
		Host: req.Name, Rings: ringNames(change.Rings), KID: change.Secret.KID.String(), N: receipt.N, ID: receipt.ID.String(),
		Servers: servers, Regions: regions, CA: string(s.source.ca),
	}
	err = secret.Use(func(bytes []byte) error {
		answer.Secret = adminapi.Secret(base64.RawURLEncoding.EncodeToString(bytes))
		return nil
	})
	return answer, err
}
