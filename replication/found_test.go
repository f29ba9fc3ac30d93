package replication_test

import (
	"context"
	"errors"
	"testing"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/events/ledger"
	"github.com/keytide/keytide/replication"
)

// founding is a ledger's beginning of two events.
func founding(t *testing.T) replication.Founding {
	t.Helper()
	key := replication.NewKey(t)
	f, err := replication.NewFounding(replication.NewGenesis(t, "ps-1", key))
	if err != nil {
		t.Fatal(err)
	}
	pen := &replication.Pen{State: events.NewState(), Key: key, Server: "ps-1"}
	if _, err := pen.State.Apply(f.Genesis()); err != nil {
		t.Fatal(err)
	}
	f.Batches = append(f.Batches, pen.Batch(t, replication.CreateRing(t, "sso")))
	return f
}

// TestFoundingIsWrittenOnce: whatever of it is there already, and however a send ends.
func TestFoundingIsWrittenOnce(t *testing.T) {
	lostReply := func(l *link) func(context.Context, events.Batch) (events.Revision, error) {
		return func(ctx context.Context, b events.Batch) (events.Revision, error) {
			l.setAppend(nil)
			if _, err := l.Log.Append(ctx, b); err != nil {
				return 0, err
			}
			return 0, events.ErrUnknown
		}
	}
	lostRequest := func(l *link) func(context.Context, events.Batch) (events.Revision, error) {
		return func(context.Context, events.Batch) (events.Revision, error) {
			l.setAppend(nil)
			return 0, events.ErrUnknown
		}
	}
	for name, test := range map[string]struct {
		before int // batches that an earlier start has written
		append func(*link) func(context.Context, events.Batch) (events.Revision, error)
	}{
		"nothing there": {}, "event 1 is there": {before: 1}, "all is there": {before: 2},
		"the reply is lost": {append: lostReply}, "the request is lost": {append: lostRequest},
		"the second reply is lost": {before: 1, append: lostReply},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *core) {
				l := emptyLedger(t, c)
				f := founding(t)
				if test.before > 0 {
					if err := (replication.Founding{Batches: f.Batches[:test.before]}).Write(t.Context(), l); err != nil {
						t.Fatal(err)
					}
				}
				through := &link{Log: l}
				if test.append != nil {
					through.setAppend(test.append(through))
				}
				if err := f.Write(t.Context(), through); err != nil {
					t.Fatal(err)
				}
				checkFounded(t, l, f)
			})
		})
	}
}

func emptyLedger(t *testing.T, c *core) *ledger.Ledger {
	t.Helper()
	l, err := ledger.Create(t.Context(), c.js, ledger.Config{Bucket: events.BucketName(events.Keys, "other", 1)})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func checkFounded(t *testing.T, l *ledger.Ledger, f replication.Founding) {
	t.Helper()
	info, err := l.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	enough := errors.New("enough")
	n := 0
	err = l.Follow(t.Context(), 1, func(e events.Entry) error {
		if key, err := events.ParseKey(e.Key); err == nil && key.Kind == events.KeyLog {
			if events.Record(e.Value).Hash() != f.Batches[n].Record.Hash() {
				t.Errorf("event %d is another", n+1)
			}
			n++
		}
		if e.Revision == info.Last {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || n != len(f.Batches) {
		t.Errorf("%d events, %v; want %d", n, err, len(f.Batches))
	}
}

func TestFoundingOfAnotherLedgerIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		l := emptyLedger(t, c)
		first := founding(t)
		if err := first.Write(t.Context(), l); err != nil {
			t.Fatal(err)
		}
		if err := founding(t).Write(t.Context(), l); !errors.Is(err, events.ErrConflict) {
			t.Errorf("Write = %v, want events.ErrConflict", err)
		}
		checkFounded(t, l, first)
		broken := founding(t)
		broken.Batches = broken.Batches[1:]
		if err := broken.Write(t.Context(), l); err == nil {
			t.Error("a founding without event 1 is written")
		}
	})
}

// TestFoundingWithoutAnAnswer ends with ctx, and says what is known.
func TestFoundingWithoutAnAnswer(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		l := &link{Log: emptyLedger(t, c)}
		ctx, cancel := context.WithCancel(t.Context())
		l.setAppend(func(context.Context, events.Batch) (events.Revision, error) {
			cancel()
			return 0, events.ErrUnknown
		})
		if err := founding(t).Write(ctx, l); !errors.Is(err, events.ErrUnknown) {
			t.Errorf("Write = %v, want events.ErrUnknown", err)
		}
		l.setAppend(nil)
		gone := &oracle{Log: l, info: func(context.Context) (ledger.Info, error) {
			return ledger.Info{}, events.ErrUnavailable
		}}
		if err := founding(t).Write(t.Context(), gone); !errors.Is(err, events.ErrUnavailable) {
			t.Errorf("Write = %v, want events.ErrUnavailable", err)
		}
	})
}
