package server

import (
	"errors"
	"fmt"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/keystore/host"
)

// This file turns keystore's values into the API's words and back.

func ringView(epoch keystore.Epoch, r keystore.Ring) adminapi.Ring {
	view := adminapi.Ring{
		Name: string(r.Name), Epoch: epoch, Version: r.Version, Mode: r.Mode.String(),
		Keys: keysView(r), Policy: policyView(r.Policy), LastEvent: refView(r.Last),
		NextSlot: r.NextSlot, Hold: holdView(r.Hold), NewMode: newModeView(r),
	}
	if r.Incident.N != 0 {
		incident := refView(r.Incident)
		view.Incident = &incident
	}
	return view
}

func holdView(h keystore.Hold) *adminapi.Hold {
	if h.IsZero() {
		return nil
	}
	return &adminapi.Hold{Slot: h.Slot.UTC(), Since: h.Since.UTC(), By: append([]string{}, h.By...)}
}

func keysView(r keystore.Ring) []adminapi.Key {
	sealing, _ := r.Seals()
	keys := make([]adminapi.Key, len(r.Keys))
	for i, k := range r.Keys {
		keys[i] = adminapi.Key{
			Role: k.Role.String(), KID: k.KID.String(), CreatedAt: k.Created.UTC(),
			Seals: k.KID == sealing.KID, Pending: k.Pending, RetiredAt: k.RetiredAt,
		}
	}
	return keys
}

func policyView(p keystore.Policy) adminapi.Policy {
	return adminapi.Policy{
		MaxSession: p.MaxSession.String(), Retain: p.Retain.String(), MinInterval: p.MinInterval.String(),
		Schedule: p.Schedule.String(), TZ: p.Schedule.Zone(), Blackout: append([]string{}, p.Schedule.Blackouts()...),
		MaxHold: p.MaxHoldText(), GuardAgents: append([]string{}, p.Agents()...),
	}
}

func refView(ref keystore.EventRef) adminapi.Event {
	return adminapi.Event{N: ref.N, ID: ref.ID, Type: ref.Type, At: ref.At.UTC()}
}

func hostView(h host.Host, agents int) adminapi.Host {
	view := adminapi.Host{
		Name: h.Name, Rings: ringNames(h.Rings), KIDs: []string{}, RegisteredAt: h.Registered.UTC(),
		Revoked: h.Revoked, Agents: agents, LastEvent: refView(h.Last), HostGrant: grantView(h.Grant),
		Expired: h.Expired,
	}
	if h.Token != (keystore.KID{}) {
		view.Token = h.Token.String()
	}
	for _, s := range h.Secrets {
		view.KIDs = append(view.KIDs, s.KID.String())
	}
	return view
}

func ringNames(names []keystore.RingName) []string {
	text := make([]string, len(names))
	for i, name := range names {
		text[i] = string(name)
	}
	return text
}

func kidTexts(kids []keystore.KID) []string {
	text := make([]string, len(kids))
	for i, kid := range kids {
		text[i] = kid.String()
	}
	return text
}

func historyView(e events.Event, c keystore.Change) adminapi.HistoryEvent {
	view := adminapi.HistoryEvent{
		N: e.N, ID: e.ID.String(), Type: e.Type.String(), At: e.At.UTC(), Version: c.Version,
		Server: e.Server, Actor: e.Actor, Reason: e.Reason, Gone: kidTexts(c.Destroyed), Forced: c.Forced,
		Slot: c.Slot, NextSlot: c.NextSlot, Missed: c.Missed, HeldBy: c.HeldBy,
	}
	if c.Kind == keystore.Undone {
		view.Restored = c.Restored.String()
	}
	if c.Mode != 0 {
		view.Mode = c.Mode.String()
	}
	view.Activated = kidTexts(c.Activated)
	if c.Kind == keystore.RolledOver {
		view.Trigger = c.Trigger.String()
	}
	for _, k := range c.Made {
		view.Made = append(view.Made, adminapi.Made{Role: k.Role.String(), KID: k.KID.String()})
	}
	return view
}

// changedPolicy carries the fields that are set over to p. It reports every fault,
// by the field's name.
func changedPolicy(p keystore.Policy, c adminapi.PolicyChange) (keystore.Policy, error) {
	var faults []error
	fault := func(field, format string, args ...any) {
		faults = append(faults, fmt.Errorf("%w: %s: "+format, append([]any{keystore.ErrInvalid, field}, args...)...))
	}
	duration := func(field string, text *string, to *time.Duration) {
		if text == nil {
			return
		}
		d, err := time.ParseDuration(*text)
		if err != nil {
			fault(field, "%q is not a duration such as 8h or 90m", *text)
			return
		}
		*to = d
	}
	duration("max_session", c.MaxSession, &p.MaxSession)
	duration("min_interval", c.MinInterval, &p.MinInterval)
	if c.Retain != nil {
		if err := p.Retain.UnmarshalText([]byte(*c.Retain)); err != nil {
			faults = append(faults, err)
		}
	}
	if c.GuardAgents != nil {
		p.GuardAgents = keystore.AgentsText(*c.GuardAgents)
	}
	if none := keystore.NoMaxHold; c.MaxHold != nil && *c.MaxHold == none {
		p.MaxHold = 0
	} else {
		duration("max_hold", c.MaxHold, &p.MaxHold)
	}
	var err error
	if p.Schedule, err = changedSchedule(p.Schedule, c); err != nil {
		faults = append(faults, err)
	}
	return p, errors.Join(faults...)
}

// changedSchedule carries those of its three texts over that are set.
func changedSchedule(s keystore.Schedule, c adminapi.PolicyChange) (keystore.Schedule, error) {
	rule, tz, blackouts := s.String(), s.Zone(), s.Blackouts()
	if c.Schedule != nil {
		rule = *c.Schedule
	}
	if c.TZ != nil {
		tz = *c.TZ
	}
	if c.Blackout != nil {
		blackouts = *c.Blackout
	}
	return keystore.ParseSchedule(rule, tz, blackouts...)
}
