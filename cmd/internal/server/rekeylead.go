package server

import (
	"context"
	"errors"
	"fmt"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/seal"
	"github.com/keytide/keytide/replication"
)

// This file brings the ledgers over from one key store key to the next. Every step is
// an event on the newest state, so two servers that do it at once only cost time.

// leads reports whether this server is the one to carry a rekey on: fresh in both
// ledgers, and the first by its id of those that say they are. When that one dies, its
// word ages, and the next one leads.
func (r *rekeying) leads() bool {
	own := r.service.id.Server
	for _, m := range []*replication.Member{r.service.keys, r.service.hosts} {
		if m.Freshness().State != events.Fresh {
			return false
		}
	}
	counts := make(map[string]bool)
	r.service.keys.Replica().Read(func(state *events.State) {
		for _, m := range state.Members() {
			counts[m.ID] = m.Counts() && state.KSK().Holds(m)
		}
	})
	for _, v := range r.service.keys.Servers() {
		alive := v.Record.State == events.Fresh && v.Age < 2*replication.DefaultRecordPeriod
		if !v.Self && alive && counts[v.Record.ID] && v.Record.ID < own {
			return false
		}
	}
	return true
}

// carryOn does the next step of a rekey that is under way, if there is one that does not
// wait. more: there may be another at once.
func (r *rekeying) carryOn(ctx context.Context) (more bool, err error) {
	keys, hosts := kskOf(r.service.keys), kskOf(r.service.hosts)
	none := keystore.KID{}
	switch {
	case keys.Next != none:
		return r.turn(ctx, keys)
	case keys.Former == none && hosts.Sealing == keys.Sealing && hosts.Former == none:
		return r.mirror(ctx, keys.Sealing)
	case hosts.Sealing != keys.Sealing && hosts.Next == none:
		return r.step(ctx, r.service.hosts, func(state *events.State) (replication.Proposal, error) {
			if k := state.KSK(); k.UnderWay() || k.Sealing == keys.Sealing {
				return replication.Proposal{}, errDone
			}
			value, err := kskValue(r.service.keys, keys.Sealing)
			value.Envelopes = nil // servers take it in the ledger of keys
			if err != nil {
				return replication.Proposal{}, err
			}
			return kskProposal(events.KSKChange{Type: events.TypeRekeyBegun, KSK: keys.Sealing}, value, "as the key store")
		})
	case hosts.Next != none:
		return r.step(ctx, r.service.hosts, func(state *events.State) (replication.Proposal, error) {
			return turned(state, hosts.Next)
		})
	case keys.Left > 0:
		return r.rewrap(ctx, r.service.keys)
	case hosts.Left > 0:
		return r.rewrap(ctx, r.service.hosts)
	case hosts.Former != none:
		return r.end(ctx, r.service.hosts, hosts.Former)
	case keys.Former != none:
		return r.end(ctx, r.service.keys, keys.Former)
	}
	return false, nil
}

// step commits one event. more is whether it did.
func (r *rekeying) step(ctx context.Context, m *replication.Member, decide replication.Decide) (more bool, err error) {
	receipt, err := m.Commit(ctx, decide)
	if errors.Is(err, errDone) {
		return false, nil // another server was first: its event comes
	}
	if err != nil {
		return false, err
	}
	r.service.cfg.reach(receipt.Event.Type.String() + " " + m.Replica().Pin().Kind.String())
	return true, nil
}

// unreplaced are the slots of a key store key for which the next one has none.
func unreplaced(before, next events.KSKValue) (slots []events.Slot) {
	for _, slot := range before.Slots {
		if !next.Replaced(events.SlotID(slot.Record)) {
			slots = append(slots, slot)
		}
	}
	return slots
}

// turn has new material sealed with the next key store key, once every server that
// counts holds it and no unlock slot is left behind.
func (r *rekeying) turn(ctx context.Context, k events.KSKState) (bool, error) {
	return r.step(ctx, r.service.keys, func(state *events.State) (replication.Proposal, error) {
		if state.KSK().Next != k.Next || len(state.Lacking(false)) > 0 {
			return replication.Proposal{}, errDone // status says for what it waits
		}
		before, err := valueAt(r.service.keys, state, k.Sealing)
		if err != nil {
			return replication.Proposal{}, err
		}
		next, err := valueAt(r.service.keys, state, k.Next)
		if err != nil {
			return replication.Proposal{}, err
		}
		if len(unreplaced(before, next)) > 0 {
			return replication.Proposal{}, errDone
		}
		return turned(state, k.Next)
	})
}

func turned(state *events.State, next keystore.KID) (replication.Proposal, error) {
	if state.KSK().Next != next {
		return replication.Proposal{}, errDone
	}
	return kskProposal(events.KSKChange{Type: events.TypeRekeyTurned, KSK: next}, events.KSKValue{}, "every server has taken the next key store key")
}

func (r *rekeying) end(ctx context.Context, m *replication.Member, former keystore.KID) (bool, error) {
	more, err := r.step(ctx, m, func(state *events.State) (replication.Proposal, error) {
		k := state.KSK()
		if k.Former != former || k.Left > 0 || m == r.service.keys && len(state.Lacking(false)) > 0 {
			return replication.Proposal{}, errDone
		}
		return kskProposal(events.KSKChange{Type: events.TypeRekeyEnded, KSK: former}, events.KSKValue{}, "nothing is sealed under it any more")
	})
	if more {
		r.log.Info("key store key ended", "ledger", m.Replica().Pin().Kind.String(), "ksk", former.String())
	}
	return more, err
}

// rewrap seals a batch of material anew. The former record and the new one are of the
// same place and bytes; the batch finds each at the revision that was read.
func (r *rekeying) rewrap(ctx context.Context, m *replication.Member) (bool, error) {
	v := r.service.vault
	return r.step(ctx, m, func(state *events.State) (replication.Proposal, error) {
		k := state.KSK()
		kids := state.ToRewrap(rewrapBatch)
		if len(kids) == 0 {
			return replication.Proposal{}, errDone
		}
		ksk, ok := v.ksk(k.Sealing)
		if !ok {
			return replication.Proposal{}, fmt.Errorf("key store key %s: %w", k.Sealing, errNoKSK)
		}
		p, err := kskProposal(events.KSKChange{Type: events.TypeMaterialRewrapped, KSK: k.Sealing}, events.KSKValue{}, "a rekey is under way")
		for _, kid := range kids {
			if err != nil {
				return p, err
			}
			var put events.Put
			put, err = v.rewrapped(m.Replica(), state, kid, ksk)
			p.Puts = append(p.Puts, put)
		}
		return p, err
	})
}

func (v *vault) rewrapped(from values, state *events.State, kid keystore.KID, ksk *seal.KSK) (events.Put, error) {
	put := events.Put{Key: events.MaterialKey(kid)}
	value, _ := from.Value(put.Key)
	if hash, ok := state.Expect(put.Key); !ok || hash != events.HashOf(value) {
		return put, fmt.Errorf("key %s: %w: its record is changing, or is not the ledger's", kid, events.ErrConflict)
	}
	sealed, err := events.DecodeMaterial(value)
	if err != nil {
		return put, fmt.Errorf("key %s: %w", kid, err)
	}
	place := placed(v.store, sealed.Owner, kid, sealed)
	m, err := v.unseal(place, sealed.Record)
	if err != nil {
		return put, err
	}
	if sealed.Record, err = ksk.Seal(place, m); err != nil {
		return put, err
	}
	put.Value, err = sealed.Encode()
	return put, err
}

// mirror has the ledger of hosts keep the same unlock slots as the ledger of keys, so
// that a backup of it opens by itself.
func (r *rekeying) mirror(ctx context.Context, ksk keystore.KID) (bool, error) {
	want, err := kskValue(r.service.keys, ksk)
	if err != nil {
		return false, err
	}
	have, err := kskValue(r.service.hosts, ksk)
	if err != nil || sameSlots(want, have) {
		return false, err
	}
	return r.step(ctx, r.service.hosts, func(state *events.State) (replication.Proposal, error) {
		have, err := valueAt(r.service.hosts, state, ksk)
		if err != nil {
			return replication.Proposal{}, err
		}
		if sameSlots(want, have) || state.KSK().UnderWay() {
			return replication.Proposal{}, errDone
		}
		return kskProposal(slotsChange(ksk, have, want), events.KSKValue{ID: ksk, Slots: want.Slots}, "as the key store")
	})
}
