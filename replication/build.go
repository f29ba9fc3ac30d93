package replication

import (
	"context"
	"errors"
	"fmt"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
)

// ErrNotBegun: the bucket has no head yet: it is being laid out, or was given up.
var ErrNotBegun = errors.New("the bucket has not begun")

// Build fills an empty replica from a bucket, up to where that ended when Build began, and
// checks all of it, down to every value. An error that is ErrInterrupted or ErrUnavailable
// says nothing of the bucket. ErrNotBegun: nothing of it counts yet. After any other the
// bucket is not what the replica's pin says: not this ledger, not this epoch, not whole, not
// signed by its members.
func Build(ctx context.Context, log Log, r *Replica) error {
	info, err := log.Info(ctx)
	if err != nil {
		return err
	}
	if err := r.noteCreated(info.Created); err != nil {
		return err
	}
	b := building{replica: r, assembler: r.newAssembler(), end: info.Last}
	if info.Last > 0 {
		err = log.Follow(ctx, 1, b.take)
	}
	if err != nil && !errors.Is(err, errFound) {
		return err
	}
	if b.bad != nil {
		return b.bad
	}
	if !b.begun {
		return ErrNotBegun
	}
	return r.Check()
}

type building struct {
	replica   *Replica
	assembler *assembler
	end       events.Revision
	begun     bool  // a head has come
	bad       error // what is wrong with the bucket
}

func (b *building) take(e events.Entry) error {
	b.begun = b.begun || e.Key == events.HeadKey
	v := b.assembler.take(e)
	for _, alarm := range v.raise {
		if b.bad == nil && (alarm.Kind == AlarmForked || alarm.Kind == AlarmHalted) {
			b.bad = fmt.Errorf("%w: %s", errRefusedBucket, alarm.Why)
		}
	}
	if v.revision {
		b.replica.noteRevision(e.Key, e.Revision)
	}
	if v.part != nil {
		if v.part.show {
			if err := b.replica.show(v.part); err != nil {
				return err
			}
		}
		if err := b.replica.write(v.part); err != nil {
			return err
		}
	}
	if b.bad != nil || e.Revision >= b.end {
		return errFound
	}
	return nil
}

var errRefusedBucket = errors.New("the bucket is refused")

// CheckEpoch reports why a replica that Build has made must not take the place of an older
// one, which may be nil: the event by which its epoch began has to be signed by somebody who
// is, as far as that one knows, a member still.
func CheckEpoch(r, old *Replica) error {
	begun, ev, err := r.Epoch()
	if err != nil || old == nil {
		return err
	}
	old.Read(func(s *events.State) {
		if m, known := s.Member(ev.Server); known && m.Forgotten != 0 {
			err = fmt.Errorf("%w: epoch %d was begun by server %s, which event %d has forgotten", errRefusedBucket, begun.Number, ev.Server, m.Forgotten)
		}
	})
	return err
}

// Epoch returns the replica's epoch, and the event by which it began.
func (r *Replica) Epoch() (id events.EpochID, began events.Event, err error) {
	var n keystore.N
	r.Read(func(s *events.State) { id, n = s.Epoch(), s.EpochBegan() })
	rec, err := r.Record(n)
	if err == nil {
		began, err = events.Decode(rec)
	}
	return id, began, err
}
