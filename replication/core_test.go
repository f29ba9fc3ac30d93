package replication_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server/ats"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/events/ledger"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/replication"
	"github.com/keytide/keytide/replication/bus"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		childMain(dir)
		return
	}
	if order := os.Getenv(stepsOrder); order != "" {
		stepsMain(order)
		return
	}
	// The server's access-time goroutine must not be born in a bubble.
	ats.Register()
	os.Exit(m.Run())
}

// A core is an embedded NATS server with one ledger on it, and a client that has a
// writer's credentials but is no member.
type core struct {
	tb     testing.TB
	dir    string
	listen string // where clients may connect; empty: nowhere
	key    ed25519.PrivateKey
	pin    replication.Pin
	bus    *bus.Bus
	js     jetstream.JetStream
	nc     *nats.Conn
	ledger *ledger.Ledger
	nodes  []*node
}

// bucket is that of every core's ledger.
var bucket = events.BucketName(events.Keys, "main", 1)

// newCore starts a core and founds its ledger.
func newCore(tb testing.TB) *core { return newCoreAt(tb, "") }

func newCoreAt(tb testing.TB, listen string) *core {
	tb.Helper()
	c := &core{tb: tb, dir: storeDir(tb), listen: listen, key: replication.NewKey(tb)}
	c.start()
	var err error
	if c.ledger, err = ledger.Create(tb.Context(), c.js, ledger.Config{Bucket: bucket}); err != nil {
		tb.Fatal(err)
	}
	first, err := replication.Found(tb.Context(), c.ledger, replication.NewGenesis(tb, "ps-1", c.key))
	if err != nil {
		tb.Fatal(err)
	}
	c.pin = replication.Pin{Kind: events.Keys, Store: "main", Epoch: 1, Genesis: first.Hash()}
	return c
}

func (c *core) busDir() string { return filepath.Join(c.dir, "bus") }

func (c *core) start() {
	c.tb.Helper()
	var err error
	if c.bus, err = bus.Start(bus.Config{StoreDir: c.busDir(), ServerName: "ps-1", MaxStore: 2 << 30, Listen: c.listen}); err != nil {
		c.tb.Fatal(err)
	}
	if c.js, c.nc, err = c.bus.JetStream("test"); err != nil {
		c.tb.Fatal(err)
	}
}

func (c *core) stop() {
	c.tb.Helper()
	c.nc.Close()
	if err := c.bus.Close(); err != nil {
		c.tb.Fatal(err)
	}
}

// restart stops the core, and starts it after fn has had its files.
func (c *core) restart(fn func()) {
	c.tb.Helper()
	c.stop()
	if fn != nil {
		fn()
	}
	c.start()
	c.open()
}

func (c *core) open() {
	c.tb.Helper()
	var err error
	if c.ledger, err = ledger.Open(c.tb.Context(), c.js, bucket); err != nil {
		c.tb.Fatal(err)
	}
}

// forge writes a message as anybody with a writer's credentials can.
func (c *core) forge(key string, value []byte) {
	c.tb.Helper()
	if _, err := c.js.Publish(c.tb.Context(), events.Subject(bucket, key), value); err != nil {
		c.tb.Fatal(err)
	}
}

// dropConsumers deletes what every replicator reads by.
func (c *core) dropConsumers() {
	c.tb.Helper()
	stream, err := c.js.Stream(c.tb.Context(), events.StreamName(bucket))
	if err != nil {
		c.tb.Fatal(err)
	}
	for name := range stream.ConsumerNames(c.tb.Context()).Name() {
		if err := stream.DeleteConsumer(c.tb.Context(), name); err != nil {
			c.tb.Fatal(err)
		}
	}
}

// A node is a running member on a core.
type node struct {
	*replication.Member
	tb      testing.TB
	link    *link
	replica *replication.Replica
	cancel  context.CancelFunc
	done    chan error
	stopped bool
}

func (c *core) config(path string) replication.MemberConfig {
	c.tb.Helper()
	replica, err := replication.OpenReplica(path, c.pin)
	if err != nil {
		c.tb.Fatal(err)
	}
	return replication.MemberConfig{
		Log: &link{Log: c.ledger}, Replica: replica, Seed: 1,
		Identity: replication.Identity{Server: "ps-1", Region: "eu", Address: "127.0.0.1:7480", Key: c.key},
	}
}

// run starts a member with its replica in the file of this name.
func (c *core) run(name string, edit ...func(*replication.MemberConfig)) *node {
	c.tb.Helper()
	cfg := c.config(filepath.Join(c.dir, name))
	cfg.Logger = slog.New(slog.NewTextHandler(c.tb.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	for _, fn := range edit {
		fn(&cfg)
	}
	m, err := replication.New(cfg)
	if err != nil {
		c.tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n := &node{Member: m, tb: c.tb, replica: cfg.Replica, cancel: cancel, done: make(chan error, 1)}
	n.link, _ = cfg.Log.(*link)
	go func() { n.done <- m.Run(ctx) }()
	c.nodes = append(c.nodes, n)
	return n
}

// stop ends the member in order and closes its replica.
func (n *node) stop() {
	n.tb.Helper()
	if n.stopped {
		return
	}
	n.stopped = true
	if n.link != nil {
		n.link.thaw()
	}
	n.cancel()
	if err := <-n.done; err != nil {
		n.tb.Errorf("Run = %v, want nil", err)
	}
	if err := n.replica.Close(); err != nil {
		n.tb.Error(err)
	}
}

// commit commits and fails the test if that fails.
func (n *node) commit(decide replication.Decide) replication.Receipt {
	n.tb.Helper()
	got, err := n.Commit(n.tb.Context(), decide)
	if err != nil {
		n.tb.Fatal(err)
	}
	return got
}

// awaitN waits until the node has applied event n.
func (n *node) awaitN(want keystore.N) {
	n.tb.Helper()
	deadline := time.After(time.Minute)
	for {
		have, changed := n.Replica().Watch()
		if have >= want {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			n.tb.Fatalf("applied = %d after a minute, want %d; %+v %v", have, want, n.Freshness(), n.Alarms())
		}
	}
}

// await waits until ok returns true. In a bubble its pauses take no time.
func await(tb testing.TB, what string, ok func() bool) time.Duration {
	tb.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > time.Minute {
			tb.Fatalf("not after a minute: %s", what)
		}
		<-time.After(10 * time.Millisecond)
	}
	return time.Since(began)
}

func (n *node) awaitState(want events.ServerState) time.Duration {
	n.tb.Helper()
	return await(n.tb, "state "+want.String(), func() bool { return n.Freshness().State == want })
}

// awaitReady waits until the node can commit.
func (n *node) awaitReady() {
	n.tb.Helper()
	n.awaitState(events.Fresh)
}

func (n *node) alarm(kind replication.AlarmKind, key string) bool {
	for _, a := range n.Alarms() {
		if a.Kind == kind && a.Key == key {
			return true
		}
	}
	return false
}

// bubble runs a test in a synctest bubble with a core of its own.
func bubble(t *testing.T, test func(t *testing.T, c *core)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := newCore(t)
		defer func() {
			for _, n := range c.nodes {
				n.stop()
			}
			c.stop()
			// What the NATS server leaves behind ends within a second of its own.
			<-time.After(time.Second)
			synctest.Wait()
		}()
		test(t, c)
	})
}

// A link is a Log that can be cut and can lose what it is told to.
type link struct {
	replication.Log
	mu     sync.Mutex // guards the fields below
	cut    chan struct{}
	append func(ctx context.Context, b events.Batch) (events.Revision, error) // instead of the next ones; nil: none
	deaf   bool                                                               // records are dropped
	short  bool                                                               // Info says that the bucket is empty
	mute   bool                                                               // beacons are dropped
	frozen chan struct{}                                                      // everything waits until it is closed; nil: nothing does
	told   int                                                                // how often it did
	newest func(events.Entry) (events.Entry, error)                           // of events, instead of what Newest finds; nil: that
}

func (l *link) setShort(short bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.short = short
}

func (l *link) setNewest(fn func(events.Entry) (events.Entry, error)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.newest = fn
}

func (l *link) Newest(ctx context.Context, key string) (events.Entry, error) {
	entry, err := l.Log.Newest(ctx, key)
	l.mu.Lock()
	fn := l.newest
	l.mu.Unlock()
	if fn != nil && err == nil && strings.HasPrefix(key, "log.") {
		return fn(entry)
	}
	return entry, err
}

func (l *link) shorts() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.told
}

var errCut = errors.New("the link is cut")

func (l *link) setCut(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case cut && l.cut == nil:
		l.cut = make(chan struct{})
	case !cut && l.cut != nil:
		l.cut = nil
	}
}

func (l *link) isCut() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cut != nil
}

func (l *link) setAppend(fn func(context.Context, events.Batch) (events.Revision, error)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.append = fn
}

// lost is what a call does whose packets go nowhere.
func lost(ctx context.Context) error {
	<-ctx.Done()
	return errors.Join(events.ErrUnknown, ctx.Err())
}

// freeze holds up whatever goes over the link, as a process that is stopped does;
// thaw lets it go on where it was.
func (l *link) freeze() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.frozen = make(chan struct{})
}

func (l *link) thaw() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.frozen != nil {
		close(l.frozen)
		l.frozen = nil
	}
}

// still waits while the link is frozen, whatever becomes of the caller's context: a
// stopped process does not see that end either.
func (l *link) still() {
	l.mu.Lock()
	frozen := l.frozen
	l.mu.Unlock()
	if frozen != nil {
		<-frozen
	}
}

// stillIn is still for an entry that is on its way: the one who follows waits for it.
func (l *link) stillIn(ctx context.Context) error {
	l.mu.Lock()
	frozen := l.frozen
	l.mu.Unlock()
	if frozen == nil {
		return nil
	}
	select {
	case <-frozen:
		return nil
	case <-ctx.Done():
		return errors.Join(events.ErrInterrupted, errCut)
	}
}

func (l *link) holdBeacons(hold bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mute = hold
}

func (l *link) isMute() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mute
}

func (l *link) Append(ctx context.Context, b events.Batch) (events.Revision, error) {
	l.still()
	defer l.still()       // the answer waits, too
	if ctx.Err() != nil { // it was frozen meanwhile: what it had in hand goes out all the same
		late, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		ctx = late
	}
	l.mu.Lock()
	fn := l.append
	l.mu.Unlock()
	switch {
	case l.isCut():
		return 0, lost(ctx)
	case fn != nil:
		return fn(ctx, b)
	}
	return l.Log.Append(ctx, b)
}

func (l *link) PutBeacon(ctx context.Context, value []byte, head events.Revision) error {
	l.still()
	if l.isCut() || l.isMute() {
		return lost(ctx)
	}
	if ctx.Err() != nil { // it was frozen meanwhile: what it had in hand goes out all the same
		late, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		return l.Log.PutBeacon(late, value, head)
	}
	return l.Log.PutBeacon(ctx, value, head)
}

func (l *link) PutRecord(ctx context.Context, server string, value []byte) error {
	l.still()
	if l.isCut() {
		return lost(ctx)
	}
	if l.deaf {
		return nil
	}
	return l.Log.PutRecord(ctx, server, value)
}

func (l *link) Info(ctx context.Context) (ledger.Info, error) {
	if l.isCut() {
		<-ctx.Done()
		return ledger.Info{}, errors.Join(events.ErrUnavailable, ctx.Err())
	}
	info, err := l.Log.Info(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.short {
		info.Last = 0
		l.told++
	}
	return info, err
}

// Follow of a cut link looks well and brings nothing, as a half-open one does.
func (l *link) Follow(ctx context.Context, from events.Revision, each func(events.Entry) error) error {
	l.still()
	if l.isCut() {
		return errors.Join(events.ErrInterrupted, errCut)
	}
	return l.Log.Follow(ctx, from, func(e events.Entry) error {
		if err := l.stillIn(ctx); err != nil {
			return err
		}
		if l.isCut() {
			<-ctx.Done()
			return errors.Join(events.ErrInterrupted, errCut)
		}
		return each(e)
	})
}
