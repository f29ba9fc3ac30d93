package bus_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keytide/keytide/replication/bus"
)

func start(t *testing.T, cfg bus.Config) *bus.Bus {
	t.Helper()
	b, err := bus.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func TestStoredOverRestart(t *testing.T) {
	cfg := bus.Config{StoreDir: filepath.Join(t.TempDir(), "bus"), ServerName: "ps-1"}
	put := func(b *bus.Bus, i int) uint64 {
		js, nc, err := b.JetStream("test")
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		if i == 1 {
			if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}}); err != nil {
				t.Fatal(err)
			}
		}
		ack, err := js.Publish(t.Context(), "s.a", nil)
		if err != nil {
			t.Fatal(err)
		}
		return ack.Sequence
	}
	for i := 1; i <= 3; i++ {
		b := start(t, cfg)
		if got := put(b, i); got != uint64(i) {
			t.Errorf("start %d: sequence = %d, want %d", i, got, i)
		}
		if url := b.ClientURL(); url != "" {
			t.Errorf("start %d: ClientURL = %q, want none", i, url)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		<-b.Done()
	}
	for path, want := range map[string]os.FileMode{cfg.StoreDir: 0o700, filepath.Join(cfg.StoreDir, "keytide.lock"): 0o600} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("mode of %s = %v, want %v", path, got, want)
		}
	}
}

func TestSecondServerOnDirectoryIsRefused(t *testing.T) {
	dir := t.TempDir()
	first := start(t, bus.Config{StoreDir: dir, ServerName: "ps-1"})
	_, err := bus.Start(bus.Config{StoreDir: dir, ServerName: "ps-2"})
	locked, ok := errors.AsType[*bus.LockedError](err)
	if !ok {
		t.Fatalf("second Start = %v, want a *LockedError", err)
	}
	if locked.Dir != dir || locked.PID != os.Getpid() {
		t.Errorf("LockedError = %+v, want directory %s and process %d", locked, dir, os.Getpid())
	}
	for _, want := range []string{dir, fmt.Sprint(os.Getpid())} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not name %q", err, want)
		}
	}
	if locked.Hint() == "" {
		t.Error("LockedError has no hint")
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	start(t, bus.Config{StoreDir: dir, ServerName: "ps-2"})
}

func TestListen(t *testing.T) {
	b := start(t, bus.Config{StoreDir: t.TempDir(), ServerName: "ps-1", Listen: "127.0.0.1:0"})
	nc, err := nats.Connect(b.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := nc.FlushWithContext(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestPortInUseIsAnError(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dir := t.TempDir()
	if _, err := bus.Start(bus.Config{StoreDir: dir, ServerName: "ps-1", Listen: l.Addr().String()}); err == nil {
		t.Fatal("Start on a port in use: no error")
	}
	start(t, bus.Config{StoreDir: dir, ServerName: "ps-1"}) // and the directory is free again
}

func TestFullStoreIsRefusedAtOnce(t *testing.T) {
	b := start(t, bus.Config{StoreDir: t.TempDir(), ServerName: "ps-1", MaxStore: 1 << 16})
	js, nc, err := b.JetStream("test")
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"s.>"}}); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if _, err = js.Publish(t.Context(), "s.a", make([]byte, 1<<12)); err != nil {
			break
		}
	}
	if api, ok := errors.AsType[jetstream.JetStreamError](err); !ok || api.APIError().ErrorCode != 10023 {
		t.Errorf("publishing beyond MaxStore = %v, want the server's error 10023", err)
	}
}

func TestConfigNamesEveryFault(t *testing.T) {
	_, err := bus.Start(bus.Config{MaxStore: -1, Listen: "7422"})
	if err == nil {
		t.Fatal("Start of a broken config: no error")
	}
	for _, want := range []string{"store directory", "server name", "max store", "listen"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not name %q", err, want)
		}
	}
}
