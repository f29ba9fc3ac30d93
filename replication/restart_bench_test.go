package replication

import (
	"path/filepath"
	"testing"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
)

// BenchmarkRestart opens a replica whose events are rollovers of eight rings. A million
// events in 2 s would be 500,000 a second; DESIGN.md says what that takes.
func BenchmarkRestart(b *testing.B) {
	const count = 20_000
	p := NewPen(b)
	path := filepath.Join(b.TempDir(), "replica.db")
	r, err := OpenReplica(path, p.Pin)
	if err != nil {
		b.Fatal(err)
	}
	rings := []keystore.RingName{"a", "b", "c", "d", "e", "f", "g", "h"}
	for _, name := range rings {
		p.Commit(b, CreateRing(b, name))
	}
	for i := int(p.State.N()); i < count; i++ {
		p.Commit(b, Roll(b, rings[i%len(rings)], ""))
	}
	a := r.newAssembler()
	for _, e := range p.Newest(0) { // as a late reader: in large parts
		v := a.take(e)
		if v.part == nil {
			continue
		}
		if v.part.show {
			if err := r.show(v.part); err != nil {
				b.Fatal(err)
			}
		}
		if err := r.write(v.part); err != nil {
			b.Fatal(err)
		}
	}
	if err := r.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		r, err := OpenReplica(path, Pin{Kind: events.Keys, Store: "main", Epoch: 1})
		if err != nil {
			b.Fatal(err)
		}
		if n, _ := r.Durable(); n != count {
			b.Fatalf("opened at event %d, want %d", n, count)
		}
		r.Close()
	}
	b.ReportMetric(float64(b.N*count)/b.Elapsed().Seconds(), "events/s")
}
