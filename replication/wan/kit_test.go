package wan_test

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keytide/keytide/replication/wan"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience ends a test whose condition never comes; moment is how long a test looks
// that nothing happens.
const (
	patience = 30 * time.Second
	moment   = 30 * time.Millisecond
)

// A target accepts connections and hands them to the test.
type target struct {
	net.Listener
	conns chan *net.TCPConn
}

func newTarget(tb testing.TB) *target {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	t := &target{Listener: l, conns: make(chan *net.TCPConn, 100)}
	var done sync.WaitGroup
	done.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.conns <- c.(*net.TCPConn)
		}
	})
	tb.Cleanup(func() {
		l.Close()
		done.Wait()
		close(t.conns)
		for c := range t.conns {
			c.Close()
		}
	})
	return t
}

func (t *target) accept(tb testing.TB) *net.TCPConn {
	tb.Helper()
	select {
	case c := <-t.conns:
		tb.Cleanup(func() { c.Close() })
		return c
	case <-time.After(patience):
		tb.Fatal("no connection reached the target")
		return nil
	}
}

func (t *target) untouched(tb testing.TB) {
	tb.Helper()
	select {
	case c := <-t.conns:
		c.Close()
		tb.Error("a connection reached the target")
	case <-time.After(moment):
	}
}

func open(tb testing.TB, cfg wan.Config) *wan.Link {
	tb.Helper()
	l, err := wan.Open(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { must(tb, l.Close()) })
	return l
}

func dial(tb testing.TB, address string) *net.TCPConn {
	tb.Helper()
	c, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// joined returns both ends of a connection through a link.
func joined(tb testing.TB, cfg wan.Config) (l *wan.Link, near, far *net.TCPConn) {
	tb.Helper()
	t := newTarget(tb)
	cfg.Target = t.Addr().String()
	l = open(tb, cfg)
	near = dial(tb, l.Addr())
	return l, near, t.accept(tb)
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func send(tb testing.TB, c net.Conn, text string) {
	tb.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		tb.Fatalf("writing %q: %v", text, err)
	}
}

func expect(tb testing.TB, c net.Conn, want string) {
	tb.Helper()
	must(tb, c.SetReadDeadline(time.Now().Add(patience)))
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil || string(got) != want {
		tb.Fatalf("got %q, %v; want %q", got[:n], err, want)
	}
}

// silent checks that nothing comes, neither bytes nor the end.
func silent(tb testing.TB, conns ...net.Conn) {
	tb.Helper()
	for _, c := range conns {
		must(tb, c.SetReadDeadline(time.Now().Add(moment)))
		var timeout net.Error
		if n, err := c.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
			tb.Fatalf("something came: %d bytes, %v", n, err)
		}
	}
}

// end waits for the end of what can be read and returns it; nil at an orderly one.
func end(tb testing.TB, c net.Conn) error {
	tb.Helper()
	must(tb, c.SetReadDeadline(time.Now().Add(patience)))
	_, err := io.Copy(io.Discard, c)
	return err
}

func wantReset(tb testing.TB, conns ...net.Conn) {
	tb.Helper()
	for _, c := range conns {
		if err := end(tb, c); !errors.Is(err, syscall.ECONNRESET) {
			tb.Errorf("connection ended by %v, want a reset", err)
		}
	}
}

// dialReset connects and waits for the reset, which may come while it still connects.
func dialReset(tb testing.TB, link *wan.Link) {
	tb.Helper()
	c, err := net.Dial("tcp", link.Addr())
	if err == nil {
		defer c.Close()
		err = end(tb, c)
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		tb.Errorf("connection ended by %v, want a reset", err)
	}
}

func eventually(tb testing.TB, what string, check func() bool) {
	tb.Helper()
	for began := time.Now(); !check(); time.Sleep(time.Millisecond) {
		if time.Since(began) > patience {
			tb.Fatalf("not within %v: %s", patience, what)
		}
	}
}
