package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

// A mover is a server that may move to a later epoch while it runs.
type mover struct {
	t    *testing.T
	log  *lockedBuffer
	stop func() error

	mu   sync.Mutex
	site *site // the newest
}

// run starts the server of a directory, and does not wait.
func runMover(t *testing.T, dir string, edit func(*Config)) *mover {
	t.Helper()
	cfg, err := DirConfig(dir)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.dev {
		cfg.Admin.Listen, cfg.Feed.Listen = "127.0.0.1:0", "127.0.0.1:0"
	}
	if edit != nil {
		edit(&cfg)
	}
	m := &mover{t: t, log: &lockedBuffer{}}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- Run(ctx, cfg, Hooks{Logger: slog.New(slog.NewTextHandler(m.log, nil)), opened: func(s *site) {
			m.mu.Lock()
			m.site = s
			m.mu.Unlock()
		}})
	}()
	m.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() {
		if err := m.stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
		if t.Failed() {
			t.Logf("server of %s:\n%s", dir, m.log)
		}
	})
	return m
}

func (m *mover) now() *site {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.site
}

// await waits until both ledgers are in a state of an epoch.
func (m *mover) await(epoch keystore.Epoch, want events.ServerState) *site {
	m.t.Helper()
	var s *site
	eventually(m.t, func() error {
		if s = m.now(); s == nil {
			return errors.New("not open yet")
		}
		for _, member := range []interface {
			state() (events.ServerState, string)
		}{freshnessOf{s, events.Keys}, freshnessOf{s, events.Hosts}} {
			if state, why := member.state(); s.id.Epoch != epoch || state != want {
				return fmt.Errorf("%s in epoch %d is %v: %s; want %v in epoch %d", s.id.Server, s.id.Epoch, state, why, want, epoch)
			}
		}
		return nil
	})
	return s
}

type freshnessOf struct {
	s    *site
	kind events.Kind
}

func (f freshnessOf) state() (events.ServerState, string) {
	is := f.s.memberOf(f.kind).Freshness()
	return is.State, is.Why
}

func (m *mover) createRing(name string) {
	m.t.Helper()
	eventually(m.t, func() error {
		ctx, cancel := context.WithTimeout(m.t.Context(), patience)
		defer cancel()
		_, err := m.now().service.CreateRing(ctx, "test", adminapi.CreateRing{Intent: adminapi.Intent{Request: "test/" + name}, Name: name})
		return err
	})
}

func (m *mover) alarms(kind string) (found []string) {
	s := m.now()
	for _, k := range []events.Kind{events.Keys, events.Hosts} {
		for _, a := range s.memberOf(k).Alarms() {
			if string(a.Kind) == kind && a.Ended.IsZero() {
				found = append(found, a.Why)
			}
		}
	}
	return found
}

func (m *mover) end() {
	m.t.Helper()
	if err := m.stop(); err != nil {
		m.t.Fatal(err)
	}
}

func restoreConfig(t *testing.T, dir string) RestoreConfig {
	t.Helper()
	cfg, err := DirConfig(dir)
	if err != nil {
		t.Fatal(err)
	}
	log := &lockedBuffer{}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("restore on %s:\n%s", dir, log)
		}
	})
	return RestoreConfig{Config: cfg, Actor: "test", Reason: "a test's disaster", Logger: slog.New(slog.NewTextHandler(log, nil))}
}

// restore prepares and performs one.
func restore(t *testing.T, cfg RestoreConfig) (RestorePlan, error) {
	t.Helper()
	r, err := PrepareRestore(t.Context(), cfg)
	if err != nil {
		return RestorePlan{}, err
	}
	_, err = r.Perform(t.Context(), func(step string) { cfg.Logger.Info(step) })
	return r.Plan, errors.Join(err, r.Close())
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// newStore makes a development store with some rings, and stops it.
func newStore(t *testing.T, rings ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	r := start(t, dir)
	for _, name := range rings {
		r.createRing(t, name)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func wipeBus(t *testing.T, dir string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(dir, busDir)); err != nil {
		t.Fatal(err)
	}
}

// TestRestoreFromTheReplica: the store's bus is gone; all of it comes back in epoch 2, and
// can be lost and restored again.
func TestRestoreFromTheReplica(t *testing.T) {
	dir := newStore(t, "partners")
	for epoch := keystore.Epoch(1); epoch < 3; epoch++ {
		wipeBus(t, dir)
		m := runMover(t, dir, nil)
		s := m.await(epoch, events.Forked)
		before, _ := s.keys.Replica().Snapshot()
		m.end()
		plan, err := restore(t, withReplicas(restoreConfig(t, dir), dir))
		if err != nil {
			t.Fatal(err)
		}
		if plan.Epoch != epoch+1 || len(plan.Lost) != 0 || plan.Ledgers[0].Core != coreLost || plan.Ledgers[0].Head != before {
			t.Errorf("plan = %+v", plan)
		}
		m = runMover(t, dir, nil)
		s = m.await(epoch+1, events.Fresh)
		m.createRing(fmt.Sprintf("after-%d", epoch))
		if !s.keys.Replica().Has(before) {
			t.Errorf("epoch %d does not go on from event %d", epoch+1, before.N)
		}
		if verified, err := s.service.Verify(t.Context()); err != nil || !verified.OK {
			t.Errorf("Verify = %+v, %v", verified, err)
		}
		if alarms := m.alarms("set_aside"); len(alarms) != 0 {
			t.Errorf("alarms: %v", alarms)
		}
		m.end()
	}
}

func withReplicas(cfg RestoreConfig, paths ...string) RestoreConfig {
	cfg.Replicas = paths
	return cfg
}

// TestRestoreRefuses: whatever is not this store's, not whole, or not needed.
func TestRestoreRefuses(t *testing.T) {
	dir, other := newStore(t), newStore(t)
	for name, c := range map[string]struct {
		prepare func(t *testing.T, cfg *RestoreConfig)
		want    string
	}{
		"while the core has everything": {func(_ *testing.T, cfg *RestoreConfig) { cfg.Replicas = []string{dir} }, "the core answers, and has all"},
		"another store's replica":       {func(_ *testing.T, cfg *RestoreConfig) { cfg.Replicas = []string{other} }, "is of another key store"},
		"keys twice": {func(_ *testing.T, cfg *RestoreConfig) {
			cfg.Replicas = []string{filepath.Join(dir, keysFile), filepath.Join(dir, keysFile)}
		}, "2 replicas of the ledger of keys"},
		"no replica": {func(_ *testing.T, cfg *RestoreConfig) { cfg.Replicas = []string{filepath.Join(dir, configFile)} }, "no such file"},
		"another file": {func(_ *testing.T, cfg *RestoreConfig) {
			cfg.Replicas = []string{filepath.Join(dir, tokensFile)}
		}, "damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := restoreConfig(t, dir)
			c.prepare(t, &cfg)
			if _, err := restore(t, cfg); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("restore = %v, want %q", err, c.want)
			}
		})
	}
	r := start(t, dir)
	if _, err := restore(t, withReplicas(restoreConfig(t, dir), dir)); err == nil || !strings.Contains(adminhttp.HintOf(err), "stop the server first") {
		t.Errorf("restore beside a running server = %v (%s)", err, adminhttp.HintOf(err))
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	m := runMover(t, dir, nil) // nothing was changed by any of this
	m.await(1, events.Fresh)
}

// TestRestoreOfLess: what the source has less is listed, and stays in a file of its own.
func TestRestoreOfLess(t *testing.T) {
	dir := newStore(t)
	older := t.TempDir()
	copyFile(t, filepath.Join(dir, keysFile), filepath.Join(older, keysFile))
	copyFile(t, filepath.Join(dir, hostsFile), filepath.Join(older, hostsFile))
	r := start(t, dir)
	r.createRing(t, "partners")
	r.createRing(t, "apps")
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	wipeBus(t, dir)
	plan, err := restore(t, withReplicas(restoreConfig(t, dir), older))
	if err != nil {
		t.Fatal(err)
	}
	if len(plan.Lost) != 2 || plan.Lost[0].Type != "ring_created" || plan.Lost[1].N != plan.Ledgers[0].Head.N+2 {
		t.Errorf("lost = %+v, want the two rings", plan.Lost)
	}
	m := runMover(t, dir, nil)
	s := m.await(2, events.Fresh)
	if _, err := s.service.ring("partners"); err == nil {
		t.Error("ring partners is there")
	}
	alarms := m.alarms("set_aside")
	if len(alarms) != 1 || !strings.Contains(alarms[0], "the last 2 are now in keys.db alone") {
		t.Errorf("alarms = %v", alarms)
	}
	m.createRing("partners")
	m.end()
	if err := os.Rename(filepath.Join(dir, keysFile), filepath.Join(older, "looked-at.db")); err != nil {
		t.Fatal(err)
	}
	m = runMover(t, dir, nil)
	m.await(2, events.Fresh)
	if alarms := m.alarms("set_aside"); len(alarms) != 0 {
		t.Errorf("alarms = %v, want none once the file is away", alarms)
	}
}
