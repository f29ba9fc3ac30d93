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
	usable func() error // nil: always
	pace   Pace
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
// may have been made. While a core has not found servers enough for it, as after an
// election, Create goes on asking until ctx ends.
func Create(ctx context.Context, js jetstream.JetStream, cfg Config) (*Ledger, error) {
	if _, _, _, err := events.ParseBucket(cfg.Bucket); err != nil {
		return nil, err
	}
	want := cfg.stream()
	// JetStream answers a request for a stream that exists with the same settings
	// as if it had made it. A nonce makes the settings of each request its own.
	want.Metadata = map[string]string{"keytide.made": rand.Text()}
	for {
		_, err := js.CreateStream(ctx, want)
		if err == nil {
			return bind(js, cfg.Bucket, nil), nil
		}
		var api *jetstream.APIError
		if errors.As(err, &api) && api.ErrorCode == codeNoPeers && pause(ctx, createPause) {
			continue
		}
		return nil, fmt.Errorf("bucket %s: %w", cfg.Bucket, createError(err))
	}
}

// Seal makes a bucket refuse every write, for good, and gives back the room that it had
// reserved. It needs SealAccess. Errors are those of Open.
func (l *Ledger) Seal(ctx context.Context) error {
	info, err := l.info(ctx)
	if err != nil || info.Config.Sealed {
		return err
	}
	sealed := info.Config
	sealed.Sealed = true
	sealed.MaxBytes = int64(info.State.Bytes) + sealedRoom
	if _, err := l.js.UpdateStream(ctx, sealed); err != nil {
		return fmt.Errorf("sealing bucket %s: %w: %w", l.bucket, events.ErrUnknown, err)
	}
	return nil
}

// sealedRoom is kept free in a sealed bucket, for what the store itself may add.
const sealedRoom = 1 << 20

const (
	codeNoPeers = 10005 // no suitable peers for placement
	createPause = 250 * time.Millisecond
)

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
	l, err := Bind(js, bucket, nil)
	if err != nil {
		return nil, err
	}
	info, err := l.Info(ctx)
	if err != nil {
		return nil, err
	}
	if err := info.Unsafe(bucket); err != nil {
		return nil, err
	}
	return l, nil
}

// Bind is Open without a look at the bucket: for a store that does not answer yet.
// Who follows it sees by Info whether the bucket is there and as it must be. usable,
// unless it is nil, is asked before each use of the store; its error is one of
// events.ErrUnavailable.
func Bind(js jetstream.JetStream, bucket string, usable func() error) (*Ledger, error) {
	if _, _, _, err := events.ParseBucket(bucket); err != nil {
		return nil, err
	}
	return bind(js, bucket, usable), nil
}

func bind(js jetstream.JetStream, bucket string, usable func() error) *Ledger {
	return &Ledger{nc: js.Conn(), js: js, bucket: bucket, stream: events.StreamName(bucket), usable: usable, pace: DefaultPace()}
}

// check asks whether the store may be used at all.
func (l *Ledger) check() error {
	if l.usable == nil {
		return nil
	}
	if err := l.usable(); err != nil {
		return fmt.Errorf("%w: %w", events.ErrUnavailable, err)
	}
	return nil
}

// Bucket returns the bucket's name.
func (l *Ledger) Bucket() string { return l.bucket }

func (l *Ledger) info(ctx context.Context) (*jetstream.StreamInfo, error) {
	if err := l.check(); err != nil {
		return nil, fmt.Errorf("bucket %s: %w", l.bucket, err)
	}
	s, err := l.js.Stream(ctx, l.stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, fmt.Errorf("bucket %s: %w", l.bucket, events.ErrNoBucket)
	}
	if err != nil {
		if denied := l.denied("$JS.API.STREAM.INFO." + l.stream); denied != nil {
			err = denied
		}
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
	// MaxConsumers is how many may follow the bucket, Consumers how many do.
	MaxConsumers, Consumers int
	Sealed                  bool // takes no more writes
	// Alone is whether the core server that answered has not heard from a majority of
	// the core of late: one that is cut off, and does not know yet that it leads no more.
	Alone bool
	// Faults names each setting by which the bucket could lose events.
	Faults []string
}

// Unsafe returns the faults as a *SettingsError; nil if there are none.
func (i Info) Unsafe(bucket string) error {
	if len(i.Faults) == 0 {
		return nil
	}
	return &SettingsError{Bucket: bucket, Faults: i.Faults}
}

// Info asks for the bucket's state. Errors are those of Open; unsafe settings are
// none, but named.
func (l *Ledger) Info(ctx context.Context) (Info, error) {
	info, err := l.info(ctx)
	if err != nil {
		return Info{}, err
	}
	return Info{
		Created: info.Created, First: Revision(info.State.FirstSeq), Last: Revision(info.State.LastSeq),
		Msgs: info.State.Msgs, Bytes: info.State.Bytes, MaxBytes: info.Config.MaxBytes,
		Replicas: info.Config.Replicas, Sealed: info.Config.Sealed, MaxConsumers: info.Config.MaxConsumers, Consumers: info.State.Consumers,
		Alone: alone(info.Cluster), Faults: settingsFaults(l.bucket, info.Config),
	}, nil
}

// hearsOf is within what time a leader hears from each replica that is well; they
// speak to each other every second.
const hearsOf = 2500 * time.Millisecond

func alone(c *jetstream.ClusterInfo) bool {
	if c == nil || len(c.Replicas) == 0 {
		return false
	}
	heard := 1 // from itself
	for _, peer := range c.Replicas {
		if !peer.Offline && peer.Active < hearsOf {
			heard++
		}
	}
	return c.Leader == "" || 2*heard <= 1+len(c.Replicas)
}
