package server

import (
	"fmt"
	"strings"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

// This file says of rings what a person should look at.

// incident tells who has not confirmed a ring's emergency rollover; nil where none is
// open.
func (s *service) incident(r keystore.Ring, servers []keystore.Confirmation) *adminapi.Incident {
	if r.Incident.N == 0 {
		return nil
	}
	open := &adminapi.Incident{Event: refView(r.Incident), Servers: []string{}}
	behind, lacking := r.Unconfirmed(servers)
	for _, b := range behind {
		open.Servers = append(open.Servers, b.Server)
	}
	open.Agents = s.reach(r.Name, r.Incident.N).Lacking
	for _, c := range servers {
		if c.Server == s.id.Server && c.Applied >= r.Incident.N {
			lacking -= c.Lacking
		}
	}
	open.AgentsElsewhere = max(lacking, 0)
	return open
}

// ringAlarms are the slots that wait, those that fail, and incidents.
func (s *service) ringAlarms() []adminapi.Alarm {
	var rings []keystore.Ring
	s.keys.Replica().Read(func(state *events.State) { rings = state.Rings() })
	servers := s.confirmations()
	var alarms []adminapi.Alarm
	for _, r := range rings {
		alarm := func(kind string, since time.Time, format string, args ...any) {
			alarms = append(alarms, adminapi.Alarm{
				Ledger: events.Keys.String(), Kind: kind, Key: events.RingKey(r.Name), Since: since.UTC(),
				Text: fmt.Sprintf(format, args...),
			})
		}
		if !r.Hold.IsZero() {
			by := behind(r, servers)
			if len(by) == 0 {
				by = []string{"nobody any more; it is about to go on"}
			}
			alarm("rollover-held", r.Hold.Since, "the rollover of slot %s is held by %s", keystore.SlotText(r.Hold.Slot), strings.Join(by, ", "))
		}
		if f, ok := s.scheduler.failing(r.Name); ok {
			alarm("rollover-failed", f.since, "the rollover of slot %s fails: %v", keystore.SlotText(r.NextSlot), f.err)
		}
		if open := s.incident(r, servers); open != nil {
			alarm("incident-open", open.At, "the emergency rollover of event %d is not closed: %s", open.N, waits(open))
		}
	}
	return alarms
}

// waits says for whom an incident waits.
func waits(open *adminapi.Incident) string {
	var parts []string
	if len(open.Servers) > 0 {
		parts = append(parts, "servers "+strings.Join(open.Servers, ", "))
	}
	if len(open.Agents) > 0 {
		parts = append(parts, "agents of "+strings.Join(open.Agents, ", "))
	}
	if open.AgentsElsewhere > 0 {
		parts = append(parts, fmt.Sprintf("%d agents at other servers", open.AgentsElsewhere))
	}
	if len(parts) == 0 {
		return "nobody is behind any more; it is about to be closed"
	}
	return "not confirmed by " + strings.Join(parts, "; ")
}
