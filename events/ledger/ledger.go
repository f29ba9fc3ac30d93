package ledger

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keytide/keytide/events"
)

// The words of events.Log, under the names by which callers of a Ledger know them.
type (
	Batch    = events.Batch
	Put      = events.Put
	Entry    = events.Entry
	Revision = events.Revision
)

// A Ledger is an events.Log on a bucket. It is safe for concurrent use.
type Ledger struct {
	nc     *nats.Conn
	js     jetstream.JetStream
	bucket string
	stream string
}

var _ events.Log = (*Ledger)(nil)

// Config says how Create makes a bucket.
type Config struct {
	// Bucket is its name; see events.BucketName.
	Bucket string
	// Replicas is how many servers keep it: the size of the core. If zero, 1.
	Replicas int
	// MaxBytes is the most that it may grow to on each server's disk. A full
	// bucket refuses changes. If zero, 1 GiB.
	MaxBytes int64
}

// Create makes the bucket of a new ledger. One that exists is never touched: the
// error then wraps events.ErrBucketExists. It wraps events.ErrUnknown if the bucket
// may have been made.
func Create(ctx context.Context, js jetstream.JetStream, cfg Config) (*Ledger, error) {
	if _, _, _, err := events.ParseBucket(cfg.Bucket); err != nil {
		return nil, err
	}
	want := cfg.stream()
	// JetStream answers a request for a stream that exists with the same settings
	// as if it had made it. A nonce makes the settings of each request its own.
	want.Metadata = map[string]string{"keytide.made": rand.Text()}
	_, err := js.CreateStream(ctx, want)
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", cfg.Bucket, createError(err))
	}
	return bind(js, cfg.Bucket), nil
}

func createError(err error) error {
	var api *jetstream.APIError
	switch {
	case errors.Is(err, jetstream.ErrStreamNameAlreadyInUse):
		return events.ErrBucketExists
	case errors.As(err, &api), errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrJetStreamNotEnabled):
		return fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	return fmt.Errorf("%w: %w", events.ErrUnknown, err)
}

// Open binds to a ledger's bucket. It never makes one: the error wraps
// events.ErrNoBucket where there is none, events.ErrSettings where one has settings
// that could lose events, events.ErrUnavailable where the store does not answer.
func Open(ctx context.Context, js jetstream.JetStream, bucket string) (*Ledger, error) {
	if _, _, _, err := events.ParseBucket(bucket); err != nil {
		return nil, err
	}
	l := bind(js, bucket)
	info, err := l.info(ctx)
	if err != nil {
		return nil, err
	}
	if faults := settingsFaults(bucket, info.Config); len(faults) > 0 {
		return nil, &SettingsError{Bucket: bucket, Faults: faults}
	}
	return l, nil
}

func bind(js jetstream.JetStream, bucket string) *Ledger {
	return &Ledger{nc: js.Conn(), js: js, bucket: bucket, stream: events.StreamName(bucket)}
}

// Bucket returns the bucket's name.
func (l *Ledger) Bucket() string { return l.bucket }

func (l *Ledger) info(ctx context.Context) (*jetstream.StreamInfo, error) {
	s, err := l.js.Stream(ctx, l.stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, fmt.Errorf("bucket %s: %w", l.bucket, events.ErrNoBucket)
	}
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w: %w", l.bucket, events.ErrUnavailable, err)
	}
	return s.CachedInfo(), nil
}

// Info is the state of a bucket.
type Info struct {
	Created  time.Time // changes when a bucket is made anew under the same name
	First    Revision
	Last     Revision // the newest revision that there ever was
	Msgs     uint64
	Bytes    uint64
	MaxBytes int64
	Replicas int
	Sealed   bool // takes no more writes
}

// Info asks for the bucket's state. Errors are those of Open, but for the settings,
// which it does not judge.
func (l *Ledger) Info(ctx context.Context) (Info, error) {
	info, err := l.info(ctx)
	if err != nil {
		return Info{}, err
	}
	return Info{
		Created: info.Created, First: Revision(info.State.FirstSeq), Last: Revision(info.State.LastSeq),
		Msgs: info.State.Msgs, Bytes: info.State.Bytes, MaxBytes: info.Config.MaxBytes,
		Replicas: info.Config.Replicas, Sealed: info.Config.Sealed,
	}, nil
}
