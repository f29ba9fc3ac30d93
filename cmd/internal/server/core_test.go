package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

// patience is how long a core's tests wait for what must happen.
const patience = 90 * time.Second

// coreOf makes a core. Each server has a loopback address of its own, so that all have
// the usual ports.
func coreOf(t *testing.T, size int) (dir string, made Made) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "core")
	net := fmt.Sprintf("127.%d.%d.", 1+rand.IntN(254), rand.IntN(256))
	var members []CoreMember
	for i, id := range []string{"eu-1", "us-1", "ap-1", "sa-1", "af-1"}[:size] {
		ip := net + fmt.Sprint(i+1)
		m, err := ParseCoreMember(fmt.Sprintf("%s,region=%s,host=%s,listen=%s:7422,routes_listen=%s:7423,metrics=%s:7490",
			id, id[:2], ip, ip, ip, ip))
		if err != nil {
			t.Fatal(err)
		}
		members = append(members, m)
	}
	made, err := InitCore(t.Context(), CoreInitConfig{Dir: dir, Store: "main", Servers: members})
	if err != nil {
		t.Fatal(err)
	}
	return dir, made
}

// launch starts the server of a directory that core init made, and does not wait.
func launch(t *testing.T, dir string, edit func(*Config)) *running {
	t.Helper()
	cfg, err := LoadConfig(filepath.Join(dir, configFile))
	if err != nil {
		t.Fatal(err)
	}
	if edit != nil {
		edit(&cfg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{log: &lockedBuffer{}, readied: make(chan Ready, 1), ended: make(chan error, 1)}
	go func() {
		r.ended <- Run(ctx, cfg, Hooks{
			Logger: slog.New(slog.NewTextHandler(r.log, nil)),
			Ready:  func(where Ready) { r.readied <- where }, opened: func(s *site) { r.site = s },
		})
	}()
	r.stop = sync.OnceValue(func() error {
		cancel()
		return <-r.ended
	})
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
		if t.Failed() {
			t.Logf("server of %s:\n%s", dir, r.log)
		}
	})
	return r
}

func (r *running) awaitReady(t *testing.T) *running {
	t.Helper()
	select {
	case r.ready = <-r.readied:
	case err := <-r.ended:
		r.ended <- err
		t.Fatalf("the server ended before it was ready: %v\n%s", err, r.log)
	case <-time.After(patience):
		t.Fatalf("not ready after %v\n%s", patience, r.log)
	}
	return r
}

func eventually(t *testing.T, do func() error) {
	t.Helper()
	for end := time.Now().Add(patience); ; {
		err := do()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("after %v: %v", patience, err)
		}
		<-time.After(50 * time.Millisecond)
	}
}

func (r *running) awaitState(t *testing.T, want events.ServerState) {
	t.Helper()
	eventually(t, func() error {
		for _, f := range []struct{ State events.ServerState }{{r.keys.Freshness().State}, {r.hosts.Freshness().State}} {
			if f.State != want {
				return fmt.Errorf("%s is %v, want %v: %+v", r.id.Server, f.State, want, r.keys.Freshness())
			}
		}
		return nil
	})
}

func (r *running) createRing(t *testing.T, name string) {
	t.Helper()
	eventually(t, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		_, err := r.service.CreateRing(ctx, "test", adminapi.CreateRing{Intent: adminapi.Intent{Request: "test/" + name}, Name: name})
		return err
	})
}

func (r *running) awaitRing(t *testing.T, name keystore.RingName) {
	t.Helper()
	eventually(t, func() error { _, err := r.service.ring(name); return err })
}

// TestCore walks a core of three through what it is for: founded by its first start,
// whole with any one server gone, up again from its replicas when all were gone.
func TestCore(t *testing.T) {
	dir, _ := coreOf(t, 3)
	at := func(id string) string { return filepath.Join(dir, id) }
	for _, id := range []string{"eu-1", "us-1", "ap-1"} {
		cfg, err := LoadConfig(filepath.Join(at(id), configFile))
		if err != nil {
			t.Fatal(err)
		}
		if err := Check(cfg); err != nil {
			t.Errorf("%s: Check = %v", id, err)
		}
	}
	us := launch(t, at("us-1"), nil) // before the founder: it waits
	eventually(t, func() error {
		if !strings.Contains(us.log.String(), "waiting for the core") {
			return errors.New("us-1 does not say that it waits")
		}
		return nil
	})
	eu, ap := launch(t, at("eu-1"), nil), launch(t, at("ap-1"), nil)
	all := []*running{eu, us, ap}
	for _, r := range all {
		r.awaitReady(t)
	}
	for _, r := range all {
		r.awaitState(t, events.Fresh)
	}
	if _, err := os.Stat(filepath.Join(at("eu-1"), foundingFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the founding file is still there: %v", err)
	}
	checkBuckets(t, us, 3)
	us.createRing(t, "sso")
	for _, r := range all {
		r.awaitRing(t, "sso")
	}
	for _, r := range all {
		status, err := r.service.Status(t.Context())
		if err != nil || len(status.Servers) != 3 {
			t.Errorf("status of %s: %+v, %v", r.id.Server, status, err)
		}
		if c := status.Core; c.Kind != "member" || c.Servers != 3 || c.Durability != verified || c.Connected == "" {
			t.Errorf("core of %s: %+v", r.id.Server, c)
		}
	}

	// Without one, whichever it is, changes go on.
	if err := eu.stop(); err != nil {
		t.Fatal(err)
	}
	ap.createRing(t, "without-eu")
	us.awaitRing(t, "without-eu")
	eu = launch(t, at("eu-1"), nil).awaitReady(t)
	eu.awaitRing(t, "without-eu")

	// All gone; the first that is back serves what it has.
	for _, r := range []*running{eu, us, ap} {
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
	}
	ap = launch(t, at("ap-1"), nil).awaitReady(t)
	ap.awaitRing(t, "without-eu")
	ap.awaitState(t, events.Stale)
	eu, us = launch(t, at("eu-1"), nil), launch(t, at("us-1"), nil)
	for _, r := range []*running{eu, us, ap} {
		r.awaitState2(t, events.Fresh)
	}
	ap.createRing(t, "after-all")
	eu.awaitRing(t, "after-all")

	// A server that is forgotten has no credentials any more.
	forgotten, err := us.service.ForgetServer(t.Context(), "test", "ap-1", adminapi.LeaveOut{Intent: intent()})
	if err != nil {
		t.Fatalf("%+v, %v", forgotten, err)
	}
	eventually(t, func() error {
		for _, link := range ap.links {
			// Its own core server is the last to let it in, until that has heard of it too.
			if err := link.Fault(); err == nil || !strings.Contains(strings.ToLower(err.Error()), "authorization violation") {
				return fmt.Errorf("link of ap-1 to %q: %v", link.Server(), err)
			}
		}
		return nil
	})
	us.createRing(t, "without-ap")
	eu.awaitRing(t, "without-ap")
}

// awaitState2 waits for a server that may still be opening.
func (r *running) awaitState2(t *testing.T, want events.ServerState) {
	t.Helper()
	if r.ready.Admin == "" {
		r.awaitReady(t)
	}
	r.awaitState(t, want)
}

func checkBuckets(t *testing.T, r *running, replicas int) {
	t.Helper()
	for _, kind := range []events.Kind{events.Keys, events.Hosts} {
		stream, err := r.links[0].JetStream().Stream(t.Context(), events.StreamName(events.BucketName(kind, "main", 1)))
		if err != nil {
			t.Fatal(err)
		}
		cfg := stream.CachedInfo().Config
		if cfg.Replicas != replicas || cfg.Storage != jetstream.FileStorage || cfg.MaxBytes != maxLedger || cfg.AllowRollup {
			t.Errorf("ledger of %s: %+v", kind, cfg)
		}
	}
}

const foundDieAt = "KEYTIDE_TEST_FOUND_DIE_AT"

func dieFounding(config, step string) {
	cfg, err := LoadConfig(config)
	if err == nil {
		cfg.step = func(name string) {
			if name == step {
				os.Exit(99)
			}
		}
		err = Run(context.Background(), cfg, Hooks{Logger: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	}
	slog.Error("did not die", "err", err)
	os.Exit(1)
}

func TestFoundingDiesAtEveryStep(t *testing.T) {
	for _, step := range []string{"made keys", "written keys", "made hosts", "written hosts", "founded"} {
		t.Run(step, func(t *testing.T) {
			dir, _ := coreOf(t, 1)
			dir = filepath.Join(dir, "eu-1")
			for range 2 {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				cmd := exec.CommandContext(ctx, os.Args[0], filepath.Join(dir, configFile))
				cmd.Env = append(os.Environ(), foundDieAt+"="+step)
				out, err := cmd.CombinedOutput()
				if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 99 {
					// What was done is done: the second time, a step may come no more.
					t.Fatalf("the founding ended with %v, want its death at %s\n%s", err, step, out)
				}
			}
			r := launch(t, dir, nil).awaitReady(t)
			r.createRing(t, "sso")
			checkBuckets(t, r, 1)
			if _, err := os.Stat(filepath.Join(dir, foundingFile)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the founding file is still there: %v", err)
			}
		})
	}
}

// TestFoundedOnce: a core that has lost its ledgers is never founded anew where a
// replica has them, whatever lies in the directory.
func TestFoundedOnce(t *testing.T) {
	dir, _ := coreOf(t, 1)
	dir = filepath.Join(dir, "eu-1")
	text, err := os.ReadFile(filepath.Join(dir, foundingFile))
	if err != nil {
		t.Fatal(err)
	}
	r := launch(t, dir, nil).awaitReady(t)
	r.createRing(t, "sso")
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	err = errors.Join(os.RemoveAll(filepath.Join(dir, busDir)), os.WriteFile(filepath.Join(dir, foundingFile), text, 0o600))
	if err != nil {
		t.Fatal(err)
	}
	r = launch(t, dir, nil).awaitReady(t)
	r.awaitState(t, events.Forked)
	r.awaitRing(t, "sso")
	eventually(t, func() error { // the link looks for another server of the core meanwhile
		_, err := r.links[0].JetStream().Stream(t.Context(), events.StreamName(events.BucketName(events.Keys, "main", 1)))
		if !errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("the bucket: %w, want that there is none", err)
		}
		return nil
	})
}

// TestCoreElsewhere: a policy server that is no member of the core works on it by
// urls; with a seed that the core does not know it says so, and waits.
func TestCoreElsewhere(t *testing.T) {
	dir, _ := coreOf(t, 1)
	home := filepath.Join(dir, "eu-1")
	r := launch(t, home, nil).awaitReady(t)
	r.createRing(t, "sso")
	core := *r.cfg.Bus.Core
	// The same server, from its replica, with its ledgers elsewhere: a core of its
	// own directory would be the second on it.
	away := t.TempDir()
	for _, file := range []string{identityFile, tokensFile, caFile, caKeyFile, certFile, certKeyFile, keysFile, hostsFile, unlockFile} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(away, file)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := copySecret(filepath.Join(home, file), filepath.Join(away, file)); err != nil {
			t.Fatal(err)
		}
	}
	second := launch(t, home, func(c *Config) {
		c.Dir, c.Unlock.File, c.Admin.Tokens = away, filepath.Join(away, unlockFile), filepath.Join(away, tokensFile)
		c.Admin.Listen, c.Feed.Listen, c.Metrics.Listen = "127.0.0.1:0", "127.0.0.1:0", ""
		c.Bus = &BusConfig{URLs: []string{"tls://" + core.Servers[0].Clients}, NkeyFile: c.Bus.NkeyFile, CA: c.Bus.CA}
	})
	// Two boots of one server: the first stays, and the second is told. So it was in.
	select {
	case err := <-second.ended:
		if err == nil || !strings.Contains(err.Error(), "eu-1") {
			t.Errorf("the second boot ended with %v", err)
		}
		second.ended <- nil
	case <-time.After(patience):
		t.Fatalf("the second boot goes on\n%s", second.log)
	}
	status := second.coreView()
	if status.Kind != "remote" || status.Durability != unverified || status.Why == "" {
		t.Errorf("core = %+v", status)
	}
}
