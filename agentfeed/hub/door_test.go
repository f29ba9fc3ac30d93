package hub_test

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/keytide/keytide/agentfeed/hub"
)

// raw opens a TCP connection to the bench, and no more.
func (b *bench) raw() net.Conn {
	b.t.Helper()
	conn, err := net.Dial("tcp", b.Listener.Addr().String())
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { conn.Close() })
	return conn
}

func (b *bench) clientTLS() *tls.Config {
	config := b.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	config.NextProtos, config.ServerName = []string{"http/1.1"}, "example.com"
	return config
}

// secure opens a connection of TLS to the bench.
func (b *bench) secure() net.Conn {
	b.t.Helper()
	conn := tls.Client(b.raw(), b.clientTLS())
	if err := conn.HandshakeContext(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	return conn
}

// awaitCut waits until the server has cut so many of the connections.
func awaitCut(t *testing.T, conns []net.Conn, many int) {
	t.Helper()
	cut := make(chan struct{}, len(conns))
	for _, c := range conns {
		go func() {
			io.Copy(io.Discard, c)
			cut <- struct{}{}
		}()
	}
	over := time.After(patience)
	for i := range many {
		select {
		case <-cut:
		case <-over:
			t.Fatalf("%d of %d connections were cut, want %d", i, len(conns), many)
		}
	}
}

// TestSilentConnectionsMakeRoom: of too many connections that say nothing those go that
// have been silent for longest, whether before or after the handshake; who has
// authenticated stays, however silent.
func TestSilentConnectionsMakeRoom(t *testing.T) {
	b := newBenchWith(t, "http/1.1", 10)
	b.poll(web1()) // its connection stays open
	first := b.stream(web1())
	first.state()
	var silent []net.Conn
	for i := range 60 {
		if i%3 == 0 {
			silent = append(silent, b.secure())
			continue
		}
		silent = append(silent, b.raw())
	}
	awaitCut(t, silent, 50)
	if got := b.poll(web1()); got.StatusCode != http.StatusOK {
		t.Errorf("a healthy poll: %s", got.Status)
	}
	b.stream(web1()).state()
	b.source.change(func(s *source) { s.state.V, s.state.Servers = "1.3-1.2", []string{"https://ps-2:7443"} })
	if state := first.state(); state.V != "1.3-1.2" {
		t.Errorf("state %s, want that after the silent ones", state.V)
	}
}

// TestHandshakesThatStopHoldNoPlace: more clients than there are places for handshakes
// stop in the middle of theirs.
func TestHandshakesThatStopHoldNoPlace(t *testing.T) {
	b := newBench(t)
	for range 100 {
		conn := b.raw()
		config := &tls.Config{InsecureSkipVerify: true}
		go tls.Client(&deaf{Conn: conn, heard: make(chan struct{})}, config).Handshake()
	}
	for range 40 {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: b.Client().Transport.(*http.Transport).TLSClientConfig, DisableKeepAlives: true}}
		response, err := client.Get(b.URL + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
	}
}

// deaf hears nothing of what it is answered.
type deaf struct {
	net.Conn
	heard chan struct{}
}

func (d *deaf) Read(p []byte) (int, error) {
	d.Conn.Read(make([]byte, 1)) // the answer has come, or the connection has ended
	return 0, io.ErrUnexpectedEOF
}

func TestDoorKeepsWhatItIsGiven(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	door, asked := hub.NewDoor(listener, 0), false
	inner := httptest.NewUnstartedServer(nil)
	inner.StartTLS()
	defer inner.Close()
	server := &http.Server{TLSConfig: &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		asked = true
		return inner.TLS, nil
	}}}
	door.Guard(server)
	done := make(chan struct{})
	go func() { defer close(done); server.ServeTLS(door, "", "") }()
	conn, err := tls.Dial("tcp", listener.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	server.Close()
	<-done
	if !asked {
		t.Error("the server's own GetConfigForClient was not asked")
	}
	if _, err := door.Accept(); err == nil {
		t.Error("a closed door accepts")
	}
}
