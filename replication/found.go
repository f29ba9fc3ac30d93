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
// configurations pin. The error wraps events.ErrConflict if the ledger has begun
// already, and events.ErrUnknown if ctx ended before the fate of event 1 was known.
func Found(ctx context.Context, log events.Log, cfg FoundConfig) (events.Record, error) {
	batch, err := cfg.batch()
	if err != nil {
		return nil, fmt.Errorf("found: %w", err)
	}
	retry := newBackoff(uint64(time.Now().UnixNano()), settleFirst, settleMost)
	for unknown := false; ; {
		_, err := log.Append(ctx, batch)
		switch {
		case err == nil:
			return batch.Record, nil
		case errors.Is(err, events.ErrUnknown):
			unknown = true
		case unknown && errors.Is(err, events.ErrConflict):
			// Perhaps with an earlier send of the same bytes: see what is there.
			if first, err := ReadGenesis(ctx, log); err == nil {
				if first.Hash() == batch.Record.Hash() {
					return first, nil
				}
				return nil, fmt.Errorf("found: event 1: %w", events.ErrConflict)
			}
		case !unknown:
			return nil, fmt.Errorf("found: %w", err)
		}
		if !retry.pause(ctx) {
			return nil, fmt.Errorf("found: %w: %w", events.ErrUnknown, ctx.Err())
		}
	}
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
