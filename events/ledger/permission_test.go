package ledger_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/events/ledger"
)

func permissions(publish []string) *server.Permissions {
	return &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: publish},
		Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}},
	}
}

// startGuarded runs a server with users admin, writer and reader, and a ledger of two
// events.
func startGuarded(t *testing.T, more ...string) (admin *ledger.Ledger, writing jetstream.JetStream, w *writer) {
	t.Helper()
	writer := append(ledger.WriteAccess(bucket), more...)
	s := startServer(t, func(o *server.Options) {
		o.Users = []*server.User{
			{Username: "admin", Password: "a"},
			{Username: "writer", Password: "w", Permissions: permissions(writer)},
			{Username: "reader", Password: "r", Permissions: permissions(ledger.ReadAccess(bucket))},
		}
	})
	admin = create(t, connect(t, s.ClientURL(), nats.UserInfo("admin", "a")))
	w = newWriter(t)
	w.append(admin, w.genesis())
	w.append(admin, w.ring("sso"))
	return admin, connect(t, s.ClientURL(), nats.UserInfo("writer", "w")), w
}

func TestWriterCredentialsSuffice(t *testing.T) {
	_, js, w := startGuarded(t)
	l, err := ledger.Open(within(t), js, bucket)
	if err != nil {
		t.Fatal(err)
	}
	head := w.append(l, w.void("by the writer"))
	if err := l.PutBeacon(within(t), []byte("beacon"), head); err != nil {
		t.Error(err)
	}
	if err := l.PutRecord(within(t), "ps-1", []byte("record")); err != nil {
		t.Error(err)
	}
	if got := contents(t, l); len(got) == 0 {
		t.Error("nothing to follow")
	}
}

// TestReaderReads: and is told at each write why it is none.
func TestReaderReads(t *testing.T) {
	_, writing, w := startGuarded(t)
	l, err := ledger.Open(within(t), connect(t, writing.Conn().ConnectedUrl(), nats.UserInfo("reader", "r")), bucket)
	if err != nil {
		t.Fatal(err)
	}
	if got := contents(t, l); len(got) == 0 {
		t.Error("nothing to follow")
	}
	for name, write := range map[string]func(context.Context) error{
		"event":  func(ctx context.Context) error { _, err := l.Append(ctx, w.void("by the reader")); return err },
		"beacon": func(ctx context.Context) error { return l.PutBeacon(ctx, []byte("beacon"), w.heads[events.HeadKey]) },
		"record": func(ctx context.Context) error { return l.PutRecord(ctx, "ps-1", []byte("record")) },
	} {
		if err := write(brief(t)); !errors.Is(err, events.ErrUnavailable) || !errors.Is(err, nats.ErrPermissionViolation) {
			t.Errorf("%s: %v; want ErrUnavailable, and that it is not permitted", name, err)
		}
	}
}

// TestMakerMakes: its credentials suffice for Create, those of others do not.
func TestMakerMakes(t *testing.T) {
	s := startServer(t, func(o *server.Options) {
		o.Users = []*server.User{
			{Username: "writer", Password: "w", Permissions: permissions(ledger.WriteAccess(bucket))},
			{Username: "maker", Password: "m", Permissions: permissions(ledger.CreateAccess(bucket))},
		}
	})
	writing := connect(t, s.ClientURL(), nats.UserInfo("writer", "w"))
	if _, err := ledger.Create(brief(t), writing, ledger.Config{Bucket: bucket}); err == nil {
		t.Error("a writer makes buckets")
	}
	create(t, connect(t, s.ClientURL(), nats.UserInfo("maker", "m")))
	if _, err := ledger.Open(within(t), writing, bucket); err != nil {
		t.Error(err)
	}
	foreign, err := ledger.Bind(writing, events.BucketName(events.Hosts, "main", 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = foreign.Info(brief(t))
	if !errors.Is(err, events.ErrUnavailable) || !errors.Is(err, nats.ErrPermissionViolation) {
		t.Errorf("a foreign bucket: %v; want that it is not permitted", err)
	}
}

// TestStoreThatMayNotBeUsed: nothing is sent to it.
func TestStoreThatMayNotBeUsed(t *testing.T) {
	admin, js, w := startGuarded(t)
	old := errors.New("too old")
	l, err := ledger.Bind(js, bucket, func() error { return old })
	if err != nil {
		t.Fatal(err)
	}
	before := contents(t, admin)
	_, info := l.Info(within(t))
	_, newest := l.Newest(within(t), events.HeadKey)
	_, appended := l.Append(within(t), w.void("x"))
	for name, err := range map[string]error{
		"info": info, "newest": newest, "append": appended,
		"beacon": l.PutBeacon(within(t), nil, 1), "record": l.PutRecord(within(t), "ps-1", nil),
	} {
		if !errors.Is(err, events.ErrUnavailable) || !errors.Is(err, old) {
			t.Errorf("%s: %v, want ErrUnavailable because of what usable said", name, err)
		}
	}
	if err := l.Follow(within(t), 1, func(ledger.Entry) error { return nil }); !errors.Is(err, events.ErrInterrupted) || !errors.Is(err, old) {
		t.Errorf("follow: %v", err)
	}
	checkSame(t, admin, before)
}

// TestWriterCannotLoseEvents: neither may a writer ask for it, nor would the stream
// do it for one who may.
func TestWriterCannotLoseEvents(t *testing.T) {
	stream := events.StreamName(bucket)
	purge, remove := "$JS.API.STREAM.PURGE."+stream, "$JS.API.STREAM.MSG.DELETE."+stream
	t.Run("permissions", func(t *testing.T) {
		admin, js, _ := startGuarded(t)
		before := contents(t, admin)
		for _, subject := range []string{purge, remove, "$JS.API.STREAM.DELETE." + stream, "$JS.API.STREAM.UPDATE." + stream} {
			if _, err := js.Conn().RequestWithContext(brief(t), subject, []byte(`{"seq":1}`)); err == nil {
				t.Errorf("%s is answered", subject)
			}
		}
		checkSame(t, admin, before)
	})
	t.Run("stream", func(t *testing.T) {
		admin, js, _ := startGuarded(t, purge, remove)
		before := contents(t, admin)
		for _, c := range []struct{ subject, body, rollup string }{
			{subject: purge}, {subject: purge, body: `{"filter":"` + events.Subject(bucket, "log.1") + `"}`},
			{subject: remove, body: `{"seq":1}`}, {subject: remove, body: `{"seq":1,"no_erase":true}`},
			{subject: events.Subject(bucket, "log.1"), rollup: "sub"}, {subject: events.Subject(bucket, "anything"), rollup: "all"},
		} {
			msg := &nats.Msg{Subject: c.subject, Data: []byte(c.body), Header: nats.Header{}}
			if c.rollup != "" {
				msg.Header.Set(jetstream.MsgRollup, c.rollup)
			}
			reply, err := js.Conn().RequestMsgWithContext(within(t), msg)
			if err != nil || !strings.Contains(string(reply.Data), `"error"`) {
				t.Errorf("%s %s %s: %v, %v, want a refusal", c.subject, c.body, c.rollup, reply, err)
			}
		}
		checkSame(t, admin, before)
	})
}

func checkSame(t *testing.T, l *ledger.Ledger, before []ledger.Entry) {
	t.Helper()
	if diff := cmp.Diff(before, contents(t, l)); diff != "" {
		t.Errorf("the bucket changed:\n%s", diff)
	}
}

// TestSecondMessageOnAnEventIsSeenAndNamed: the stream takes it, as KV history. A
// reader that is there gets it as an entry for an n that it knows; one that comes
// late finds a gap, and the revision of what took the event's place.
func TestSecondMessageOnAnEventIsSeenAndNamed(t *testing.T) {
	admin, js, w := startGuarded(t)
	w.append(admin, w.void("third"))
	entries, _ := following(t, within(t), admin, 1)
	for e := range entries {
		if e.Pending == 0 {
			break
		}
	}
	ack, err := js.Publish(within(t), events.Subject(bucket, events.LogKey(2)), []byte("forged"))
	if err != nil {
		t.Fatal(err)
	}
	seen := <-entries
	key, err := events.ParseKey(seen.Key)
	if err != nil || key.Kind != events.KeyLog || key.N != 2 || seen.Revision != ledger.Revision(ack.Sequence) || seen.Batch != "" {
		t.Errorf("entry = %+v, %v", seen, err)
	}
	late := events.NewState()
	var refused error
	err = admin.Follow(within(t), 1, func(e ledger.Entry) error {
		if strings.HasPrefix(e.Key, "log.") {
			if _, refused = late.Apply(e.Value); refused != nil {
				return errEnough
			}
		}
		return nil
	})
	if err != errEnough || !errors.Is(refused, events.ErrNotNext) || late.N() != 1 {
		t.Errorf("a late reader: %v, %v at event %d; want ErrNotNext after event 1", err, refused, late.N())
	}
	found, err := admin.Newest(within(t), events.LogKey(late.N()+1))
	if err != nil || found.Revision != seen.Revision {
		t.Errorf("Newest(log.2) = %+v, %v, want revision %d", found, err, seen.Revision)
	}
	if err := w.state.Clone().Fold(events.Record(found.Value)); !errors.Is(err, events.ErrMalformed) {
		t.Errorf("what took its place: %v", err)
	}
}
