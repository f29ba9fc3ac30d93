package replication

import (
	"context"
	"errors"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
)

// A holder decides when a server may send the beacon. It is pure; its times are
// readings of one clock that does not jump.
type holder struct {
	server   string
	patience time.Duration // silence after which another's beacon is taken over

	last   *events.Beacon // the newest that was accepted
	lastAt time.Time      // when it came, or when following began

	term    uint64 // the newest that this process took
	count   uint64 // of beacons sent in it
	claimed bool   // it was taken, and no other's beacon has come since

	late  int       // how many of its beacons in a row came back late
	rests time.Time // until when others come before it, because its beacons came late
}

// lateBeacons in a row, of which each took half of what makes others stale or more, are a
// link by which nobody should prove anything.
const lateBeacons = 3

// returned judges an own beacon that has come back, and reports whether the server gives
// the beacon up. Late beacons keep others from taking it over and make nobody fresh, so
// who sends them stops by itself, if there are others who might do better.
func (h *holder) returned(b events.Beacon, now time.Time, limit time.Duration, others bool) bool {
	if b.Term != h.term || now.Sub(b.Origin) < limit/2 {
		h.late = 0
		return false
	}
	if h.late++; h.late < lateBeacons || !others || now.Before(h.rests) {
		return false
	}
	h.rests, h.late = now.Add(10*h.patience), 0
	return true
}

// seen takes in an accepted beacon, or with nil that following began. Either ends a
// claim to a term that has not come back: another holder lives, or may.
func (h *holder) seen(b *events.Beacon, now time.Time) {
	h.lastAt = now
	if b != nil {
		h.last = b
	}
	if b == nil || b.Holder != h.server {
		h.claimed = false
	}
}

// next returns term and counter of the beacon that the server may send now. A
// beacon that was the server's own before a restart, or nobody's ever, is its to
// take at once; another's after silence.
func (h *holder) next(now time.Time) (term, counter uint64, ok bool) {
	own, claimed, patience := h.last != nil && h.last.Holder == h.server, h.claimed, h.patience
	if now.Before(h.rests) {
		own, claimed, patience = false, false, 2*h.patience
	}
	switch {
	case own && h.last.Term == h.term, claimed:
	case own, h.last == nil, now.Sub(h.lastAt) >= patience:
		h.rests = time.Time{}
		if h.last != nil {
			h.term = max(h.term, h.last.Term)
		}
		h.term, h.count, h.claimed = h.term+1, 0, true
	default:
		return 0, 0, false
	}
	h.count++
	return h.term, h.count, true
}

// takeBeacon has the freshness tracker judge an accepted beacon. proves is false
// for one that was there before following began.
func (m *Member) takeBeacon(b events.Beacon, applied keystore.N, proves bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	m.holder.seen(&b, now)
	if proves && b.Holder == m.id.Server && m.holder.returned(b, now, m.cfg.FreshLimit, m.anotherIsThere(now)) {
		m.logger.Warn("the beacon is given up: it comes late", "late", now.Sub(b.Origin))
	}
	if proves {
		m.fresh.beacon(b.Holder, b.N, b.Origin, now, b.N <= applied)
	}
}

// beatGap is the least time until a beacon that somebody waits for.
const beatGap = 100 * time.Millisecond

// anotherIsThere reports whether another server was heard of lately, and might hold the
// beacon. The lock is held.
func (m *Member) anotherIsThere(now time.Time) bool {
	for _, view := range m.servers {
		if !view.Self && view.live && view.Record.State != events.Stopped && now.Sub(view.arrived) < 2*m.cfg.RecordPeriod {
			return true
		}
	}
	return false
}

// beat sends the beacon while this server is its holder, and takes it over when it
// is silent.
func (m *Member) beat(ctx context.Context) {
	ticker := time.NewTicker(m.cfg.BeaconPeriod)
	defer ticker.Stop()
	for {
		m.beatOnce(ctx)
		select {
		case <-ticker.C:
		case <-m.wakeBeat:
			// Many may come back at once: one beacon is for all of them.
			if !pause(ctx, min(beatGap, m.cfg.BeaconPeriod/4)) {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// beatTries is how often one beacon is sent when commits get in its way: each moves
// the head, on which the beacon is conditional.
const beatTries = 20

func (m *Member) beatOnce(ctx context.Context) {
	if s := m.Freshness().State; s == events.Forked || s == events.Halted {
		return // its word on where the log ends would be wrong
	}
	if !m.speaks() || m.Clock().Outvoted {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, m.cfg.FreshLimit/2)
	defer cancel()
	for range beatTries {
		at := m.position.load()
		b, head, ok := m.nextBeacon()
		if !ok {
			return
		}
		value, err := b.Sign(m.id.Key)
		if err != nil {
			m.logger.Error("beacon", "err", err)
			return
		}
		err = m.log.PutBeacon(ctx, value, head)
		if !errors.Is(err, events.ErrConflict) {
			if err != nil {
				m.logger.Debug("beacon", "err", err)
			}
			return
		}
		// The head has moved: go on from where it is now.
		if m.position.await(ctx, at+1) != nil {
			return
		}
	}
}

// nextBeacon makes the beacon that this server may send now, and tells the head's
// revision on which it is conditional.
func (m *Member) nextBeacon() (events.Beacon, events.Revision, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.tip.n == 0 {
		return events.Beacon{}, 0, false // there is nothing to prove yet
	}
	now := m.now()
	term, counter, ok := m.holder.next(now)
	return events.Beacon{
		Epoch: m.replica.pin.Epoch, Term: term, Holder: m.id.Server, Counter: counter,
		N: m.tip.n, Hash: m.tip.hash, Origin: now,
	}, m.tip.revision, ok
}
