package events

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/keytide/keytide/keystore"
)

// A Revision is a position in the bucket's stream. The revision of a KV key is
// that of its newest message; 0 stands for a key that never had one.
type Revision uint64

// MaxBatch is the most messages that a batch may have: the event, its effects and
// the head.
const MaxBatch = 256

// MaxValueSize is the most bytes that a value may have.
const MaxValueSize = 64 << 10

// A Put writes or deletes one KV key within a batch.
type Put struct {
	Key    string
	Value  []byte // empty where Delete
	Delete bool
	// Expect is the revision that the key must have. 0: it must never have been
	// written; a deleted key has the revision of its deletion.
	Expect Revision
}

// A Batch is one change: an event and everything that its effects name.
type Batch struct {
	N            keystore.N
	Record       Record
	Puts         []Put // the event's effects, in their order: sorted by key
	Head         Head
	HeadRevision Revision // that the head must have; 0: the ledger is empty
	// Over is the revision that the event's own place must have. It is 0, because the
	// place must be free, but where an event takes the place of what nobody may read.
	Over Revision
}

// Check reports whether the batch is complete and consistent: puts that are
// exactly the event's effects, a head that names the event. The error wraps
// keystore.ErrInvalid or ErrMalformed.
func (b Batch) Check() error {
	ev, err := Decode(b.Record)
	if err != nil {
		return fmt.Errorf("batch: %w", err)
	}
	if ev.N != b.N || b.Head.N != b.N || b.Head.Hash != b.Record.Hash() {
		return invalid("batch: event %d, batch %d and head %d are not one", ev.N, b.N, b.Head.N)
	}
	if len(b.Puts)+2 > MaxBatch {
		return invalid("batch: %d messages; at most %d are allowed", len(b.Puts)+2, MaxBatch)
	}
	if !slices.EqualFunc(b.Puts, ev.Effects, Put.is) {
		return invalid("batch: the puts are not the effects of event %d", ev.N)
	}
	return nil
}

func (p Put) is(e Effect) bool { return p.Effect() == e && (!p.Delete || len(p.Value) == 0) }

// Effect returns what an event says of this put.
func (p Put) Effect() Effect {
	if p.Delete {
		return Effect{Key: p.Key, Deleted: true}
	}
	return Effect{Key: p.Key, Hash: HashOf(p.Value)}
}

// An Entry is one message of the bucket, as a reader gets it.
type Entry struct {
	Key      string
	Value    []byte // empty where Deleted
	Deleted  bool
	Revision Revision
	Stored   time.Time // the store's clock
	// Batch is the id of the atomic batch that the message came in, Place its place
	// there from 1. A message that came alone has "" and 0: a record, a beacon, or a
	// value that somebody put by hand. The store's word, not proof of anything.
	Batch string
	Place int
	// Pending is how many messages the store had after this one when it sent it.
	Pending uint64
}

// A Log is a durable, totally ordered log of the events of one ledger, with the
// values that they put, the servers' records and the beacon. All methods are safe
// for concurrent use.
//
// A write that returns nil is durable. A write's error wraps
//
//   - ErrConflict: it is not stored, and never will be. Another write was first.
//   - ErrUnavailable: it is not stored, and never will be.
//   - ErrUnknown: it may be stored, or may still be stored later. It stays unknown
//     until the event at that n is known. To send the same batch again is safe: it
//     is stored at most once. So is it after ErrConflict and ErrUnavailable; none
//     of these errors says anything of an earlier call with the same batch.
//   - keystore.ErrInvalid or ErrMalformed: it was not sent.
//
// The log never retries a write whose fate is unknown; callers do.
type Log interface {
	// Append stores a batch whole or not at all, and returns the head's revision.
	// The batch's other messages have the revisions just before it, in order.
	Append(ctx context.Context, b Batch) (Revision, error)
	// PutBeacon stores the beacon if the head is at that revision.
	PutBeacon(ctx context.Context, value []byte, head Revision) error
	// PutRecord stores a policy server's own record, unconditionally: nobody else
	// may write it.
	PutRecord(ctx context.Context, server string, value []byte) error
	// PutBack stores, alone, what an event has put before: its own record, or an effect
	// of it. The key must have the revision Expect.
	PutBack(ctx context.Context, p Put) error
	// Follow calls each with every entry from a revision on, in order, and goes on
	// with new ones. It returns ctx's error, what each returned, or, as soon as it
	// may have missed something, an error that wraps ErrInterrupted; each is never
	// called after it returned. each must not keep Value's bytes to write to them.
	Follow(ctx context.Context, from Revision, each func(Entry) error) error
}
