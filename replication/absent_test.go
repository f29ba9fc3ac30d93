package replication_test

import (
	"testing"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/replication"
)

// A server that starts anew learns how a member was that stopped before: its record
// stands in front of where following begins.
func TestStoppedMemberIsKnownAfterARestart(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		first, second, _ := pair(t, c)
		second.stop()
		first.awaitView("ps-2", "stopped", func(r events.ServerRecord) bool { return r.State == events.Stopped })
		first.commit(replication.Roll(t, "sso", "")) // the cursor passes the record by
		first.stop()
		<-time.After(time.Hour)
		first = c.run("ps-1.db")
		first.awaitReady()
		if _, known := first.view("ps-2"); known {
			t.Fatal("it is known at once: the test shows nothing")
		}
		first.awaitView("ps-2", "stopped", func(r events.ServerRecord) bool { return r.State == events.Stopped && r.Applied.N == 4 })
		if v, _ := first.view("ps-2"); v.Age < time.Hour {
			t.Errorf("its word is %v old, want an hour", v.Age)
		}
		if clock := first.Clock(); !clock.OK {
			t.Errorf("clock = %+v, want ok", clock)
		}
	})
}
