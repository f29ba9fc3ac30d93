package replication_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/events/ledger"
	"github.com/keytide/keytide/replication"
)

var (
	allSteps  = flag.Bool("steps.all", false, "TestKilledBetweenSteps: each step in every way, not in one that is drawn")
	stepsSeed = flag.Uint64("steps.seed", 0, "TestKilledBetweenSteps: seed of what is drawn; 0: drawn itself")
)

// stepsOrder names the file with an order. The test binary starts itself with it to be
// the server that carries it out, and is killed amid.
const stepsOrder = "KEYTIDE_TEST_STEPS_ORDER"

// An order is one rollover for a server in a process of its own, and where it dies of it.
type order struct {
	URL     string
	Dir     string
	Genesis events.Hash
	Key     []byte
	Request string
	Step    string
}

// The steps of a change, in their order, and whether its event is in the core where its
// writer dies there. Steps on the wire are named by the connection.
var steps = []struct {
	name   string
	stored []bool // what may be
}{
	{"asked", []bool{false}},
	{"drafted", []bool{false}},
	{"sending", []bool{false}},
	{"half of it sent", []bool{false}},
	{"all of it sent", []bool{false, true}},
	{"answer came", []bool{true}},
	{"taken", []bool{true}}, // by its own replica, which may be before the answer
	{"stored", []bool{true}},
	{"shown", []bool{true}},
	{"written", []bool{true}},
	{"landed", []bool{true}},
	{"record", []bool{true}},
	{"recorded", []bool{true}},
	{"held", []bool{true}},
}

// A mortal is a server that dies at a step, once it is armed.
type mortal struct {
	step  string
	armed atomic.Bool
}

func (m *mortal) at(step string) {
	if step == m.step && m.armed.Load() {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

// Dial makes the mortal a dialer whose connections have steps.
func (m *mortal) Dial(network, address string) (net.Conn, error) {
	conn, err := net.Dial(network, address)
	return &mortalConn{Conn: conn, mortal: m}, err
}

type mortalConn struct {
	net.Conn
	mortal *mortal
	sent   atomic.Bool
}

func (c *mortalConn) Write(b []byte) (int, error) {
	at := bytes.Index(b, []byte("Nats-Batch-Commit"))
	if at < 0 {
		return c.Conn.Write(b)
	}
	if c.mortal.step == "half of it sent" && c.mortal.armed.Load() {
		c.Conn.Write(b[:at])
		c.mortal.at("half of it sent")
	}
	c.sent.Store(true) // before: the answer may come before Write returns
	n, err := c.Conn.Write(b)
	c.mortal.at("all of it sent")
	return n, err
}

func (c *mortalConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.sent.Load() && bytes.Contains(b[:n], []byte(`"count":`)) {
		c.mortal.at("answer came")
	}
	return n, err
}

// quick is a member that soon has something to say.
func quick(cfg *replication.MemberConfig) { cfg.BeaconPeriod = 50 * time.Millisecond }

func stepsMain(file string) {
	text, err := os.ReadFile(file)
	var o order
	if err = errors.Join(err, json.Unmarshal(text, &o)); err == nil {
		err = o.carryOut()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func (o order) carryOut() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	dying := &mortal{step: o.Step}
	nc, err := nats.Connect(o.URL, nats.ReconnectBufSize(-1), nats.SetCustomDialer(dying))
	if err != nil {
		return err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	l, err := ledger.Open(ctx, js, bucket)
	if err != nil {
		return err
	}
	replica, err := replication.OpenReplica(filepath.Join(o.Dir, "ps-2.db"), replication.Pin{Kind: events.Keys, Store: "main", Epoch: 1, Genesis: o.Genesis})
	if err != nil {
		return err
	}
	cfg := replication.MemberConfig{
		Log: l, Replica: replica, Identity: replication.Identity{Server: "ps-2", Region: "us", Address: "127.0.0.1:7481", Key: o.Key},
	}
	quick(&cfg)
	var before atomic.Uint64
	replication.AtSteps(&cfg, func(step string) {
		if n, _ := replica.Durable(); strings.HasPrefix(step, "record") && uint64(n) <= before.Load() {
			return // a record that says nothing of the change
		}
		dying.at(step)
	})
	m, err := replication.New(cfg)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	await(childTB{}, "fresh", func() bool { return m.Freshness().State == events.Fresh })
	n, _ := replica.Durable()
	before.Store(uint64(n))
	dying.armed.Store(true)
	_, err = m.Commit(ctx, replication.Roll(childTB{}, "sso", o.Request))
	if err == nil {
		err = <-ended // its record comes beside the answer
	}
	return fmt.Errorf("it lives on after step %s: %v", o.Step, err)
}

// run gives a server the order of which it dies.
func (o order) run(t *testing.T) {
	t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(o.Dir, "order")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), stepsOrder+"="+file)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("the server ended with %v, want it killed\n%s", err, &stderr)
	}
}

// A way is how a step is tried. home: the request is asked for again at the server that
// died, restarted, and then at the other; otherwise the other way round. busy: the other
// server writes all the while.
type way struct{ home, busy bool }

// TestKilledBetweenSteps kills a server by kill -9 at each step of a rollover, on the
// wire and on the disk, and asks for the same rollover again, at the other server and at
// the one that died: there is one, with one n and id, and both replicas are the same.
// Each step is tried in one way that is drawn; all of them:
//
//	go test ./replication -run TestKilledBetweenSteps -steps.all
func TestKilledBetweenSteps(t *testing.T) {
	seed := *stepsSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	c := newCoreAt(t, "127.0.0.1:0")
	defer c.stop()
	// The dead server's last record says for a while that it is there: that is not waited for.
	first := c.run("ps-1.db", quick, func(cfg *replication.MemberConfig) { cfg.HoldWait = 50 * time.Millisecond })
	defer first.stop()
	first.awaitReady()
	first.commit(replication.CreateRing(t, "sso"))
	g := newGuest(t, "ps-2", "us")
	first.admit(g)
	all := []way{{false, false}, {false, true}, {true, false}, {true, true}}
	for i, step := range steps {
		ways := []way{all[r.IntN(len(all))]}
		if *allSteps {
			ways = all
		}
		for _, w := range ways {
			t.Run(fmt.Sprintf("%s, home %v, busy %v", step.name, w.home, w.busy), func(t *testing.T) {
				o := order{URL: c.bus.ClientURL(), Dir: c.dir, Genesis: c.pin.Genesis, Key: g.key, Request: fmt.Sprintf("request %d %v", i, w), Step: step.name}
				o.dieAndAskAgain(t, c, g, w, step.stored)
			})
		}
	}
}

func (o order) dieAndAskAgain(t *testing.T, c *core, g guest, w way, mayBeStored []bool) {
	other := c.nodes[0]
	before := headOf(other).N
	if w.busy {
		defer keepWriting(t, other)()
	}
	o.run(t)
	if !w.busy && !slices.Contains(mayBeStored, false) {
		other.awaitN(before + 1) // nothing that the core has is lost with its writer
	}
	died := c.run("ps-2.db", g.as, quick)
	defer died.stop()
	servers := []*node{other, died}
	if w.home {
		slices.Reverse(servers)
	}
	var answers []replication.Receipt
	for _, n := range servers {
		if n == died {
			n.awaitReady()
		}
		answers = append(answers, n.commit(replication.Roll(t, "sso", o.Request)))
	}
	if answers[0].N != answers[1].N || answers[0].ID != answers[1].ID {
		t.Errorf("the same request is event %d (%s), and event %d (%s)", answers[0].N, answers[0].ID, answers[1].N, answers[1].ID)
	}
	have := headOf(died)
	other.awaitN(have.N)
	if rec, err := other.Replica().Record(have.N); err != nil || rec.Hash() != have.Hash {
		t.Errorf("event %d is not the same at both servers, or %v", have.N, err)
	}
	o.checkOnce(t, other, w, mayBeStored)
}

// checkOnce looks for the request in the whole log.
func (o order) checkOnce(t *testing.T, n *node, w way, mayBeStored []bool) {
	t.Helper()
	var by []string
	for rec, err := range n.Replica().Records(1, headOf(n).N) {
		if err != nil {
			t.Fatal(err)
		}
		ev, err := events.Decode(rec)
		if err != nil {
			t.Fatal(err)
		}
		if ev.Request == o.Request {
			by = append(by, ev.Server)
		}
	}
	if len(by) != 1 {
		t.Fatalf("the request has made %d events", len(by))
	}
	// In a busy log, the server may have died at the same step of another's event.
	if stored := by[0] == "ps-2"; !w.home && !w.busy && !slices.Contains(mayBeStored, stored) {
		t.Errorf("the event is by %s: that of the server that died is stored = %v, want one of %v", by[0], stored, mayBeStored)
	}
}

// keepWriting rolls over again and again until stop.
func keepWriting(t *testing.T, n *node) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	writer.Go(func() {
		for ctx.Err() == nil {
			if _, err := n.Commit(ctx, replication.Roll(t, "sso", "")); err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
		}
	})
	return func() { cancel(); writer.Wait() }
}
