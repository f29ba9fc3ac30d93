package agentfeed

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keytide/keytide/keystore"
)

func TestStaleServerIsNotLeftForOneThatIsNoNewer(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		n, s := newPipeNet(), newSource(t) // both servers know what this source does
		stop1, stop2 := n.serve("ps-1", newHub(t, s)), n.serve("ps-2", newHub(t, s))
		client, end := n.client(t, "ps-1", "ps-2")
		time.Sleep(time.Minute)
		at := client.Status().URL
		s.freeze(true)
		for range 240 {
			time.Sleep(15 * time.Second)
			synctest.Wait()
			if got := client.Status(); got.URL != at || got.Err != nil {
				t.Fatalf("Status = %+v, want to stay at %s", got, at)
			}
		}
		if got := client.Status(); got.State != StateStale {
			t.Errorf("Status = %+v, want stale", got)
		}
		s.freeze(false)
		time.Sleep(16 * time.Second)
		// From whichever: a look at the other one may come before this one's heartbeat.
		if got := client.Status(); got.State != StateFresh {
			t.Errorf("Status = %+v, want fresh again", got)
		}
		stop1()
		stop2()
		end()
	})
}

// TestServerToldOfIsAskedNext: an agent whose host file names one server, which is
// gone after it told of another, asks that other one next.
func TestServerToldOfIsAskedNext(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		n, s := newPipeNet(), newSource(t)
		stop1, stop2 := n.serve("ps-1", newHub(t, s)), n.serve("ps-2", newHub(t, s))
		client, end := n.client(t, "ps-1")
		time.Sleep(time.Second)
		client.mu.Lock()
		client.servers = []string{"http://ps-1", "http://ps-2"} // as from a state, where they would have to be https
		client.mu.Unlock()
		stop1()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if got := client.Status(); got.URL != "http://ps-2" || got.Err != nil || n.dialled("ps-1") != 1 {
			t.Errorf("Status = %+v after %d connections to ps-1; want to be fed by ps-2, without another", got, n.dialled("ps-1"))
		}
		stop2()
		end()
	})
}

func TestFrozenServerIsLeftAtDifferentTimes(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		n, frozen, whole := newPipeNet(), newSource(t), newSource(t)
		stop1, stop2 := n.serve("ps-1", newHub(t, frozen)), n.serve("ps-2", newHub(t, whole))
		first := firstAsked("ps-1", "ps-2")
		if first != "http://ps-1" {
			frozen, whole = whole, frozen
		}
		var clients []*Client
		var ends []func()
		for range 20 {
			c, end := n.client(t, "ps-1", "ps-2")
			clients, ends = append(clients, c), append(ends, end)
		}
		time.Sleep(time.Minute)
		frozen.freeze(true)
		start := time.Now()
		moved := make(map[*Client]time.Duration)
		for range 120 {
			time.Sleep(time.Second)
			synctest.Wait()
			for _, c := range clients {
				if c.Status().URL != first && moved[c] == 0 {
					moved[c] = time.Since(start)
				}
			}
		}
		var times []time.Duration
		for _, c := range clients {
			if got := c.Status(); got.State != StateFresh || got.Err != nil {
				t.Errorf("Status = %+v, want fresh", got)
			}
			times = append(times, moved[c])
		}
		slices.Sort(times)
		if least, most := times[0], times[len(times)-1]; least < 45*time.Second || most > 92*time.Second || most-least < 15*time.Second {
			t.Errorf("they moved from %v to %v after the server froze, want spread over 30 s", least, most)
		}
		for _, end := range ends {
			end()
		}
		stop1()
		stop2()
	})
}

// firstAsked is the server that web-1 asks first.
func firstAsked(hosts ...string) string {
	c := &Client{host: HostFile{Host: "web-1"}}
	for _, h := range hosts {
		c.host.Servers = append(c.host.Servers, "http://"+h)
	}
	servers, _ := c.known()
	return servers[0]
}

// TestServersThatStopFreezeAndAreOff lets two servers of one store fail in turn. The
// agent is at the newest version within a second while one lives, and stale within 60
// seconds while none does.
func TestServersThatStopFreezeAndAreOff(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		n, s := newPipeNet(), newSource(t)
		const late, early = -10 * time.Minute, 10 * time.Minute
		stops := map[string]func(){"ps-1": n.serve("ps-1", newHubAt(t, s, late)), "ps-2": n.serve("ps-2", newHubAt(t, s, early))}
		client, end := n.client(t, "ps-1", "ps-2")
		version := byte(1)
		rollover := func(when string) {
			t.Helper()
			version++
			s.set(t, "1."+string('0'+rune(version))+"-1.1", keystore.Version(version))
			time.Sleep(time.Second)
			synctest.Wait()
			if got := client.Ring("sso").Snapshot(); got == nil || got.Version != keystore.Version(version) {
				t.Errorf("%s: %+v holds %v, want version %d", when, client.Status(), got, version)
			}
			if got := client.Status(); got.State != StateFresh || got.Err != nil {
				t.Errorf("%s: Status = %+v, want fresh", when, got)
			}
		}
		time.Sleep(time.Second)
		rollover("at the start")
		for range 2 {
			at := client.Status().URL[len("http://"):]
			time.Sleep(2 * time.Minute)
			stops[at]()
			time.Sleep(time.Second)
			rollover("after " + at + " stopped")
			stops[at] = n.serve(at, newHubAt(t, s, early))
		}
		stops["ps-1"]()
		stops["ps-2"]()
		time.Sleep(60 * time.Second)
		if got := client.Status(); got.State != StateStale || got.Err == nil || client.Ring("sso").Snapshot() == nil {
			t.Errorf("Status = %+v, want stale, with keys", got)
		}
		stop := n.serve("ps-2", newHubAt(t, s, late))
		time.Sleep(time.Minute)
		rollover("when one is back")
		stop()
		end()
	})
}
