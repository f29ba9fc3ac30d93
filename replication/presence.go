package replication

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"fmt"
	"slices"
	"time"

	"github.com/keytide/keytide/events"
)

const (
	recordGap   = 100 * time.Millisecond // least time between two of the own records
	stopTimeout = time.Second            // for the last one
	formatLevel = 1                      // of events, that this program reads
)

// A ServerView is what a policy server last said of itself.
type ServerView struct {
	Record  events.ServerRecord
	Age     time.Duration // since the record came to this server
	Self    bool          // it is this server's own
	arrived time.Time
	live    bool // it was put while this server was following
	ahead   clockSamples
}

// presence is what the server knows of its own records. Records are told apart by
// the order of the stream, in which two live boots of one server id find each
// other: the one whose id stood there before the other's first record is the first.
type presence struct {
	counter uint64            // the newest, of any boot
	here    bool              // a record of this boot has come back
	earlier map[[16]byte]bool // boots whose records came before this boot's first
}

// A TwoBootsError ends the second of two running servers that use one server id.
type TwoBootsError struct {
	Server  string
	Address string // of the other one
}

func (e *TwoBootsError) Error() string {
	return fmt.Sprintf("server %s: another server of this id is running at %s", e.Server, e.Address)
}

// Hint says what to do about it.
func (e *TwoBootsError) Hint() string {
	return "every policy server needs an id, a signing key and a directory of its own; stop one of the two"
}

// Servers returns what every policy server last said of itself, sorted by id.
func (m *Member) Servers() []ServerView {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]ServerView, 0, len(m.servers))
	now := m.now()
	for _, view := range m.servers {
		view.Age = now.Sub(view.arrived)
		out = append(out, view)
	}
	slices.SortFunc(out, func(a, b ServerView) int { return cmp.Compare(a.Record.ID, b.Record.ID) })
	return out
}

// takeServer notes an accepted record. live is false for one that stood there before
// following began: it may be of any age.
func (m *Member) takeServer(rec events.ServerRecord, live bool) {
	m.mu.Lock()
	self := rec.ID == m.id.Server
	view := ServerView{Record: rec, Self: self, arrived: m.now(), live: live, ahead: m.servers[rec.ID].ahead}
	if live {
		view.ahead.add(rec, view.arrived)
	}
	m.servers[rec.ID] = view
	two := self && m.takeSelf(rec)
	m.mu.Unlock()
	m.views.raise(m.views.load() + 1)
	if two {
		m.raise(Alarm{Kind: AlarmTwoBoots, Key: events.ServerKey(rec.ID), Why: fmt.Sprintf("another server of this id runs at %s", rec.Address)})
		wake(m.wakeSelf) // the other one has to learn that this one is here
	}
	if live && !self && rec.State == events.Stale {
		wake(m.wakeBeat) // it has come back, and lacks only a beacon to be fresh
	}
}

// forgetServer drops what a server said that is a member no more.
func (m *Member) forgetServer(id string) {
	m.mu.Lock()
	delete(m.servers, id)
	m.mu.Unlock()
	m.views.raise(m.views.load() + 1)
}

// takeSelf notes a record under the own id, and reports whether there are two boots
// of which this is the first. If this is the second, it has to end.
func (m *Member) takeSelf(rec events.ServerRecord) bool {
	m.self.counter = max(m.self.counter, rec.Counter)
	switch {
	case rec.Boot == m.boot:
		m.self.here = true
	case !m.self.here:
		m.self.earlier = map[[16]byte]bool{rec.Boot: true}
	case rec.State == events.Stopped:
	case m.self.earlier[rec.Boot]:
		select {
		case m.fatal <- &TwoBootsError{Server: m.id.Server, Address: rec.Address}:
		default:
		}
	default:
		return true
	}
	return false
}

// present puts the server's own record: every RecordPeriod, after events that the
// replica has on its disk, and when the state changes.
func (m *Member) present(ctx context.Context) {
	var last time.Time
	for {
		select {
		case <-m.wakeSelf:
			select {
			case <-m.wakeWitness:
			case <-time.After(time.Until(last.Add(recordGap))):
			case <-ctx.Done():
				return
			}
		case <-m.wakeWitness:
		case <-time.After(m.cfg.RecordPeriod):
		case <-ctx.Done():
			return
		}
		if !m.speaks() {
			continue
		}
		send, cancel := context.WithTimeout(ctx, m.cfg.SendTimeout)
		m.putRecord(send, m.Freshness().State)
		cancel()
		last = time.Now()
	}
}

func (m *Member) presentStopped() {
	if !m.speaks() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	m.putRecord(ctx, events.Stopped)
}

func (m *Member) putRecord(ctx context.Context, state events.ServerState) {
	offset := m.Clock().Offset
	m.mu.Lock()
	m.self.counter++
	rec := events.ServerRecord{
		ID: m.id.Server, Region: m.id.Region, Address: m.id.Address, PublicKey: m.id.Key.Public().(ed25519.PublicKey),
		Levels: []uint64{formatLevel}, Boot: m.boot, Counter: m.self.counter, State: state,
		At: time.Now(), ClockOffset: offset, Applied: m.replica.durableHead(),
	}
	m.mu.Unlock()
	if m.cfg.Agents != nil {
		connected, behind := m.cfg.Agents()
		rec.Agents, rec.AgentsBehind = uint64(connected), uint64(behind)
	}
	if m.cfg.Hosts != nil {
		rec.Hosts = m.cfg.Hosts()
	}
	value, err := rec.Sign(m.id.Key)
	if err != nil {
		m.logger.Error("own record", "err", err)
		return
	}
	m.step("record")
	if err := m.log.PutRecord(ctx, m.id.Server, value); err != nil && ctx.Err() == nil {
		m.logger.Warn("own record", "err", err)
	}
	m.step("recorded")
}
