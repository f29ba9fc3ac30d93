package hub_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keytide/keytide/agentfeed/hub"
	"github.com/keytide/keytide/agentfeed/internal/wire"
	"github.com/keytide/keytide/keystore"
)

// attacks are what strangers, and hosts gone bad, do again and again.
var attacks = map[string]func(a *attacker){
	"silence": func(a *attacker) { a.hold(a.raw()) },
	"garbage": func(a *attacker) {
		conn := a.raw()
		conn.Write(bytes.Repeat([]byte{0x16, 3, 1, 255}, 300))
		conn.Close()
	},
	"half a handshake": func(a *attacker) {
		conn := a.raw()
		conn.Write([]byte{0x16, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3})
		a.hold(conn)
	},
	"plain HTTP": func(a *attacker) {
		conn := a.raw()
		io.WriteString(conn, "GET /v1/feed HTTP/1.1\r\nHost: x\r\n\r\n")
		conn.Close()
	},
	"slow header": func(a *attacker) {
		conn := a.secure()
		for _, c := range "GET /v1/feed HTTP/1.1\r\nHost: x\r\nX-Slow: " {
			conn.Write([]byte{byte(c)})
		}
		a.hold(conn)
	},
	"endless header": func(a *attacker) {
		conn := a.secure()
		io.WriteString(conn, "GET /v1/feed HTTP/1.1\r\nHost: x\r\n")
		for range 200 {
			if _, err := io.WriteString(conn, "X-More: "+strings.Repeat("x", 1000)+"\r\n"); err != nil {
				break
			}
		}
		conn.Close()
	},
	"oversized body": func(a *attacker) {
		conn := a.secure()
		io.WriteString(conn, "POST /v1/feed HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
		conn.Write(make([]byte, 100<<10))
		conn.Close()
	},
	"requests whose answers nobody reads": func(a *attacker) {
		conn := a.secure()
		conn.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		for range 2000 {
			if _, err := io.WriteString(conn, "GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
				break
			}
		}
		a.hold(conn)
	},
	"unknown host": func(a *attacker) { a.poll(ask{host: "nobody", secret: material(9), nonce: wire.NewNonce()}) },
	"wrong secret": func(a *attacker) {
		a.poll(ask{host: "web-1", kid: material(1).KID(), secret: material(9), nonce: wire.NewNonce()})
	},
	"another's secret": func(a *attacker) {
		a.poll(ask{host: "late", kid: material(4).KID(), secret: material(1), nonce: wire.NewNonce()})
	},
	"replay": func(a *attacker) {
		r := a.request(ask{host: "late", secret: material(4), nonce: wire.NewNonce()})
		for range 5 {
			a.send(r.Clone(a.t.Context()))
		}
	},
	"streams that are dropped": func(a *attacker) {
		r := a.request(ask{host: "late", secret: material(4), nonce: wire.NewNonce()})
		r.Header.Set("Accept", "text/event-stream")
		a.send(r)
	},
}

// maxHeld is how many connections an attack keeps open: fewer than the door bears, so
// that no healthy one can be the longest silent of too many.
const maxHeld = 200

// An attacker does not care what becomes of its connections.
type attacker struct {
	*bench
	held chan net.Conn // what is kept open
}

// hold keeps a connection open for the time of the test, while there is room.
func (a *attacker) hold(conn net.Conn) {
	select {
	case a.held <- conn:
	default:
		conn.Close()
	}
}

func (a *attacker) raw() net.Conn {
	conn, err := net.Dial("tcp", a.Listener.Addr().String())
	if err != nil {
		runtime.Goexit()
	}
	return conn
}

func (a *attacker) secure() net.Conn {
	conn := tls.Client(a.raw(), a.clientTLS())
	if err := conn.HandshakeContext(a.t.Context()); err != nil {
		conn.Close()
		runtime.Goexit()
	}
	return conn
}

func (a *attacker) poll(as ask) { a.send(a.request(as)) }

func (a *attacker) send(r *http.Request) {
	if response, err := a.Client().Do(r); err == nil {
		response.Body.Close()
	}
}

// attack attacks again and again until the returned func is called.
func (a *attacker) attack(again func(*attacker)) (end func()) {
	stop := make(chan struct{})
	var attackers sync.WaitGroup
	for range 4 {
		attackers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				var once sync.WaitGroup
				once.Go(func() { again(a) })
				once.Wait()
			}
		})
	}
	return func() {
		close(stop)
		attackers.Wait()
		close(a.held)
		for conn := range a.held {
			conn.Close()
		}
	}
}

// TestHealthyAgentsAreServedUnderAttack: during each attack one agent stays and gets
// every state, and others come and are let in.
func TestHealthyAgentsAreServedUnderAttack(t *testing.T) {
	for name, attack := range attacks {
		t.Run(name, func(t *testing.T) {
			b := newBenchWith(t, "http/1.1", 2*maxHeld)
			stays := b.stream(web1())
			stays.state()
			end := (&attacker{bench: b, held: make(chan net.Conn, maxHeld)}).attack(attack)
			defer end()
			for v := keystore.Version(2); v < 6; v++ {
				b.source.change(func(s *source) {
					s.state.V, s.state.Rings = fmt.Sprintf("1.%d-1.2", v+1), map[keystore.RingName]*keystore.KeySet{"sso": set("sso", v)}
				})
				for state := stays.state(); state.Rings[0].Version < v; state = stays.state() {
				}
				comes := b.stream(web1())
				if state := comes.state(); state.Rings[0].Version != v {
					t.Errorf("an agent that comes gets version %d, want %d", state.Rings[0].Version, v)
				}
				comes.body.Close()
				if got := b.poll(web1()); got.StatusCode != http.StatusOK {
					t.Errorf("a poll is answered %s", got.Status)
				}
			}
		})
	}
}

// FuzzRequests: whatever stands in a request of a stranger, the answer is a refusal of
// one of the known forms, and the same for a host that exists and one that does not.
func FuzzRequests(f *testing.F) {
	f.Add("GET", "/v1/feed", "Authorization", wire.Scheme+` host="web-1", kid="0123456789abcdef", ts="1", nonce="AAAAAAAAAAAAAAAAAAAAAA", mac="AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"`)
	f.Add("GET", "/v1/feed?ring=x", "Keytide-Feed-Accept", "2")
	f.Add("POST", "/v1/feed", "Accept", "text/event-stream")
	f.Add("GET", "/v1/feed/../feed", "Prefer", "wait=25")
	answer := func(h *hub.Hub, method, target, name, value string) *httptest.ResponseRecorder {
		r := &http.Request{Method: method, RequestURI: target, Header: http.Header{name: {value}}, RemoteAddr: "192.0.2.1:1", Body: http.NoBody}
		var err error
		if r.URL, err = url.Parse(target); err != nil {
			return nil
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	f.Fuzz(func(t *testing.T, method, target, name, value string) {
		h, err := hub.New(hub.Config{Source: newSource(), Server: "ps-1"}) // one bears so many failures only
		if err != nil {
			t.Fatal(err)
		}
		w := answer(h, method, target, name, value)
		if w == nil {
			return
		}
		problem := w.Header().Get("Content-Type") == "application/problem+json"
		switch {
		case w.Code == http.StatusOK && (strings.HasPrefix(target, "/v1/feed/time") || strings.HasPrefix(target, "/healthz")):
		case w.Code == http.StatusNotFound, w.Code == http.StatusMethodNotAllowed:
		case problem && (w.Code == 401 || w.Code == 406 || w.Code == 429):
		default:
			t.Errorf("%q %q, %q: %q: answered %d %s", method, target, name, value, w.Code, w.Body)
		}
		other := strings.ReplaceAll(value, `host="web-1"`, `host="web-2"`)
		if again := answer(h, method, target, name, other); problem && (again.Code != w.Code || again.Body.String() != w.Body.String()) {
			t.Errorf("%q: %d %s for one host and %d %s for another", value, w.Code, w.Body, again.Code, again.Body)
		}
	})
}

// TestIdleAgentsCostNoGoroutine: streams that are open leave no goroutine of theirs on
// the server's side but the one for all.
func TestIdleAgentsCostNoGoroutine(t *testing.T) {
	b := newBench(t)
	hubs := func() int {
		buffer := make([]byte, 1<<20)
		buffer = buffer[:runtime.Stack(buffer, true)]
		return strings.Count(string(buffer), "net/http.(*conn).serve") + strings.Count(string(buffer), "created by github.com/keytide/keytide/agentfeed/hub.")
	}
	var open []*tap
	for range 50 {
		s := b.stream(web1())
		s.state()
		open = append(open, s)
	}
	over := time.Now().Add(patience)
	for hubs() > 1 {
		if time.Now().After(over) {
			t.Fatalf("%d goroutines serve %d idle agents, want the one for all", hubs(), len(open))
		}
		time.Sleep(time.Millisecond)
	}
	if connected, behind := b.hub.Agents(); connected != 50 || behind != 0 {
		t.Errorf("Agents = %d, %d, want 50 that are up to date", connected, behind)
	}
}
