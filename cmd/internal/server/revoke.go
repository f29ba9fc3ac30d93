package server

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/keystore/host"
	"github.com/keytide/keytide/replication"
)

// This file shows one trusted host and ends it, and says what it knows when it is
// trusted no more.

// Host implements adminhttp.Reader.
func (s *service) Host(_ context.Context, name string) (shown adminapi.HostShown, err error) {
	var h host.Host
	s.hosts.Replica().Read(func(state *events.State) { h, err = hostOf(state, name) })
	if err != nil {
		return adminapi.HostShown{}, err
	}
	open := s.connected()[name]
	shown = adminapi.HostShown{Host: hostView(h, len(open)), Secrets: []adminapi.HostSecret{}, Next: []string{}}
	shown.Seen = s.seenView(&shown.Host, h, open)
	for _, secret := range h.Secrets {
		shown.Secrets = append(shown.Secrets, adminapi.HostSecret{
			KID: secret.KID.String(), CreatedAt: secret.Created.UTC(), Generation: secret.Generation,
		})
	}
	shown.Keys = s.known(h)
	if h.Revoked {
		shown.Next = append(answers(name, shown.Keys), s.tokenAnswer(h)...)
	}
	return shown, nil
}

func hostOf(state *events.State, name string) (host.Host, error) {
	h, ok := state.Host(name)
	if !ok {
		return host.Host{}, &hinted{
			error: fmt.Errorf("host %s: %w", name, keystore.ErrNotFound),
			hint:  "see which hosts there are:  keytide host list",
		}
	}
	return h, nil
}

// known are the keys that the agents of a host may know and that are not
// destroyed: all that agents get of its rings, and of those of a revoked host what
// was there until the event that revoked it.
func (s *service) known(h host.Host) []adminapi.HostKeys {
	known := []adminapi.HostKeys{}
	s.keys.Replica().Read(func(state *events.State) {
		for _, name := range h.Rings {
			r, ok := state.Ring(name)
			if !ok {
				continue
			}
			keys := adminapi.HostKeys{Ring: string(name), Version: r.Version, Keys: []adminapi.Key{}}
			for i, view := range keysView(r) {
				if k := r.Keys[i]; k.Role != keystore.SessionTicket && !(h.Revoked && k.Created.After(h.Last.At)) {
					keys.Keys = append(keys.Keys, view)
				}
			}
			known = append(known, keys)
		}
	})
	return known
}

// answers are the commands that take keys out of use which a revoked host knows: while
// it knows the future key, that would seal next.
func answers(name string, known []adminapi.HostKeys) []string {
	commands := []string{}
	for _, ring := range known {
		knows := func(role keystore.Role) bool {
			return slices.ContainsFunc(ring.Keys, func(k adminapi.Key) bool { return k.Role == role.String() })
		}
		rollover := fmt.Sprintf("keytide rollover %s --wait --reason 'host %s is revoked'", ring.Ring, name)
		switch {
		case knows(keystore.Future):
			commands = append(commands, rollover+" --fresh --force")
		case knows(keystore.Current):
			commands = append(commands, rollover+" --force")
		}
	}
	return commands
}

// RevokeHost implements adminhttp.Changer.
func (s *service) RevokeHost(ctx context.Context, actor, name string, req adminapi.RevokeHost) (adminapi.Revoked, error) {
	receipt, err := s.hosts.Commit(ctx, func(state *events.State) (replication.Proposal, error) {
		p := replication.Proposal{Actor: actor, Request: req.Request, Reason: req.Reason}
		if _, done := state.Request(p.Request); done {
			return p, nil
		}
		h, err := hostOf(state, name)
		if err == nil && h.Revoked {
			err = &hinted{
				error: fmt.Errorf("host %s: no registration to revoke: %w; event %d revoked it at %s",
					name, keystore.ErrNotFound, h.Last.N, h.Last.At.UTC().Format(time.RFC3339)),
				hint: "see which keys it knew:  keytide host show " + name,
			}
		}
		if err != nil {
			return p, err
		}
		change, err := h.Revoke()
		if err != nil {
			return p, err
		}
		p.Type, p.Payload, err = events.EncodeHostChange(change)
		return p, err
	})
	if err != nil {
		return adminapi.Revoked{}, err
	}
	return s.revoked(receipt, name, req)
}

func (s *service) revoked(receipt replication.Receipt, name string, req adminapi.RevokeHost) (adminapi.Revoked, error) {
	change, ok := hostChange(receipt.Event)
	if !ok || change.Kind != host.Revoked || change.Host != name {
		return adminapi.Revoked{}, usedRequest(req.Request, receipt.N)
	}
	s.log.Info("host revoked", "host", name, "n", uint64(receipt.N), "actor", receipt.Event.Actor)
	var h host.Host
	var err error
	s.hosts.Replica().Read(func(state *events.State) { h, err = hostOf(state, name) })
	if err != nil {
		return adminapi.Revoked{}, err
	}
	answer := adminapi.Revoked{Receipt: receiptView(receipt), Host: name, Destroyed: kidTexts(change.Destroyed), Keys: s.known(h)}
	answer.Next = append(answers(name, answer.Keys), s.tokenAnswer(h)...)
	return answer, nil
}
