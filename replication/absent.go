package replication

import (
	"context"
	"errors"
	"time"

	"github.com/keytide/keytide/events"
)

// askAbsent reads the records of members that have not told theirs since this server
// began to follow: who stopped in order long ago, or is away. Their records stand in
// front of where following began. Those that live tell theirs by themselves before,
// so that not every server asks for every other's.
func (m *Member) askAbsent(ctx context.Context) {
	var asked time.Time // the catching up after which it was done
	for {
		if !pause(ctx, m.cfg.RecordPeriod) {
			return
		}
		m.mu.Lock()
		caughtUp := m.caughtUp
		m.mu.Unlock()
		if caughtUp.IsZero() || caughtUp.Equal(asked) || m.now().Sub(caughtUp) < 2*m.cfg.RecordPeriod {
			continue
		}
		if m.askEach(ctx) {
			asked = caughtUp
		}
	}
}

// askEach reports whether every absent member's record is known now, or is not there.
func (m *Member) askEach(ctx context.Context) bool {
	var members []events.Member
	m.replica.Read(func(s *events.State) { members = s.Members() })
	for _, member := range members {
		m.mu.Lock()
		_, known := m.servers[member.ID]
		m.mu.Unlock()
		if known || member.Forgotten != 0 || member.ID == m.id.Server {
			continue
		}
		if err := m.askFor(ctx, member); err != nil {
			m.logger.Debug("an absent server's record", "server", member.ID, "err", err)
			return false
		}
	}
	return true
}

func (m *Member) askFor(ctx context.Context, member events.Member) error {
	ctx, cancel := context.WithTimeout(ctx, m.cfg.SendTimeout)
	defer cancel()
	entry, err := m.log.Newest(ctx, events.ServerKey(member.ID))
	if errors.Is(err, events.ErrNoEntry) {
		return nil
	}
	if err != nil {
		return err
	}
	var rec events.ServerRecord
	m.replica.Read(func(s *events.State) { rec, err = openServer(s, member.ID, entry.Value) })
	if err != nil || !m.hasApplied(rec.Applied) {
		return nil // following judges what comes there; this one confirms nothing
	}
	m.mu.Lock()
	if _, known := m.servers[member.ID]; !known {
		m.servers[member.ID] = ServerView{Record: rec, arrived: m.now().Add(-max(0, time.Since(rec.At)))}
	}
	m.mu.Unlock()
	m.views.raise(m.views.load() + 1)
	return nil
}

// hasApplied reports whether a head is one of this replica's history.
func (m *Member) hasApplied(head events.Head) bool {
	if head.N == 0 {
		return head == events.Head{}
	}
	rec, err := m.replica.Record(head.N)
	return err == nil && head == events.Head{Epoch: m.replica.pin.Epoch, N: head.N, Hash: rec.Hash()}
}
