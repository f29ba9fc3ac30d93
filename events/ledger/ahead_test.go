package ledger_test

import (
	"slices"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/events/ledger"
)

// TestAheadOfTheConsumer: what stands in the stream comes although no consumer can be
// made, and then comes once, not twice, where one can.
func TestAheadOfTheConsumer(t *testing.T) {
	noConsumers := slices.DeleteFunc(ledger.ReadAccess(bucket), func(subject string) bool {
		return subject == "$JS.API.CONSUMER.CREATE."+events.StreamName(bucket)+".>"
	})
	s := startServer(t, func(o *server.Options) {
		o.Users = []*server.User{
			{Username: "admin", Password: "a"},
			{Username: "reader", Password: "r", Permissions: permissions(noConsumers)},
		}
	})
	admin := create(t, connect(t, s.ClientURL(), nats.UserInfo("admin", "a")))
	w := newWriter(t)
	from := w.append(admin, w.genesis())
	w.append(admin, w.ring("sso"))
	for range 20 {
		w.append(admin, w.void("x"))
	}
	var want []ledger.Entry
	for _, e := range contents(t, admin) {
		if e.Revision >= from {
			want = append(want, e)
		}
	}
	l, err := ledger.Open(within(t), connect(t, s.ClientURL(), nats.UserInfo("reader", "r")), bucket)
	if err != nil {
		t.Fatal(err)
	}
	for _, reading := range []*ledger.Ledger{l, admin} {
		entries, _ := following(t, within(t), reading, from)
		for i, w := range want {
			got := <-entries
			if got.Key != w.Key || got.Revision != w.Revision || string(got.Value) != string(w.Value) || got.Deleted != w.Deleted ||
				got.Batch != w.Batch || got.Place != w.Place || !got.Stored.Equal(w.Stored) {
				t.Fatalf("entry %d = %+v, want %+v", i, got, w)
			}
		}
	}
	last := w.append(admin, w.void("later"))
	entries, _ := following(t, within(t), admin, last)
	if e := <-entries; e.Revision != last {
		t.Errorf("entry %+v, want revision %d", e, last)
	}
	select {
	case e := <-entries:
		t.Errorf("entry %+v came as well", e)
	default:
	}
}
