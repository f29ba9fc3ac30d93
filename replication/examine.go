package replication

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/events/ledger"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/doctor"
)

const (
	// looks is how often a suspicion is looked at: a core server that lags, or is
	// damaged, answers reads too.
	looks     = 3
	lookPause = 200 * time.Millisecond
)

// Examine reads the whole bucket and compares each entry with the replica. The error is
// of a bucket that cannot be read; info is set whenever the core answers.
func (m *Member) Examine(ctx context.Context) (flaws []doctor.Flaw, count int, info ledger.Info, err error) {
	sweep := NewSweep(m.replica)
	if info, err = m.log.Info(ctx); err != nil {
		return nil, 0, info, err
	}
	if _, _, stands := m.standstill(); !stands {
		m.awaitPosition(ctx, info.Last)
	}
	if info.Last > 0 {
		err = m.log.Follow(ctx, 1, func(e events.Entry) error {
			sweep.Take(e)
			if e.Revision >= info.Last || e.Pending == 0 {
				return errSwept
			}
			return nil
		})
	}
	if err != nil && !errors.Is(err, errSwept) {
		return nil, sweep.Count(), info, err
	}
	flaws, err = m.Confirm(ctx, sweep.Suspects())
	return flaws, sweep.Count(), info, err
}

// Info asks the core for the state of the bucket.
func (m *Member) Info(ctx context.Context) (ledger.Info, error) { return m.log.Info(ctx) }

var errSwept = errors.New("everything was read")

// awaitPosition waits for the replica to take in what is stored, for as long as a beacon
// may take.
func (m *Member) awaitPosition(ctx context.Context, revision events.Revision) {
	ctx, cancel := context.WithTimeout(ctx, m.cfg.FreshLimit)
	defer cancel()
	_ = m.position.await(ctx, revision) // what it has not taken in is no flaw
}

// Confirm looks at keys anew, several times each, and returns those that are not once as
// they must be.
func (m *Member) Confirm(ctx context.Context, keys []string) ([]doctor.Flaw, error) {
	var flaws []doctor.Flaw
	for _, key := range m.telling(keys) {
		flaw, err := m.look(ctx, key)
		for i := 1; i < looks && err == nil && flaw.Fault != ""; i++ {
			if !pause(ctx, lookPause) {
				return nil, ctx.Err()
			}
			flaw, err = m.look(ctx, key)
		}
		if err != nil {
			return nil, err
		}
		if flaw.Fault != "" {
			flaws = append(flaws, flaw)
		}
	}
	slices.SortFunc(flaws, byOrder)
	return flaws, nil
}

// telling leaves out what this replica cannot judge: values and the head while it is
// halted, because events that it has not applied may have written them; everything while
// it is forked.
func (m *Member) telling(keys []string) []string {
	state, _, stands := m.standstill()
	return slices.DeleteFunc(slices.Clone(keys), func(key string) bool {
		k, err := events.ParseKey(key)
		return stands && (state == events.Forked || err != nil || k.Kind != events.KeyLog)
	})
}

// look judges what stands at a key now.
func (m *Member) look(ctx context.Context, key string) (doctor.Flaw, error) {
	e, err := m.log.Newest(ctx, key)
	switch {
	case errors.Is(err, events.ErrNoEntry):
		return doctor.Flaw{Key: key, Fault: judge(m.replica, key, nil)}, nil
	case err != nil:
		return doctor.Flaw{}, err
	}
	return doctor.Flaw{Key: key, Fault: judge(m.replica, key, &e), Revision: uint64(e.Revision)}, nil
}

// Marks are the replica's hashes by which it is compared with others.
func (r *Replica) Marks() ([]doctor.Mark, error) {
	n, _ := r.Watch()
	var marks []doctor.Mark
	for _, at := range doctor.MarksAt(n) {
		rec, err := r.Record(at)
		if err != nil {
			return marks, err
		}
		marks = append(marks, doctor.Mark{N: at, Hash: rec.Hash().String()})
	}
	return marks, nil
}

// Mend puts one entry of the bucket right from the verified replica, if it is as it was
// found: with the given revision. It reports false if there is nothing to be put right
// any more. An error wraps keystore.ErrRefused where mending could do harm.
//
// Where something that no member signed has the place of the next event, a void event
// takes it. That is safe only if no event was ever committed there: the head, which every
// batch writes, must still name this replica's last event, and stay so.
func (m *Member) Mend(ctx context.Context, actor, reason string, repair doctor.Repair) (bool, error) {
	if len(m.telling([]string{repair.Key})) == 0 {
		return false, fmt.Errorf("%s: %w: this server cannot tell what belongs there: %w", repair.Key, keystore.ErrRefused, m.stuck())
	}
	flaw, err := m.look(ctx, repair.Key)
	switch {
	case err != nil:
		return false, err
	case flaw.Fault == "":
		return false, nil
	case flaw.Revision != repair.Revision:
		return false, fmt.Errorf("%s: %w: it has changed since it was looked at", repair.Key, events.ErrConflict)
	case flaw.Fault == doctor.Forged:
		return m.mendNext(ctx, actor, reason, flaw)
	}
	put, err := m.proved(flaw)
	if err != nil {
		return false, err
	}
	if err := m.log.PutBack(ctx, put); err != nil {
		return false, err
	}
	m.logger.Warn("an entry was put back from the replica", "key", put.Key, "actor", actor, "reason", reason)
	return true, nil
}

// proved is what the verified events say that stands at a key.
func (m *Member) proved(flaw doctor.Flaw) (events.Put, error) {
	put := events.Put{Key: flaw.Key, Expect: events.Revision(flaw.Revision)}
	key, err := events.ParseKey(flaw.Key)
	if err != nil {
		return put, err
	}
	switch {
	case key.Kind == events.KeyLog:
		rec, err := m.replica.Record(key.N)
		if err == nil {
			err = m.chained(rec, key.N)
		}
		put.Value = rec
		return put, err
	case key.Kind == events.KeyHead:
		m.replica.Read(func(s *events.State) { put.Value = s.Head().Encode() })
		return put, nil
	case flaw.Fault == doctor.Foreign:
		put.Delete = true
		return put, nil
	}
	value, ok := m.replica.Value(flaw.Key)
	var want events.Hash
	m.replica.Read(func(s *events.State) { want, _ = s.Expect(flaw.Key) })
	if !ok || events.HashOf(value) != want {
		return put, fmt.Errorf("%s: %w: this server's replica has not the value either; ask another server", flaw.Key, keystore.ErrRefused)
	}
	put.Value = value
	return put, nil
}

// chained reports whether the record in the file is the one that the events after it
// follow: a replica's file may have rotted as well.
func (m *Member) chained(rec events.Record, n keystore.N) error {
	var last events.Head
	m.replica.Read(func(s *events.State) { last = s.Head() })
	want := last.Hash
	if n < last.N {
		next, err := m.replica.Record(n + 1)
		if err != nil {
			return err
		}
		ev, err := events.Decode(next)
		if err != nil {
			return fmt.Errorf("event %d of this server's replica: %w", n+1, err)
		}
		want = ev.Prev
	}
	if rec.Hash() != want {
		return fmt.Errorf("event %d: %w: this server's replica does not verify there either; ask another server", n, keystore.ErrRefused)
	}
	return nil
}

// mendNext has a void event take the place of what no member signed.
func (m *Member) mendNext(ctx context.Context, actor, reason string, flaw doctor.Flaw) (bool, error) {
	head, err := m.log.Newest(ctx, events.HeadKey)
	if err != nil {
		return false, err
	}
	var last events.Head
	m.replica.Read(func(s *events.State) { last = s.Head() })
	if flaw.Key != events.LogKey(last.N+1) {
		return false, fmt.Errorf("%s: %w: its place is not due yet; it hinders nothing before event %d", flaw.Key, keystore.ErrRefused, last.N+1)
	}
	if !names(head, last) {
		return false, fmt.Errorf("%s: %w: the head does not name event %d, this replica's last: an event may have stood there. Mend it at a server that has applied it; if there is none, restore", flaw.Key, keystore.ErrRefused, last.N)
	}
	for _, view := range m.Servers() {
		if view.Record.Applied.Epoch == last.Epoch && view.Record.Applied.N > last.N {
			return false, fmt.Errorf("%s: %w: server %s has applied event %d; mend it there", flaw.Key, keystore.ErrRefused, view.Record.ID, last.N+1)
		}
	}
	req := &commitRequest{
		ctx: ctx, done: make(chan commitResult, 1), over: &overwrite{place: events.Revision(flaw.Revision), head: head.Revision, n: last.N + 1},
		decide: func(*events.State) (Proposal, error) {
			return Proposal{Type: events.TypeVoid, Payload: events.VoidPayload(), Actor: actor, Reason: reason}, nil
		},
	}
	_, err = m.hand(ctx, req)
	return err == nil, err
}

func names(e events.Entry, want events.Head) bool {
	return !e.Deleted && string(e.Value) == string(want.Encode())
}
