package ledger_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/events/ledger"
	"github.com/keytide/keytide/keystore"
)

// The test binary is also the process that is killed: run with this variable, it
// plays a part instead of running tests.
const partVariable = "KEYTIDE_LEDGER_TEST_PART"

func TestMain(m *testing.M) {
	switch part := os.Getenv(partVariable); part {
	case "":
		os.Exit(m.Run())
	case "core":
		playCore(os.Args[1])
	default:
		playWriter(part, os.Args[1])
	}
}

func die() {
	syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

func must[T any](v T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return v
}

// playCore is a core server on a directory. It prints its URL and runs until it is
// killed, or its parent has gone.
func playCore(dir string) {
	s := must(server.NewServer(&server.Options{
		ServerName: "core-1", Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: dir,
		JetStreamMaxStore: 256 << 20, NoSigs: true, NoLog: true, SyncAlways: true,
	}))
	s.Start()
	if !s.ReadyForConnections(patience) {
		os.Exit(1)
	}
	fmt.Println(s.ClientURL())
	bufio.NewReader(os.Stdin).ReadByte()
}

// A deadlyConn kills its process at one step of a batch.
type deadlyConn struct {
	net.Conn
	step string
	sent bool
}

func (c *deadlyConn) Write(b []byte) (int, error) {
	commit := bytes.Contains(b, []byte("Nats-Batch-Commit"))
	if commit && c.step == "before the commit" {
		c.Conn.Write(b[:bytes.Index(b, []byte("Nats-Batch-Commit"))])
		die()
	}
	n, err := c.Conn.Write(b)
	if commit && c.step == "after the commit" {
		die()
	}
	c.sent = c.sent || commit
	return n, err
}

func (c *deadlyConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.sent && c.step == "at the answer" && bytes.Contains(b[:n], []byte(`"count":`)) {
		die()
	}
	return n, err
}

type deadlyDialer string

func (d deadlyDialer) Dial(network, address string) (net.Conn, error) {
	conn, err := net.Dial(network, address)
	return &deadlyConn{Conn: conn, step: string(d)}, err
}

// playWriter appends the ring of event 2, and is killed at a step.
func playWriter(step, url string) {
	nc := must(nats.Connect(url, nats.SetCustomDialer(deadlyDialer(step))))
	l := must(ledger.Open(context.Background(), must(jetstream.New(nc)), bucket))
	w := newWriter(nil)
	w.t = fatalOnly{}
	w.stored(w.genesis(), 4)
	_, err := l.Append(context.Background(), w.ring("sso"))
	fmt.Fprintln(os.Stderr, "not killed:", err)
	os.Exit(1)
}

// fatalOnly is a testing.TB for a process that runs no tests.
type fatalOnly struct{ testing.TB }

func (fatalOnly) Helper() {}
func (fatalOnly) Fatal(args ...any) {
	fmt.Fprintln(os.Stderr, args...)
	os.Exit(1)
}

func play(t *testing.T, part, arg string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], arg)
	cmd.Env = append(os.Environ(), partVariable+"="+part)
	cmd.Stderr = os.Stderr
	return cmd
}

// TestWriterKilledBetweenSteps: a batch is whole or nothing wherever its writer
// dies, and whoever comes next can go on.
func TestWriterKilledBetweenSteps(t *testing.T) {
	for step, mayBeStored := range map[string][]bool{
		"before the commit": {false}, "after the commit": {false, true}, "at the answer": {true},
	} {
		t.Run(step, func(t *testing.T) {
			url := startServer(t, nil).ClientURL()
			l := create(t, connect(t, url))
			w := newWriter(t)
			w.append(l, w.genesis())
			err := play(t, step, url).Run()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("the writer ended with %v, want it killed", err)
			}
			f := &faulty{t: t, good: l, w: w, key: "log.2", batch: w.ring("sso")}
			// The one that comes next: stored means that the dead one was first.
			head, err := l.Append(within(t), f.batch)
			stored := errors.Is(err, events.ErrConflict)
			if err != nil && !stored {
				t.Fatal(err)
			}
			if !slices.Contains(mayBeStored, stored) {
				t.Errorf("the dead writer's batch is stored: %v", stored)
			}
			if !stored && head == 0 {
				t.Error("the next writer could not go on")
			}
			checkEvents(t, l, 2)
		})
	}
}

// checkEvents folds the bucket, and checks that every effect is there.
func checkEvents(t *testing.T, l *ledger.Ledger, n int) *events.State {
	t.Helper()
	state := events.NewState()
	values := map[string]ledger.Entry{}
	for _, e := range contents(t, l) {
		values[e.Key] = e
		if key, err := events.ParseKey(e.Key); err == nil && key.Kind == events.KeyLog {
			if _, err := state.Apply(e.Value); err != nil {
				t.Fatal(err)
			}
		}
	}
	if int(state.N()) < n {
		t.Errorf("%d events, want %d", state.N(), n)
	}
	for _, key := range state.Live() {
		if hash, _ := state.Expect(key); events.HashOf(values[key].Value) != hash {
			t.Errorf("%s is not what its event says", key)
		}
	}
	if got := string(values[events.HeadKey].Value); got != string(state.Head().Encode()) {
		t.Error("the head does not name the newest event")
	}
	return state
}

// TestCoreKilled kills the core's only server while a writer appends, again and
// again on one directory: what was acknowledged is there, what was in doubt is
// whole or not there, and what was surely not stored is not.
func TestCoreKilled(t *testing.T) {
	dir := storeDir(t)
	w := newWriter(t)
	for round := range 4 {
		core := play(t, "core", dir)
		stdin, err := core.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		defer stdin.Close()
		out, err := core.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := core.Start(); err != nil {
			t.Fatal(err)
		}
		url, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		js := connect(t, url[:len(url)-1])
		var l *ledger.Ledger
		if round == 0 {
			l = create(t, js)
			w.append(l, w.genesis())
		} else if l, err = ledger.Open(within(t), js, bucket); err != nil {
			t.Fatal(err)
		}
		w.catchUp(l)
		killed := make(chan struct{})
		time.AfterFunc(150*time.Millisecond, func() {
			core.Process.Kill()
			close(killed)
		})
		w.appendUntilDown(l)
		<-killed
		core.Wait()
		js.Conn().Close()
	}
}

// catchUp compares the bucket with what the writer knows: all that was
// acknowledged, and at most the one batch that was in doubt.
func (w *writer) catchUp(l *ledger.Ledger) {
	w.t.Helper()
	state := checkEvents(w.t.(*testing.T), l, int(w.state.N()))
	if state.N() == w.state.N() {
		if w.doubt != nil {
			w.t.Logf("event %d was lost", w.doubt.N)
		}
	} else if w.doubt == nil || state.Hash() != w.doubt.Record.Hash() {
		w.t.Fatalf("the bucket is at event %d, the writer at %d with nothing in doubt", state.N(), w.state.N())
	} else {
		head, err := l.Newest(within(w.t), events.HeadKey)
		if err != nil {
			w.t.Fatal(err)
		}
		w.stored(*w.doubt, head.Revision)
	}
	w.doubt = nil
}

func (w *writer) appendUntilDown(l *ledger.Ledger) {
	w.t.Helper()
	for {
		b := w.void("x")
		if w.state.N()%5 == 1 {
			b = w.ring(keystore.RingName(fmt.Sprintf("ring-%d", w.state.N())))
		}
		rev, err := l.Append(within(w.t), b)
		if err == nil {
			w.stored(b, rev)
			continue
		}
		switch {
		case errors.Is(err, events.ErrUnknown):
			w.doubt = &b
		case !errors.Is(err, events.ErrUnavailable):
			w.t.Fatalf("Append = %v, want one that is ErrUnknown or ErrUnavailable", err)
		}
		return
	}
}
