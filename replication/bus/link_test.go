package bus_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/keytide/keytide/replication/bus"
)

func contextOf(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}

func TestVersions(t *testing.T) {
	for version, want := range map[string]bool{
		"2.15.2": true, "2.12.0": true, "2.12.0-RC.1": true, "v2.13.0": true, "3.0.0": true, "10.1.0": true,
		"2.11.9": false, "2.9.25": false, "1.4.1": false, "": false, "2": false, "two.12.0": false, "2.x.0": false,
	} {
		if got := bus.NewEnough(version); got != want {
			t.Errorf("version %q: %t, want %t", version, got, want)
		}
	}
}

// TestOldServerIsRefused speaks as an old server does, as far as a client hears it.
func TestOldServerIsRefused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(conn, "INFO {\"server_id\":\"X\",\"version\":\"2.11.9\",\"proto\":1,\"headers\":true,\"max_payload\":1048576,\"jetstream\":true}\r\n")
			for lines := bufio.NewScanner(conn); lines.Scan(); {
				if lines.Text() == "PING" {
					fmt.Fprint(conn, "PONG\r\n")
				}
			}
			conn.Close()
		}
	}()
	defer func() { l.Close(); <-done }()
	link, err := bus.Dial(bus.DialConfig{Name: "test", URLs: []string{"nats://" + l.Addr().String()}})
	if err != nil {
		t.Fatal(err)
	}
	defer link.Close()
	old, ok := errors.AsType[*bus.VersionError](link.Fault())
	if !ok || old.Version != "2.11.9" || !strings.Contains(old.Error(), "2.12 or newer") || old.Hint() == "" {
		t.Errorf("Fault = %v, want a *VersionError", link.Fault())
	}
}

// TestDialBeforeTheServer: a client may be there first.
func TestDialBeforeTheServer(t *testing.T) {
	d := newDoor(t)
	d.lead(closedPort(t))
	l, err := bus.Dial(bus.DialConfig{Name: "test", URLs: []string{"nats://" + d.Addr().String()}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if l.Fault() == nil {
		t.Error("Fault = nil before there is a server")
	}
	b := start(t, bus.Config{StoreDir: storeDir(t), ServerName: "s", Listen: "127.0.0.1:0"})
	d.lead(strings.TrimPrefix(b.ClientURL(), "nats://"))
	eventually(t, l.Fault)
	if l.Server() == "" {
		t.Error("Server = nothing, but there is no fault")
	}
}

func TestDialNamesWhatCanNeverConnect(t *testing.T) {
	for name, cfg := range map[string]bus.DialConfig{
		"no server":  {Name: "test"},
		"a bad seed": {Name: "test", URLs: []string{"nats://127.0.0.1:1"}, Credentials: bus.Credentials{Seed: []byte("SUAB")}},
		"a bad URL":  {Name: "test", URLs: []string{"nats://127.0.0.1:x"}},
	} {
		if l, err := bus.Dial(cfg); err == nil {
			l.Close()
			t.Errorf("%s: no error", name)
		}
	}
}
