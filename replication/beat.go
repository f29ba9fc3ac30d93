package replication

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
)

// takeBeacon has the freshness tracker judge an accepted beacon. proves is false
// for one that was there before following began.
func (m *Member) takeBeacon(b events.Beacon, applied keystore.N, proves bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last, m.lastAt = &b, m.now()
	if proves {
		m.fresh.beacon(b.Holder, b.N, b.Origin, m.lastAt, b.N <= applied)
	}
}

// beat sends the beacon while this server is its holder, and takes it over when it
// is silent.
func (m *Member) beat(ctx context.Context) {
	r := rand.New(rand.NewPCG(m.cfg.Seed, 4))
	patience := m.cfg.Takeover + time.Duration(r.Int64N(int64(m.cfg.Takeover)/3+1))
	ticker := time.NewTicker(m.cfg.BeaconPeriod)
	defer ticker.Stop()
	for {
		m.beatOnce(ctx, patience)
		select {
		case <-ticker.C:
		case <-m.wakeBeat:
		case <-ctx.Done():
			return
		}
	}
}

// beatTries is how often one beacon is sent when commits get in its way: each moves
// the head, on which the beacon is conditional.
const beatTries = 20

func (m *Member) beatOnce(ctx context.Context, patience time.Duration) {
	if s := m.Freshness().State; s == events.Forked || s == events.Halted {
		return // its word on where the log ends would be wrong
	}
	if !m.speaks() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, m.cfg.FreshLimit/2)
	defer cancel()
	for range beatTries {
		at := m.position.load()
		b, head, ok := m.nextBeacon(patience)
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
func (m *Member) nextBeacon(patience time.Duration) (events.Beacon, events.Revision, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.tip.n == 0 {
		return events.Beacon{}, 0, false // there is nothing to prove yet
	}
	mine := m.last != nil && m.last.Holder == m.id.Server && m.last.Term == m.myTerm || m.last == nil && m.myTerm != 0
	if !mine {
		if !m.mayTake(patience) {
			return events.Beacon{}, 0, false
		}
		m.myTerm, m.count = m.nextTerm(), 0
	}
	m.count++
	return events.Beacon{
		Epoch: m.replica.pin.Epoch, Term: m.myTerm, Holder: m.id.Server, Counter: m.count,
		N: m.tip.n, Hash: m.tip.hash, Origin: m.now(),
	}, m.tip.revision, true
}

// mayTake reports whether the beacon is this server's to take. One that was its own
// before a restart, or nobody's ever, is so at once.
func (m *Member) mayTake(patience time.Duration) bool {
	if m.last == nil || m.last.Holder == m.id.Server && m.myTerm < m.last.Term {
		return true
	}
	return m.now().Sub(m.lastAt) >= patience
}

func (m *Member) nextTerm() uint64 {
	if m.last == nil {
		return m.myTerm + 1
	}
	return max(m.last.Term, m.myTerm) + 1
}
