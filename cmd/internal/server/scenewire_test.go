package server

import (
	"context"
	"crypto/ed25519"
	"errors"
	"sync"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/events/ledger"
	"github.com/keytide/keytide/replication"
)

// A wire is a server's way to one ledger. It can be cut, frozen, be late with what it
// sends, lose writes, and change what it carries.
type wire struct {
	replication.Log
	mu     sync.Mutex // guards the fields below
	cut    bool
	frozen chan struct{}        // everything waits until it is closed; nil: nothing does
	late   func() time.Duration // how late the next beacon that is sent comes; nil: it is not
	append func(ctx context.Context, b events.Batch) (events.Revision, error)
	record func(value []byte) []byte // what becomes of the own record; nil: nothing
	entry  func(events.Entry) events.Entry
}

var errWire = errors.New("the wire is cut")

func (w *wire) set(change func(w *wire)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(w)
}

func (w *wire) freeze() { w.set(func(w *wire) { w.frozen = make(chan struct{}) }) }

func (w *wire) thaw() {
	w.set(func(w *wire) {
		if w.frozen != nil {
			close(w.frozen)
			w.frozen = nil
		}
	})
}

func (w *wire) sever() { w.set(func(w *wire) { w.cut = true }) }
func (w *wire) heal()  { w.set(func(w *wire) { w.cut = false }) }

// goes waits while the wire is frozen, as a stopped process does, and loses what is sent
// over one that is cut.
func (w *wire) goes(ctx context.Context) error {
	w.mu.Lock()
	frozen := w.frozen
	w.mu.Unlock()
	if frozen != nil {
		<-frozen
	}
	w.mu.Lock()
	cut := w.cut
	w.mu.Unlock()
	if cut {
		<-ctx.Done()
		return errors.Join(events.ErrUnknown, errWire)
	}
	return nil
}

func (w *wire) Append(ctx context.Context, b events.Batch) (events.Revision, error) {
	if err := w.goes(ctx); err != nil {
		return 0, err
	}
	w.mu.Lock()
	instead := w.append
	w.mu.Unlock()
	if instead != nil {
		return instead(ctx, b)
	}
	return w.Log.Append(ctx, b)
}

func (w *wire) PutBeacon(ctx context.Context, value []byte, head events.Revision) error {
	if err := w.goes(ctx); err != nil {
		return err
	}
	w.mu.Lock()
	late := w.late
	w.mu.Unlock()
	if late == nil && ctx.Err() == nil {
		return w.Log.PutBeacon(ctx, value, head)
	}
	var by time.Duration
	if late != nil {
		by = late()
	}
	done := make(chan error, 1)
	time.AfterFunc(by, func() { // it is on its way, whatever its sender waits for
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		done <- w.Log.PutBeacon(ctx, value, head)
	})
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return errors.Join(events.ErrUnknown, ctx.Err())
	}
}

func (w *wire) PutRecord(ctx context.Context, server string, value []byte) error {
	if err := w.goes(ctx); err != nil {
		return err
	}
	w.mu.Lock()
	change := w.record
	w.mu.Unlock()
	if change != nil {
		value = change(value)
	}
	return w.Log.PutRecord(ctx, server, value)
}

func (w *wire) Info(ctx context.Context) (ledger.Info, error) {
	if err := w.goes(ctx); err != nil {
		return ledger.Info{}, errors.Join(events.ErrUnavailable, err)
	}
	return w.Log.Info(ctx)
}

// Follow of a wire that is cut looks well and brings nothing.
func (w *wire) Follow(ctx context.Context, from events.Revision, each func(events.Entry) error) error {
	if err := w.goes(ctx); err != nil {
		return errors.Join(events.ErrInterrupted, err)
	}
	return w.Log.Follow(ctx, from, func(e events.Entry) error {
		w.mu.Lock()
		frozen, change := w.frozen, w.entry
		w.mu.Unlock()
		if frozen != nil {
			select {
			case <-frozen:
			case <-ctx.Done():
				return errors.Join(events.ErrInterrupted, errWire)
			}
		}
		if err := w.goes(ctx); err != nil {
			return errors.Join(events.ErrInterrupted, err)
		}
		if change != nil {
			e = change(e)
		}
		return each(e)
	})
}

// skew has a server's clock be ahead, as far as the servers tell each other theirs: what
// it says of its own is, and what it hears of others' is that much behind.
func (w *wire) skew(id string, ahead time.Duration, signers map[string]ed25519.PrivateKey) {
	shift := func(value []byte, by time.Duration) []byte {
		rec, err := events.DecodeServer(value)
		if err != nil {
			return value
		}
		rec.At = rec.At.Add(by)
		signed, err := rec.Sign(signers[rec.ID])
		if err != nil {
			return value
		}
		return signed
	}
	w.set(func(w *wire) {
		w.record = func(value []byte) []byte { return shift(value, ahead) }
		w.entry = func(e events.Entry) events.Entry {
			if key, err := events.ParseKey(e.Key); err == nil && key.Kind == events.KeyServer && key.Name != id {
				e.Value = shift(e.Value, -ahead)
			}
			return e
		}
	})
}
