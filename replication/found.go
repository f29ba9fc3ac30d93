package replication

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
)

// A FoundConfig says how a ledger begins.
type FoundConfig struct {
	Genesis    events.Genesis
	Key        ed25519.PrivateKey // of the founder
	KSK        []byte             // value of ksk.<Genesis.KSK>
	Membership []byte             // value of material.<Genesis.Membership>
	Actor      string
	Reason     string
}

// Found writes event 1 to an empty ledger, and returns its record; its hash is what
// configurations pin. Errors are those of Write.
func Found(ctx context.Context, log Log, cfg FoundConfig) (events.Record, error) {
	f, err := NewFounding(cfg)
	if err != nil {
		return nil, err
	}
	if err := f.Write(ctx, log); err != nil {
		return nil, err
	}
	return f.Genesis(), nil
}

// A Founding is how a ledger begins: its first batches, signed before there is a
// ledger. Their heads' revisions are not known yet; Write fills them in.
type Founding struct {
	Batches []events.Batch
}

// NewFounding makes the founding of event 1 alone.
func NewFounding(cfg FoundConfig) (Founding, error) {
	batch, err := cfg.batch()
	if err != nil {
		return Founding{}, fmt.Errorf("found: %w", err)
	}
	return Founding{[]events.Batch{batch}}, nil
}

// Add appends an event that has no effects, signed by a member.
func (f *Founding) Add(ev events.Event, key ed25519.PrivateKey) error {
	s := events.NewState()
	for _, b := range f.Batches {
		if _, err := s.Apply(b.Record); err != nil {
			return fmt.Errorf("founding: %w: %w", keystore.ErrInvalid, err)
		}
	}
	ev.N, ev.ID, ev.Prev, ev.At = s.N()+1, newULID(), s.Hash(), time.Now().UTC()
	rec, err := events.Sign(ev, key)
	if err != nil {
		return fmt.Errorf("founding: %w", err)
	}
	if _, err := s.Apply(rec); err != nil {
		return fmt.Errorf("founding: %w: %w", keystore.ErrInvalid, err)
	}
	f.Batches = append(f.Batches, events.Batch{N: ev.N, Record: rec, Head: s.Head()})
	return nil
}

// Genesis is event 1.
func (f Founding) Genesis() events.Record { return f.Batches[0].Record }

// Check reports whether the batches are a ledger's beginning.
func (f Founding) Check() error {
	if len(f.Batches) == 0 {
		return fmt.Errorf("founding: %w: it has no event", keystore.ErrInvalid)
	}
	s := events.NewState()
	for _, b := range f.Batches {
		if err := b.Check(); err != nil {
			return fmt.Errorf("founding: %w", err)
		}
		if _, err := s.Apply(b.Record); err != nil {
			return fmt.Errorf("founding: %w: %w", keystore.ErrInvalid, err)
		}
	}
	return nil
}

// Write brings the batches into the ledger. What is there of them already, as after a
// crash, it leaves as it is, so that it may be called again until it succeeds. The
// error wraps events.ErrConflict if the ledger has begun in another way, and
// events.ErrUnknown if ctx ended before the fate of an event was known; the ledger
// may then have some of the batches.
func (f Founding) Write(ctx context.Context, log Log) error {
	if err := f.Check(); err != nil {
		return err
	}
	retry := newBackoff(uint64(time.Now().UnixNano()), settleFirst, settleMost)
	for unknown := false; ; {
		err := f.writeOnce(ctx, log)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, events.ErrUnknown):
			unknown = true
		case errors.Is(err, errBegun) || !unknown && !errors.Is(err, events.ErrConflict) && !errors.Is(err, events.ErrInterrupted):
			return fmt.Errorf("found: %w", err)
		}
		if !retry.pause(ctx) {
			if unknown {
				err = events.ErrUnknown
			}
			return fmt.Errorf("found: %w: %w", err, ctx.Err())
		}
	}
}

func (f Founding) writeOnce(ctx context.Context, log Log) error {
	there, head, err := f.read(ctx, log)
	if err != nil {
		return err
	}
	for _, b := range f.Batches[there:] {
		b.HeadRevision = head
		if head, err = log.Append(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

// errBegun: the ledger has begun in another way. It is events.ErrConflict.
var errBegun = fmt.Errorf("%w: the ledger has begun in another way", events.ErrConflict)

// read returns how many of the batches are in the ledger, and the head's revision.
func (f Founding) read(ctx context.Context, log Log) (there int, head events.Revision, err error) {
	info, err := log.Info(ctx)
	if err != nil || info.Last == 0 {
		return 0, 0, err
	}
	err = log.Follow(ctx, 1, func(e events.Entry) error {
		key, parseErr := events.ParseKey(e.Key)
		switch {
		case parseErr != nil:
		case key.Kind == events.KeyHead:
			head = e.Revision
		case key.Kind == events.KeyLog && int(key.N) <= len(f.Batches):
			if events.Record(e.Value).Hash() != f.Batches[key.N-1].Record.Hash() {
				return errBegun
			}
			there = max(there, int(key.N))
		}
		if e.Revision >= info.Last {
			return errFound
		}
		return nil
	})
	if errors.Is(err, errFound) {
		err = nil
	}
	return there, head, err
}

func (cfg FoundConfig) batch() (events.Batch, error) {
	payload, err := cfg.Genesis.Encode()
	if err != nil {
		return events.Batch{}, err
	}
	puts := []events.Put{
		{Key: events.KSKKey(cfg.Genesis.KSK), Value: cfg.KSK},
		{Key: events.MaterialKey(cfg.Genesis.Membership), Value: cfg.Membership},
	}
	slices.SortFunc(puts, func(a, b events.Put) int { return strings.Compare(a.Key, b.Key) })
	ev := events.Event{
		N: 1, ID: newULID(), Type: events.TypeGenesis, At: time.Now().UTC(), Server: cfg.Genesis.Founder.ID,
		Actor: cfg.Actor, Reason: cfg.Reason, Payload: payload,
	}
	for _, p := range puts {
		ev.Effects = append(ev.Effects, p.Effect())
	}
	rec, err := events.Sign(ev, cfg.Key)
	if err != nil {
		return events.Batch{}, err
	}
	s := events.NewState()
	if _, err := s.Apply(rec); err != nil {
		return events.Batch{}, fmt.Errorf("%w: %w", keystore.ErrInvalid, err)
	}
	return events.Batch{N: 1, Record: rec, Puts: puts, Head: s.Head()}, nil
}

var errFound = errors.New("found")

// ReadGenesis reads event 1 as it stands in the ledger. It proves nothing: whoever
// trusts it must know from elsewhere that the ledger is the right one. It waits for
// an event 1 for as long as ctx lasts.
func ReadGenesis(ctx context.Context, log events.Log) (events.Record, error) {
	var first events.Record
	err := log.Follow(ctx, 1, func(e events.Entry) error {
		if e.Key == events.LogKey(1) {
			first = slices.Clone(events.Record(e.Value))
			return errFound
		}
		return nil
	})
	if errors.Is(err, errFound) {
		return first, nil
	}
	return nil, fmt.Errorf("event 1: %w", err)
}

func newULID() ulid.ULID { return ulid.MustNew(ulid.Now(), rand.Reader) }
