package server

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
)

const restoreDieAt = "KEYTIDE_TEST_RESTORE_DIE_AT"

// dieRestoring restores the store of a directory from its own replicas, and dies at a step.
func dieRestoring(dir, step string) {
	cfg, err := DirConfig(dir)
	if err == nil {
		restore := RestoreConfig{
			Config: cfg, Replicas: []string{dir}, Actor: "test", Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
			step: func(name string) {
				if name == step {
					os.Exit(99)
				}
			},
		}
		var r *Restore
		if r, err = PrepareRestore(context.Background(), restore); err == nil {
			_, err = r.Perform(context.Background(), func(string) {})
		}
	}
	slog.Error("did not die", "err", err)
	os.Exit(1)
}

// dieMoving serves the store of a directory, and dies at a step of its move to a later epoch.
func dieMoving(dir, step string) {
	cfg, err := DirConfig(dir)
	if err == nil {
		cfg.Admin.Listen, cfg.Feed.Listen = "127.0.0.1:0", "127.0.0.1:0"
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

// die runs this test's program anew, which must die at the step.
func die(t *testing.T, dir, variable, step string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], dir)
	cmd.Env = append(os.Environ(), variable+"="+step)
	out, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 99 {
		t.Fatalf("it ended with %v, want its death at %s\n%s", err, step, out)
	}
}

// TestRestoreDiesAtEveryStep: one restore that dies at every step in turn, and is done in the
// end; then the move to its epoch, which dies as well.
func TestRestoreDiesAtEveryStep(t *testing.T) {
	dir := newStore(t, "partners")
	keep := filepath.Join(t.TempDir(), busDir)
	if err := os.CopyFS(keep, os.DirFS(filepath.Join(dir, busDir))); err != nil {
		t.Fatal(err)
	}
	r := start(t, dir)
	r.createRing(t, "apps")
	head, _ := r.keys.Replica().Snapshot()
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	wipeBus(t, dir) // the core is turned back to an older state
	if err := os.CopyFS(filepath.Join(dir, busDir), os.DirFS(keep)); err != nil {
		t.Fatal(err)
	}
	for _, step := range []string{
		"sealed", "made keys", "made hosts", "half laid keys", "laid keys", "begun keys", "half laid hosts", "laid hosts", "begun hosts",
	} {
		die(t, dir, restoreDieAt, step)
	}
	if _, err := restore(t, withReplicas(restoreConfig(t, dir), dir)); !errors.Is(err, keystore.ErrRefused) || !strings.Contains(err.Error(), "a restore is done") {
		t.Errorf("restoring what is restored = %v", err)
	}
	for _, step := range []string{"epoch built", "epoch saved"} {
		die(t, dir, moveDieAt, step)
	}
	m := runMover(t, dir, nil)
	s := m.await(2, events.Fresh)
	if !s.keys.Replica().Has(head) {
		t.Errorf("event %d is lost", head.N)
	}
	m.createRing("after")
	left, err := filepath.Glob(filepath.Join(dir, ".restore-*"))
	if err != nil || len(left) != 9 {
		t.Errorf("%d directories are left of 9 deaths: %v", len(left), left)
	}
	checkSealed(t, s, 1)
}

const moveDieAt = "KEYTIDE_TEST_MOVE_DIE_AT"

func checkSealed(t *testing.T, s *site, number keystore.Epoch) {
	t.Helper()
	for _, kind := range []events.Kind{events.Keys, events.Hosts} {
		log, err := s.bind(kind, number)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := log.Info(t.Context()); err != nil || !info.Sealed {
			t.Errorf("bucket %s: sealed = %v, %v; want that it is", log.Bucket(), info.Sealed, err)
		}
	}
}

// TestTheWholeCoreIsWiped: three core servers lose their disks but for what core init made;
// everything comes back from the replica of one policy server that is no part of the core.
func TestTheWholeCoreIsWiped(t *testing.T) {
	dir, _ := coreOf(t, 3)
	ids := []string{"eu-1", "us-1", "ap-1"}
	at := func(id string) string { return filepath.Join(dir, id) }
	servers := map[string]*mover{}
	for _, id := range ids {
		servers[id] = runMover(t, at(id), nil)
	}
	for _, id := range ids {
		servers[id].await(1, events.Fresh)
	}
	servers["eu-1"].createRing("sso")
	servers["us-1"].createRing("partners")
	head, _ := servers["us-1"].now().keys.Replica().Snapshot()
	for _, id := range ids {
		eventually(t, func() error {
			if !servers[id].now().keys.Replica().Has(head) {
				return errors.New("not there yet")
			}
			return nil
		})
		servers[id].end()
	}
	kept := filepath.Join(t.TempDir(), "ap-1")
	if err := os.MkdirAll(kept, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{keysFile, hostsFile} {
		copyFile(t, filepath.Join(at("ap-1"), file), filepath.Join(kept, file))
	}
	for _, id := range ids {
		wipeBus(t, at(id))
		if id == "us-1" {
			continue // it keeps its replica: forked, and nothing is discarded
		}
		if err := errors.Join(os.Remove(filepath.Join(at(id), keysFile)), os.Remove(filepath.Join(at(id), hostsFile))); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range ids[1:] {
		servers[id] = runMover(t, at(id), nil)
	}
	plan, err := restore(t, withReplicas(restoreConfig(t, at("eu-1")), kept))
	if err != nil {
		t.Fatal(err)
	}
	if len(plan.Lost) != 0 || plan.Ledgers[0].Head != head || plan.Ledgers[0].Core != coreLost {
		t.Errorf("plan = %+v", plan)
	}
	servers["eu-1"] = runMover(t, at("eu-1"), nil)
	for _, id := range ids {
		s := servers[id].await(2, events.Fresh)
		if !s.keys.Replica().Has(head) {
			t.Errorf("%s lacks event %d", id, head.N)
		}
		if alarms := servers[id].alarms("set_aside"); len(alarms) != 0 {
			t.Errorf("%s: %v", id, alarms)
		}
	}
	servers["us-1"].createRing("after")
	for _, id := range ids {
		eventually(t, func() error { _, err := servers[id].now().service.ring("after"); return err })
	}
}
