package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/replication"
)

// This file leaves servers out: excluded ones until they return, forgotten ones for good.

// ServerShown implements adminhttp.Reader.
func (s *service) ServerShown(_ context.Context, id string) (adminapi.ServerShown, error) {
	var n keystore.N
	s.keys.Replica().Read(func(state *events.State) { n = state.N() })
	servers := s.servers(n)
	i := slices.IndexFunc(servers, func(v adminapi.Server) bool { return v.ID == id })
	if i < 0 {
		invited, err := s.invited(id)
		if err != nil {
			return adminapi.ServerShown{}, err
		}
		return adminapi.ServerShown{
			Server:  adminapi.Server{ID: id, Region: invited.Region, State: "invited", Why: "it has not joined yet"},
			Exclude: s.cost(events.TypeServerExcluded, id, []string{}),
			Forget:  s.cost(events.TypeServerForgotten, id, []string{fmt.Sprintf("The invitation of server %s ends.", id)}),
		}, nil
	}
	shown := adminapi.ServerShown{Server: servers[i]}
	shown.Exclude = s.cost(events.TypeServerExcluded, id, s.exclusion(servers[i]))
	shown.Forget = s.cost(events.TypeServerForgotten, id, forgetting(servers[i]))
	return shown, nil
}

func (s *service) invited(id string) (invited events.Invitation, err error) {
	s.keys.Replica().Read(func(state *events.State) {
		var ok bool
		if invited, ok = state.Invitation(id); !ok {
			err = noServer(state, id)
		}
	})
	return invited, err
}

// noServer says that a server is none, or none any more.
func noServer(state *events.State, id string) error {
	err := fmt.Errorf("server %s: %w", id, keystore.ErrNotFound)
	if m, known := state.Member(id); known && m.Forgotten != 0 {
		err = fmt.Errorf("server %s: %w: event %d made it forgotten", id, keystore.ErrNotFound, m.Forgotten)
	}
	return &hinted{error: err, hint: "see which servers there are:  keytide status"}
}

func (s *service) cost(t events.Type, id string, effects []string) adminapi.Cost {
	var err error
	views := s.views()
	s.keys.Replica().Read(func(state *events.State) { err = leaving(state, views, t, id, false) })
	cost := adminapi.Cost{Allowed: err == nil, Effects: effects}
	if err != nil {
		p, _ := adminhttp.ProblemOf(err)
		cost.Refused = &p
	}
	return cost
}

// exclusion says what excluding a server means now.
func (s *service) exclusion(v adminapi.Server) []string {
	effects := []string{fmt.Sprintf("Rollovers do not wait for server %s in region %s any more, and old keys end without its word.", v.ID, v.Region)}
	if v.N > 0 {
		effects = append(effects, fmt.Sprintf("Its last word is %v old: it had applied event %d.", (time.Duration(v.AgeMS)*time.Millisecond).Round(time.Second), v.N))
	}
	var held []string
	var rings []keystore.Ring
	s.keys.Replica().Read(func(state *events.State) { rings = state.Rings() })
	confirmed := s.confirmations()
	for _, r := range rings {
		if slices.Contains(behind(r, confirmed), v.ID) {
			held = append(held, string(r.Name))
		}
	}
	for _, ring := range held {
		effects = append(effects, fmt.Sprintf("Ring %s waits for it now. After the next rollover its agents refuse cookies that others seal, until it is back.", ring))
	}
	if len(held) == 0 {
		effects = append(effects, "It has every ring's present keys. After one rollover its agents still open what others seal; after a second one they refuse it, until it is back.")
	}
	return append(effects, "The exclusion ends by itself when the server is fresh again.")
}

// forgetting says what forgetting a server means now.
func forgetting(v adminapi.Server) []string {
	effects := []string{
		fmt.Sprintf("Server %s is gone for good: what it signs from then on is refused, and nothing waits for it.", v.ID),
		fmt.Sprintf("Once it learns of it, it feeds nothing. %d agents were connected to it at its last word: they go to other servers, or on with the keys that they have.", v.Agents),
		"If it is cut off it does not learn of it, and goes on with the keys that it has.",
		"It keeps the key store key on its disk: if its machine is in wrong hands, the key store key and every key have to be replaced.",
		fmt.Sprintf("The id comes back by a new invitation alone:  keytide server invite %s --region %s", v.ID, v.Region),
	}
	if v.State == events.Fresh.String() {
		effects = append(effects, "It is fresh now: end it in order first, so that its agents go elsewhere before.")
	}
	return effects
}

// leaving reports why a server must not be left out, in words for who asked.
func leaving(state *events.State, views map[string]replication.ServerView, t events.Type, id string, force bool) error {
	m, known := state.Member(id)
	if !known || m.Forgotten != 0 {
		if _, invited := state.Invitation(id); invited && t == events.TypeServerForgotten {
			return nil
		}
		return noServer(state, id)
	}
	if t == events.TypeServerExcluded && m.Excluded != 0 {
		return fmt.Errorf("server %s: %w: event %d excluded it", id, keystore.ErrExists, m.Excluded)
	}
	members, counting := 0, 0
	for _, other := range state.Members() {
		if other.ID != id && other.Forgotten == 0 {
			members++
			if other.Counts() {
				counting++
			}
		}
	}
	v, heard := views[id]
	switch {
	case t == events.TypeServerForgotten && members == 0:
		return &hinted{
			error: fmt.Errorf("server %s: %w: it is the only member, and without one nobody can write to the key store any more", id, keystore.ErrRefused),
			hint:  "invite another server first:  keytide server invite ID --region R",
		}
	case counting == 0 && !force:
		return &hinted{
			error: fmt.Errorf("server %s: %w: it is the last server that counts, and no rollover would wait for anything", id, keystore.ErrRefused),
			hint:  "to do it all the same:  --force",
		}
	case t == events.TypeServerExcluded && heard && v.Record.State == events.Fresh && v.Age < silence && !force:
		return &hinted{
			error: fmt.Errorf("server %s: %w: it is fresh, so its exclusion would end at once", id, keystore.ErrRefused),
			hint:  "see how it is:  keytide status\nto be rid of it for good:  keytide server forget " + id,
		}
	}
	return nil
}

// ExcludeServer implements adminhttp.Changer.
func (s *service) ExcludeServer(ctx context.Context, actor, id string, req adminapi.LeaveOut) (adminapi.LeftOut, error) {
	return s.leaveOut(ctx, actor, req, events.ServerChange{
		Type: events.TypeServerExcluded, ID: id, Cause: events.ByAdministrator, Forced: req.Force,
	})
}

// ForgetServer implements adminhttp.Changer.
func (s *service) ForgetServer(ctx context.Context, actor, id string, req adminapi.LeaveOut) (adminapi.LeftOut, error) {
	return s.leaveOut(ctx, actor, req, events.ServerChange{Type: events.TypeServerForgotten, ID: id, Forced: req.Force})
}

// leaveOut writes the change to both ledgers, the keys' first: what rollovers wait for is theirs.
func (s *service) leaveOut(ctx context.Context, actor string, req adminapi.LeaveOut, c events.ServerChange) (adminapi.LeftOut, error) {
	views := s.views()
	receipt, err := s.commitServer(ctx, s.keys, actor, req.Intent, c, func(state *events.State) error {
		return leaving(state, views, c.Type, c.ID, req.Force)
	})
	if err != nil {
		// A command before may have written this ledger and not the other.
		n, _ := leftBy(s.keys, c)
		if _, hosts := leftBy(s.hosts, c); n == 0 || !hosts {
			return adminapi.LeftOut{}, err
		}
		receipt = replication.Receipt{N: n}
	}
	answer := adminapi.LeftOut{Receipt: receiptView(receipt), Server: c.ID}
	hosts, err := s.commitServer(ctx, s.hosts, actor, req.Intent, c, func(state *events.State) error {
		if m, live := liveMember(state, c.ID); !live || c.Type == events.TypeServerExcluded && m.Excluded != 0 {
			return errDone
		}
		return nil
	})
	if err != nil && !errors.Is(err, errDone) {
		return answer, &hinted{
			error: fmt.Errorf("event %d has it in the ledger of keys, but the ledger of hosts does not: %w", receipt.N, err),
			hint:  "send the command again: it goes on where this one ended",
		}
	}
	answer.HostsN = hosts.N
	s.log.Info("server left out", "server", c.ID, "type", c.Type.String(), "n", uint64(receipt.N), "actor", actor)
	return answer, nil
}

func liveMember(state *events.State, id string) (events.Member, bool) {
	m, known := state.Member(id)
	return m, known && m.Forgotten == 0
}

// leftBy says by which event a ledger has left a server out as c does, and whether
// it has it yet to do.
func leftBy(m *replication.Member, c events.ServerChange) (n keystore.N, due bool) {
	m.Replica().Read(func(state *events.State) {
		have, _ := state.Member(c.ID)
		_, live := liveMember(state, c.ID)
		n = have.Forgotten
		if c.Type == events.TypeServerExcluded {
			n = have.Excluded
		}
		due = live && n == 0
	})
	return n, due
}

// errDone: a ledger has it already.
var errDone = errors.New("done already")

// commitServer writes a change of the members to one ledger.
func (s *service) commitServer(ctx context.Context, m *replication.Member, actor string, intent adminapi.Intent, c events.ServerChange, check func(*events.State) error) (replication.Receipt, error) {
	payload, err := c.Encode()
	if err != nil {
		return replication.Receipt{}, err
	}
	receipt, err := m.Commit(ctx, func(state *events.State) (replication.Proposal, error) {
		p := replication.Proposal{Type: c.Type, Payload: payload, Actor: actor, Request: intent.Request, Reason: intent.Reason}
		if _, done := state.Request(p.Request); done {
			return p, nil
		}
		return p, check(state)
	})
	if err != nil {
		return receipt, err
	}
	if got, err := events.DecodeServerChange(receipt.Event.Type, receipt.Event.Payload); err != nil || got.Type != c.Type || got.ID != c.ID {
		return receipt, usedRequest(intent.Request, receipt.N)
	}
	return receipt, nil
}
