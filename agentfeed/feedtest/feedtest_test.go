package feedtest_test

import (
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/agentfeed/feedtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what a test waits for; nothing depends on how long it takes.
const patience = 60 * time.Second

// until waits until what the client says of itself is as the test wants it.
func until(t *testing.T, client *agentfeed.Client, what string, ok func(agentfeed.Status) bool) {
	t.Helper()
	over := time.After(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok(client.Status()) {
		select {
		case <-tick.C:
		case <-over:
			t.Fatalf("waited in vain until %s: %+v", what, client.Status())
		}
	}
}

func state(want agentfeed.State) func(agentfeed.Status) bool {
	return func(s agentfeed.Status) bool { return s.State == want }
}

func start(t *testing.T, config agentfeed.Config) *agentfeed.Client {
	t.Helper()
	client, err := agentfeed.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// rollover rolls the ring over and waits until the client has it.
func rollover(t *testing.T, server *feedtest.Server, client *agentfeed.Client) {
	t.Helper()
	want := server.Rollover("sso").Version
	until(t, client, "the rollover arrives", func(agentfeed.Status) bool {
		set := client.Ring("sso").Snapshot()
		return set != nil && set.Version >= want
	})
}

func TestFreeze(t *testing.T) {
	server := feedtest.NewServer(t, "sso")
	server.Limits(2*time.Second, 4*time.Second)
	client := start(t, server.Config())
	until(t, client, "fresh", state(agentfeed.StateFresh))
	server.Freeze(true)
	until(t, client, "stale", state(agentfeed.StateStale))
	if s := client.Status(); s.Err != nil || s.Transport != agentfeed.TransportStream {
		t.Errorf("Status = %+v, want still connected", s)
	}
	if _, ok := client.Ring("sso").Snapshot().Sealing(); !ok {
		t.Error("a stale ring does not seal")
	}
	until(t, client, "expired", state(agentfeed.StateExpired))
	until(t, client, "no key seals", func(agentfeed.Status) bool {
		_, ok := client.Ring("sso").Snapshot().Sealing()
		return !ok
	})
	server.Freeze(false)
	until(t, client, "fresh again", state(agentfeed.StateFresh))
	rollover(t, server, client)
	if _, ok := client.Ring("sso").Snapshot().Sealing(); !ok {
		t.Error("a fresh ring does not seal")
	}
}

func TestSkew(t *testing.T) {
	server := feedtest.NewServer(t, "sso")
	client := start(t, server.Config())
	for _, off := range []time.Duration{10 * time.Minute, -10 * time.Minute, 0} {
		server.Skew(off)
		until(t, client, "fed anew", func(s agentfeed.Status) bool { return s.State == agentfeed.StateFresh && s.Err == nil })
		rollover(t, server, client)
		if s := client.Status(); s.State != agentfeed.StateFresh {
			t.Errorf("Status = %+v with a clock %v off, want fresh", s, off)
		}
	}
}

func TestBuffer(t *testing.T) {
	server := feedtest.NewServer(t, "sso")
	server.Buffer(true)
	client := start(t, server.Config())
	until(t, client, "polls take over", func(s agentfeed.Status) bool { return s.Transport == agentfeed.TransportLongPoll })
	for range 3 {
		rollover(t, server, client)
	}
	if s := client.Status(); s.State != agentfeed.StateFresh || s.Server != "feedtest" {
		t.Errorf("Status = %+v, want fresh", s)
	}
}

func TestStopAndStart(t *testing.T) {
	server := feedtest.NewServer(t, "sso")
	config := server.Config()
	config.CacheFile = filepath.Join(t.TempDir(), "cache")
	client := start(t, config)
	until(t, client, "fresh", state(agentfeed.StateFresh))
	server.Stop()
	server.Skew(time.Minute) // changes nothing of its being stopped
	until(t, client, "the loss is seen", func(s agentfeed.Status) bool { return s.Err != nil })
	client.Close()
	client = start(t, config)
	if s := client.Status(); s.State != agentfeed.StateCached {
		t.Errorf("Status = %+v, want cached", s)
	}
	server.Start()
	until(t, client, "fresh", state(agentfeed.StateFresh))
	rollover(t, server, client)
}
