package hub_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keytide/keytide/agentfeed/hub"
	"github.com/keytide/keytide/agentfeed/internal/wire"
	"github.com/keytide/keytide/keystore"
)

// pipes is a listener of connections in memory, for bubbles of virtual time.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// stream connects and returns the open stream, whose first events are to be read.
func (p *pipes) stream(t *testing.T) *tap {
	t.Helper()
	return p.streamOf(t, "web-1")
}

func (p *pipes) streamOf(t *testing.T, host string) *tap {
	t.Helper()
	near, far := net.Pipe()
	t.Cleanup(func() { near.Close() })
	p.conns <- far
	a := web1()
	a.host = host
	r, err := http.NewRequest(http.MethodGet, "http://hub/v1/feed", nil)
	if err != nil {
		t.Fatal(err)
	}
	auth := wire.Authorization{Host: a.host, KID: a.secret.KID(), Time: time.Now().Unix(), Nonce: a.nonce}
	if err := auth.Sign(a.secret, r.Method, "/v1/feed"); err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", auth.String())
	r.Header.Set("Accept", "text/event-stream")
	if err := r.Write(near); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(near), r)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatal(response, err)
	}
	s := &tap{t: t, ask: a, body: near, events: wire.NewReader(response.Body)}
	s.greet()
	return s
}

// serveBubble serves the hub over pipes.
func serveBubble(t *testing.T, h *hub.Hub) *pipes {
	p := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	server := &http.Server{Handler: h}
	go server.Serve(p)
	t.Cleanup(func() { server.Close() })
	return p
}

// TestAgentThatTakesNothingIsCut: it costs the others nothing, and is cut 10 s after
// the write that it does not take.
func TestAgentThatTakesNothingIsCut(t *testing.T) {
	bubble(t, func(t *testing.T, s *source, h *hub.Hub) {
		p := serveBubble(t, h)
		well, stuck := p.stream(t), p.stream(t)
		well.state()
		stuck.state()
		for v := keystore.Version(2); v < 20; v++ {
			s.change(func(s *source) {
				s.state.V, s.state.Rings = fmt.Sprintf("1.%d-1.2", v+1), map[keystore.RingName]*keystore.KeySet{"sso": set("sso", v)}
			})
			if state := well.state(); state.Rings[0].Version != v {
				t.Errorf("version %d, want %d", state.Rings[0].Version, v)
			}
			time.Sleep(time.Millisecond)
		}
		if connected, behind := h.Agents(); connected != 2 || behind != 1 {
			t.Errorf("Agents = %d, %d while one takes nothing", connected, behind)
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if connected, behind := h.Agents(); connected != 1 || behind != 0 {
			t.Errorf("Agents = %d, %d after 10 s, want the stuck one cut", connected, behind)
		}
	})
}

// TestStatesThatComeBackAreTold: an agent that was being told of a state ends at the
// newest, also when that tells what the one before the last did.
func TestStatesThatComeBackAreTold(t *testing.T) {
	bubble(t, func(t *testing.T, s *source, h *hub.Hub) {
		a := serveBubble(t, h).stream(t)
		a.state()
		first := s.state.Rings
		publish := func(v string, rings map[keystore.RingName]*keystore.KeySet) {
			s.change(func(s *source) { s.state.V, s.state.Rings = v, rings })
			synctest.Wait() // the agent reads nothing: the hub is in the middle of a write
		}
		publish("1.3-1.2", map[keystore.RingName]*keystore.KeySet{"sso": set("sso", 2)})
		time.Sleep(time.Second)
		publish("1.4-1.2", first)
		if state := a.state(); state.V != "1.3-1.2" || state.Rings[0].Version != 2 {
			t.Errorf("state %+v, want version 2", state)
		}
		if state := a.state(); state.V != "1.4-1.2" || state.Rings[0].Version != 1 {
			t.Errorf("state %+v, want version 1 again", state)
		}
	})
}

// TestHeartbeatsAreSpread: of many agents each has one in every period, and never many
// at once.
func TestHeartbeatsAreSpread(t *testing.T) {
	bubble(t, func(t *testing.T, s *source, h *hub.Hub) {
		const agents, periods = 60, 4
		s.change(func(s *source) {
			for i := range agents {
				host := s.hosts["web-1"]
				host.Name = fmt.Sprintf("agent-%d", i)
				s.hosts[host.Name] = host
			}
		})
		p := serveBubble(t, h)
		var mu sync.Mutex
		at := make(map[time.Duration]int)
		var reading sync.WaitGroup
		start := time.Now()
		for i := range agents {
			a := p.streamOf(t, fmt.Sprintf("agent-%d", i))
			a.state()
			reading.Go(func() {
				for range periods {
					a.open(wire.EventBeat, new(wire.Beat))
					mu.Lock()
					at[time.Since(start)]++
					mu.Unlock()
				}
			})
		}
		reading.Wait()
		if took := time.Since(start); took > periods*15*time.Second+7500*time.Millisecond {
			t.Errorf("%d heartbeats each took %v", periods, took)
		}
		if len(at) < periods*16 {
			t.Errorf("%d heartbeats came at %d instants only", agents*periods, len(at))
		}
	})
}
