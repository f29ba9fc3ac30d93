package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
)

// A Proposal is what a command decided. The member makes an event of it: it fills
// in n, id, prev, time, server, effects, revisions and head, and signs.
type Proposal struct {
	Type    events.Type
	Payload []byte
	Actor   string
	Request string // a retried command has the same: it is then recognized, not done twice
	Reason  string
	// Puts are the values that the event writes beside itself: Key, and Value or
	// Delete. A ring's or host's state, and the deletion of the material of destroyed
	// keys, may be left out: the member adds them.
	Puts []events.Put
}

// A Receipt says what was acknowledged: the event is in the core and, with fsync,
// in the replicas of the servers in HeldBy.
type Receipt struct {
	N      keystore.N
	ID     ulid.ULID
	At     time.Time
	HeldBy []string // server ids; this server first
	Event  events.Event
}

// A Decide looks at the newest state and decides on a change, or refuses. It runs
// anew each time that somebody else was first, so it must not have effects. It must
// neither keep nor change the state; no lock is held meanwhile. It fills in Request even where it refuses: if
// an event has answered that request already, its receipt counts, not the refusal.
type Decide func(*events.State) (Proposal, error)

// Commit decides and writes one event. Errors of decide come back as they are. An
// error wraps
//
//   - events.ErrUnavailable if the event is surely not written: the core is not
//     there, or this replica is forked, halted or empty;
//   - events.ErrUnknown if ctx ended, the member stopped, or the replica halted or
//     forked before the event's fate was known; it names the event's id. It may be in
//     the log already or come there: the member goes on finding out unless the replica
//     is stuck. The same request is safe to try again.
func (m *Member) Commit(ctx context.Context, decide Decide) (Receipt, error) {
	return m.hand(ctx, &commitRequest{ctx: ctx, decide: decide, done: make(chan commitResult, 1)})
}

// hand gives a request to the writer and waits for what becomes of it.
func (m *Member) hand(ctx context.Context, req *commitRequest) (Receipt, error) {
	select {
	case m.commits <- req:
	case <-ctx.Done():
		return Receipt{}, fmt.Errorf("%w: %w", events.ErrUnavailable, ctx.Err())
	case <-m.stopped:
		return Receipt{}, errStopped
	}
	select {
	case res := <-req.done:
		return m.held(ctx, res)
	case <-ctx.Done():
	case <-m.stopped:
	}
	select {
	case res := <-req.done: // both at once: say what is known
		return res.receipt, res.err
	default:
	}
	why := context.Cause(ctx)
	if why == nil {
		why = errors.New("the server is stopping")
	}
	if id, sent := req.abandon(); sent {
		return Receipt{}, fmt.Errorf("event %s: %w: %w", id, events.ErrUnknown, why)
	}
	return Receipt{}, fmt.Errorf("%w: %w", events.ErrUnavailable, why)
}

var errStopped = fmt.Errorf("%w: the server is stopping", events.ErrUnavailable)

type commitResult struct {
	receipt Receipt
	err     error
}

// A commitRequest goes to the writer. Its caller may give up at any time: then
// nothing is sent for it any more, but for what has been sent already.
type commitRequest struct {
	ctx    context.Context // of the caller; ends with the request
	decide Decide
	done   chan commitResult // holds one
	over   *overwrite        // nil, but where the event takes a place that is taken

	mu        sync.Mutex // guards the fields below
	abandoned bool
	sent      bool
	id        ulid.ULID // of the event that was sent last
}

func (r *commitRequest) abandon() (ulid.ULID, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.abandoned = true
	return r.id, r.sent
}

// send reports whether the event may be sent: the caller has not given up.
func (r *commitRequest) send(id ulid.ULID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.abandoned {
		return false
	}
	r.id, r.sent = id, true
	return true
}

// unsent takes send back: the event is surely not written.
func (r *commitRequest) unsent() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sent = false
}

// write is the one writer: events are decided on, sent and settled one at a time.
func (m *Member) write(ctx context.Context) {
	for {
		select {
		case req := <-m.commits:
			commit := m.commit
			if req.over != nil {
				commit = m.commitOver
			}
			receipt, err := commit(ctx, req)
			req.done <- commitResult{receipt, err}
		case <-ctx.Done():
			return
		}
	}
}

const (
	electionFirst = 50 * time.Millisecond // between two attempts while the core has no leader
	electionMost  = 500 * time.Millisecond
)

// commit decides until an event has landed, or there is nothing to write. While the
// core chooses a leader, which refuses everything and stores nothing, it tries anew.
func (m *Member) commit(ctx context.Context, req *commitRequest) (Receipt, error) {
	retry := newBackoff(m.cfg.Seed+5, electionFirst, electionMost)
	patience := m.now().Add(m.cfg.ElectionWait)
	for {
		if err := m.writable(); err != nil {
			return Receipt{}, err
		}
		m.step("asked")
		d, err := m.draft(req.decide)
		if err != nil {
			return Receipt{}, err
		}
		if d.answered != 0 {
			return m.answered(ctx, d.answered)
		}
		if alarm, taken := m.alarms.standing(alarmID{AlarmTampered, events.LogKey(d.event.N)}); taken {
			return Receipt{}, fmt.Errorf("%w: the place of event %d is taken: %s", events.ErrUnavailable, d.event.N, alarm.Why)
		}
		if !req.send(d.event.ID) {
			return Receipt{}, fmt.Errorf("%w: the caller has gone", events.ErrUnavailable)
		}
		m.step("drafted")
		landed, err := m.settle(ctx, d.batch)
		switch {
		case landed:
			m.step("landed")
			return m.receipt(d.event), nil
		case err == nil || errors.Is(err, errLost):
			req.unsent()
		case errors.Is(err, events.ErrUnknown):
			return Receipt{}, fmt.Errorf("event %s: %w", d.event.ID, err)
		case errors.Is(err, events.ErrNoLeader) && m.now().Before(patience):
			req.unsent()
			if !retry.pause(ctx) {
				return Receipt{}, err
			}
		default:
			req.unsent()
			return Receipt{}, err
		}
	}
}

// An overwrite is the one write to a place that is taken, by what no member signed.
type overwrite struct {
	n     keystore.N
	place events.Revision // of what stands there
	head  events.Revision // of the head, which names event n-1
}

// commitOver writes event n over what stands in its place. The replica is halted by that,
// and goes on when the event has come. The same bytes are sent until it has: they are
// stored at most once, because they are conditional on what stands there.
func (m *Member) commitOver(ctx context.Context, req *commitRequest) (Receipt, error) {
	d, err := m.draft(req.decide)
	if err != nil {
		return Receipt{}, err
	}
	if d.event.N != req.over.n {
		return Receipt{}, fmt.Errorf("%w: the ledger has gone on", events.ErrConflict)
	}
	d.batch.Over, d.batch.HeadRevision = req.over.place, req.over.head
	if !req.send(d.event.ID) {
		return Receipt{}, fmt.Errorf("%w: the caller has gone", events.ErrUnavailable)
	}
	retry := newBackoff(m.cfg.Seed+uint64(d.batch.N), settleFirst, settleMost)
	for stored := false; ; { // stored: it may be
		err := m.append(ctx, d.batch)
		if err == nil || errors.Is(err, events.ErrUnknown) {
			stored = true
		} else if !stored {
			return Receipt{}, err
		}
		wait, cancel := context.WithTimeout(req.ctx, retry.next())
		arrived := m.replica.durable.await(wait, d.batch.N) == nil
		cancel()
		switch {
		case arrived:
			return m.overLanded(d)
		case ctx.Err() != nil, req.ctx.Err() != nil:
			return Receipt{}, fmt.Errorf("event %s: %w: %w", d.event.ID, events.ErrUnknown, errors.Join(ctx.Err(), req.ctx.Err()))
		}
	}
}

func (m *Member) overLanded(d draft) (Receipt, error) {
	rec, err := m.replica.Record(d.batch.N)
	if err == nil && rec.Hash() != d.batch.Head.Hash {
		err = fmt.Errorf("%w: another event has taken the place", events.ErrConflict)
	}
	if err != nil {
		return Receipt{}, err
	}
	return m.receipt(d.event), nil
}

// writable reports why this member must not write.
func (m *Member) writable() error {
	if err := m.stuck(); err != nil {
		return fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	if m.reached.load() == 0 || m.replica.applied.load() == 0 {
		return fmt.Errorf("%w: this server has not read the ledger yet", events.ErrUnavailable)
	}
	return nil
}

// stuck reports why the replica applies nothing any more, as far as it can tell.
func (m *Member) stuck() error {
	if state, alarm, ok := m.standstill(); ok {
		return fmt.Errorf("this server's replica is %s: %s", state, alarm.Why)
	}
	return nil
}

// answered gives the receipt for a request that an event has answered already.
func (m *Member) answered(ctx context.Context, n keystore.N) (Receipt, error) {
	if err := m.awaitDurable(ctx, n); err != nil {
		return Receipt{}, fmt.Errorf("event %d: %w: %w", n, events.ErrUnknown, err)
	}
	rec, err := m.replica.Record(n)
	if err != nil {
		return Receipt{}, err
	}
	ev, err := events.Decode(rec)
	if err != nil {
		return Receipt{}, err
	}
	return m.receipt(ev), nil
}

func (m *Member) receipt(ev events.Event) Receipt {
	return Receipt{N: ev.N, ID: ev.ID, At: ev.At, Event: ev, HeldBy: []string{m.id.Server}}
}

// held waits until a fresh server of another region, if there is one, has applied
// the event, and adds who has.
func (m *Member) held(ctx context.Context, res commitResult) (Receipt, error) {
	if res.err != nil {
		return res.receipt, res.err
	}
	ctx, cancel := context.WithTimeout(ctx, m.cfg.HoldWait)
	defer cancel()
	for {
		_, changed := m.views.watch()
		ids, wait := m.holders(res.receipt.N)
		if !wait {
			m.step("held")
			res.receipt.HeldBy = append(res.receipt.HeldBy, ids...)
			return res.receipt, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			// It is committed and on this server's disk; the answer says that it is
			// nowhere else.
			return res.receipt, nil
		}
	}
}

// holders lists the other servers that say they have applied event n. wait is true
// while another region has a fresh server and none there has it.
func (m *Member) holders(n keystore.N) (ids []string, wait bool) {
	far := false
	for _, view := range m.Servers() {
		rec := view.Record
		fresh := rec.State == events.Fresh && view.Age < 2*m.cfg.RecordPeriod
		if view.Self || !fresh {
			continue
		}
		has := rec.Applied.Epoch == m.replica.pin.Epoch && rec.Applied.N >= n
		if has {
			ids = append(ids, rec.ID)
		}
		if rec.Region != m.id.Region {
			wait = wait || !has
			far = far || has
		}
	}
	return slices.Clip(ids), wait && !far
}
