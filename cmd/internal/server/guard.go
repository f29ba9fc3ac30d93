package server

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/replication"
)

// This file says how the other policy servers are, and what rollovers wait for.

// silence is how old a server's word may be: it puts a record every 15 s.
const silence = 2 * replication.DefaultRecordPeriod

// views are what the servers last said of themselves, by id.
func (s *service) views() map[string]replication.ServerView {
	views := make(map[string]replication.ServerView)
	for _, v := range s.keys.Servers() {
		views[v.Record.ID] = v
	}
	return views
}

// confirmer returns what every member of a state has confirmed: others by their
// signed records as they stand now, this server by what is on its disk. What it
// returns asks neither replica nor member for the state, so that it may be called
// while the state is read.
func (s *service) confirmer() func(*events.State) []keystore.Confirmation {
	views := s.views()
	_, lacking := s.agents()
	applied, revoked := s.hub.Applied, s.revokedAgents()
	return func(state *events.State) []keystore.Confirmation {
		own, _ := s.keys.Replica().Durable()
		members := state.Members()
		confirmed := make([]keystore.Confirmation, len(members))
		for i, m := range members {
			v := views[m.ID]
			c := keystore.Confirmation{
				Server: m.ID, Region: m.Region, Applied: v.Record.Applied.N, Lacking: int(v.Record.AgentsBehind),
				Excluded: m.Excluded != 0, Forgotten: m.Forgotten != 0, Stopped: v.Record.State == events.Stopped,
				Silent: v.Age > silence, Agents: hostsApplied(v.Record.Hosts),
			}
			if m.ID == s.id.Server {
				c.Applied, c.Lacking, c.Stopped = own, lacking, false
				c.Silent, c.Agents, c.Revoked = false, applied(guardAgents(state.Rings()), s.id.Epoch), revoked
			}
			confirmed[i] = c
		}
		return confirmed
	}
}

// guardAgents are the hosts whose agents rings' rollovers wait for.
func guardAgents(rings []keystore.Ring) (hosts []string) {
	for _, r := range rings {
		hosts = append(hosts, r.Policy.Agents()...)
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// revokedAgents are those of the hosts that rollovers wait for that are revoked. A host
// that this server does not know is not among them: it may have been registered just now.
func (s *service) revokedAgents() (revoked []string) {
	var rings []keystore.Ring
	s.keys.Replica().Read(func(state *events.State) { rings = state.Rings() })
	named := guardAgents(rings)
	s.hosts.Replica().Read(func(state *events.State) {
		for _, name := range named {
			if h, ok := state.Host(name); ok && h.Revoked {
				revoked = append(revoked, name)
			}
		}
	})
	return revoked
}

// checkGuard refuses hosts whose agents nothing can be waited for: those that there are
// not, and those that are revoked.
func (s *service) checkGuard(hosts *[]string) error {
	if hosts == nil {
		return nil
	}
	var faults []error
	s.hosts.Replica().Read(func(state *events.State) {
		for _, name := range *hosts {
			switch h, ok := state.Host(name); {
			case !ok:
				faults = append(faults, fmt.Errorf("%w: guard_agents: there is no host %q; register it first", keystore.ErrInvalid, name))
			case h.Revoked:
				faults = append(faults, fmt.Errorf("%w: guard_agents: host %s is revoked; leave it out", keystore.ErrInvalid, name))
			}
		}
	})
	return errors.Join(faults...)
}

func hostsApplied(hosts []events.HostApplied) map[string]keystore.N {
	applied := make(map[string]keystore.N, len(hosts))
	for _, h := range hosts {
		applied[h.Host] = h.N
	}
	return applied
}

// ownHosts is what this server's record says of the hosts that rollovers wait for.
func (s *service) ownHosts() (hosts []events.HostApplied) {
	var rings []keystore.Ring
	s.keys.Replica().Read(func(state *events.State) { rings = state.Rings() })
	for host, n := range s.hub.Applied(guardAgents(rings), s.id.Epoch) {
		hosts = append(hosts, events.HostApplied{Host: host, N: n})
	}
	slices.SortFunc(hosts, func(a, b events.HostApplied) int { return cmp.Compare(a.Host, b.Host) })
	return hosts[:min(len(hosts), events.MaxHostsApplied)]
}

// confirmations are those of the members as they are now.
func (s *service) confirmations() (confirmed []keystore.Confirmation) {
	from := s.confirmer()
	s.keys.Replica().Read(func(state *events.State) { confirmed = from(state) })
	return confirmed
}

// late are the servers that a ring's next rollover waits for.
func late(r keystore.Ring, confirmed []keystore.Confirmation) []keystore.Confirmation {
	return slices.DeleteFunc(slices.Clone(confirmed), func(c keystore.Confirmation) bool {
		return c.Excluded || c.Forgotten || c.Stopped || c.Applied >= r.Changed
	})
}

// behind names the servers that have not confirmed a ring's keys, and after them the
// hosts, as host/NAME, whose agents have not and are waited for.
func behind(r keystore.Ring, confirmed []keystore.Confirmation) []string {
	names := []string{}
	for _, c := range late(r, confirmed) {
		names = append(names, c.Server)
	}
	for _, host := range r.AgentsBehind(confirmed) {
		names = append(names, "host/"+host)
	}
	return names
}

// behindBy says of the same by how much, and since when.
func (s *service) behindBy(r keystore.Ring, confirmed []keystore.Confirmation) []adminapi.Behind {
	var list []adminapi.Behind
	for _, c := range late(r, confirmed) {
		list = append(list, adminapi.Behind{
			Server: c.Server, Region: c.Region, Applied: c.Applied, Needs: r.Changed, By: r.Changed - c.Applied,
			Since: eventTime(s.keys, c.Applied+1),
		})
	}
	return list
}

// eventTime is when an event was made; zero if it is not to be had.
func eventTime(m *replication.Member, n keystore.N) time.Time {
	rec, err := m.Replica().Record(n)
	if err != nil {
		return time.Time{}
	}
	e, err := events.Decode(rec)
	if err != nil {
		return time.Time{}
	}
	return e.At
}

// servers lists the policy servers that are members, by id: this one by what it
// knows of itself, others by their records.
func (s *service) servers(n keystore.N) []adminapi.Server {
	var members []events.Member
	s.keys.Replica().Read(func(state *events.State) { members = state.Members() })
	views := s.views()
	servers := []adminapi.Server{s.self(n)}
	for _, m := range members {
		if m.ID == s.id.Server {
			servers[0].Excluded, servers[0].Fingerprint = m.Excluded != 0, fingerprintOf(m)
		} else if m.Forgotten == 0 {
			v, heard := views[m.ID]
			servers = append(servers, serverView(m, v, heard))
		}
	}
	slices.SortFunc(servers[1:], func(a, b adminapi.Server) int { return cmp.Compare(a.ID, b.ID) })
	return servers
}

func (s *service) self(n keystore.N) adminapi.Server {
	fresh := s.keys.Freshness()
	if hosts := s.hosts.Freshness(); fresh.State == events.Fresh && hosts.State != events.Fresh {
		fresh = hosts
	}
	connected, lagging := s.agents()
	return adminapi.Server{
		ID: s.id.Server, Region: s.id.Region, State: fresh.State.String(), N: n, AgeMS: fresh.Age.Milliseconds(),
		ClockOffsetMS: s.keys.Clock().Offset.Milliseconds(), Agents: connected, AgentsBehind: lagging, Why: fresh.Why,
	}
}

// serverView is another server as its last record says, or as its silence does.
func serverView(m events.Member, v replication.ServerView, heard bool) adminapi.Server {
	rec := v.Record
	view := adminapi.Server{
		ID: m.ID, Region: m.Region, State: rec.State.String(), N: rec.Applied.N, AgeMS: v.Age.Milliseconds(),
		ClockOffsetMS: rec.ClockOffset.Milliseconds(), Agents: int(rec.Agents), AgentsBehind: int(rec.AgentsBehind),
		Fingerprint: fingerprintOf(m), Excluded: m.Excluded != 0,
	}
	switch {
	case !heard:
		view.State, view.Why = events.Stale.String(), "nothing has been heard of it yet"
	case rec.State == events.Stopped:
		view.Why = "it ended in order"
	case v.Age > silence:
		view.State = events.Stale.String()
		view.Why = fmt.Sprintf("nothing has been heard of it for %v; its last word was %s", v.Age.Round(time.Second), rec.State)
	}
	if m.Excluded != 0 {
		view.Why = fmt.Sprintf("excluded by event %d: rollovers do not wait for it", m.Excluded) + joinWhy(view.Why)
	}
	return view
}

func joinWhy(why string) string {
	if why == "" {
		return ""
	}
	return "; " + why
}
