package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/seal"
	"github.com/keytide/keytide/replication"
)

const (
	rekeyPeriod = time.Second // between two looks at a rekey that is under way
	// rewrapBatch is how much material one event wraps anew: what a batch has room for
	// beside the event and the head.
	rewrapBatch = events.MaxEffects
)

// A rekeying carries a rekey on, whoever began it: it takes the next key store key for
// this server, and, if this server is the one to do so, brings both ledgers over. What
// to do is read from the ledgers alone, so it goes on after any crash, at any server.
type rekeying struct {
	service *service
	log     *slog.Logger
	disk    *keptIdentity
	own     serverKeys
	unlock  []seal.UnlockKey // the last one wraps what is new
	period  time.Duration

	mu  sync.Mutex // guards the field below
	why string     // what stands in the way; logged when it changes
}

func newRekeying(s *service, disk *keptIdentity, own serverKeys, unlock []seal.UnlockKey) *rekeying {
	return &rekeying{service: s, log: s.log, disk: disk, own: own, unlock: unlock, period: rekeyPeriod}
}

// run looks at every event and, while a rekey is under way, every period, until ctx
// ends. A look that fails is logged once, and the next one tries again.
func (r *rekeying) run(ctx context.Context) error {
	ticker := time.NewTicker(r.period)
	defer ticker.Stop()
	for {
		_, keys := r.service.keys.Replica().Watch()
		_, hosts := r.service.hosts.Replica().Watch()
		more, err := r.round(ctx)
		r.noted(ctx, err)
		if more && err == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-keys:
		case <-hosts:
		case <-ticker.C:
		}
	}
}

// noted logs what stands in the way when that changes.
func (r *rekeying) noted(ctx context.Context, err error) {
	if ctx.Err() != nil || errors.Is(err, events.ErrConflict) {
		return // stopping, or another server was first
	}
	why := ""
	if err != nil {
		why = err.Error()
	}
	r.mu.Lock()
	before := r.why
	r.why = why
	r.mu.Unlock()
	if why != "" && why != before {
		r.log.Warn("the rekey does not go on; trying again", "err", err)
	}
}

// trouble is what stands in the way at this server; empty: nothing.
func (r *rekeying) trouble() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.why
}

// round does what is to be done now. more: there is more at once.
func (r *rekeying) round(ctx context.Context) (more bool, err error) {
	if err := r.take(ctx); err != nil {
		return false, err
	}
	if err := r.drop(); err != nil {
		return false, err
	}
	if !r.leads() {
		return false, nil
	}
	return r.carryOn(ctx)
}

// ksk is what a ledger says of its key store keys.
func kskOf(m *replication.Member) (k events.KSKState) {
	m.Replica().Read(func(state *events.State) { k = state.KSK() })
	return k
}

func (s *service) newestKSK() keystore.KID { return kskOf(s.keys).Newest() }

// kskValue reads a key store key's slots and envelopes as the ledger of this member has
// them.
func kskValue(m *replication.Member, id keystore.KID) (events.KSKValue, error) {
	value, ok := m.Replica().Value(events.KSKKey(id))
	if !ok {
		return events.KSKValue{}, fmt.Errorf("the unlock slots of key store key %s: %w", id, keystore.ErrNotFound)
	}
	return events.DecodeKSK(value)
}

// learnAll takes the key store keys that are published, into memory alone, from what is
// sealed to this server's own key.
func (r *rekeying) learnAll() {
	if err := r.learn(); err != nil {
		r.noted(context.Background(), err)
	}
}

func (r *rekeying) learn() error {
	k := kskOf(r.service.keys)
	var faults []error
	for _, id := range []keystore.KID{k.Sealing, k.Next, k.Former} {
		if _, has := r.service.vault.ksk(id); has || id == (keystore.KID{}) {
			continue
		}
		ksk, err := r.fromEnvelope(id)
		if err == nil {
			r.service.vault.learn(ksk)
			r.log.Info("key store key learned", "ksk", id.String())
		} else if id == k.Newest() {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

func (r *rekeying) fromEnvelope(id keystore.KID) (*seal.KSK, error) {
	value, err := kskValue(r.service.keys, id)
	if err != nil {
		return nil, err
	}
	own := r.service.id
	box, ok := value.Envelope(own.Server)
	if !ok {
		return nil, &hinted{
			error: fmt.Errorf("key store key %s: %w: nothing is sealed to server %s", id, errNoKSK, own.Server),
			hint:  "forget this server, and invite it anew:  keytide server forget " + own.Server,
		}
	}
	// A restore during a rekey begins another epoch; the envelope is of the one before.
	var first error
	for epoch := own.Epoch; epoch > 0; epoch-- {
		ksk, err := seal.KSKFrom(r.own.p256, seal.Address{Store: own.Store, Epoch: epoch, Server: own.Server}, box, id)
		if err == nil {
			return ksk, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// take makes the newest key store key this server's own: first on its disk, under its
// own unlock key, then by its word in the ledger.
func (r *rekeying) take(ctx context.Context) error {
	if err := r.learn(); err != nil {
		return err
	}
	k := kskOf(r.service.keys)
	if err := r.save(k.Newest()); err != nil {
		return err
	}
	holds := true
	r.service.keys.Replica().Read(func(state *events.State) {
		m, ok := state.Member(r.service.id.Server)
		holds = !ok || m.Forgotten != 0 || state.KSK().Holds(m)
	})
	if holds {
		return nil
	}
	return r.confirm(ctx, k)
}

// save keeps the newest key store key on the disk, and the one before beside it until
// nothing is sealed under it any more.
func (r *rekeying) save(newest keystore.KID) error {
	id := r.disk.now()
	if id.KSK == newest {
		return nil
	}
	ksk, ok := r.service.vault.ksk(newest)
	if !ok {
		return fmt.Errorf("key store key %s: %w", newest, errNoKSK)
	}
	slot, err := seal.NewSlot(ksk, r.unlock[len(r.unlock)-1], id.Store)
	if err != nil {
		return fmt.Errorf("wrapping key store key %s under this server's unlock key: %w", newest, err)
	}
	id.Former = append(slices.Clone(id.Former), formerKSK{KSK: id.KSK, Slots: id.Slots})
	id.KSK, id.Slots = newest, [][]byte{slot}
	for _, own := range []struct {
		to  *sealedKey
		m   keystore.Material
		alg seal.Alg
	}{{&id.SigningKey, r.own.seed, seal.AlgEd25519}, {&id.P256Key, r.own.scalar, seal.AlgP256}} {
		if own.to.Record, err = ksk.Seal(id.place(*own.to, own.alg), own.m); err != nil {
			return err
		}
	}
	r.service.cfg.reach("rekey save")
	return r.keep(id)
}

// keep saves what of id is about key store keys: nobody else changes that.
func (r *rekeying) keep(id identity) error {
	err := r.disk.change(func(now *identity) {
		now.KSK, now.Slots, now.Former, now.SigningKey, now.P256Key = id.KSK, id.Slots, id.Former, id.SigningKey, id.P256Key
	})
	if err == nil {
		r.service.cfg.reach("rekey saved")
	}
	return err
}

// confirm says in the ledger that this server holds the newest key store key, takes its
// envelope away, and puts slots there for those of the former that its unlock key opens.
func (r *rekeying) confirm(ctx context.Context, k events.KSKState) error {
	before := k.Sealing
	if k.Next == (keystore.KID{}) {
		before = k.Former
	}
	slots, err := r.successors(before, k.Newest())
	if err != nil {
		return err
	}
	_, err = r.service.keys.Commit(ctx, func(state *events.State) (replication.Proposal, error) {
		m, _ := state.Member(r.service.id.Server)
		now := state.KSK()
		if now.Newest() != k.Newest() || now.Holds(m) {
			return replication.Proposal{}, errDone
		}
		value, err := valueAt(r.service.keys, state, k.Newest())
		if err != nil {
			return replication.Proposal{}, err
		}
		c := events.KSKChange{Type: events.TypeKSKTaken, KSK: k.Newest()}
		value.Envelopes = slices.DeleteFunc(value.Envelopes, func(e events.Envelope) bool { return e.Server == m.ID })
		for _, s := range slots {
			if !value.Replaced(s.Replaces) && len(value.Slots) < seal.MaxSlots {
				value.Slots = append(value.Slots, s)
				c.Added = append(c.Added, events.SlotID(s.Record))
			}
		}
		return kskProposal(c, value, "a rekey is under way")
	})
	if errors.Is(err, errDone) {
		return nil
	}
	if err == nil {
		r.log.Info("key store key taken", "ksk", k.Newest().String())
	}
	return err
}

// successors are slots of the newest key store key for those of the former, in the
// ledger, that this server's unlock keys open.
func (r *rekeying) successors(before, newest keystore.KID) ([]events.Slot, error) {
	value, err := kskValue(r.service.keys, before)
	if errors.Is(err, keystore.ErrNotFound) {
		return nil, nil // it has ended meanwhile: nothing is to be carried over
	}
	if err != nil {
		return nil, err
	}
	ksk, ok := r.service.vault.ksk(newest)
	if !ok {
		return nil, fmt.Errorf("key store key %s: %w", newest, errNoKSK)
	}
	var slots []events.Slot
	for _, s := range value.Slots {
		if _, _, err := openKSK(before, [][]byte{s.Record}, r.unlock, r.service.id.Store); err != nil {
			continue // another server's, or nobody's that is here
		}
		record, err := seal.NewSlot(ksk, r.unlock[len(r.unlock)-1], r.service.id.Store)
		if err != nil {
			return nil, err
		}
		slots = append(slots, events.Slot{Record: record, Region: s.Region, Label: s.Label, Added: now(), Replaces: events.SlotID(s.Record)})
	}
	return slots, nil
}

// drop forgets key store keys under which nothing is sealed any more in this server's
// own replicas.
func (r *rekeying) drop() error {
	keys, hosts := kskOf(r.service.keys), kskOf(r.service.hosts)
	id := r.disk.now()
	// Ledgers are brought over one after the other: a key store key of either lives.
	live := []keystore.KID{id.KSK, keys.Sealing, keys.Next, keys.Former, hosts.Sealing, hosts.Next, hosts.Former}
	r.service.vault.keep(live...)
	former := slices.DeleteFunc(slices.Clone(id.Former), func(f formerKSK) bool { return !slices.Contains(live, f.KSK) })
	if len(former) == len(id.Former) {
		return nil
	}
	if id.Former = former; len(former) == 0 {
		id.Former = nil
	}
	return r.keep(id)
}

// valueAt reads a key store key's slots as the state has them: between two of the
// follower's steps the replica's value may be of another event.
func valueAt(m *replication.Member, state *events.State, id keystore.KID) (events.KSKValue, error) {
	value, _ := m.Replica().Value(events.KSKKey(id))
	if hash, ok := state.Expect(events.KSKKey(id)); !ok || hash != events.HashOf(value) {
		return events.KSKValue{}, fmt.Errorf("key store key %s: %w: its slots are changing", id, events.ErrConflict)
	}
	return events.DecodeKSK(value)
}

func kskProposal(c events.KSKChange, value events.KSKValue, reason string) (replication.Proposal, error) {
	p := replication.Proposal{Type: c.Type, Actor: "keytide", Reason: reason}
	var err error
	if p.Payload, err = c.Encode(); err != nil {
		return p, err
	}
	switch c.Type {
	case events.TypeRekeyBegun, events.TypeKSKTaken, events.TypeSlotsSet:
		put := events.Put{Key: events.KSKKey(c.KSK)}
		put.Value, err = value.Encode()
		p.Puts = []events.Put{put}
	case events.TypeRekeyEnded:
		p.Puts = []events.Put{{Key: events.KSKKey(c.KSK), Delete: true}}
	}
	return p, err
}
