package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
)

// A Standing is what the ledger says of this server itself, as far as its replica
// goes: a server that is cut off does not learn that it is forgotten.
type Standing struct {
	Member    bool       // it is a member, with its own key
	Excluded  keystore.N // the event by which rollovers do not wait for it; 0: they do
	Forgotten keystore.N // the event by which it is gone for good; 0: it is not
}

func standingOf(s *events.State, id Identity) Standing {
	member, known := s.Member(id.Server)
	switch {
	case !known:
		return Standing{}
	case member.Forgotten != 0:
		return Standing{Forgotten: member.Forgotten}
	case !member.PublicKey.Equal(id.Key.Public()):
		return Standing{Forgotten: member.Joined} // another server has joined as this one
	}
	return Standing{Member: true, Excluded: member.Excluded}
}

// Standing says what the ledger says of this server. It must not be called while the
// replica is read.
func (m *Member) Standing() (now Standing) {
	m.replica.Read(func(s *events.State) { now = standingOf(s, m.id) })
	return now
}

// noteStanding looks at what the replica says of this server since it has shown
// another state.
func (m *Member) noteStanding() {
	m.noteEnd()
	now, n := m.Standing(), m.replica.applied.load()
	m.mu.Lock()
	before := m.standing
	m.standing = now
	m.mu.Unlock()
	if now.Forgotten != 0 {
		m.raise(Alarm{Kind: AlarmForgotten, Why: now.why(n)})
	}
	if before != now && n > 0 {
		level := slog.LevelWarn
		if now.Member && now.Excluded == 0 && now.Forgotten == 0 {
			level = slog.LevelInfo // nothing is against it
		}
		m.logger.Log(context.Background(), level, "standing of this server", "member", now.Member, "excluded", uint64(now.Excluded), "forgotten", uint64(now.Forgotten))
		wake(m.wakeSelf)
	}
}

// noteEnd raises an alarm if the history says that it goes on elsewhere.
func (m *Member) noteEnd() {
	var now, next events.EpochID
	ended := false
	m.replica.Read(func(s *events.State) { now = s.Epoch(); next, ended = s.Ended() })
	if ended {
		m.raise(Alarm{Kind: AlarmEnded, Why: fmt.Sprintf("epoch %d has ended: epoch %d, which event %s began, has taken its place; connect this server to the core that has it",
			now.Number, next.Number, next.Genesis)})
	}
}

// why says why this server must not feed, or be believed; "" if nothing is against it.
func (s Standing) why(n keystore.N) string {
	switch {
	case s.Forgotten != 0:
		return fmt.Sprintf("this server was forgotten by event %d: it feeds nothing until it has been invited anew", s.Forgotten)
	case !s.Member && n > 0:
		return "this server is not a member of the ledger, as far as its replica goes"
	}
	return ""
}

// comeBack ends this server's exclusion by an event of its own as soon as it is fresh:
// that it could write the event shows that it has read everything before.
func (m *Member) comeBack(ctx context.Context) {
	retry := newBackoff(m.cfg.Seed+5, m.cfg.BeaconPeriod, 8*m.cfg.FreshLimit)
	for {
		wait := m.cfg.BeaconPeriod
		if excluded := m.Standing().Excluded; excluded != 0 && m.Freshness().State == events.Fresh {
			if err := m.writeReturned(ctx, excluded); err != nil && ctx.Err() == nil {
				m.logger.Warn("this server's return", "err", err)
				wait = retry.next()
			} else {
				retry.reset()
			}
		}
		if !pause(ctx, wait) {
			return
		}
	}
}

var errNotExcluded = errors.New("not excluded any more")

func (m *Member) writeReturned(ctx context.Context, excluded keystore.N) error {
	ctx, cancel := context.WithTimeout(ctx, 2*m.cfg.SendTimeout)
	defer cancel()
	_, err := m.Commit(ctx, func(s *events.State) (Proposal, error) {
		c := events.ServerChange{Type: events.TypeServerReturned, ID: m.id.Server}
		payload, err := c.Encode()
		if err == nil && standingOf(s, m.id).Excluded != excluded {
			err = errNotExcluded
		}
		return Proposal{
			Type: c.Type, Payload: payload, Actor: "keytide", Reason: "it is fresh",
			Request: fmt.Sprintf("returned/%s/%d", m.id.Server, excluded),
		}, err
	})
	if errors.Is(err, errNotExcluded) {
		return nil
	}
	return err
}
