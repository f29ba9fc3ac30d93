package server

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/keystore/seal"
	"github.com/keytide/keytide/keystore/seal/kms"
	"github.com/keytide/keytide/replication"
)

// This file answers what administrators ask of the key store key and its unlock slots.

// Rekey implements adminhttp.Rekeyer.
func (s *service) Rekey(context.Context) (adminapi.Rekey, error) { return s.rekeyView(), nil }

func (s *service) rekeyView() adminapi.Rekey {
	keys, hosts := kskOf(s.keys), kskOf(s.hosts)
	view := adminapi.Rekey{
		KSK: keys.Sealing.String(), Next: kidText(keys.Next), Former: kidText(keys.Former), Ended: keys.Ended,
		Total: keys.Total + hosts.Total, Left: keys.Left + hosts.Left, Waits: []string{}, Slots: []adminapi.UnlockSlot{}, Excluded: []string{},
	}
	if keys.Sealing != hosts.Sealing || hosts.Turned == 0 { // the ledger of hosts has not turned yet
		view.Total, view.Left = keys.Total, keys.Left
	}
	s.keys.Replica().Read(func(state *events.State) {
		view.Waits = append(view.Waits, state.Lacking(false)...)
		view.Excluded = append(view.Excluded, state.Lacking(true)...)
	})
	if keys.Next != (keystore.KID{}) {
		before, fault := kskValue(s.keys, keys.Sealing)
		next, err := kskValue(s.keys, keys.Next)
		if err == nil && fault == nil { // otherwise it turns this very moment
			for _, slot := range unreplaced(before, next) {
				view.Slots = append(view.Slots, slotView(keys.Sealing, slot))
			}
		}
	}
	switch {
	case keys.Next != keystore.KID{}:
		view.Phase = "taking"
	case keys.Former != keystore.KID{}:
		view.Phase = "wrapping"
	case len(view.Excluded) > 0:
		view.Phase = "erasing"
	default:
		view.Phase = "none"
	}
	if view.Phase != "none" {
		view.Trouble = s.rekeying.trouble()
		if rec, err := s.keys.Replica().Record(keys.Begun); err == nil {
			if e, err := events.Decode(rec); err == nil {
				ref := refView(e.Ref())
				view.Begun = &ref
			}
		}
	}
	return view
}

func kidText(id keystore.KID) string {
	if id == (keystore.KID{}) {
		return ""
	}
	return id.String()
}

func slotView(ksk keystore.KID, s events.Slot) adminapi.UnlockSlot {
	kind, url, _ := seal.KindOf(s.Record) // a slot of a kind that this program does not know has its number
	return adminapi.UnlockSlot{
		ID: events.SlotID(s.Record).String(), KSK: ksk.String(), Kind: kind.String(), KMS: url,
		Region: s.Region, Label: s.Label, AddedAt: s.Added,
	}
}

// BeginRekey implements adminhttp.Rekeyer.
func (s *service) BeginRekey(ctx context.Context, actor string, req adminapi.BeginRekey) (adminapi.RekeyBegun, error) {
	next := seal.NewKSK()
	receipt, err := s.keys.Commit(ctx, func(state *events.State) (replication.Proposal, error) {
		p := replication.Proposal{Actor: actor, Request: req.Request, Reason: req.Reason}
		if _, done := state.Request(p.Request); done {
			return p, nil
		}
		if err := s.mayRekey(state); err != nil {
			return p, err
		}
		value := events.KSKValue{ID: next.ID()}
		for _, m := range state.Members() {
			if m.Forgotten != 0 {
				continue
			}
			box, err := next.SealTo(m.P256Key, seal.Address{Store: s.id.Store, Epoch: s.id.Epoch, Server: m.ID})
			if err != nil {
				return p, err
			}
			value.Envelopes = append(value.Envelopes, events.Envelope{Server: m.ID, Box: box})
		}
		made, err := kskProposal(events.KSKChange{Type: events.TypeRekeyBegun, KSK: next.ID()}, value, req.Reason)
		made.Actor, made.Request = actor, req.Request
		return made, err
	})
	if err != nil {
		return adminapi.RekeyBegun{}, err
	}
	if receipt.Event.Type != events.TypeRekeyBegun {
		return adminapi.RekeyBegun{}, usedRequest(req.Request, receipt.N)
	}
	s.log.Info("rekey begun", "n", uint64(receipt.N), "actor", actor)
	return adminapi.RekeyBegun{Receipt: receiptView(receipt), Rekey: s.rekeyView()}, nil
}

// mayRekey reports why a rekey must not begin.
func (s *service) mayRekey(state *events.State) error {
	k, hosts := state.KSK(), kskOf(s.hosts)
	if k.UnderWay() || hosts.UnderWay() || hosts.Sealing != k.Sealing {
		return &hinted{
			error: fmt.Errorf("rekey: %w: one is under way since event %d; it goes on by itself", keystore.ErrRefused, k.Begun),
			hint:  "see how far it is, and what it waits for:  keytide rekey --status",
		}
	}
	return nil
}

// UnlockSlots implements adminhttp.Rekeyer.
func (s *service) UnlockSlots(context.Context) (adminapi.UnlockSlots, error) {
	k := kskOf(s.keys)
	answer := adminapi.UnlockSlots{KSK: k.Newest().String(), Slots: []adminapi.UnlockSlot{}}
	for _, id := range []keystore.KID{k.Next, k.Sealing, k.Former} {
		if id == (keystore.KID{}) {
			continue
		}
		value, err := kskValue(s.keys, id)
		if err != nil {
			return answer, err
		}
		for _, slot := range value.Slots {
			answer.Slots = append(answer.Slots, slotView(id, slot))
		}
	}
	return answer, nil
}

// AddSlot implements adminhttp.Rekeyer.
func (s *service) AddSlot(ctx context.Context, actor string, req adminapi.AddSlot) (adminapi.SlotAdded, error) {
	replaces, err := s.checkSlot(req)
	if err != nil {
		return adminapi.SlotAdded{}, err
	}
	prepared, err := s.prepared(req)
	if err != nil {
		return adminapi.SlotAdded{}, err
	}
	receipt, err := s.commitSlots(ctx, actor, req.Intent, func(state *events.State) (keystore.KID, events.KSKValue, error) {
		newest := state.KSK().Newest()
		value, err := valueAt(s.keys, state, newest)
		if err != nil {
			return newest, value, err
		}
		if len(value.Slots) >= seal.MaxSlots {
			return newest, value, fmt.Errorf("key store key %s: %w: it has %d unlock slots, the most there may be; remove one first", newest, keystore.ErrRefused, len(value.Slots))
		}
		ksk, ok := s.vault.ksk(newest)
		if !ok {
			return newest, value, fmt.Errorf("key store key %s: %w: %w", newest, events.ErrUnavailable, errNoKSK)
		}
		record, err := ksk.Slot(prepared, s.id.Store)
		if err != nil {
			return newest, value, err
		}
		value.Slots = append(value.Slots, events.Slot{Record: record, Region: req.Region, Label: req.Label, Added: now(), Replaces: replaces})
		return newest, value, nil
	})
	if err != nil {
		return adminapi.SlotAdded{}, err
	}
	c, slot, err := s.slotOf(receipt)
	if err == nil && len(c.Added) != 1 {
		err = usedRequest(req.Request, receipt.N)
	}
	return adminapi.SlotAdded{Receipt: receiptView(receipt), Slot: slot}, err
}

// checkSlot looks at what does not need the key store key.
func (s *service) checkSlot(req adminapi.AddSlot) (replaces keystore.KID, err error) {
	if req.Region != "" {
		known := false
		s.keys.Replica().Read(func(state *events.State) {
			known = slices.ContainsFunc(state.Members(), func(m events.Member) bool { return m.Region == req.Region })
		})
		if !known {
			return replaces, fmt.Errorf("region %q: %w: no server is there", req.Region, keystore.ErrNotFound)
		}
	}
	if err := events.CheckText(req.Label, 64); err != nil {
		return replaces, fmt.Errorf("label: %w", err)
	}
	if req.Replaces == "" {
		return replaces, nil
	}
	if replaces, err = keystore.ParseKID(req.Replaces); err != nil {
		return replaces, fmt.Errorf("replaces: %w", err)
	}
	for _, slot := range s.rekeyView().Slots {
		if slot.ID == req.Replaces {
			return replaces, nil
		}
	}
	return replaces, &hinted{
		error: fmt.Errorf("unlock slot %s: %w: no rekey waits for one in its place", req.Replaces, keystore.ErrInvalid),
		hint:  "see for which slots one waits:  keytide rekey --status",
	}
}

func (s *service) prepared(req adminapi.AddSlot) (seal.Prepared, error) {
	if (req.KMS == "") == (req.Head == "") {
		return seal.Prepared{}, fmt.Errorf("%w: want a prepared slot, or the URL of a KMS key", keystore.ErrInvalid)
	}
	if req.KMS != "" {
		c := kms.Config{URL: req.KMS, Vault: s.cfg.Unlock.Vault}
		if c.Vault == (kms.Vault{}) && s.cfg.Unlock.Next != nil {
			c.Vault = s.cfg.Unlock.Next.Vault
		}
		u, err := kms.Open(c)
		if err != nil {
			return seal.Prepared{}, err
		}
		return seal.Prepare(u, seal.SlotKMS)
	}
	head, err := base64.RawURLEncoding.Strict().DecodeString(req.Head)
	if err != nil {
		return seal.Prepared{}, fmt.Errorf("head: %w: not base64url", keystore.ErrInvalid)
	}
	kek, err := base64.RawURLEncoding.Strict().DecodeString(string(req.KEK))
	if err != nil {
		return seal.Prepared{}, fmt.Errorf("kek: %w: not base64url", keystore.ErrInvalid)
	}
	defer clear(kek)
	m, err := keystore.NewMaterial(kek)
	return seal.Prepared{Head: head, KEK: m}, err
}

// RemoveSlot implements adminhttp.Rekeyer.
func (s *service) RemoveSlot(ctx context.Context, actor string, id keystore.KID, req adminapi.RemoveSlot) (adminapi.SlotRemoved, error) {
	var removed adminapi.UnlockSlot
	receipt, err := s.commitSlots(ctx, actor, req.Intent, func(state *events.State) (keystore.KID, events.KSKValue, error) {
		k := state.KSK()
		var regions []string
		for _, m := range state.Members() {
			if m.Forgotten == 0 && !slices.Contains(regions, m.Region) {
				regions = append(regions, m.Region)
			}
		}
		ksk := k.Newest()
		value, err := valueAt(s.keys, state, ksk)
		if _, there := value.Slot(id); err == nil && !there {
			for _, other := range []keystore.KID{k.Sealing, k.Former} {
				// During a rekey a slot of the former one is removed instead of carried over.
				if was, fault := valueAt(s.keys, state, other); fault == nil {
					if _, there := was.Slot(id); there {
						ksk, value, regions = other, was, nil
					}
				}
			}
		}
		if err == nil {
			err = removable(value, id, regions)
		}
		if err != nil {
			return ksk, value, err
		}
		slot, _ := value.Slot(id)
		removed = slotView(ksk, slot)
		value.Slots = slices.DeleteFunc(slices.Clone(value.Slots), func(s events.Slot) bool { return events.SlotID(s.Record) == id })
		return ksk, value, nil
	})
	if err != nil {
		return adminapi.SlotRemoved{}, err
	}
	c, _, err := s.slotOf(receipt)
	if err == nil && !slices.Contains(c.Removed, id) {
		err = usedRequest(req.Request, receipt.N)
	}
	removed.ID, removed.KSK = id.String(), c.KSK.String()
	return adminapi.SlotRemoved{Receipt: receiptView(receipt), Slot: removed}, err
}

// commitSlots changes the slots of one key store key.
func (s *service) commitSlots(ctx context.Context, actor string, intent adminapi.Intent, decide func(*events.State) (keystore.KID, events.KSKValue, error)) (replication.Receipt, error) {
	return s.keys.Commit(ctx, func(state *events.State) (replication.Proposal, error) {
		p := replication.Proposal{Actor: actor, Request: intent.Request, Reason: intent.Reason}
		if _, done := state.Request(p.Request); done {
			return p, nil
		}
		ksk, after, err := decide(state)
		if err != nil {
			return p, err
		}
		before, err := valueAt(s.keys, state, ksk)
		if err != nil {
			return p, err
		}
		made, err := kskProposal(slotsChange(ksk, before, after), after, intent.Reason)
		made.Actor, made.Request = actor, intent.Request
		return made, err
	})
}

// slotOf reads the change that an event is, and the slot that it added, if that is
// still there.
func (s *service) slotOf(r replication.Receipt) (events.KSKChange, adminapi.UnlockSlot, error) {
	c, err := events.DecodeKSKChange(r.Event.Type, r.Event.Payload)
	if err != nil || len(c.Added) == 0 {
		return c, adminapi.UnlockSlot{}, err
	}
	value, err := kskValue(s.keys, c.KSK)
	slot, ok := value.Slot(c.Added[0])
	if err != nil || !ok {
		return c, adminapi.UnlockSlot{}, errors.Join(err, fmt.Errorf("unlock slot %s: %w: it is gone again", c.Added[0], keystore.ErrNotFound))
	}
	return c, slotView(c.KSK, slot), nil
}

// rekeyAlarms say what a rekey waits for.
func (s *service) rekeyAlarms() []adminapi.Alarm {
	v := s.rekeyView()
	if v.Begun == nil {
		return nil
	}
	var texts []string
	if len(v.Waits) > 0 {
		texts = append(texts, fmt.Sprintf("the rekey waits for servers %s to take the next key store key", strings.Join(v.Waits, ", ")))
	}
	for _, slot := range v.Slots {
		texts = append(texts, fmt.Sprintf("the rekey waits for a slot in the place of unlock slot %s (%s)", slot.ID, slot.Kind))
	}
	if v.Phase == "erasing" {
		texts = append(texts, fmt.Sprintf("excluded servers %s still hold the former key store key", strings.Join(v.Excluded, ", ")))
	}
	if v.Trouble != "" {
		texts = append(texts, v.Trouble)
	}
	var alarms []adminapi.Alarm
	for _, text := range texts {
		alarms = append(alarms, adminapi.Alarm{Ledger: "keys", Kind: "rekey", Since: v.Begun.At, Text: text})
	}
	return alarms
}
