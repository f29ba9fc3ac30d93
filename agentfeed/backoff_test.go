package agentfeed

import (
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// longest is the longest of many waits after outcomes, the last of which is o.
func longest(o outcome, servers int, before ...outcome) time.Duration {
	random := rand.New(rand.NewPCG(1, 1))
	var most time.Duration
	for range 2000 {
		var b backoff
		for _, o := range before {
			b.wait(o, servers, random)
		}
		most = max(most, b.wait(o, servers, random))
	}
	return most
}

func TestBackoffBounds(t *testing.T) {
	failed, long := outcome{}, outcome{delivered: true, lived: time.Hour, retry: 5 * time.Second}
	short := outcome{delivered: true, lived: time.Second, retry: 2 * time.Second}
	for name, c := range map[string]struct {
		got, want time.Duration
	}{
		"first failure":               {longest(failed, 1), 500 * time.Millisecond},
		"third failure":               {longest(failed, 1, failed, failed), 2 * time.Second},
		"many failures":               {longest(failed, 1, make([]outcome, 100)...), 30 * time.Second},
		"after a settled stream":      {longest(long, 1, failed, failed, failed), 5 * time.Second},
		"failure after that":          {longest(failed, 1, failed, failed, failed, long), 500 * time.Millisecond},
		"stream that did not settle":  {longest(short, 1), 2 * time.Second},
		"streams that do not settle":  {longest(short, 1, short, short, short, short, short, short), 30 * time.Second},
		"asked to wait":               {longest(outcome{asked: time.Minute}, 1), 60500 * time.Millisecond},
		"bye":                         {longest(outcome{delivered: true, bye: &[2]time.Duration{time.Second, 3 * time.Second}}, 1), 3 * time.Second},
		"refused by one of two":       {longest(outcome{refused: true}, 2), 500 * time.Millisecond},
		"refused by both":             {longest(outcome{refused: true}, 2, outcome{refused: true}), 300 * time.Second},
		"refused, failed and refused": {longest(outcome{refused: true}, 2, outcome{refused: true}, failed), 2 * time.Second},
	} {
		if c.got > c.want || c.got < c.want*95/100 {
			t.Errorf("%s: waits up to %v, want %v", name, c.got, c.want)
		}
	}
}

func TestBackoffIsBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b backoff
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		for range rapid.IntRange(1, 200).Draw(t, "attempts") {
			o := outcome{
				delivered: rapid.Bool().Draw(t, "delivered"), refused: rapid.Bool().Draw(t, "refused"),
				lived: time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "lived")),
				retry: time.Duration(rapid.Int64Range(0, int64(maxBackoff)).Draw(t, "retry")),
				asked: time.Duration(rapid.Int64Range(0, int64(maxAsked)).Draw(t, "asked")),
			}
			if got := b.wait(o, rapid.IntRange(1, 3).Draw(t, "servers"), random); got < 0 || got > maxAsked+maxBackoff {
				t.Fatalf("wait = %v after %+v", got, o)
			}
		}
	})
}

func TestHostsSpreadOverServers(t *testing.T) {
	firsts := map[string]int{}
	for i := range 3000 {
		c := &Client{host: HostFile{Host: "web-" + string(rune('a'+i%26)) + time.Duration(i).String(), Servers: []string{"https://a", "https://b/", "https://c"}}}
		c.servers = []string{"https://c", "https://b"}
		servers, _ := c.known()
		if len(servers) != 3 {
			t.Fatalf("known = %v, want each server once", servers)
		}
		firsts[servers[0]]++
		if next := following(servers, servers[2]); next != servers[0] {
			t.Errorf("after the last comes %s, want the first", next)
		}
	}
	for server, n := range firsts {
		if n < 800 || n > 1200 {
			t.Errorf("%s is first for %d of 3000 hosts, want about 1000", server, n)
		}
	}
}
