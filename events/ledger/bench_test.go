package ledger_test

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/events/ledger"
)

// BenchmarkAppend measures a batch of two messages as this package sends it, and
// the same messages by jetstreamext, with and without its round trip before the
// commit. DESIGN.md says what was made of it.
func BenchmarkAppend(b *testing.B) {
	for _, sync := range []bool{false, true} {
		b.Run(fmt.Sprintf("sync=%v/ledger", sync), func(b *testing.B) {
			l, w := benchLedger(b, sync)
			batches := w.voids(b.N)
			b.ResetTimer()
			for _, batch := range batches {
				if _, err := l.Append(within(b), batch); err != nil {
					b.Fatal(err)
				}
			}
		})
		for _, first := range []bool{false, true} {
			b.Run(fmt.Sprintf("sync=%v/jetstreamext,first=%v", sync, first), func(b *testing.B) {
				benchExt(b, sync, first)
			})
		}
	}
}

func benchJS(b *testing.B, sync bool) jetstream.JetStream {
	return connect(b, startServer(b, func(o *server.Options) { o.SyncAlways = sync }).ClientURL())
}

func benchLedger(b *testing.B, sync bool) (*ledger.Ledger, *writer) {
	l := create(b, benchJS(b, sync))
	w := newWriter(b)
	w.append(l, w.genesis())
	return l, w
}

// voids makes n batches in advance: each puts two messages after the one before.
func (w *writer) voids(n int) []ledger.Batch {
	batches := make([]ledger.Batch, n)
	for i := range batches {
		batches[i] = w.void("x")
		w.stored(batches[i], w.heads[events.HeadKey]+2)
	}
	return batches
}

func benchExt(b *testing.B, sync, first bool) {
	js := benchJS(b, sync)
	create(b, js)
	value := make([]byte, 230) // about what a void event has
	head := uint64(0)
	b.ResetTimer()
	for i := 1; i <= b.N; i++ {
		msg := func(key string, expect uint64) *nats.Msg {
			return &nats.Msg{Subject: events.Subject(bucket, key), Data: value, Header: nats.Header{
				jetstream.ExpectedLastSubjSeqHeader: {strconv.FormatUint(expect, 10)},
			}}
		}
		msgs := []*nats.Msg{msg("log."+strconv.Itoa(i), 0), msg(events.HeadKey, head)}
		ack, err := jetstreamext.PublishMsgBatch(within(b), js, msgs,
			jetstreamext.BatchFlowControl{AckFirst: first, AckTimeout: time.Second})
		if err != nil {
			b.Fatal(err)
		}
		head = ack.Sequence
	}
}

// BenchmarkFollow reads a bucket of 10,000 events from the beginning.
func BenchmarkFollow(b *testing.B) {
	l, w := benchLedger(b, false)
	for range 10_000 {
		w.append(l, w.void("x"))
	}
	var entries int
	for b.Loop() {
		entries = len(contents(b, l))
	}
	b.ReportMetric(float64(b.N*entries)/b.Elapsed().Seconds(), "entries/s")
}
