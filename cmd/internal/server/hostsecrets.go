package server

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/keytide/keytide/agentfeed/hub"
	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/keystore/host"
	"github.com/keytide/keytide/replication"
)

// This file rolls over shared secrets when an administrator says so, and shows what
// was seen of hosts.

// batchesPerCall is how many events one call of RollHosts makes: it is over well
// before the caller gives up, and the caller can show how far it is.
const batchesPerCall = 10

// RollHosts implements adminhttp.TrustedHosts.
func (s *service) RollHosts(ctx context.Context, actor string, req adminapi.RollHosts) (adminapi.HostsRolled, error) {
	names, err := s.chosen(req)
	if err != nil {
		return adminapi.HostsRolled{}, err
	}
	answer := adminapi.HostsRolled{Skipped: []adminapi.HostSkipped{}}
	total := len(names)
	names = names[:min(total, batchesPerCall*hostsPerEvent)]
	for batch := range slices.Chunk(names, hostsPerEvent) {
		p := replication.Proposal{Actor: actor, Reason: req.Reason, Request: req.Request + "/" + batch[0]}
		receipt, left, err := s.offer(ctx, p, batch, now())
		if err != nil {
			return answer, err
		}
		for _, l := range left {
			answer.Skipped = append(answer.Skipped, adminapi.HostSkipped{Host: l.name, Why: skippedWhy(l)})
		}
		if changes, err := events.DecodeHostChanges(receipt.Event.Type, receipt.Event.Payload); err == nil {
			answer.Rolled += len(changes)
			answer.N, answer.ID = uint64(receipt.N), receipt.ID.String()
		}
	}
	if answer.Left = total - len(names); answer.Left > 0 {
		answer.Next = names[len(names)-1]
	}
	if answer.Rolled > 0 {
		s.log.Info("shared secrets roll over", "hosts", answer.Rolled, "n", answer.N, "actor", actor)
	}
	return answer, nil
}

func skippedWhy(l skipped) string {
	if refused, ok := l.why.(*host.RollError); ok {
		return refused.Why
	}
	return l.why.Error()
}

// chosen are the hosts that are asked for and not revoked, by name, after req.After.
func (s *service) chosen(req adminapi.RollHosts) (names []string, err error) {
	ways := 0
	for _, given := range []bool{len(req.Names) > 0, len(req.Labels) > 0, req.All} {
		if given {
			ways++
		}
	}
	if ways != 1 {
		return nil, fmt.Errorf("%w: want names, or labels, or all", keystore.ErrInvalid)
	}
	grant, err := grantOf(adminapi.HostGrant{Labels: req.Labels})
	if err != nil {
		return nil, err
	}
	s.hosts.Replica().Read(func(state *events.State) {
		for _, name := range req.Names {
			if _, err = hostOf(state, name); err != nil {
				return
			}
			names = append(names, name)
		}
		for h := range state.EachHost() {
			if len(req.Names) == 0 && !h.Revoked && h.Labeled(grant.Labels) {
				names = append(names, h.Name)
			}
		}
	})
	slices.Sort(names)
	names = slices.Compact(names)
	after, found := slices.BinarySearch(names, req.After)
	if found {
		after++
	}
	return names[after:], err
}

// SecretPolicy implements adminhttp.TrustedHosts.
func (s *service) SecretPolicy(context.Context) (adminapi.SecretPolicy, error) {
	view := adminapi.SecretPolicy{}
	s.hosts.Replica().Read(func(state *events.State) {
		policy := state.SecretPolicy()
		view.SecretEvery = host.AgeText(policy.Every)
		if policy.Last.N > 0 {
			last := refView(policy.Last)
			view.LastEvent = &last
		}
		for h := range state.EachHost() {
			if h.Revoked {
				continue
			}
			if h.AllowRoll {
				view.Hosts++
			}
			if h.Rolling() {
				view.Rolling++
			}
		}
	})
	return view, nil
}

// SetSecretPolicy implements adminhttp.TrustedHosts.
func (s *service) SetSecretPolicy(ctx context.Context, actor string, req adminapi.SetSecretPolicy) (adminapi.SecretPolicyChanged, error) {
	every, err := host.ParseAge(req.SecretEvery)
	if err != nil {
		return adminapi.SecretPolicyChanged{}, err
	}
	policy := host.SecretPolicy{Every: every}
	if err := policy.Check(); err != nil {
		return adminapi.SecretPolicyChanged{}, err
	}
	receipt, err := s.hosts.Commit(ctx, func(state *events.State) (replication.Proposal, error) {
		p := replication.Proposal{Actor: actor, Request: req.Request, Reason: req.Reason, Type: events.TypeSecretPolicySet}
		if _, done := state.Request(p.Request); done {
			return p, nil
		}
		var err error
		p.Payload, err = events.EncodeSecretPolicy(policy)
		return p, err
	})
	if err != nil {
		return adminapi.SecretPolicyChanged{}, err
	}
	if receipt.Event.Type != events.TypeSecretPolicySet {
		return adminapi.SecretPolicyChanged{}, usedRequest(req.Request, receipt.N)
	}
	s.log.Info("policy of shared secrets changed", "every", req.SecretEvery, "n", uint64(receipt.N), "actor", actor)
	view, err := s.SecretPolicy(ctx)
	return adminapi.SecretPolicyChanged{Receipt: receiptView(receipt), SecretPolicy: view}, err
}

// connected is what is open to this server, by host.
func (s *service) connected() map[string][]hub.Sight {
	byHost := make(map[string][]hub.Sight)
	for _, sight := range s.hub.Sights() {
		byHost[sight.Host] = append(byHost[sight.Host], sight)
	}
	return byHost
}

// seenView fills in what was seen of a host, and whether its secret can be rolled
// over.
func (s *service) seenView(view *adminapi.Host, h host.Host, open []hub.Sight) []adminapi.HostInstance {
	at := now()
	last := s.sights.last(h.Name)
	if len(open) > 0 {
		last = at
	}
	instances := []adminapi.HostInstance{}
	for _, i := range h.Instances {
		shown := adminapi.HostInstance{
			ID: i.ID.String(), LastSeen: i.Seen.UTC(), Generation: i.Generation, Keeps: i.Keeps, Addresses: addresses(open, i.ID),
		}
		instances = append(instances, shown)
		if i.Seen.After(last) {
			last = i.Seen
		}
		if at.Sub(i.Seen) >= host.Recent {
			continue
		}
		view.Instances++
		view.Clones += max(0, len(shown.Addresses)-1)
	}
	view.Clones += max(0, view.Instances-1)
	if !last.IsZero() {
		last = last.UTC().Truncate(time.Millisecond)
		view.LastSeen = &last
	}
	view.Stale = !h.Revoked && at.Sub(latestOf(last, h.Registered)) >= host.Recent
	view.Rolling = h.Rolling()
	if err := h.Rollable(at); err != nil {
		view.WhyNot = skippedWhy(skipped{h.Name, err})
	} else {
		view.CanRoll = true
	}
	slices.SortFunc(instances, func(a, b adminapi.HostInstance) int {
		return cmp.Or(b.LastSeen.Compare(a.LastSeen), cmp.Compare(a.ID, b.ID))
	})
	return instances
}

func latestOf(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// addresses are those from which an instance's agents are connected.
func addresses(open []hub.Sight, id host.InstanceID) []string {
	texts := []string{}
	for _, s := range open {
		if text := s.From.String(); s.Instance == id && s.From.IsValid() && !slices.Contains(texts, text) {
			texts = append(texts, text)
		}
	}
	slices.Sort(texts)
	return texts
}
