package replication_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/replication"
)

// A bare is what a change costs without Keytide: an atomic batch of as many messages
// of the same sizes, with the same expectations, on a stream with the same settings
// on the same server, and a pull consumer that waits for its last message.
type bare struct {
	c    *core
	js   jetstream.JetStream
	seq  map[string]uint64
	seen chan uint64
	size []int
	n    int
}

func newBare(b *testing.B, c *core) *bare {
	b.Helper()
	js, nc, err := c.bus.JetStream("bare")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(nc.Close)
	stream, err := js.CreateStream(b.Context(), jetstream.StreamConfig{
		Name: "KV_bare", Subjects: []string{"$KV.bare.>"}, MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew,
		DenyDelete: true, DenyPurge: true, AllowAtomicPublish: true, AllowDirect: true,
	})
	if err != nil {
		b.Fatal(err)
	}
	x := &bare{c: c, js: js, seq: make(map[string]uint64), seen: make(chan uint64, 16)}
	consumer, err := stream.CreateConsumer(b.Context(), jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true})
	if err != nil {
		b.Fatal(err)
	}
	consuming, err := consumer.Consume(func(msg jetstream.Msg) {
		if msg.Subject() == "$KV.bare.head" {
			meta, _ := msg.Metadata()
			x.seen <- meta.Sequence.Stream
		}
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(consuming.Stop)
	return x
}

// write publishes a batch: the event, new material, a state, a deletion's marker, the
// head. It returns the sequence of the last message.
func (x *bare) write(b *testing.B) uint64 {
	b.Helper()
	x.n++
	subjects := []string{fmt.Sprintf("log.%d", x.n), fmt.Sprintf("material.%d", x.n), fmt.Sprintf("material.%d", x.n-2), "ring.sso", "head"}
	msgs := make([]*nats.Msg, len(subjects))
	for i, subject := range subjects {
		data := make([]byte, x.size[i])
		rand.Read(data)
		msgs[i] = &nats.Msg{Subject: "$KV.bare." + subject, Data: data, Header: nats.Header{
			jetstream.ExpectedLastSubjSeqHeader: {fmt.Sprint(x.seq[subject])},
		}}
	}
	ack, err := jetstreamext.PublishMsgBatch(b.Context(), x.js, msgs, jetstreamext.BatchFlowControl{})
	if err != nil {
		b.Fatal(err)
	}
	for i, subject := range subjects {
		x.seq[subject] = ack.Sequence - uint64(len(subjects)-1-i)
	}
	return ack.Sequence
}

// rolling is a core with a member and a second replica, ready to roll.
func rolling(b *testing.B) (*core, *node, *node, *bare) {
	b.Helper()
	c := newCore(b)
	n := c.run("replica.db")
	other := c.run("second.db", func(cfg *replication.MemberConfig) { cfg.Log.(*link).deaf = true })
	b.Cleanup(func() {
		n.stop()
		other.stop()
		c.stop()
	})
	n.awaitReady()
	n.commit(replication.CreateRing(b, "sso"))
	x := newBare(b, c)
	x.size = []int{460, 150, 0, 800, 50}
	for range 20 {
		n.commit(replication.Roll(b, "sso", ""))
		<-drain(x, x.write(b))
	}
	return c, n, other, x
}

// drain returns a channel that is closed when the consumer has seen seq.
func drain(x *bare, seq uint64) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for s := range x.seen {
			if s >= seq {
				return
			}
		}
	}()
	return done
}

// BenchmarkCommit compares Commit, whose receipt includes this replica's fsync, with
// the bare batch, turn by turn on one server.
func BenchmarkCommit(b *testing.B) {
	_, n, _, x := rolling(b)
	roll := replication.Roll(b, "sso", "")
	var ours, bares []time.Duration
	for b.Loop() {
		began := time.Now()
		n.commit(roll)
		ours = append(ours, time.Since(began))
		began = time.Now()
		seq := x.write(b)
		bares = append(bares, time.Since(began))
		<-drain(x, seq)
	}
	report(b, ours, bares)
}

// BenchmarkPropagate compares publish → applied at another member with publish →
// last message seen by a bare pull consumer, turn by turn on one server.
func BenchmarkPropagate(b *testing.B) {
	_, n, other, x := rolling(b)
	roll := replication.Roll(b, "sso", "")
	var sent time.Time
	n.link.setAppend(func(ctx context.Context, batch events.Batch) (events.Revision, error) {
		sent = time.Now()
		return n.link.Log.Append(ctx, batch)
	})
	var ours, bares []time.Duration
	for b.Loop() {
		at := make(chan time.Time, 1)
		from, changed := other.Replica().Watch()
		go func() {
			<-changed
			at <- time.Now()
		}()
		got := n.commit(roll)
		ours = append(ours, (<-at).Sub(sent))
		if got.N != from+1 {
			b.Fatalf("applied %d before, and committed %d", from, got.N)
		}
		began := time.Now()
		seen := make(chan time.Duration, 1)
		go func() {
			<-x.seen
			seen <- time.Since(began)
		}()
		x.write(b)
		bares = append(bares, <-seen)
	}
	report(b, ours, bares)
}

func report(b *testing.B, ours, bares []time.Duration) {
	b.Helper()
	slices.Sort(ours)
	slices.Sort(bares)
	for name, p := range map[string]int{"p50": 50, "p99": 99} {
		o, x := ours[len(ours)*p/100], bares[len(bares)*p/100]
		b.ReportMetric(float64(o.Microseconds()), name+"-us")
		b.ReportMetric(float64(x.Microseconds()), "bare-"+name+"-us")
		b.ReportMetric(float64(o)/float64(x), name+"-ratio")
	}
}
