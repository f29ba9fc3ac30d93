package replication

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
)

// A NewBucket is the bucket of an epoch that is to begin. *ledger.Ledger is one.
type NewBucket interface {
	Log
	Lay(ctx context.Context, puts []events.Put) error
}

// A Layout is what the bucket of a later epoch begins with.
type Layout struct {
	Source *Replica // what is kept: all of it
	Epoch  keystore.Epoch
	Server string // a member that signs, by Key
	Key    ed25519.PrivateKey
	Actor  string
	Reason string
	Step   func(string) // if set, called at each step: tests die there
}

// ErrBegun: the epoch has begun with another history. It is events.ErrConflict.
var ErrBegun = fmt.Errorf("%w: the epoch has begun in another way", events.ErrConflict)

// Write lays the bucket out and begins the epoch, and returns the epoch. What is there of it
// already, as after a crash, it leaves as it is, so that it may be called again until it
// succeeds; an epoch that has begun with the same history is done. ErrBegun: somebody else
// has begun it, or laid out another history.
func (l Layout) Write(ctx context.Context, log NewBucket) (events.EpochID, error) {
	plan, err := l.plan()
	if err != nil {
		return events.EpochID{}, err
	}
	retry := newBackoff(uint64(time.Now().UnixNano()), settleFirst, settleMost)
	for {
		id, err := plan.once(ctx, log)
		switch {
		case err == nil:
			return id, nil
		case errors.Is(err, ErrBegun):
			return events.EpochID{}, err
		case !errors.Is(err, events.ErrUnknown) && !errors.Is(err, events.ErrConflict) && !errors.Is(err, events.ErrInterrupted):
			return events.EpochID{}, err
		}
		if !retry.pause(ctx) {
			return events.EpochID{}, errors.Join(err, ctx.Err())
		}
	}
}

// A laidOut is a layout with all that it puts.
type laidOut struct {
	Layout
	state *events.State // before the epoch begins
	old   events.EpochID
	kept  events.Head
	puts  []events.Put // values and deletions
	begin events.Batch
}

func (l Layout) plan() (*laidOut, error) {
	p := &laidOut{Layout: l}
	head, values := l.Source.Snapshot()
	p.kept = head
	var s *events.State
	l.Source.Read(func(state *events.State) { s = state.Clone() })
	p.state, p.old = s.Clone(), s.Epoch()
	gone := make(map[string]bool)
	for rec, err := range l.Source.Records(1, head.N) {
		var ev events.Event
		if err == nil {
			ev, err = events.Decode(rec)
		}
		if err != nil {
			return nil, err
		}
		for _, effect := range ev.Effects {
			gone[effect.Key] = true
		}
	}
	for _, key := range s.Live() {
		delete(gone, key)
		p.puts = append(p.puts, events.Put{Key: key, Value: values[key]})
	}
	for key := range gone {
		p.puts = append(p.puts, events.Put{Key: key, Delete: true})
	}
	slices.SortFunc(p.puts, func(a, b events.Put) int { return cmp.Compare(a.Key, b.Key) })
	return p, p.sign(s)
}

// sign makes the event by which the epoch begins.
func (p *laidOut) sign(s *events.State) error {
	payload, err := events.EpochBegun{Epoch: p.Epoch, Old: p.old, Kept: p.kept}.Encode()
	if err != nil {
		return err
	}
	rec, err := events.Sign(events.Event{
		N: p.kept.N + 1, ID: newULID(), Prev: p.kept.Hash, Type: events.TypeEpochBegun, At: time.Now().UTC(),
		Server: p.Server, Actor: p.Actor, Reason: p.Reason, Payload: payload,
	}, p.Key)
	if err != nil {
		return err
	}
	if _, err := s.Apply(rec); err != nil {
		return err
	}
	p.begin = events.Batch{N: p.kept.N + 1, Record: rec, Head: s.Head()}
	return nil
}

func (p *laidOut) once(ctx context.Context, log NewBucket) (events.EpochID, error) {
	there, begun, err := p.look(ctx, log)
	if err != nil {
		return events.EpochID{}, err
	}
	if begun != nil {
		return p.begunAlready(begun)
	}
	var missing []events.Put
	flush := func(least int) error {
		if len(missing) < least {
			return nil
		}
		err := log.Lay(ctx, missing)
		missing = missing[:0]
		return err
	}
	add := func(put events.Put) error {
		has, ok := there[put.Key]
		if ok && has != put.Effect() {
			return fmt.Errorf("%w: %s is another there", ErrBegun, put.Key)
		}
		if !ok {
			missing = append(missing, put)
		}
		return flush(events.MaxBatch)
	}
	for rec, err := range p.Source.Records(1, p.kept.N) {
		if err != nil {
			return events.EpochID{}, err
		}
		ev, err := events.Decode(rec)
		if err == nil {
			err = add(events.Put{Key: events.LogKey(ev.N), Value: rec})
		}
		if err != nil {
			return events.EpochID{}, err
		}
	}
	if err := flush(1); err != nil {
		return events.EpochID{}, err
	}
	p.reach("half laid")
	for _, put := range p.puts {
		if err := add(put); err != nil {
			return events.EpochID{}, err
		}
	}
	if err := flush(1); err != nil {
		return events.EpochID{}, err
	}
	p.reach("laid")
	if _, err := log.Append(ctx, p.begin); err != nil {
		return events.EpochID{}, err
	}
	p.reach("begun")
	return events.EpochID{Number: p.Epoch, Genesis: p.begin.Record.Hash()}, nil
}

func (l Layout) reach(step string) {
	if l.Step != nil {
		l.Step(step)
	}
}

// begunAlready judges the event that stands where the epoch begins.
func (p *laidOut) begunAlready(rec events.Record) (events.EpochID, error) {
	ev, err := p.state.Clone().Apply(rec)
	if err != nil {
		return events.EpochID{}, fmt.Errorf("%w: %w", ErrBegun, err)
	}
	begun, err := events.DecodeEpochBegun(ev.Payload)
	if ev.Type != events.TypeEpochBegun || err != nil || begun.Epoch != p.Epoch {
		return events.EpochID{}, fmt.Errorf("%w: event %d there is %s by server %s", ErrBegun, ev.N, ev.Type, ev.Server)
	}
	return events.EpochID{Number: p.Epoch, Genesis: rec.Hash()}, nil
}

// look reads what the bucket holds: each key with the hash of its value, and what stands
// where the epoch begins.
func (p *laidOut) look(ctx context.Context, log Log) (there map[string]events.Effect, begun events.Record, err error) {
	there = make(map[string]events.Effect)
	info, err := log.Info(ctx)
	if err != nil || info.Last == 0 {
		return there, nil, err
	}
	err = log.Follow(ctx, 1, func(e events.Entry) error {
		there[e.Key] = events.Put{Key: e.Key, Value: e.Value, Delete: e.Deleted}.Effect()
		if e.Key == events.LogKey(p.begin.N) {
			begun = append(events.Record{}, e.Value...)
		}
		if e.Revision >= info.Last {
			return errFound
		}
		return nil
	})
	if errors.Is(err, errFound) {
		err = nil
	}
	return there, begun, err
}
