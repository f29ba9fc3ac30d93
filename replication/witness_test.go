package replication

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
)

// TestTwoWitnessesAnEvent: whatever the servers are, two fresh ones outside the writer's
// region answer at once, or all of them if there are fewer.
func TestTwoWitnessesAnEvent(t *testing.T) {
	cfg := MemberConfig{RecordPeriod: 15 * time.Second}
	rapid.Check(t, func(t *rapid.T) {
		var servers []ServerView
		for i := range rapid.IntRange(1, 30).Draw(t, "servers") {
			servers = append(servers, ServerView{
				Record: events.ServerRecord{
					ID:     fmt.Sprintf("s%d", i),
					Region: rapid.SampledFrom([]string{"eu", "us", "ap"}).Draw(t, "region"),
					State:  rapid.SampledFrom([]events.ServerState{events.Fresh, events.Fresh, events.Stale, events.Stopped}).Draw(t, "state"),
				},
				Age: time.Duration(rapid.IntRange(0, 40).Draw(t, "age")) * time.Second,
			})
		}
		writer := servers[0].Record
		n := keystore.N(rapid.Uint64Range(1, 1<<40).Draw(t, "n"))
		far, got := 0, 0
		for _, s := range servers {
			can := s.Record.Region != writer.Region && s.Record.State == events.Fresh && s.Age < 2*cfg.RecordPeriod
			is := isWitness(s.Record.ID, writer.ID, n, servers, cfg)
			if can {
				far++
			}
			if is {
				got++
			}
			if is && !can {
				t.Errorf("server %+v is a witness of an event from %s", s.Record, writer.Region)
			}
		}
		if want := min(witnesses, far); got != want {
			t.Errorf("%d witnesses of %d fresh servers far away, want %d", got, far, want)
		}
	})
}

// TestWitnessesAreSpread: the same two servers do not answer every event.
func TestWitnessesAreSpread(t *testing.T) {
	servers := []ServerView{{Record: events.ServerRecord{ID: "writer", Region: "eu"}}}
	for i := range 10 {
		servers = append(servers, ServerView{Record: events.ServerRecord{ID: fmt.Sprintf("s%d", i), Region: "us", State: events.Fresh}})
	}
	answers := map[string]int{}
	for n := range keystore.N(1000) {
		for _, s := range servers {
			if isWitness(s.Record.ID, "writer", n, servers, MemberConfig{RecordPeriod: time.Second}) {
				answers[s.Record.ID]++
			}
		}
	}
	for _, s := range servers[1:] {
		if got := answers[s.Record.ID]; got < 100 || got > 300 {
			t.Errorf("server %s answered %d of 1000 events, want about 200", s.Record.ID, got)
		}
	}
}
