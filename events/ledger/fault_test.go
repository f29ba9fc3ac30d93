package ledger_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/events/ledger"
)

// A faulty is a ledger with its genesis, seen by one client over a link that can go
// wrong and by another over one that cannot.
type faulty struct {
	t     *testing.T
	link  *link
	nc    *nats.Conn
	bad   *ledger.Ledger
	good  *ledger.Ledger
	w     *writer
	batch ledger.Batch
	key   string // of the write under test
}

// writes are the three ways to write, each as a call over the faulty link.
var writes = map[string]struct {
	key  string
	call func(f *faulty, ctx context.Context) error
}{
	"Append": {"log.2", func(f *faulty, ctx context.Context) error {
		_, err := f.bad.Append(ctx, f.batch)
		return err
	}},
	"PutBeacon": {events.BeaconKey, func(f *faulty, ctx context.Context) error {
		return f.bad.PutBeacon(ctx, []byte("beacon"), f.w.heads[events.HeadKey])
	}},
	"PutRecord": {"server.ps-1", func(f *faulty, ctx context.Context) error {
		return f.bad.PutRecord(ctx, "ps-1", []byte("record"))
	}},
}

func eachWrite(t *testing.T, test func(f *faulty, call func(ctx context.Context) error)) {
	for name, write := range writes {
		t.Run(name, func(t *testing.T) {
			url := startServer(t, nil).ClientURL()
			f := &faulty{t: t, link: newLink(), w: newWriter(t), key: write.key}
			f.good = create(t, connect(t, url))
			f.w.append(f.good, f.w.genesis())
			f.batch = f.w.ring("sso")
			js := connect(t, url, f.link.option())
			f.nc = js.Conn()
			var err error
			if f.bad, err = ledger.Open(within(t), js, bucket); err != nil {
				t.Fatal(err)
			}
			test(f, func(ctx context.Context) error { return write.call(f, ctx) })
		})
	}
}

// stored reports whether the write is in the bucket, and fails if half of it is.
func (f *faulty) stored() bool {
	f.t.Helper()
	_, err := f.good.Newest(within(f.t), f.key)
	if err != nil && !errors.Is(err, events.ErrNoEntry) {
		f.t.Fatal(err)
	}
	if f.key == "log.2" {
		f.checkWhole(err == nil)
	}
	return err == nil
}

// checkWhole reports a batch of which not all, or not nothing, is there.
func (f *faulty) checkWhole(stored bool) {
	f.t.Helper()
	for _, p := range f.batch.Puts {
		if _, err := f.good.Newest(within(f.t), p.Key); (err == nil) != stored {
			f.t.Errorf("%s is stored: %v; the event is: %v", p.Key, err == nil, stored)
		}
	}
	head, err := f.good.Newest(within(f.t), events.HeadKey)
	if want := f.batch.Head.Encode(); err != nil || (string(head.Value) == string(want)) != stored {
		f.t.Errorf("the head does not agree with the event being stored: %v; %v", stored, err)
	}
}

// await waits until the write has been stored.
func (f *faulty) await() {
	f.t.Helper()
	ctx := within(f.t)
	err := f.good.Follow(ctx, 1, func(e ledger.Entry) error {
		if e.Key == f.key {
			return errEnough
		}
		return nil
	})
	if err != errEnough {
		f.t.Fatalf("waiting for %s: %v", f.key, err)
	}
}

func brief(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

func (f *faulty) want(err, want error) {
	f.t.Helper()
	for _, sentinel := range []error{events.ErrConflict, events.ErrUnknown, events.ErrUnavailable} {
		if got := errors.Is(err, sentinel); got != (sentinel == want) {
			f.t.Errorf("error %v: is %q: %v", err, sentinel, got)
		}
	}
}

func TestFailedAndNotStored(t *testing.T) {
	eachWrite(t, func(f *faulty, call func(context.Context) error) {
		broken := f.nc.StatusChanged(nats.RECONNECTING)
		f.link.cut()
		<-broken
		f.want(call(within(f.t)), events.ErrUnavailable)
		if f.stored() {
			f.t.Error("it is stored all the same")
		}
	})
}

func TestNoBucketMeansNotStored(t *testing.T) {
	eachWrite(t, func(f *faulty, call func(context.Context) error) {
		js := connect(f.t, f.nc.ConnectedUrl())
		if err := js.DeleteStream(within(f.t), events.StreamName(bucket)); err != nil {
			f.t.Fatal(err)
		}
		f.want(call(within(f.t)), events.ErrUnavailable)
	})
}

func TestStoredButReplyLost(t *testing.T) {
	eachWrite(t, func(f *faulty, call func(context.Context) error) {
		f.link.hold(true, false)
		f.want(call(brief(f.t)), events.ErrUnknown)
		if !f.stored() {
			f.t.Error("it is not stored")
		}
	})
}

// TestStoredAndThenCut: a broken connection ends the wait at once, not with ctx.
func TestStoredAndThenCut(t *testing.T) {
	eachWrite(t, func(f *faulty, call func(context.Context) error) {
		f.link.hold(true, false)
		ended := make(chan error, 1)
		ctx := context.WithoutCancel(f.t.Context())
		ctx, cancel := context.WithTimeout(ctx, time.Hour)
		defer cancel()
		go func() { ended <- call(ctx) }()
		f.await()
		f.link.cut()
		f.want(<-ended, events.ErrUnknown)
		if !f.stored() {
			f.t.Error("it is not stored")
		}
	})
}

// TestLandedLate: what was given up lands when the link is let go, once, even if
// it is sent again in between.
func TestLandedLate(t *testing.T) {
	eachWrite(t, func(f *faulty, call func(context.Context) error) {
		f.link.hold(false, true)
		f.want(call(brief(f.t)), events.ErrUnknown)
		if f.stored() {
			f.t.Error("it is stored while the link is held")
		}
		f.link.letGo()
		f.await()
		if f.stored(); f.key == "log.2" {
			f.want(call(within(f.t)), events.ErrConflict)
		}
	})
}

// TestLostAndSentAgain: the same batch, sent again after an unknown end, is stored
// if it was lost.
func TestLostAndSentAgain(t *testing.T) {
	eachWrite(t, func(f *faulty, call func(context.Context) error) {
		f.link.hold(false, true)
		f.want(call(brief(f.t)), events.ErrUnknown)
		back := f.nc.StatusChanged(nats.CONNECTED)
		f.link.cut()
		f.link.mend()
		<-back
		if f.stored() {
			f.t.Error("it is stored although the link dropped it")
		}
		if err := call(within(f.t)); err != nil {
			f.t.Errorf("sent again: %v", err)
		}
		if !f.stored() {
			f.t.Error("it is not stored")
		}
	})
}

// TestConflictOverAllWrites: what is conditional conflicts; a record is its
// server's alone.
func TestConflictOverAllWrites(t *testing.T) {
	eachWrite(t, func(f *faulty, call func(context.Context) error) {
		other := f.w.void("first")
		if _, err := f.good.Append(within(f.t), other); err != nil {
			f.t.Fatal(err)
		}
		err := call(within(f.t))
		if f.key == "server.ps-1" {
			if err != nil {
				f.t.Errorf("PutRecord = %v, want nil", err)
			}
			return
		}
		f.want(err, events.ErrConflict)
	})
}
