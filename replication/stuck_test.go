package replication_test

import (
	"context"
	"testing"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/replication"
)

// What was shown and could not be written is written once the disk takes it, also if
// the replicator was made anew in between: the file has no gap.
func TestFullDiskLosesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		n := c.run("replica.db")
		n.awaitReady()
		n.commit(replication.CreateRing(t, "sso"))
		mend := replication.FillDisk(t, n.Replica())
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			for {
				if _, err := n.Commit(ctx, replication.Roll(t, "sso", "")); err != nil {
					ended <- err
					return
				}
				<-time.After(time.Second) // in a bubble, time passes only in pauses
			}
		}()
		await(t, "disk alarm", func() bool { return n.alarm(replication.AlarmDisk, "") })
		n.awaitState(events.Stale)
		<-time.After(time.Minute) // following anew is asked for several times
		mend()
		n.awaitState(events.Fresh)
		cancel()
		<-ended
		want := n.commit(replication.Roll(t, "sso", "")).N
		n.stop()
		again := c.run("replica.db")
		if have, _ := again.Replica().Durable(); have != want {
			t.Errorf("after a restart the replica is at event %d, want %d", have, want)
		}
		again.awaitReady()
		again.commit(replication.Roll(t, "sso", ""))
	})
}
