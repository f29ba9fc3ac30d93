package ledger_test

import (
	"context"
	"errors"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/events/ledger"
)

// following runs Follow and passes its entries and its end on.
func following(t *testing.T, ctx context.Context, l *ledger.Ledger, from ledger.Revision) (<-chan ledger.Entry, <-chan error) {
	t.Helper()
	entries, ended := make(chan ledger.Entry, 100), make(chan error, 1)
	go func() {
		ended <- l.Follow(ctx, from, func(e ledger.Entry) error {
			entries <- e
			return nil
		})
	}()
	return entries, ended
}

func TestFollowFromARevisionAndOn(t *testing.T) {
	js := connect(t, startServer(t, nil).ClientURL())
	l := create(t, js)
	w := newWriter(t)
	first := w.append(l, w.genesis())
	ctx, cancel := context.WithCancel(within(t))
	entries, ended := following(t, ctx, l, first)
	if e := <-entries; e.Key != events.HeadKey || e.Revision != first || e.Pending != 0 {
		t.Errorf("the first entry = %+v", e)
	}
	for range 20 {
		w.append(l, w.void("x"))
		if e := <-entries; e.Key != events.LogKey(w.state.N()) {
			t.Errorf("entry %s, want event %d", e.Key, w.state.N())
		}
		if e := <-entries; e.Key != events.HeadKey || e.Revision != w.heads[events.HeadKey] {
			t.Errorf("entry %+v, want the head", e)
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Follow = %v, want Canceled", err)
	}
}

func TestFollowEndsWithWhatEachReturns(t *testing.T) {
	js := connect(t, startServer(t, nil).ClientURL())
	l := create(t, js)
	w := newWriter(t)
	w.append(l, w.genesis())
	calls := 0
	err := l.Follow(within(t), 0, func(ledger.Entry) error {
		calls++
		return errEnough
	})
	if err != errEnough || calls != 1 {
		t.Errorf("Follow = %v after %d calls, want what each returned after 1", err, calls)
	}
}

// TestFollowEndsOnAnyDoubt: whatever may hide an entry ends it with ErrInterrupted.
func TestFollowEndsOnAnyDoubt(t *testing.T) {
	for name, doubt := range map[string]func(t *testing.T, s *server.Server, js jetstream.JetStream, l *link){
		"cut":       func(_ *testing.T, _ *server.Server, _ jetstream.JetStream, l *link) { l.cut() },
		"half-open": func(_ *testing.T, _ *server.Server, _ jetstream.JetStream, l *link) { l.hold(true, true) },
		"server gone": func(_ *testing.T, s *server.Server, _ jetstream.JetStream, _ *link) {
			s.Shutdown()
		},
		"consumer deleted": func(t *testing.T, _ *server.Server, js jetstream.JetStream, _ *link) {
			stream, err := js.Stream(within(t), events.StreamName(bucket))
			if err != nil {
				t.Fatal(err)
			}
			for name := range stream.ConsumerNames(within(t)).Name() {
				if err := stream.DeleteConsumer(within(t), name); err != nil {
					t.Error(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, nil)
			healthy := connect(t, s.ClientURL())
			l := create(t, healthy)
			w := newWriter(t)
			w.append(l, w.genesis())
			wire := newLink()
			bad, err := ledger.Open(within(t), connect(t, s.ClientURL(), wire.option()), bucket)
			if err != nil {
				t.Fatal(err)
			}
			entries, ended := following(t, within(t), bad, 1)
			for range 4 {
				<-entries
			}
			doubt(t, s, healthy, wire)
			if err := <-ended; !errors.Is(err, events.ErrInterrupted) {
				t.Errorf("Follow = %v, want one that is ErrInterrupted", err)
			}
			wire.letGo()
			select {
			case e := <-entries:
				t.Errorf("entry %s after the end", e.Key)
			default:
			}
		})
	}
}

func TestFollowWithoutABucket(t *testing.T) {
	js := connect(t, startServer(t, nil).ClientURL())
	l := create(t, js)
	if err := js.DeleteStream(within(t), events.StreamName(bucket)); err != nil {
		t.Fatal(err)
	}
	err := l.Follow(within(t), 1, func(ledger.Entry) error { return nil })
	if !errors.Is(err, events.ErrNoBucket) {
		t.Errorf("Follow = %v, want one that is ErrNoBucket", err)
	}
}
