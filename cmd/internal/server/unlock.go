package server

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/seal"
)

// This file opens the key store keys when a server starts.

// unlock opens the key store key by one of the server's unlock keys, and, while a rekey
// replaces another, that too. The first one returned seals the server's own keys.
func (s *site) unlock(ctx context.Context, l *openedLedger, keys []seal.UnlockKey) ([]*seal.KSK, error) {
	ksk, _, err := openKSK(s.id.KSK, s.id.Slots, keys, s.id.Store)
	if err != nil {
		slots, fault := s.ledgerSlots(ctx, l)
		if fault != nil && len(s.id.Slots) == 0 {
			return nil, fault
		}
		var slot []byte
		var again error
		if ksk, slot, again = openKSK(s.id.KSK, slots, keys, s.id.Store); again != nil {
			if len(slots) > 0 {
				err = again // the ledger's slots are those that administrators see
			}
			return nil, err
		}
		// A copy of its own opens also while the server is away from the ledger, and
		// takes the place of one that another unlock key opened.
		s.id.Slots = [][]byte{slot}
		if err := s.disk.change(func(id *identity) { id.Slots = s.id.Slots }); err != nil {
			return nil, err
		}
	}
	ksks := []*seal.KSK{ksk}
	for _, former := range s.id.Former {
		k, _, err := openKSK(former.KSK, former.Slots, keys, s.id.Store)
		if err != nil {
			s.log.Warn("a key store key that a rekey replaces does not open; what is still sealed under it stays closed", "ksk", former.KSK.String(), "err", err)
			continue
		}
		ksks = append(ksks, k)
	}
	return append(ksks, s.turnedBack(l, ksks, keys)...), nil
}

// turnedBack opens, by their slots in the ledger, key store keys that the ledger names and this
// server neither has nor is to be given: the ledger, or else this server's directory, was turned
// back to before a rekey. One that stays closed is reported when it is used.
func (s *site) turnedBack(l *openedLedger, have []*seal.KSK, keys []seal.UnlockKey) (found []*seal.KSK) {
	if l.empty() {
		return nil
	}
	var k events.KSKState
	l.replica.Read(func(state *events.State) { k = state.KSK() })
	for _, id := range []keystore.KID{k.Next, k.Sealing, k.Former} {
		value, ok := l.replica.Value(events.KSKKey(id))
		if !ok || slices.ContainsFunc(have, func(k *seal.KSK) bool { return k.ID() == id }) {
			continue
		}
		slots, err := events.DecodeKSK(value)
		if err != nil {
			continue
		}
		if _, ok := slots.Envelope(s.id.Server); ok {
			continue
		}
		if ksk, _, err := openKSK(id, slots.Records(), keys, s.id.Store); err == nil {
			s.log.Warn("a key store key that this server did not have opens by an unlock slot of the ledger", "ksk", id.String())
			found = append(found, ksk)
		}
	}
	return found
}

// openKSK opens a key store key by the first slot that one of the unlock keys opens. If
// none does, the error is that of the first unlock key.
func openKSK(want keystore.KID, slots [][]byte, keys []seal.UnlockKey, store string) (*seal.KSK, []byte, error) {
	var first error
	slots = slots[:min(len(slots), seal.MaxSlots)]
	for _, u := range keys {
		k, slot, err := seal.UnlockBy(want, slots, u, store)
		if err == nil {
			return k, slot, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, nil, first
}

// ledgerSlots returns the key store key's unlock slots in the ledger: the replica's, or,
// for a replica that has just been made, the core's. They prove themselves when they open.
func (s *site) ledgerSlots(ctx context.Context, l *openedLedger) ([][]byte, error) {
	key := events.KSKKey(s.id.KSK)
	value, ok := l.replica.Value(key)
	if !ok && !l.empty() {
		return nil, nil // a rekey has replaced it
	}
	if !ok {
		err := s.await(ctx, "the key store key", func(ctx context.Context) error {
			found := errors.New("found")
			err := l.log.Follow(ctx, 1, func(e events.Entry) error {
				if e.Key != key {
					return nil
				}
				value = slices.Clone(e.Value)
				return found
			})
			if errors.Is(err, found) {
				return nil
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("the unlock slots of key store key %s: %w", s.id.KSK, err)
		}
	}
	k, err := events.DecodeKSK(value)
	if err != nil {
		return nil, fmt.Errorf("the unlock slots of key store key %s: %w", s.id.KSK, err)
	}
	return k.Records(), nil
}
