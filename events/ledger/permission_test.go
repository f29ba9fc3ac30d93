package ledger_test

import (
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

// A policy server's permissions: its bucket's subjects, and to follow them.
func writerPermissions(stream string) *server.Permissions {
	return &server.Permissions{
		Publish: &server.SubjectPermission{Allow: []string{
			events.Subjects(bucket), "$JS.API.STREAM.INFO." + stream, "$JS.API.DIRECT.GET." + stream + ".>",
			"$JS.API.CONSUMER.CREATE." + stream + ".>", "$JS.API.CONSUMER.MSG.NEXT." + stream + ".>",
		}},
		Subscribe: &server.SubjectPermission{Allow: []string{"_INBOX.>"}},
	}
}

// startGuarded runs a server with users admin and writer, and a ledger of two events.
func startGuarded(t *testing.T, more ...string) (admin *ledger.Ledger, writing jetstream.JetStream, w *writer) {
	t.Helper()
	permissions := writerPermissions(events.StreamName(bucket))
	permissions.Publish.Allow = append(permissions.Publish.Allow, more...)
	s := startServer(t, func(o *server.Options) {
		o.Users = []*server.User{{Username: "admin", Password: "a"}, {Username: "writer", Password: "w", Permissions: permissions}}
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
