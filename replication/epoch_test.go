package replication_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/events/ledger"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/replication"
)

// epochBucket makes the empty bucket of an epoch.
func (c *core) epochBucket(number keystore.Epoch) *ledger.Ledger {
	c.tb.Helper()
	l, err := ledger.Create(c.tb.Context(), c.js, ledger.Config{Bucket: events.BucketName(events.Keys, "main", number), MaxBytes: 1 << 24})
	if err != nil {
		c.tb.Fatal(err)
	}
	return l
}

// built builds a replica of an epoch's bucket.
func (c *core) built(log replication.Log, number keystore.Epoch) (*replication.Replica, error) {
	c.tb.Helper()
	pin := c.pin
	pin.Epoch = number
	r, err := replication.OpenReplica(filepath.Join(c.tb.TempDir(), "built.db"), pin)
	if err != nil {
		c.tb.Fatal(err)
	}
	c.tb.Cleanup(func() { r.Close() })
	return r, replication.Build(c.tb.Context(), log, r)
}

func (c *core) layout(source *replication.Replica, number keystore.Epoch) replication.Layout {
	return replication.Layout{Source: source, Epoch: number, Server: "ps-1", Key: c.key, Actor: "test", Reason: "test"}
}

// A shaky bucket fails one Lay or Append, without or with having stored it.
type shaky struct {
	*ledger.Ledger
	at, calls int
	stored    bool
}

func (s *shaky) fails() bool { s.calls++; return s.calls == s.at }

func (s *shaky) Lay(ctx context.Context, puts []events.Put) error {
	if !s.fails() {
		return s.Ledger.Lay(ctx, puts)
	}
	if s.stored {
		if err := s.Ledger.Lay(ctx, puts); err != nil {
			return err
		}
	}
	return events.ErrUnknown
}

func (s *shaky) Append(ctx context.Context, b events.Batch) (events.Revision, error) {
	if !s.fails() {
		return s.Ledger.Append(ctx, b)
	}
	if s.stored {
		if _, err := s.Ledger.Append(ctx, b); err != nil {
			return 0, err
		}
	}
	return 0, events.ErrUnknown
}

// Whatever fails while an epoch is laid out, it begins once, with all that was kept; and a
// destroyed key is as gone as before.
func TestAnEpochIsLaidOutWhole(t *testing.T) {
	c := newCore(t)
	defer c.stop()
	n := c.run("a")
	n.awaitReady()
	n.commit(replication.CreateRing(t, "sso"))
	for range 5 {
		n.commit(replication.Roll(t, "sso", ""))
	}
	n.awaitReady()
	n.stop()
	source, err := replication.ReadReplica(n.replica.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	head, values := source.Snapshot()
	number := keystore.Epoch(1)
	for at := range 4 {
		for _, stored := range []bool{false, true} {
			number++
			log := &shaky{Ledger: c.epochBucket(number), at: at, stored: stored}
			id, err := c.layout(source, number).Write(t.Context(), log)
			if err != nil {
				t.Fatalf("call %d fails, stored %v: %v", at, stored, err)
			}
			again, err := c.layout(source, number).Write(t.Context(), log)
			if err != nil || again != id {
				t.Errorf("written again = %v, %v; want %v", again, err, id)
			}
			r, err := c.built(log, number)
			if err != nil {
				t.Fatal(err)
			}
			got, have := r.Snapshot()
			if got.N != head.N+1 || got.Epoch != number || !r.Has(head) || len(have) != len(values) {
				t.Errorf("built = %v with %d values, want event %d with %d", got, len(have), head.N+1, len(values))
			}
			if now, _, err := r.Epoch(); err != nil || now != id {
				t.Errorf("Epoch = %v, %v; want %v", now, err, id)
			}
		}
	}
}

// What bears the name of an epoch and is none of this ledger's is refused, and why is said.
func TestBuildRefusesWhatIsNotTheEpoch(t *testing.T) {
	c := newCore(t)
	defer c.stop()
	n := c.run("a")
	n.awaitReady()
	n.commit(replication.CreateRing(t, "sso"))
	n.awaitReady()
	n.stop()
	source, err := replication.ReadReplica(n.replica.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	head, _ := source.Snapshot()

	empty := c.epochBucket(2)
	if _, err := c.built(empty, 2); !errors.Is(err, replication.ErrNotBegun) {
		t.Errorf("an empty bucket: %v, want ErrNotBegun", err)
	}
	copied := c.epochBucket(3) // the old bucket, under the new name
	var puts []events.Put
	for i := range head.N {
		rec, err := source.Record(i + 1)
		if err != nil {
			t.Fatal(err)
		}
		puts = append(puts, events.Put{Key: events.LogKey(i + 1), Value: rec})
	}
	_, values := source.Snapshot()
	for key, value := range values {
		puts = append(puts, events.Put{Key: key, Value: value})
	}
	puts = append(puts, events.Put{Key: events.HeadKey, Value: head.Encode()})
	if err := copied.Lay(t.Context(), puts); err != nil {
		t.Fatal(err)
	}
	if _, err := c.built(copied, 3); err == nil || !strings.Contains(err.Error(), "the bucket of epoch 3 has a history of epoch 1") {
		t.Errorf("the old bucket under the new name: %v", err)
	}
	stranger := c.epochBucket(4) // another store's
	if _, err := replication.Found(t.Context(), stranger, replication.NewGenesis(t, "ps-1", c.key)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.built(stranger, 4); err == nil || !strings.Contains(err.Error(), "the genesis of the core is") {
		t.Errorf("another store's: %v", err)
	}
	forged := c.epochBucket(5) // signed by nobody's key
	layout := c.layout(source, 5)
	layout.Key = replication.NewKey(t)
	if _, err := layout.Write(t.Context(), forged); !errors.Is(err, events.ErrSignature) {
		t.Errorf("a stranger's signature: %v, want ErrSignature", err)
	}
}

// Of two restores from two histories the second is refused; nothing of it is stored.
func TestTwoRestoresAreNeverMerged(t *testing.T) {
	c := newCore(t)
	defer c.stop()
	n := c.run("a")
	n.awaitReady()
	n.commit(replication.CreateRing(t, "sso"))
	n.awaitReady()
	n.stop()
	less, err := replication.ReadReplica(n.replica.Path())
	if err != nil {
		t.Fatal(err)
	}
	head, _ := less.Snapshot()
	if err := less.Close(); err != nil {
		t.Fatal(err)
	}
	copyTo := filepath.Join(t.TempDir(), "less.db")
	copyReplica(t, n.replica.Path(), copyTo)
	n = c.run("a")
	n.awaitReady()
	n.commit(replication.CreateRing(t, "apps"))
	n.awaitReady()
	n.stop()
	more, err := replication.ReadReplica(n.replica.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer more.Close()
	if less, err = replication.ReadReplica(copyTo); err != nil {
		t.Fatal(err)
	}
	defer less.Close()
	if got := replication.Common(less, more); got != head.N {
		t.Errorf("Common = %d, want %d", got, head.N)
	}
	log := c.epochBucket(2)
	first, err := c.layout(less, 2).Write(t.Context(), log)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.layout(more, 2).Write(t.Context(), log); !errors.Is(err, replication.ErrBegun) || !errors.Is(err, events.ErrConflict) {
		t.Errorf("the second restore = %v, want ErrBegun", err)
	}
	r, err := c.built(log, 2)
	if err != nil {
		t.Fatal(err)
	}
	if id, _, err := r.Epoch(); err != nil || id != first {
		t.Errorf("Epoch = %v, %v; want the first restore's, %v", id, err, first)
	}
	// Whoever has seen the one is forked at the other.
	other := c.epochBucket(12)
	if _, err := c.layout(more, 12).Write(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	if r.Has(headAt(t, c, other)) {
		t.Error("two epochs have one end")
	}
}

func headAt(t *testing.T, c *core, log replication.Log) events.Head {
	t.Helper()
	r, err := c.built(log, 12)
	if err != nil {
		t.Fatal(fmt.Errorf("building: %w", err))
	}
	head, _ := r.Snapshot()
	return head
}

func copyReplica(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, text, 0o600); err != nil {
		t.Fatal(err)
	}
}
