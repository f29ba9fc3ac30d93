package agentfeed

import (
	"context"
	"crypto/fips140"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"github.com/keytide/keytide/agentfeed/hub"
	"github.com/keytide/keytide/agentfeed/internal/wire"
	"github.com/keytide/keytide/keystore"
)

// These tests run the client against servers in a bubble of virtual time, over
// pipes instead of TLS: the feed's waits are minutes.

// inBubble runs a test in virtual time. The FIPS module's source of randomness needs
// real time, so there it is a source of the test's.
func inBubble(t *testing.T, test func(*testing.T)) {
	t.Helper()
	if fips140.Enabled() { // the FIPS module's randomness needs real time
		cryptotest.SetGlobalRandom(t, 1)
	}
	synctest.Test(t, test)
}

// A pipeNet connects to the handlers of servers by their host names.
type pipeNet struct {
	mu    sync.Mutex
	hosts map[string]*pipeListener
	dials map[string]int
	seed  uint64 // of the newest client
}

type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once

	mu   sync.Mutex // guards open
	open []net.Conn
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		l.mu.Lock()
		defer l.mu.Unlock()
		l.open = append(l.open, c)
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// cut ends all connections.
func (l *pipeListener) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.open {
		c.Close()
	}
}

func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// serve starts a server until stop is called.
func (n *pipeNet) serve(host string, h http.Handler) (stop func()) {
	l := &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
	n.mu.Lock()
	n.hosts[host] = l
	n.mu.Unlock()
	server := &http.Server{Handler: h}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		server.Serve(l)
	}()
	return func() {
		n.mu.Lock()
		delete(n.hosts, host)
		n.mu.Unlock()
		server.Close()
		<-ended
		l.cut() // the hub has taken streams out of the server's hands
	}
}

func (n *pipeNet) dial(ctx context.Context, _, address string) (net.Conn, error) {
	host, _, _ := net.SplitHostPort(address)
	n.mu.Lock()
	l := n.hosts[host]
	n.dials[host]++
	n.mu.Unlock()
	if l == nil {
		return nil, errors.New("connection refused")
	}
	near, far := net.Pipe()
	select {
	case l.conns <- far:
		return near, nil
	case <-l.done:
		return nil, errors.New("connection refused")
	}
}

func (n *pipeNet) dialled(host string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dials[host]
}

func newPipeNet() *pipeNet {
	return &pipeNet{hosts: make(map[string]*pipeListener), dials: make(map[string]int)}
}

func testMaterial(tb testing.TB, first byte) keystore.Material {
	tb.Helper()
	m, err := keystore.NewMaterial([]byte{first, 31: 1})
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

// client starts a client of these hosts that ends with the returned func.
func (n *pipeNet) client(t *testing.T, hosts ...string) (*Client, func()) {
	return n.cachedClient(t, "", hosts...)
}

func (n *pipeNet) cachedClient(t *testing.T, cacheFile string, hosts ...string) (*Client, func()) {
	t.Helper()
	return n.editedClient(t, cacheFile, func(*Client) {}, hosts...)
}

func (n *pipeNet) editedClient(t *testing.T, cacheFile string, edit func(*Client), hosts ...string) (*Client, func()) {
	t.Helper()
	secret := testMaterial(t, 1)
	ctx, cancel := context.WithCancel(context.Background())
	c := &Client{host: HostFile{Host: "web-1", KID: secret.KID(), Secret: secret}, config: Config{CacheFile: cacheFile}, log: slog.New(slog.DiscardHandler),
		cancel: cancel, done: make(chan struct{}), changed: make(chan struct{}), rings: make(map[keystore.RingName]*Ring)}
	keys, err := newSecrets(c.config, c.host, c.log)
	if err != nil {
		t.Fatal(err)
	}
	c.keys = keys
	for _, h := range hosts {
		c.host.Servers = append(c.host.Servers, "http://"+h)
	}
	edit(c)
	n.seed++
	c.tickets.http = &http.Client{Transport: &http.Transport{DialContext: n.dial}} // for the reports
	f := &follower{client: c, random: rand.New(rand.NewPCG(n.seed, 2)), http: &http.Client{Transport: &http.Transport{DialContext: n.dial, IdleConnTimeout: 90 * time.Second}}}
	c.start(ctx, f)
	return c, func() { c.Close(); time.Sleep(time.Second); synctest.Wait() }
}

// A source is a hub's, of one ring whose proof can be stopped.
type source struct {
	mu     sync.Mutex
	frozen time.Time // the proof, when it is stopped
	state  *hub.State
	next   chan struct{}
	secret keystore.Material
}

func newSource(t *testing.T) *source {
	s := &source{secret: testMaterial(t, 1), next: make(chan struct{})}
	s.set(t, "1.1-1.1", 1)
	return s
}

func (s *source) set(t *testing.T, v string, version keystore.Version) {
	m := testMaterial(t, byte(version)+100)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = &hub.State{V: v, Rings: map[keystore.RingName]*keystore.KeySet{"sso": {Ring: "sso", Epoch: 1, Version: version, Mode: keystore.ModeDynamic,
		Keys: []keystore.SetKey{{KID: m.KID(), Role: keystore.Current, Seals: true, Material: m}}}}}
	close(s.next)
	s.next = make(chan struct{})
}

func (s *source) freeze(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frozen = time.Time{}
	if on {
		s.frozen = time.Now()
	}
}

func (s *source) Watch() (*hub.State, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state, s.next
}

func (s *source) AsOf() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.frozen.IsZero() {
		return time.Now()
	}
	return s.frozen
}

func (s *source) Host(name string) (hub.Host, bool) {
	return hub.Host{Name: name, Rings: []keystore.RingName{"sso"}, Secrets: []hub.Secret{{KID: s.secret.KID(), Material: s.secret}}}, name == "web-1"
}

func newHub(t *testing.T, s *source) *hub.Hub { return newHubAt(t, s, 0) }

// newHubAt gives a hub whose clock is off.
func newHubAt(t *testing.T, s *source, off time.Duration) *hub.Hub {
	return newHubOf(t, hub.Config{Source: s, ClockOffset: off})
}

func newHubOf(t *testing.T, c hub.Config) *hub.Hub {
	t.Helper()
	c.Server = "ps-1"
	h, err := hub.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // no goroutine may be left in the bubble
		over, cancel := context.WithCancel(context.Background())
		cancel()
		h.Close(over)
		h.Close(context.Background())
	})
	return h
}

// muteLimit is longer than any client waits.
const muteLimit = 10 * time.Minute

// mute answers with the first messages of a stream, and then says nothing.
func mute(s *source, messages int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if messages == 0 {
			select {
			case <-r.Context().Done():
			case <-time.After(muteLimit): // the end is not always noticed where the server has stopped
			}
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		var out []byte
		a, _ := wire.ParseAuthorization(r.Header.Get("Authorization"))
		channel, _ := wire.NewChannel(s.secret, a.Host, a.Nonce, wire.Nonce{})
		if messages > 1 {
			out, _ = wire.AppendEvent(out, wire.Event{Name: wire.EventHello}, wire.Hello{Proto: 1, SN: wire.Nonce{}.String(), Heartbeat: 15})
		}
		if messages > 2 {
			e, _ := channel.Seal(wire.EventRing, "1.1-1.1", wire.State{V: "1.1-1.1", IssuedAt: time.Now(), AsOf: time.Now(), StaleAfter: 60})
			out, _ = wire.AppendEvent(out, wire.Event{Name: wire.EventRing}, e)
		}
		w.Write(append(out, ": talk\n\n"...))
		for {
			http.NewResponseController(w).Flush()
			select {
			case <-time.After(time.Second):
				w.Write([]byte(": bytes that prove nothing\n\n"))
			case <-r.Context().Done():
				return
			}
		}
	}
}

func TestSilentServerIsLeft(t *testing.T) {
	for i, c := range []struct {
		name   string
		within time.Duration
	}{
		{"no head", headTimeout}, {"no hello", helloTimeout}, {"nothing sealed", sealedTimeout}, {"no heartbeat", 37500 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				n := newPipeNet()
				stop := n.serve("ps-1", mute(newSource(t), i))
				client, end := n.client(t, "ps-1")
				time.Sleep(c.within - time.Second)
				synctest.Wait()
				if status := client.Status(); status.Err != nil {
					t.Errorf("left too early: %v", status.Err)
				}
				time.Sleep(time.Second)
				synctest.Wait()
				if status := client.Status(); !errors.Is(status.Err, errSilent) {
					t.Errorf("Status = %+v, want silent", status)
				}
				stop()
				end()
			})
		})
	}
}

func TestAgentSaysWhenItIsStale(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		n, s := newPipeNet(), newSource(t)
		stop := n.serve("ps-1", newHub(t, s))
		client, end := n.client(t, "ps-1")
		check := func(after time.Duration, want State) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			if got := client.Status(); got.State != want || got.Err != nil {
				t.Errorf("Status = %+v, want %s and connected", got, want)
			}
		}
		check(time.Second, StateFresh)
		check(time.Hour, StateFresh)
		s.freeze(true) // the server is cut off from its core, and goes on feeding
		check(30*time.Second, StateFresh)
		check(31*time.Second, StateStale)
		keys := client.Ring("sso").Snapshot()
		check(24*time.Hour, StateStale)
		if keys == nil || client.Ring("sso").Snapshot() != keys {
			t.Error("a stale agent lost its keys")
		}
		s.freeze(false)
		check(16*time.Second, StateFresh)
		stop() // and now the server is gone
		time.Sleep(61 * time.Second)
		if got := client.Status(); got.State != StateStale || got.Err == nil || client.Ring("sso").Snapshot() != keys {
			t.Errorf("Status = %+v, want stale without a server, with the last keys", got)
		}
		end()
	})
}

func TestAgentLeavesAServerThatIsStale(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		n, cut, whole := newPipeNet(), newSource(t), newSource(t)
		cut.freeze(true)
		stop1, stop2 := n.serve("ps-1", newHub(t, cut)), n.serve("ps-2", newHub(t, whole))
		client, end := n.client(t, "ps-1", "ps-2")
		time.Sleep(5 * time.Minute)
		synctest.Wait()
		if got := client.Status(); got.State != StateFresh || got.URL != "http://ps-2" {
			t.Errorf("Status = %+v, want fresh from ps-2", got)
		}
		stop1()
		stop2()
		end()
	})
}

func TestAgentRefusesALaterServerThatIsBehind(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		n, ahead, behind := newPipeNet(), newSource(t), newSource(t)
		ahead.set(t, "1.9-1.1", 5)
		stop := n.serve("ps-1", newHub(t, ahead))
		client, end := n.client(t, "ps-1")
		time.Sleep(time.Second)
		stop()
		stop = n.serve("ps-1", newHub(t, behind))
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if got := client.Status(); !errors.Is(got.Err, errBehind) || client.Ring("sso").Snapshot().Version != 5 {
			t.Errorf("Status = %+v at version %d, want version 5 and a refusal", got, client.Ring("sso").Snapshot().Version)
		}
		behind.set(t, "1.10-1.1", 6)
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := client.Status(); got.Err != nil || client.Ring("sso").Snapshot().Version != 6 {
			t.Errorf("Status = %+v at version %d, want version 6", got, client.Ring("sso").Snapshot().Version)
		}
		stop()
		end()
	})
}

func TestAgentWhoseClockIsOffIsSetRight(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		n, s := newPipeNet(), newSource(t)
		stop := n.serve("ps-1", newHubAt(t, s, 10*time.Minute))
		client, end := n.client(t, "ps-1")
		synctest.Wait()
		if got := client.Status(); got.State != StateFresh || got.Err != nil {
			t.Errorf("Status = %+v, want fresh at once", got)
		}
		if got := n.dialled("ps-1"); got != 1 {
			t.Errorf("%d connections, want 1 for both requests", got)
		}
		stop()
		end()
	})
}

func TestRefusedAgentAsksSeldom(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		n, s := newPipeNet(), newSource(t)
		s.secret = testMaterial(t, 9)
		stop := n.serve("ps-1", newHub(t, s))
		client, end := n.client(t, "ps-1")
		if err := client.WaitReady(t.Context()); err == nil {
			t.Error("WaitReady of a refused host returned nil")
		}
		time.Sleep(time.Hour)
		if got := n.dialled("ps-1"); got < 12 || got > 25 {
			t.Errorf("%d attempts in an hour, want one in 2.5 to 5 minutes", got)
		}
		stop()
		end()
	})
}
