package hub_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keytide/keytide/agentfeed/hub"
	"github.com/keytide/keytide/agentfeed/internal/wire"
	"github.com/keytide/keytide/keystore"
	_ "github.com/keytide/keytide/keystore/fips/fipstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 60 * time.Second

func material(first byte) keystore.Material {
	m, err := keystore.NewMaterial(append([]byte{first}, bytes.Repeat([]byte{0xab}, 31)...))
	if err != nil {
		panic(err)
	}
	return m
}

// A source is a hub's, under the test's control.
type source struct {
	mu    sync.Mutex
	state *hub.State
	next  chan struct{}
	hosts map[string]hub.Host
	stale bool
}

func set(name keystore.RingName, version keystore.Version) *keystore.KeySet {
	s := &keystore.KeySet{Ring: name, Epoch: 1, Version: version, Mode: keystore.ModeDynamic}
	for i, role := range []keystore.Role{keystore.Current, keystore.Static, keystore.SessionTicket} {
		m := material(byte(version)*8 + byte(i) + byte(len(name)))
		s.Keys = append(s.Keys, keystore.SetKey{KID: m.KID(), Role: role, Seals: i == 0, Material: m})
	}
	return s
}

// newSource has the rings sso and intranet, and the hosts web-1 (sso), gone (revoked)
// and late (whose former secret is material(3)).
func newSource() *source {
	secret := func(first byte, retired bool) hub.Secret {
		return hub.Secret{KID: material(first).KID(), Material: material(first), Retired: retired}
	}
	sso := []keystore.RingName{"sso"}
	return &source{
		next: make(chan struct{}),
		state: &hub.State{V: "1.2-1.2", Servers: []string{"https://ps-1:7443"},
			Rings: map[keystore.RingName]*keystore.KeySet{"sso": set("sso", 1), "intranet": set("intranet", 1)}},
		hosts: map[string]hub.Host{
			"web-1": {Name: "web-1", Rings: []keystore.RingName{"sso", "sso", "nosuch"}, Secrets: []hub.Secret{secret(1, false)}},
			"gone":  {Name: "gone", Rings: sso, Secrets: []hub.Secret{secret(2, false)}, Revoked: true},
			"late":  {Name: "late", Rings: sso, Secrets: []hub.Secret{secret(3, true), secret(4, false)}},
		},
	}
}

func (s *source) change(f func(*source)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != nil {
		next := *s.state
		s.state = &next
	}
	f(s)
	close(s.next)
	s.next = make(chan struct{})
}

func (s *source) Watch() (*hub.State, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state, s.next
}

func (s *source) AsOf() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stale {
		return time.Now().Add(-time.Hour)
	}
	return time.Now()
}

func (s *source) Host(name string) (hub.Host, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, ok := s.hosts[name]
	return h, ok
}

// A bench is a hub that serves over TLS, and its log.
type bench struct {
	*httptest.Server
	t      *testing.T
	source *source
	hub    *hub.Hub
	log    *logBuffer
}

func newBench(t *testing.T, edit ...func(*hub.Config)) *bench {
	t.Helper()
	return newBenchOver(t, "http/1.1", edit...)
}

// protocols are those that a hub serves, each in a way of its own.
var protocols = []string{"http/1.1", "h2"}

// overEach runs a test over each protocol.
func overEach(t *testing.T, test func(t *testing.T, newBench func(...func(*hub.Config)) *bench)) {
	for _, protocol := range protocols {
		t.Run(strings.ReplaceAll(protocol, "/", "-"), func(t *testing.T) {
			test(t, func(edit ...func(*hub.Config)) *bench { return newBenchOver(t, protocol, edit...) })
		})
	}
}

func newBenchOver(t *testing.T, protocol string, edit ...func(*hub.Config)) *bench {
	t.Helper()
	return newBenchWith(t, protocol, 0, edit...)
}

// newBenchWith has a door that bears so many silent connections.
func newBenchWith(t *testing.T, protocol string, silent int, edit ...func(*hub.Config)) *bench {
	t.Helper()
	b := &bench{t: t, source: newSource(), log: new(logBuffer)}
	config := hub.Config{Source: b.source, Server: "ps-1", Logger: slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	for _, f := range edit {
		f(&config)
	}
	var err error
	if b.hub, err = hub.New(config); err != nil {
		t.Fatal(err)
	}
	b.Server = httptest.NewUnstartedServer(b.hub)
	b.EnableHTTP2 = protocol == "h2"
	b.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	b.Config.TLSConfig = &tls.Config{NextProtos: []string{protocol}}
	door := hub.NewDoor(b.Listener, silent)
	door.Guard(b.Config)
	b.Listener, b.TLS = door, b.Config.TLSConfig
	b.StartTLS()
	t.Cleanup(func() {
		b.CloseClientConnections()
		b.Close()
		cut(b.hub)
	})
	return b
}

// cut ends all streams of a hub and waits until it has no goroutine left.
func cut(h *hub.Hub) {
	over, cancel := context.WithCancel(context.Background())
	cancel()
	h.Close(over)
	h.Close(context.Background())
}

// An ask is one request for the feed.
type ask struct {
	host    string
	secret  keystore.Material
	kid     keystore.KID // zero: that of secret
	skew    time.Duration
	applied string
	edit    func(*http.Request)
	nonce   wire.Nonce
}

func web1() ask { return ask{host: "web-1", secret: material(1), nonce: wire.NewNonce()} }

func (b *bench) request(a ask) *http.Request {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), patience)
	b.t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, b.URL+"/v1/feed", nil)
	if err != nil {
		b.t.Fatal(err)
	}
	auth := wire.Authorization{Host: a.host, KID: a.kid, Time: time.Now().Add(a.skew).Unix(), Nonce: a.nonce, Applied: a.applied}
	if auth.KID == (keystore.KID{}) {
		auth.KID = a.secret.KID()
	}
	if err := auth.Sign(a.secret, r.Method, "/v1/feed"); err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Authorization", auth.String())
	if a.edit != nil {
		a.edit(r)
	}
	return r
}

func (b *bench) do(r *http.Request) *http.Response {
	b.t.Helper()
	response, err := b.Client().Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { response.Body.Close() })
	return response
}

// answer is a whole answer.
type answer struct {
	*http.Response
	body    string
	problem string // its name; "" = none
}

func (b *bench) poll(a ask) answer {
	b.t.Helper()
	return read(b.t, b.do(b.request(a)))
}

func read(t *testing.T, response *http.Response) answer {
	t.Helper()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	a := answer{Response: response, body: string(body)}
	if response.Header.Get("Content-Type") == "application/problem+json" {
		var p wire.Problem
		if err := json.Unmarshal(body, &p); err != nil {
			t.Fatal(err)
		}
		if p.Status != response.StatusCode || p.Title == "" {
			t.Errorf("problem %s with HTTP status %d", body, response.StatusCode)
		}
		a.problem = strings.TrimPrefix(p.Type, wire.ProblemPrefix)
	}
	return a
}

// A tap is an open stream.
type tap struct {
	t       *testing.T
	ask     ask
	body    io.Closer
	events  *wire.Reader
	channel *wire.Channel
}

func (b *bench) stream(a ask) *tap {
	b.t.Helper()
	r := b.request(a)
	r.Header.Set("Accept", "text/event-stream")
	response := b.do(r)
	if response.StatusCode != http.StatusOK || response.Header.Get("Content-Type") != "text/event-stream" ||
		response.Header.Get("X-Accel-Buffering") != "no" || response.Header.Get("Cache-Control") != "no-store, no-transform" {
		b.t.Fatalf("stream: %s %v", response.Status, response.Header)
	}
	s := &tap{t: b.t, ask: a, body: response.Body, events: wire.NewReader(response.Body)}
	s.greet()
	return s
}

// greet reads the hello of a stream.
func (s *tap) greet() {
	s.t.Helper()
	var hello wire.Hello
	s.next(wire.EventHello, &hello)
	server, err := wire.ParseNonce(hello.SN)
	if err != nil || hello.Proto != 1 || hello.Server != "ps-1" || hello.Heartbeat <= 0 {
		s.t.Errorf("hello = %+v: %v", hello, err)
	}
	if s.channel, err = wire.NewChannel(s.ask.secret, s.ask.host, s.ask.nonce, server); err != nil {
		s.t.Fatal(err)
	}
}

// refusedStream reports whether the host has too many streams for one more, which it
// else has then for a moment.
func (b *bench) refusedStream(a ask) bool {
	b.t.Helper()
	r := b.request(a)
	r.Header.Set("Accept", "text/event-stream")
	response := b.do(r)
	response.Body.Close()
	return response.StatusCode == http.StatusTooManyRequests
}

// next reads one event of this name into v.
func (s *tap) next(name string, v any) wire.Event {
	s.t.Helper()
	e, err := s.events.Next()
	if err != nil {
		s.t.Fatalf("waiting for %s: %v", name, err)
	}
	if e.Name != name {
		s.t.Fatalf("got event %s %s, want %s", e.Name, e.Data, name)
	}
	if err := json.Unmarshal(e.Data, v); err != nil {
		s.t.Fatal(err)
	}
	return e
}

func (s *tap) open(name string, v any) wire.Envelope {
	s.t.Helper()
	var envelope wire.Envelope
	s.next(name, &envelope)
	if err := s.channel.Open(name, envelope, v); err != nil {
		s.t.Fatal(err)
	}
	return envelope
}

// state reads until a state comes: a heartbeat may come at any time.
func (s *tap) state() wire.State {
	s.t.Helper()
	for {
		var envelope wire.Envelope
		var state wire.State
		e, err := s.events.Next()
		if err == nil {
			err = json.Unmarshal(e.Data, &envelope)
		}
		if err == nil {
			err = s.channel.Open(e.Name, envelope, &state)
		}
		switch {
		case err != nil:
			s.t.Fatalf("waiting for a state: %s %s: %v", e.Name, e.Data, err)
		case e.Name == wire.EventRing && e.ID != envelope.V:
			s.t.Errorf("id %q of a state at %q", e.ID, envelope.V)
		}
		if e.Name == wire.EventRing {
			return state
		}
	}
}

type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
