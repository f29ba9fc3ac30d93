package events_test

import (
	"testing"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
)

// mixed is a history of n events: four rings that roll over and destroy their old
// keys in turn.
func mixed(b *testing.B, n int) []events.Record {
	h := newHistory(b, events.Keys)
	rings := []keystore.RingName{"sso", "partners", "mobile", "intranet"}
	for _, name := range rings {
		h.fold(h.create(name))
	}
	for i := 0; len(h.records) < n; i++ {
		name := rings[i%4]
		e := h.rollover(name)
		if i%32 >= 28 {
			e = h.destroy(name)
		}
		e.Request = e.ID.String()
		h.fold(e)
	}
	return h.records
}

// BenchmarkVerify checks the chain of a history and its newest signature.
// Goal: 300,000 events a second.
func BenchmarkVerify(b *testing.B) {
	records := mixed(b, 10_000)
	pin := records[0].Hash()
	for b.Loop() {
		if _, err := events.Verify(all(records), pin); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N*len(records))/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkReplay folds a history into a state. Goal: 150,000 events a second.
func BenchmarkReplay(b *testing.B) {
	records := mixed(b, 10_000)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := events.Replay(all(records), nil); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N*len(records))/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkApply is what a live event costs, signature and all.
func BenchmarkApply(b *testing.B) {
	h := newHistory(b, events.Keys)
	rec := sign(b, h.create("sso"))
	for b.Loop() {
		b.StopTimer()
		s := h.state.Clone()
		b.StartTimer()
		if _, err := s.Apply(rec); err != nil {
			b.Fatal(err)
		}
	}
}
