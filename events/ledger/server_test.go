package ledger_test

import (
	"context"
	"crypto/ecdh"
	"crypto/ed25519"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/events/ledger"
	"github.com/keytide/keytide/keystore"
)

var (
	private = ed25519.NewKeyFromSeed([]byte("keytide ledger tests' own key 01"))
	public  = private.Public().(ed25519.PublicKey)
	p256    = mustP256([]byte("keytide ledger tests' own key 02"))
	bucket  = events.BucketName(events.Keys, "main", 1)
	day     = time.Date(2026, 11, 22, 2, 30, 0, 0, time.UTC)
)

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// startServer runs a JetStream server on 127.0.0.1; change may adjust its options.
func startServer(t testing.TB, change func(*server.Options)) *server.Server {
	t.Helper()
	opts := &server.Options{
		ServerName: "core-1", Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: storeDir(t),
		JetStreamMaxStore: 256 << 20, JetStreamMaxMemory: 64 << 20, NoSigs: true, NoLog: true,
	}
	if change != nil {
		change(opts)
	}
	s, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(patience) {
		t.Fatal("the server is not ready")
	}
	return s
}

// storeDir is a folder for an embedded server. Unlike t.TempDir it bears that the
// server, stopped with a batch under way, still drops a file or two: it removes the
// folder as soon as that is over.
func storeDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "keytide-store-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for deadline := time.Now().Add(20 * time.Second); ; <-tick.C {
			err := os.RemoveAll(dir)
			if err == nil {
				return
			}
			if time.Now().After(deadline) {
				t.Error(err)
				return
			}
		}
	})
	return dir
}

// connect gives a connection as policy servers use it: nothing is buffered while it
// is broken.
func connect(t testing.TB, url string, opts ...nats.Option) jetstream.JetStream {
	t.Helper()
	opts = append([]nats.Option{nats.ReconnectBufSize(-1), nats.MaxReconnects(-1), nats.ReconnectWait(20 * time.Millisecond)}, opts...)
	nc, err := nats.Connect(url, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func create(t testing.TB, js jetstream.JetStream) *ledger.Ledger {
	t.Helper()
	l, err := ledger.Create(within(t), js, ledger.Config{Bucket: bucket, MaxBytes: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// A writer makes batches that follow one another. It is a ledger's whole history
// as one server sees it.
type writer struct {
	t     testing.TB
	state *events.State
	heads map[string]ledger.Revision // of keys
	doubt *ledger.Batch              // whose end is unknown
}

func mustP256(scalar []byte) []byte {
	key, err := ecdh.P256().NewPrivateKey(scalar)
	if err != nil {
		panic(err)
	}
	return key.PublicKey().Bytes()
}

func newWriter(t testing.TB) *writer {
	return &writer{t: t, state: events.NewState(), heads: map[string]ledger.Revision{}}
}

func (w *writer) genesis() ledger.Batch {
	w.t.Helper()
	g := events.Genesis{
		Store: "main", StoreID: [16]byte{1}, Kind: events.Keys, Epoch: 1, KSK: kid(0xf1), Membership: kid(0xf2),
		Founder: events.Member{ID: "ps-1", Region: "eu", PublicKey: public, P256Key: p256},
	}
	payload, err := g.Encode()
	if err != nil {
		w.t.Fatal(err)
	}
	return w.batch(events.TypeGenesis, payload,
		ledger.Put{Key: events.KSKKey(g.KSK), Value: []byte("slots")},
		ledger.Put{Key: events.MaterialKey(g.Membership), Value: []byte("sealed")})
}

// void is an event that changes nothing, marked to tell it from others.
func (w *writer) void(mark string) ledger.Batch {
	w.t.Helper()
	b := w.event(events.TypeVoid, events.VoidPayload(), nil)
	b.Reason = mark
	return w.seal(b, nil)
}

func (w *writer) batch(kind events.Type, payload []byte, puts ...ledger.Put) ledger.Batch {
	w.t.Helper()
	return w.seal(w.event(kind, payload, puts), puts)
}

func (w *writer) event(kind events.Type, payload []byte, puts []ledger.Put) events.Event {
	n := w.state.N() + 1
	e := events.Event{
		N: n, ID: ulid.MustNew(uint64(day.UnixMilli())+uint64(n), ulid.DefaultEntropy()), Prev: w.state.Hash(), Type: kind,
		At: day.Add(time.Duration(n) * time.Second), Server: "ps-1", Payload: payload,
	}
	if n == 1 {
		e.ID = ulid.ULID{15: 1} // every process has the same genesis
	}
	for _, p := range puts {
		e.Effects = append(e.Effects, p.Effect())
	}
	return e
}

func (w *writer) seal(e events.Event, puts []ledger.Put) ledger.Batch {
	w.t.Helper()
	rec, err := events.Sign(e, private)
	if err != nil {
		w.t.Fatal(err)
	}
	epoch := max(w.state.Genesis().Epoch, 1)
	return ledger.Batch{
		N: e.N, Record: rec, Puts: puts, Head: events.Head{Epoch: epoch, N: e.N, Hash: rec.Hash()}, HeadRevision: w.heads[events.HeadKey],
	}
}

// ring is the batch that creates a ring; rollover one that rolls it over.
func (w *writer) ring(name keystore.RingName) ledger.Batch {
	w.t.Helper()
	base := uint64(w.state.N()) * 100
	key := func(i uint64) keystore.NewKey { return keystore.NewKey{KID: kid(base + i), Created: day} }
	c, err := keystore.Create(name, keystore.DefaultPolicy(),
		keystore.FirstKeys{Current: key(1), Future: key(2), Static: key(3), SessionTicket: key(4)})
	if err != nil {
		w.t.Fatal(err)
	}
	return w.change(c)
}

func (w *writer) rollover(name keystore.RingName) ledger.Batch {
	w.t.Helper()
	ring, _ := w.state.Ring(name)
	c, err := ring.Rollover(keystore.Rollover{
		Trigger: keystore.Manual, Future: keystore.NewKey{KID: kid(uint64(w.state.N())*100 + 1), Created: day}, Now: day.AddDate(9, 0, 0), Force: true,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return w.change(c)
}

func (w *writer) change(c keystore.Change) ledger.Batch {
	w.t.Helper()
	kind, payload, err := events.EncodeRingChange(c)
	if err != nil {
		w.t.Fatal(err)
	}
	var puts []ledger.Put
	for _, kid := range c.Destroyed {
		key := events.MaterialKey(kid)
		puts = append(puts, ledger.Put{Key: key, Delete: true, Expect: w.heads[key]})
	}
	for _, k := range c.Made {
		puts = append(puts, ledger.Put{Key: events.MaterialKey(k.KID), Value: []byte("sealed " + k.KID.String())})
	}
	key := events.RingKey(c.Ring)
	puts = append(puts, ledger.Put{Key: key, Value: fmt.Appendf(nil, "state %d", c.Version), Expect: w.heads[key]})
	sortPuts(puts)
	return w.batch(kind, payload, puts...)
}

// stored takes note that a batch is in the ledger, its head at a revision.
func (w *writer) stored(b ledger.Batch, head ledger.Revision) {
	w.t.Helper()
	if _, err := w.state.Apply(b.Record); err != nil {
		w.t.Fatal(err)
	}
	first := head - ledger.Revision(len(b.Puts)) - 1
	w.heads[events.LogKey(b.N)] = first
	for i, p := range b.Puts {
		w.heads[p.Key] = first + 1 + ledger.Revision(i)
	}
	w.heads[events.HeadKey] = head
}

// append stores a batch and takes note of it.
func (w *writer) append(l *ledger.Ledger, b ledger.Batch) ledger.Revision {
	w.t.Helper()
	rev, err := l.Append(within(w.t), b)
	if err != nil {
		w.t.Fatal(err)
	}
	w.stored(b, rev)
	return rev
}

// contents follows a bucket to its end.
func contents(t testing.TB, l *ledger.Ledger) []ledger.Entry {
	t.Helper()
	info, err := l.Info(within(t))
	if err != nil {
		t.Fatal(err)
	}
	if info.Msgs == 0 {
		return nil
	}
	var entries []ledger.Entry
	err = l.Follow(within(t), 1, func(e ledger.Entry) error {
		e.Value = append([]byte(nil), e.Value...)
		entries = append(entries, e)
		if e.Pending == 0 {
			return errEnough
		}
		return nil
	})
	if err != errEnough {
		t.Fatalf("Follow = %v", err)
	}
	return entries
}
