package ledger

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keytide/keytide/events"
)

const createTimeout = 1500 * time.Millisecond

// A Pace is the periods of a consumer.
type Pace struct {
	// Heartbeat is how often the server says that there is nothing new. Two that are
	// missed end following. From half a second to 30 s, and at most half of Expiry.
	Heartbeat time.Duration
	// Expiry is how long one request for messages lasts.
	Expiry time.Duration
	// Inactive is after how long the server forgets a consumer that nobody asks.
	Inactive time.Duration
}

// DefaultPace notices a dead link within 2 s.
func DefaultPace() Pace {
	return Pace{Heartbeat: time.Second, Expiry: 3 * time.Second, Inactive: 10 * time.Second}
}

// SetPace sets the periods of every Follow to come. It is for tests that live through
// months of virtual time, and must be called before any method.
func (l *Ledger) SetPace(p Pace) { l.pace = p }

// Follow makes a pull consumer that starts at revision from (0 is 1) and calls each
// with every entry, until ctx ends, each returns an error, or something may have
// been missed: a missed heartbeat, a gap in the consumer's own count, a consumer
// that is gone, a connection that broke. See events.Log.
func (l *Ledger) Follow(ctx context.Context, from Revision, each func(Entry) error) error {
	if err := l.check(); err != nil {
		return interrupted(err)
	}
	// Listen before anything is asked: a connection that breaks and is back between
	// two of the steps below must not go unnoticed.
	broken := l.nc.StatusChanged(nats.DISCONNECTED, nats.RECONNECTING, nats.CLOSED)
	defer l.nc.RemoveStatusListener(broken)
	f := &follower{bucket: l.bucket, each: each, ended: make(chan error, 1), turn: make(chan struct{}, 1)}
	ahead, stopAhead := context.WithTimeout(ctx, createTimeout)
	aheadDone := make(chan struct{})
	go func() {
		defer close(aheadDone)
		l.ahead(ahead, max(from, 1), f)
	}()
	defer func() { f.close(); stopAhead(); <-aheadDone }()
	create, cancel := context.WithTimeout(ctx, createTimeout)
	defer cancel()
	consumer, err := l.js.CreateConsumer(create, l.stream, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:   uint64(max(from, 1)),
		AckPolicy:     jetstream.AckNonePolicy,
		MemoryStorage: true, Replicas: 1,
		InactiveThreshold: l.pace.Inactive,
	})
	if err != nil {
		return l.followError(ctx, err)
	}
	consuming, err := consumer.Consume(f.take,
		jetstream.PullHeartbeat(l.pace.Heartbeat), jetstream.PullExpiry(l.pace.Expiry),
		jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) { f.end(interrupted(err)) }))
	if err != nil {
		return l.followError(ctx, err)
	}
	defer consuming.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-f.ended:
		return err
	case status := <-broken:
		return interrupted(fmt.Errorf("connection is %s", status))
	}
}

func interrupted(err error) error { return fmt.Errorf("%w: %w", events.ErrInterrupted, err) }

func (l *Ledger) followError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("bucket %s: %w", l.bucket, events.ErrNoBucket)
	}
	return fmt.Errorf("bucket %s: %w", l.bucket, interrupted(err))
}

// A follower hands one consumer's messages over, one at a time.
type follower struct {
	bucket string
	each   func(Entry) error
	ended  chan error // gets the first reason to end; holds one

	// turn is full while each runs, so that close waits for it. It guards the fields
	// below as a mutex would, whose waiters keep a bubble's time from passing.
	turn   chan struct{}
	closed bool
	count  uint64   // messages that the consumer has brought
	last   Revision // of the newest of them
	handed Revision // of the newest that each has got, by the consumer or ahead of it
}

func (f *follower) end(err error) {
	select {
	case f.ended <- err:
	default:
	}
}

// close returns when each is not running, and never will again.
func (f *follower) close() {
	f.turn <- struct{}{}
	defer func() { <-f.turn }()
	f.closed = true
}

func (f *follower) take(msg jetstream.Msg) {
	f.turn <- struct{}{}
	defer func() { <-f.turn }()
	if f.closed {
		return
	}
	err := f.hand(msg)
	if err != nil {
		f.closed = true
		f.end(err)
	}
}

func (f *follower) hand(msg jetstream.Msg) error {
	meta, err := msg.Metadata()
	if err != nil {
		return interrupted(err)
	}
	f.count++
	revision := Revision(meta.Sequence.Stream)
	if meta.Sequence.Consumer != f.count || revision <= f.last {
		return interrupted(fmt.Errorf("message %d of the consumer, revision %d, came as number %d after revision %d",
			meta.Sequence.Consumer, revision, f.count, f.last))
	}
	f.last = revision
	if revision <= f.handed {
		return nil
	}
	entry, err := newEntry(f.bucket, msg.Subject(), msg.Headers(), msg.Data())
	if err != nil {
		return err
	}
	entry.Revision, entry.Stored, entry.Pending = revision, meta.Timestamp, meta.NumPending
	f.handed = revision
	return f.each(entry)
}

// newEntry reads what a message says of itself.
func newEntry(bucket, subject string, header nats.Header, data []byte) (Entry, error) {
	key, ok := events.KeyOf(bucket, subject)
	if !ok {
		return Entry{}, fmt.Errorf("bucket %s: %w: holds subject %q", bucket, events.ErrSettings, subject)
	}
	entry := Entry{Key: key, Value: data, Batch: header.Get(batchIDHeader)}
	if entry.Batch != "" {
		entry.Place, _ = strconv.Atoi(header.Get(batchSeqHeader))
	}
	if op := header.Get(kvOperationHeader); op == kvDelete || op == kvPurge {
		entry.Deleted, entry.Value = true, nil
	}
	return entry, nil
}

// Newest returns the newest entry of a KV key. In a cluster any replica may answer,
// so it may be a moment old: it is for looking, not for deciding. The error wraps
// events.ErrNoEntry where there never was one.
func (l *Ledger) Newest(ctx context.Context, key string) (Entry, error) {
	if err := l.check(); err != nil {
		return Entry{}, fmt.Errorf("key %s: %w", key, err)
	}
	stream, err := l.js.Stream(ctx, l.stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return Entry{}, fmt.Errorf("bucket %s: %w", l.bucket, events.ErrNoBucket)
	}
	var msg *jetstream.RawStreamMsg
	if err == nil {
		msg, err = stream.GetLastMsgForSubject(ctx, events.Subject(l.bucket, key))
	}
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return Entry{}, fmt.Errorf("key %s: %w", key, events.ErrNoEntry)
	}
	if err != nil {
		return Entry{}, fmt.Errorf("key %s: %w: %w", key, events.ErrUnavailable, err)
	}
	entry, err := newEntry(l.bucket, msg.Subject, msg.Header, msg.Data)
	entry.Revision, entry.Stored = Revision(msg.Sequence), msg.Time
	return entry, err
}
