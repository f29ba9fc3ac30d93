package server

import (
	"encoding/base64"
	"fmt"
	"slices"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/keystore/seal"
)

// This file has the rules for unlock slots in a ledger.

func slotIDs(v events.KSKValue) []keystore.KID {
	ids := make([]keystore.KID, len(v.Slots))
	for i, s := range v.Slots {
		ids[i] = events.SlotID(s.Record)
	}
	return ids
}

func sameSlots(a, b events.KSKValue) bool { return slices.Equal(slotIDs(a), slotIDs(b)) }

// slotsChange is the change from the slots of before to those of after.
func slotsChange(ksk keystore.KID, before, after events.KSKValue) events.KSKChange {
	c := events.KSKChange{Type: events.TypeSlotsSet, KSK: ksk}
	was, is := slotIDs(before), slotIDs(after)
	for _, id := range is {
		if !slices.Contains(was, id) {
			c.Added = append(c.Added, id)
		}
	}
	for _, id := range was {
		if !slices.Contains(is, id) {
			c.Removed = append(c.Removed, id)
		}
	}
	return c
}

// serves reports whether a region's servers may start by the slot.
func serves(s events.Slot, region string) bool { return s.Region == "" || s.Region == region }

// removable reports why a slot must stay: it is the last by which a region in use, or
// anybody, could open the store.
func removable(v events.KSKValue, id keystore.KID, regions []string) error {
	slot, ok := v.Slot(id)
	if !ok {
		return &hinted{
			error: fmt.Errorf("unlock slot %s: %w", id, keystore.ErrNotFound),
			hint:  "see which slots there are:  keytide slot list",
		}
	}
	for _, region := range regions {
		if !serves(slot, region) {
			continue
		}
		others := slices.ContainsFunc(v.Slots, func(s events.Slot) bool { return events.SlotID(s.Record) != id && serves(s, region) })
		if !others {
			return &hinted{
				error: fmt.Errorf("unlock slot %s: %w: it is the last that serves region %s, which is in use", id, keystore.ErrRefused, region),
				hint:  fmt.Sprintf("add another one first:  keytide slot add --region %s --out FILE", region),
			}
		}
	}
	if len(v.Slots) == 1 {
		return &hinted{
			error: fmt.Errorf("unlock slot %s: %w: it is the last one of the store", id, keystore.ErrRefused),
			hint:  "add another one first:  keytide slot add --out FILE",
		}
	}
	return nil
}

// NewSlotRequest prepares an unlock slot where its unlock key is: that key is not sent.
func NewSlotRequest(u seal.UnlockKey, kind seal.SlotKind) (req adminapi.AddSlot, err error) {
	p, err := seal.Prepare(u, kind)
	if err != nil {
		return req, err
	}
	req.Head = base64.RawURLEncoding.EncodeToString(p.Head)
	return req, p.KEK.Use(func(kek []byte) error {
		req.KEK = adminapi.Secret(base64.RawURLEncoding.EncodeToString(kek))
		return nil
	})
}
