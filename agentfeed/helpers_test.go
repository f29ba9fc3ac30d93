package agentfeed_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/agentfeed/feedtest"
	"github.com/keytide/keytide/keystore"
	_ "github.com/keytide/keytide/keystore/fips/fipstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what a test waits for; nothing depends on how long it takes.
const patience = 60 * time.Second

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func newClient(t *testing.T, c agentfeed.Config) *agentfeed.Client {
	t.Helper()
	client, err := agentfeed.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return client
}

func ready(t *testing.T, c agentfeed.Config) *agentfeed.Client {
	t.Helper()
	client := newClient(t, c)
	if err := client.WaitReady(within(t)); err != nil {
		t.Fatal(err)
	}
	return client
}

// reach waits until the client has this version of the ring.
func reach(t *testing.T, client *agentfeed.Client, want *keystore.KeySet) *keystore.KeySet {
	t.Helper()
	for set := range client.Ring(want.Ring).Updates(within(t)) {
		if set != nil && set.Version >= want.Version {
			return set
		}
	}
	t.Fatalf("ring %s did not reach version %d: %+v", want.Ring, want.Version, client.Status())
	return nil
}

// until waits until the condition holds.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	ctx := within(t)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// kids lists role and kid of a ring's keys.
func kids(set *keystore.KeySet) []string {
	var list []string
	for _, k := range set.Keys {
		list = append(list, k.Role.String()+" "+k.KID.String())
	}
	return list
}

func problemOf(err error) string {
	var p *agentfeed.ProblemError
	if errors.As(err, &p) {
		return p.Name
	}
	return ""
}

// A logBuffer collects log lines of several goroutines.
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

func (b *logBuffer) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// held is all secrets of a server's rings and hosts, as text that must not appear.
func held(t *testing.T, server *feedtest.Server, client *agentfeed.Client) [][]byte {
	t.Helper()
	var all [][]byte
	add := func(m keystore.Material) {
		if err := m.Use(func(secret []byte) error { all = append(all, bytes.Clone(secret)); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	add(server.Host("test").Secret)
	for _, set := range client.Snapshot() {
		for _, k := range set.Keys {
			add(k.Material)
		}
	}
	return all
}
