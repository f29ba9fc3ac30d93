package replication

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/events/ledger"
)

const (
	infoTimeout = 1500 * time.Millisecond
	// Pauses before following anew. The longest is short, because a replica has to be
	// up to date again within a second of a healed link; each attempt that fails in
	// between costs the core one request.
	followFirst = 100 * time.Millisecond
	followMost  = 500 * time.Millisecond
	// A leader of the core that was elected just now may not have taken in yet what is
	// committed; and one that is cut off from the others answers with where it stood
	// then, to whoever reaches it, until it gives up: after 10 to 20 s. A core that ends
	// too early for longer than this has lost something. Nothing is taken meanwhile, and
	// the replica is stale.
	forkPatience = 30 * time.Second
	// How long following may fail at this process's own core server before others are
	// tried, each time that it fails again. A server that is cut off from the rest of the
	// core cannot tell when the way to the others is free; a new connection can.
	ownPatience = time.Second
)

var (
	errKicked = errors.New("following anew was asked for")
	errReread = errors.New("what was passed by is read again")
)

// follow is the replicator: it follows the bucket for as long as ctx lasts, anew
// after any doubt. An error never ends it, and never looks like success: only
// beacons make a replica fresh.
func (m *Member) follow(ctx context.Context) {
	a := m.replica.newAssembler()
	m.setTip(a.tip)
	retry := newBackoff(m.cfg.Seed+1, followFirst, followMost)
	for well := m.now(); ctx.Err() == nil; {
		began, turned := m.now(), m.turned()
		err := m.followOnce(ctx, a)
		if ctx.Err() != nil {
			return
		}
		if m.now().Sub(began) > 10*followMost {
			retry.reset()
		}
		m.logger.Debug("following ended", "err", err)
		if m.caughtUpSince(began) {
			well = m.now()
		} else if m.now().Sub(well) >= ownPatience {
			m.leaveOwn()
		}
		select {
		case <-time.After(retry.next()):
		case <-turned: // asked for before: what came back meanwhile does not wait
		case <-ctx.Done():
		}
	}
}

func (m *Member) caughtUpSince(began time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.caughtUp.Before(began)
}

// leaveOwn goes to another core server, if the link is to this process's own.
func (m *Member) leaveOwn() {
	if m.cfg.Own == nil || m.cfg.Reconnect == nil || !m.cfg.Own() {
		return
	}
	m.logger.Debug("the own core server does not serve the ledger: trying another")
	if err := m.cfg.Reconnect(); err != nil {
		m.logger.Warn("reconnecting", "err", err)
	}
}

func (m *Member) turned() <-chan struct{} {
	if m.cfg.Turned == nil {
		return nil
	}
	return m.cfg.Turned()
}

// followOnce asks at once where the bucket ends and for what comes after the replica:
// two answers from the core instead of one after the other are what a healed link
// would cost twice. Nothing is taken before the first is known.
func (m *Member) followOnce(ctx context.Context, a *assembler) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err := m.writePending(ctx); err != nil {
		return err
	}
	m.setTip(a.tip)
	m.position.raise(a.position)
	f := &following{member: m, assembler: a, from: a.position, begun: make(chan struct{})}
	var aside sync.WaitGroup
	defer aside.Wait()
	defer cancel(nil)
	aside.Go(func() {
		if err := f.begin(ctx); err != nil {
			cancel(err)
		}
	})
	aside.Go(func() {
		select {
		case <-m.kick:
			cancel(errKicked)
		case <-ctx.Done():
		}
	})
	err := m.log.Follow(ctx, f.from+1, func(e events.Entry) error { return f.take(ctx, e) })
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// A following is one time of following, from a position on.
type following struct {
	member    *Member
	assembler *assembler // begin's until begun is closed, then take's
	from      events.Revision

	begun    chan struct{}   // closed when end and failed are known
	failed   error           // why nothing may be taken
	end      events.Revision // of the stream when following began
	caughtUp bool            // everything up to end was taken
}

// begin compares the bucket with the replica.
func (f *following) begin(ctx context.Context) error {
	defer close(f.begun)
	m := f.member
	if f.end, f.failed = m.streamEnd(ctx, f.assembler); f.failed != nil {
		return f.failed
	}
	m.mu.Lock()
	m.holder.seen(nil, m.now())
	m.mu.Unlock()
	if f.caughtUp = f.from >= f.end; f.caughtUp {
		m.reachEnd(f.end)
	}
	return nil
}

// take takes an entry in, once it is known that the bucket is the replica's.
func (f *following) take(ctx context.Context, e events.Entry) error {
	select {
	case <-f.begun:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if f.failed != nil {
		return f.failed
	}
	err := f.member.takeEntry(ctx, f.assembler, e, f.end)
	if err == nil && !f.caughtUp && e.Revision >= f.end {
		f.caughtUp = true
		f.member.reachEnd(f.end)
	}
	return err
}

// reachEnd notes that everything is known that stood in the stream when following
// began: what this server does from now on does not rest on old news.
func (m *Member) reachEnd(end events.Revision) {
	m.mu.Lock()
	m.caughtUp = m.now()
	m.mu.Unlock()
	m.reached.raise(end + 1) // an empty stream has an end as well
	wake(m.wakeBeat)
	wake(m.wakeSelf)
}

// streamEnd compares the bucket with the replica, and returns its newest revision.
func (m *Member) streamEnd(ctx context.Context, a *assembler) (events.Revision, error) {
	ctx, cancel := context.WithTimeout(ctx, infoTimeout)
	defer cancel()
	info, err := m.log.Info(ctx)
	m.judgeBucket(info, err)
	if err != nil {
		return 0, err
	}
	created := m.replica.header.Created
	switch {
	case created.IsZero():
		if err := m.replica.noteCreated(info.Created); err != nil {
			return 0, err
		}
	case !created.Equal(info.Created):
		m.forked(a, fmt.Sprintf("the bucket was made anew at %s; this replica is of the one made at %s",
			info.Created.UTC().Format(time.RFC3339Nano), created.UTC().Format(time.RFC3339Nano)))
	}
	if a.forked {
		return info.Last, nil // for another reason: nothing is applied
	}
	if newest := max(a.position, m.replica.header.Cursor); info.Last < newest {
		return 0, m.tooShort(info, newest)
	}
	return info.Last, m.longEnough(ctx, a)
}

// tooShort notes that the core ends before what this replica has. Nothing is taken from
// such a core; where it stays so, the replica is forked until it is longer again.
func (m *Member) tooShort(info ledger.Info, newest events.Revision) error {
	who := "the core"
	switch {
	case info.Alone: // it may know of less than the others have committed
		m.short = time.Time{}
		who = "a core server that is cut off"
	case m.short.IsZero():
		m.short = m.now()
	case !m.lacking && m.now().Sub(m.short) >= forkPatience:
		m.lacking = true
		m.raise(Alarm{Kind: AlarmForked, Why: fmt.Sprintf("the core ends at revision %d, this replica at %d", info.Last, newest)})
	}
	return fmt.Errorf("%w: %s ends at revision %d, this replica at %d", events.ErrInterrupted, who, info.Last, newest)
}

// longEnough ends the fork of a core that ended too early, once it has the newest event
// of this replica again: with that event's hash it has all before. What stands there is
// then read anew, for revisions may be others. Where there is another event in that place,
// the fork stays; where there is none, the core lacks events as before.
func (m *Member) longEnough(ctx context.Context, a *assembler) error {
	m.short = time.Time{}
	if !m.lacking {
		return nil
	}
	n, have := a.state.N(), a.state.Hash()
	entry, err := m.log.Newest(ctx, events.LogKey(n))
	if err != nil {
		return fmt.Errorf("%w: whether the core has event %d again: %w", events.ErrInterrupted, n, err)
	}
	m.lacking = false
	if entry.Deleted || events.HashOf(entry.Value) != have {
		m.forked(a, fmt.Sprintf("event %d of the core is not this replica's", n))
		return nil
	}
	m.clear(alarmID{AlarmForked, ""})
	a.position = 0
	return errReread
}

func (m *Member) forked(a *assembler, why string) {
	if a.forked {
		return
	}
	a.forked = true
	m.raise(Alarm{Kind: AlarmForked, Why: why})
}

// takeEntry carries out what the assembler makes of an entry. end is the newest
// revision there was when following began: a beacon up to it may be of any age, and
// proves nothing.
func (m *Member) takeEntry(ctx context.Context, a *assembler, e events.Entry, end events.Revision) error {
	v := a.take(e)
	for _, alarm := range v.raise {
		m.raise(alarm)
	}
	for _, id := range v.clear {
		m.clear(id)
	}
	if v.revision {
		m.replica.noteRevision(e.Key, e.Revision)
	}
	if v.part != nil {
		if err := m.takePart(ctx, a, v.part); err != nil {
			return err
		}
	}
	m.setTip(a.tip)
	if v.gone != "" {
		m.forgetServer(v.gone)
	}
	if v.beacon != nil {
		m.takeBeacon(*v.beacon, a.applied, e.Revision > end)
	}
	if v.server != nil {
		m.takeServer(*v.server, e.Revision > end)
	}
	m.position.raise(e.Revision)
	if v.reread {
		return errReread
	}
	return nil
}

// takePart shows a part and then writes it, so that agents are fed beside the
// fsync. A disk that does not take it holds everything up: beacons too, so the
// replica turns stale.
func (m *Member) takePart(ctx context.Context, a *assembler, p *part) error {
	m.step("taken")
	if p.show {
		if err := m.replica.show(p); err != nil {
			m.forked(a, fmt.Sprintf("the replica's own file does not go on: %v", err))
			return err
		}
		m.noteStanding()
	}
	m.step("shown")
	m.pending = p
	return m.writePending(ctx)
}

// writePending writes the part that was handed over and is not in the file yet. The
// assembler never hands it over again, so where ctx ends before the disk takes it, it
// is the first thing to be written when following begins anew: a part that was given
// up would leave a gap in the file.
func (m *Member) writePending(ctx context.Context) error {
	retry := newBackoff(m.cfg.Seed+2, followFirst, followMost)
	for m.pending != nil {
		if err := m.replica.write(m.pending); err != nil {
			m.raise(Alarm{Kind: AlarmDisk, Why: err.Error()})
			if !retry.pause(ctx) {
				return context.Cause(ctx)
			}
			continue
		}
		m.step("written")
		m.clear(alarmID{AlarmDisk, ""})
		if m.pending.show {
			m.tellApplied(m.pending)
		}
		m.pending = nil
	}
	return nil
}

// Raise makes an alarm stand that another part of the server has found.
func (m *Member) Raise(alarm Alarm) { m.raise(alarm) }

// raise makes an alarm stand, on the disk too if the cursor may pass its entry.
func (m *Member) raise(alarm Alarm) {
	alarm.Since = m.now().Round(0).UTC()
	if m.alarms.raise(alarm) {
		m.saveAlarm(alarm)
	}
}

func (m *Member) clear(id alarmID) {
	if alarm, ended := m.alarms.clear(id, m.now().Round(0).UTC()); ended {
		m.saveAlarm(alarm)
	}
}

func (m *Member) saveAlarm(alarm Alarm) {
	if !alarm.ofEntry() {
		return // found again after a restart, if it still stands
	}
	if err := m.replica.file.setAlarm(alarm); err != nil {
		m.logger.Error("alarm is not on the disk", "err", err)
	}
}

func (m *Member) forgetAlarm(alarm Alarm) {
	if err := m.replica.file.clearAlarm(alarm); err != nil {
		m.logger.Error("alarm is still on the disk", "err", err)
	}
}

func (m *Member) setTip(t tip) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tip = t
}
