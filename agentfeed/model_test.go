package agentfeed

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keytide/keytide/agentfeed/hub"
	"github.com/keytide/keytide/keystore"
)

// A world is servers that fail, agents, and what must be true of them.
type world struct {
	t       *testing.T
	random  *rand.Rand
	net     *pipeNet
	core    []time.Time // when version i+1 became the newest
	servers []*modelServer
	clients []*Client
	last    []keystore.Version // what each client held
}

// A modelServer has a source of its own: cut off from the core it stays behind.
type modelServer struct {
	name   string
	source *source
	off    time.Duration
	fault  string
	stop   func()
}

var faults = []string{"", "", "", "stopped", "frozen", "buffered", "cut", "mute"}

// be brings a server into another condition.
func (w *world) be(s *modelServer, fault string) {
	if s.stop != nil {
		s.stop()
		s.stop = nil
	}
	// Whatever it was before: it has been in touch with the core until now.
	s.fault = ""
	w.catchUp(s)
	s.fault = fault
	s.source.freeze(fault == "frozen")
	var handler http.Handler = newHubOf(w.t, hub.Config{Source: s.source, ClockOffset: s.off})
	switch fault {
	case "stopped":
		return
	case "buffered":
		handler = buffering(handler)
	case "cut":
		handler = cutting(handler, 20*time.Second)
	case "mute":
		handler = mute(s.source, w.random.IntN(2))
	}
	s.stop = w.net.serve(s.name, handler)
}

// catchUp gives a server the newest ring, if it is in touch with the core.
func (w *world) catchUp(s *modelServer) {
	if s.fault == "" || s.fault == "buffered" || s.fault == "cut" {
		s.source.set(w.t, fmt.Sprintf("1.%d-1.1", len(w.core)), keystore.Version(len(w.core)))
	}
}

func (w *world) step() {
	switch s := w.servers[w.random.IntN(len(w.servers))]; w.random.IntN(40) {
	case 0, 1:
		w.be(s, faults[w.random.IntN(len(faults))])
	case 2:
		w.core = append(w.core, time.Now())
		for _, s := range w.servers {
			w.catchUp(s)
		}
	}
	time.Sleep(time.Second)
	synctest.Wait()
	w.check()
}

// check looks at the promises: no version ever goes back, and what an agent says of
// the age of its rings is true: no version that replaced its own is older than that.
func (w *world) check() {
	w.t.Helper()
	for i, c := range w.clients {
		set, status := c.Ring("sso").Snapshot(), c.Status()
		if set == nil {
			continue
		}
		if set.Version < w.last[i] {
			w.t.Fatalf("agent %d went back from version %d to %d", i, w.last[i], set.Version)
		}
		w.last[i] = set.Version
		if int(set.Version) < len(w.core) {
			if behind := time.Since(w.core[set.Version]); status.Age < behind-time.Second {
				w.t.Fatalf("agent %d says %+v, but its version %d was replaced %v ago", i, status, set.Version, behind)
			}
		}
		if (status.State == StateFresh) != (status.Age < time.Minute) {
			w.t.Fatalf("agent %d: Status = %+v", i, status)
		}
	}
}

// heal makes one server faultless. Everybody must then get to it, although the others
// go on to fail: a frozen server that an agent comes to is left 60 to 90 s after the
// last proof.
func (w *world) heal() {
	w.be(w.servers[w.random.IntN(len(w.servers))], "")
	for range 180 {
		time.Sleep(time.Second)
		synctest.Wait()
		w.check()
	}
	for i, c := range w.clients {
		if got := c.Ring("sso").Snapshot(); got == nil || int(got.Version) != len(w.core) || c.Status().Age > 100*time.Second {
			w.t.Fatalf("agent %d: %+v holds %v 3 minutes after a server was healthy, want version %d", i, c.Status(), got, len(w.core))
		}
	}
}

// TestAgentsAmongServersThatFail is a model test of what the feed promises, over
// hours of random faults of three servers, one of them with a clock that is off.
func TestAgentsAmongServersThatFail(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				w := &world{t: t, random: rand.New(rand.NewPCG(seed, 0)), net: newPipeNet(), core: []time.Time{time.Now()}}
				for i, off := range []time.Duration{0, 0, 10 * time.Minute} {
					s := &modelServer{name: "ps-" + strconv.Itoa(i), source: newSource(t), off: off}
					w.servers = append(w.servers, s)
					w.be(s, "")
				}
				var ends []func()
				for range 4 {
					c, end := w.net.client(t, "ps-0", "ps-1", "ps-2")
					w.clients, ends = append(w.clients, c), append(ends, end)
				}
				w.last = make([]keystore.Version, len(w.clients))
				defer func() {
					for _, s := range w.servers {
						if s.stop != nil {
							s.stop()
						}
					}
					for _, end := range ends {
						end()
					}
					time.Sleep(2 * muteLimit) // of virtual time: no handler may be left in the bubble
				}()
				for range 4 {
					for range 400 {
						w.step()
					}
					w.heal()
				}
			})
		})
	}
}
