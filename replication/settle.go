package replication

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
)

// errLost: the batch is not stored and never will be. Decide again.
var errLost = errors.New("somebody else was first")

const (
	settleFirst = 100 * time.Millisecond // wait for the own replica before sending again
	settleMost  = 2 * time.Second
	settleLook  = time.Second // between two looks whether the replica is stuck
)

// settle sends a batch until its fate is known: landed, or errLost, or an error
// that says it is surely not stored. It wraps events.ErrUnknown only if ctx, the
// member's own, ends before, or the replica is stuck and can never tell.
//
// A send whose fate is unknown can land later. No answer to another send changes
// that: what it was compared with may be this very batch, on its way. So it ends
// only when the own replica has applied an event at n, whose hash tells. Until then
// the same bytes are sent again; and where they are refused because something else
// has moved, a void event is sent to n, so that one of the two gets there.
func (m *Member) settle(ctx context.Context, b events.Batch) (landed bool, err error) {
	retry := newBackoff(m.cfg.Seed+uint64(b.N), settleFirst, settleMost)
	for unknown := false; ; {
		err := m.append(ctx, b)
		switch {
		case err == nil:
			return m.landed(ctx, b)
		case errors.Is(err, events.ErrUnknown):
			unknown = true
		case !unknown && errors.Is(err, events.ErrConflict):
			return m.lost(ctx)
		case !unknown:
			return false, err
		case errors.Is(err, events.ErrConflict):
			if m.catchUp(ctx) && m.replica.applied.load() < b.N {
				m.sendVoid(ctx, b.N)
			}
		}
		wait, cancel := context.WithTimeout(ctx, retry.next())
		arrived := m.replica.applied.await(wait, b.N) == nil
		cancel()
		if arrived {
			return m.landed(ctx, b)
		}
		if err := errors.Join(ctx.Err(), m.stuck()); err != nil {
			return false, fmt.Errorf("%w: %w", events.ErrUnknown, err)
		}
	}
}

func (m *Member) append(ctx context.Context, b events.Batch) error {
	ctx, cancel := context.WithTimeout(ctx, m.cfg.SendTimeout)
	defer cancel()
	m.step("sending")
	_, err := m.log.Append(ctx, b)
	if err == nil {
		m.step("stored")
	}
	return err
}

// landed waits until the own replica has an event at the batch's n on its disk, and
// tells whether it is this one.
func (m *Member) landed(ctx context.Context, b events.Batch) (bool, error) {
	if err := m.awaitDurable(ctx, b.N); err != nil {
		return false, fmt.Errorf("%w: %w", events.ErrUnknown, err)
	}
	rec, err := m.replica.Record(b.N)
	if err != nil {
		return false, fmt.Errorf("%w: %w", events.ErrUnknown, err)
	}
	if rec.Hash() != b.Head.Hash {
		return false, errLost
	}
	return true, nil
}

// awaitDurable waits until the own replica has event n on its disk. It gives up when
// ctx ends, or the replica is stuck before n.
func (m *Member) awaitDurable(ctx context.Context, n keystore.N) error {
	for {
		wait, cancel := context.WithTimeout(ctx, settleLook)
		err := m.replica.durable.await(wait, n)
		cancel()
		if err == nil {
			return nil
		}
		if err := errors.Join(ctx.Err(), m.stuck()); err != nil {
			return err
		}
	}
}

// lost is for a batch that was refused at its only send. It waits for the replica
// to see why, so that the next decision is not made on the same state.
func (m *Member) lost(ctx context.Context) (bool, error) {
	if !m.catchUp(ctx) && ctx.Err() == nil {
		pause(ctx, settleFirst)
	}
	return false, errLost
}

// catchUp waits until the replica has taken in everything that is in the stream
// now. It reports false if that is not to be known in time.
func (m *Member) catchUp(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, m.cfg.SendTimeout)
	defer cancel()
	info, err := m.log.Info(ctx)
	if err != nil {
		return false
	}
	return m.position.await(ctx, info.Last) == nil
}

// sendVoid sends an event without effects to n. Whether it gets there does not
// matter, only that something does.
func (m *Member) sendVoid(ctx context.Context, n keystore.N) {
	d, err := m.draft(func(s *events.State) (Proposal, error) {
		if s.N() != n-1 {
			return Proposal{}, errLost
		}
		return Proposal{Type: events.TypeVoid, Payload: events.VoidPayload(), Reason: "the fate of an event was unknown"}, nil
	})
	if err != nil {
		return
	}
	if err := m.append(ctx, d.batch); err != nil {
		m.logger.Warn("void event", "n", n, "err", err)
	}
}
