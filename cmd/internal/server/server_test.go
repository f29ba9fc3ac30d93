package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server/ats"
	"go.uber.org/goleak"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/oklog/ulid/v2"
)

// dieAt names the environment variable by which a test runs itself anew as a
// process that dies at a step of the first start.
const dieAt = "KEYTIDE_TEST_DIE_AT"

func TestMain(m *testing.M) {
	if step := os.Getenv(foundDieAt); step != "" {
		dieFounding(os.Args[1], step)
	}
	if step := os.Getenv(restoreDieAt); step != "" {
		dieRestoring(os.Args[1], step)
	}
	if step := os.Getenv(moveDieAt); step != "" {
		dieMoving(os.Args[1], step)
	}
	if step := os.Getenv(dieAt); step != "" {
		err := Dev(context.Background(), DevConfig{
			Dir: os.Args[1], Listen: "127.0.0.1:0", FeedListen: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler),
			step: func(name string) {
				if name == step {
					os.Exit(99)
				}
			},
		})
		slog.Error("did not die", "err", err)
		os.Exit(1)
	}
	ats.Register() // the NATS server's goroutine for access times must not be born in a bubble
	os.Exit(m.Run())
}

// A running is a development server within the test's process.
type running struct {
	*site
	ready Ready
	log   *lockedBuffer
	stop  func() error

	readied chan Ready // of a server that was launched
	ended   chan error
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func start(t *testing.T, dir string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{log: &lockedBuffer{}}
	ready := make(chan Ready, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- Dev(ctx, DevConfig{
			Dir: dir, Listen: "127.0.0.1:0", FeedListen: "127.0.0.1:0", Logger: slog.New(slog.NewTextHandler(r.log, nil)),
			Ready: func(where Ready) { ready <- where }, opened: func(s *site) { r.site = s },
		})
	}()
	r.stop = sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("stop: %v\n%s", err, r.log)
		}
	})
	select {
	case r.ready = <-ready:
	case err := <-ended:
		ended <- err
		t.Fatalf("the server ended before it was ready: %v", err)
	}
	return r
}

func intent() adminapi.Intent { return adminapi.Intent{Request: ulid.Make().String()} }

func (r *running) show(t *testing.T) adminapi.Ring {
	t.Helper()
	ring, err := r.service.Ring(t.Context(), devRing)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func TestFirstStartDiesAtEveryStep(t *testing.T) {
	for _, step := range []string{"certificates", "token", "ledgers", "files", "identity", "name", "serving"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			parent := t.TempDir()
			dir := filepath.Join(parent, "dev")
			for range 2 { // and once more: what the first left is no obstacle
				cmd := exec.Command(os.Args[0], dir)
				cmd.Env = append(os.Environ(), dieAt+"="+step)
				out, err := cmd.CombinedOutput()
				var exit *exec.ExitError
				if !errors.As(err, &exit) || exit.ExitCode() != 99 {
					t.Fatalf("the first start ended with %v, want its death at %s\n%s", err, step, out)
				}
				_, err = os.Stat(dir)
				if there := err == nil; there != (step == "serving") {
					t.Fatalf("the directory is there = %t after a death at %s", there, step)
				}
			}
			r := start(t, dir)
			if got := r.show(t).Version; got != 1 {
				t.Errorf("version = %d, want 1", got)
			}
			if err := r.stop(); err != nil {
				t.Fatal(err)
			}
			left, err := os.ReadDir(parent)
			if err != nil {
				t.Fatal(err)
			}
			if len(left) != 1 {
				t.Errorf("%d entries beside each other, want the store alone", len(left))
			}
		})
	}
}

func TestFailedMakingLeavesNothing(t *testing.T) {
	parent := t.TempDir()
	_, err := Init(t.Context(), InitConfig{
		Dir: filepath.Join(parent, "s"), Store: "main", Region: "eu", Server: "ps-1", PassphraseFile: filepath.Join(parent, "none"),
	})
	if err == nil {
		t.Fatal("Init without its passphrase file = nil")
	}
	left, err := os.ReadDir(parent)
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %v %v, want nothing", left, err)
	}
}

func TestStopLeavesNothingRunning(t *testing.T) {
	before := goleak.IgnoreCurrent()
	r := start(t, filepath.Join(t.TempDir(), "dev"))
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	goleak.VerifyNone(t, before)
}

func TestRequestIsDoneOnce(t *testing.T) {
	r := start(t, filepath.Join(t.TempDir(), "dev"))
	roll := adminapi.Rollover{Intent: intent()}
	first, err := r.service.Rollover(t.Context(), "alice", devRing, roll)
	if err != nil {
		t.Fatal(err)
	}
	// Later changes do not alter the answer.
	policy := adminapi.SetPolicy{Intent: intent()}
	none := "0s"
	policy.Policy.MinInterval = &none
	if _, err := r.service.SetPolicy(t.Context(), "alice", devRing, policy); err != nil {
		t.Fatal(err)
	}
	if _, err := r.service.Rollover(t.Context(), "alice", devRing, adminapi.Rollover{Intent: intent()}); err != nil {
		t.Fatal(err)
	}
	again, err := r.service.Rollover(t.Context(), "alice", devRing, roll)
	if err != nil {
		t.Fatal(err)
	}
	if again.N != first.N || again.ID != first.ID || again.Version != first.Version || again.Keys[0] != first.Keys[0] {
		t.Errorf("the retried rollover answers %+v, want %+v", again, first)
	}
	if got := r.show(t).Version; got != 3 {
		t.Errorf("version = %d, want 3", got)
	}
	// The same id for something else is refused.
	policy.Request = roll.Request
	create := adminapi.CreateRing{Intent: roll.Intent, Name: "web"}
	if _, err := r.service.CreateRing(t.Context(), "alice", create); !errors.Is(err, keystore.ErrInvalid) {
		t.Errorf("CreateRing with a used request id = %v, want %v", err, keystore.ErrInvalid)
	}
	host := adminapi.RegisterHost{Intent: intent(), Name: "web-1", Rings: []string{devRing}}
	one, err := r.service.RegisterHost(t.Context(), "alice", host)
	if err != nil {
		t.Fatal(err)
	}
	two, err := r.service.RegisterHost(t.Context(), "alice", host)
	if err != nil || one.Secret != two.Secret || one.ID != two.ID {
		t.Errorf("the retried registration = %v, event %s, want event %s and the same secret", err, two.ID, one.ID)
	}
}

func TestRetentionDestroysAndNothingElse(t *testing.T) {
	r := start(t, filepath.Join(t.TempDir(), "dev"))
	brief, none := "1s", "0s"
	if _, err := r.service.SetPolicy(t.Context(), "alice", devRing, adminapi.SetPolicy{
		Intent: intent(), Policy: adminapi.PolicyChange{MaxSession: &brief, MinInterval: &none},
	}); err != nil {
		t.Fatal(err)
	}
	// The first rollover retires a key that sealed sessions of 8 h, and stays; the
	// second one a key whose sessions were brief.
	if _, err := r.service.Rollover(t.Context(), "alice", devRing, adminapi.Rollover{Intent: intent()}); err != nil {
		t.Fatal(err)
	}
	rolled, err := r.service.Rollover(t.Context(), "alice", devRing, adminapi.Rollover{Intent: intent()})
	if err != nil {
		t.Fatal(err)
	}
	old := rolled.Keys[1]
	if old.Role != "old" {
		t.Fatalf("second key is %s, want old", old.Role)
	}
	rounds := newRetention(r.service, slog.New(slog.DiscardHandler))
	at := time.Now()
	round := func(n int) {
		for range n {
			if err := rounds.round(t.Context(), at); err != nil {
				t.Fatal(err)
			}
			at = at.Add(2 * retentionPeriod)
		}
	}
	// 1 s and 5 minutes are 15 rounds of 20 s and a little; the first counts nothing,
	// and the second begins.
	round(10)
	// A restart goes on from what was noted: a minute at most is lost.
	rounds = newRetention(r.service, slog.New(slog.DiscardHandler))
	round(6)
	if got := len(r.show(t).Keys); got != 6 {
		t.Fatalf("%d keys before the retention is over, want 6", got)
	}
	round(5)
	ring := r.show(t)
	if len(ring.Keys) != 5 || ring.Keys[0].KID != rolled.Keys[0].KID || ring.Keys[1].KID == old.KID || ring.Version != 4 {
		t.Errorf("ring after retention = %+v, want version 4 without key %s", ring, old.KID)
	}
	if ring.LastEvent.Type != "keys_destroyed" {
		t.Errorf("last event = %s, want keys_destroyed", ring.LastEvent.Type)
	}
	kid, err := keystore.ParseKID(old.KID)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := r.keys.Replica().Value(events.MaterialKey(kid)); ok {
		t.Error("the destroyed key's material is still there")
	}
	if v, err := r.service.Verify(t.Context()); err != nil || !v.OK {
		t.Errorf("Verify = %+v, %v, want OK", v, err)
	}
}

func TestClockSetForwardEndsNoKey(t *testing.T) {
	r := start(t, filepath.Join(t.TempDir(), "dev"))
	if _, err := r.service.Rollover(t.Context(), "alice", devRing, adminapi.Rollover{Intent: intent()}); err != nil {
		t.Fatal(err)
	}
	rounds := newRetention(r.service, slog.New(slog.DiscardHandler))
	for _, ahead := range []time.Duration{0, time.Second, 30 * 24 * time.Hour, 60 * 24 * time.Hour} {
		if err := rounds.round(t.Context(), time.Now().Add(ahead)); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(r.show(t).Keys); got != 5 {
		t.Errorf("%d keys, want all 5", got)
	}
}

func TestListenersSpeakTLS13Alone(t *testing.T) {
	r := start(t, filepath.Join(t.TempDir(), "dev"))
	pem, err := os.ReadFile(filepath.Join(r.cfg.Dir, caFile))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	for _, c := range []struct {
		address, offer, want string
	}{
		{r.feed.address(), "h2 http/1.1", "http/1.1"},
		{r.feed.address(), "h2", "h2"},
		{r.admin.address(), "http/1.1 h2", "h2"},
	} {
		conf := &tls.Config{RootCAs: pool, NextProtos: strings.Fields(c.offer)}
		conn, err := tls.Dial("tcp", c.address, conf)
		if err != nil {
			t.Fatal(err)
		}
		if got := conn.ConnectionState(); got.NegotiatedProtocol != c.want || got.Version != tls.VersionTLS13 {
			t.Errorf("%s offered %q: protocol = %q version %x, want %q TLS 1.3", c.address, c.offer, got.NegotiatedProtocol, got.Version, c.want)
		}
		conn.Close()
		conf.MaxVersion = tls.VersionTLS12
		if conn, err := tls.Dial("tcp", c.address, conf); err == nil {
			conn.Close()
			t.Errorf("%s speaks TLS 1.2", c.address)
		}
	}
	if r.feed.server.WriteTimeout != 0 || r.feed.server.ReadTimeout != 0 {
		t.Error("the feed's server has a timeout that ends streams")
	}
}

func TestCertificateIsRenewedAndKeepsItsCA(t *testing.T) {
	dir := t.TempDir()
	if err := makeCA(dir, "main"); err != nil {
		t.Fatal(err)
	}
	read := func() []byte {
		cert, err := os.ReadFile(filepath.Join(dir, certFile))
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	if err := ensureCertificate(dir, "127.0.0.1:1"); err != nil {
		t.Fatal(err)
	}
	first := read()
	if err := ensureCertificate(dir, "localhost:2"); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, read()) {
		t.Error("a good certificate was made anew")
	}
	if err := ensureCertificate(dir, "ps-1.example:1"); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, certFile), filepath.Join(dir, certKeyFile))
	if err != nil || pair.Leaf.VerifyHostname("ps-1.example") != nil {
		t.Errorf("certificate for another name = %v, want one that is good for it", err)
	}
	// A crash between key and certificate leaves a pair that does not fit.
	if err := os.WriteFile(filepath.Join(dir, certFile), first, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ensureCertificate(dir, "127.0.0.1:1"); err != nil {
		t.Fatal(err)
	}
	if _, err := loadPair(filepath.Join(dir, certFile), filepath.Join(dir, certKeyFile)); err != nil {
		t.Error(err)
	}
}
