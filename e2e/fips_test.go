package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// buildFIPS builds the programs as make build-fips does.
func buildFIPS(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", dir+"/", "./cmd/keytide", "./cmd/keytide-agent", "./e2e/example/webapp")
	build.Dir = ".."
	build.Env = append(os.Environ(), "GOFIPS140=certified")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building with the certified module: %v\n%s", err, out)
	}
	return dir
}

// startStore makes a store for production and returns it, not served yet.
func startStore(t *testing.T) *site {
	t.Helper()
	s := &site{dir: filepath.Join(t.TempDir(), "store"), admin: freeAddress(t), feed: freeAddress(t), output: new(transcript)}
	s.keytide(t, "core", "init", "--dir", s.dir, "--store", "main", "--region", "eu", "--server", "ps-1",
		"--listen", s.admin, "--feed-listen", s.feed)
	s.edit(t, `  listen: "127.0.0.1:7490"`, `  listen: ""`)
	return s
}

func (s *site) config() string { return filepath.Join(s.dir, "keytide.yaml") }

func (s *site) edit(t *testing.T, old, new string) {
	t.Helper()
	text, err := os.ReadFile(s.config())
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), old, new, 1)
	if changed == string(text) {
		t.Fatalf("%s has no %q", s.config(), old)
	}
	if err := os.WriteFile(s.config(), []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (s *site) serve(t *testing.T, program string) {
	t.Helper()
	s.process = start(t, s.output, "keytide ready ", program, "server", "--config", s.config())
}

// rolled rolls the ring over and waits until the agents have it.
func (s *site) rolled(t *testing.T, agents int) ringView {
	t.Helper()
	s.awaitAgents(t, agents)
	s.keytide(t, "rollover", "sso", "--yes")
	s.awaitAgents(t, agents)
	return s.ring(t)
}

func refusesToStart(t *testing.T, want string, env []string, argv ...string) {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	time.AfterFunc(patience, func() { cmd.Process.Kill() })
	err := cmd.Run()
	if cmd.ProcessState.ExitCode() != 3 || !strings.Contains(stderr.String(), want) || !strings.Contains(stderr.String(), "hint:") {
		t.Errorf("%s: %v, want exit code 3 and %q:\n%s", strings.Join(argv, " "), err, want, stderr.String())
	}
}

// TestFIPSCrosses: a store is served by a program of each kind in turn, applications
// of each kind share its ring, and users who hop between them through a rollover under
// each server are never refused. What must run with a certified module does not start
// without one.
func TestFIPSCrosses(t *testing.T) {
	programs := buildFIPS(t)
	fips := func(name string) string { return filepath.Join(programs, name) }
	s := startStore(t)
	s.serve(t, "keytide")
	s.keytide(t, "ring", "create", "sso", "--min-interval", "0s", "--yes")
	plain := startWebapp(t, s.output, s.host(t, "app-1"))
	hostFile := s.host(t, "app-2")
	certified := start(t, s.output, "webapp ready ", fips("webapp"), "--host-file", hostFile, "--ring", "sso", "--listen", "127.0.0.1:0").field("url")
	users := startCrowd(t, 6, plain, certified)
	versions := map[string]uint64{s.ring(t).current(): 1}
	roll := func(agents int) {
		ring := s.rolled(t, agents)
		versions[ring.current()] = ring.Version
		users.newest.Store(ring.Version)
	}
	roll(2)

	s.stop()
	s.edit(t, "store: main", "fips: required\nstore: main")
	refusesToStart(t, "holds no certificate", nil, filepath.Join(binaries, "keytide"), "server", "--config", s.config())
	refusesToStart(t, "not in FIPS 140-3 mode", []string{"GODEBUG=fips140=off"}, fips("keytide"), "server", "--config", s.config())
	s.serve(t, fips("keytide"))
	var status struct {
		FIPS struct {
			Enabled bool
			Module  string
		}
	}
	if err := json.Unmarshal(s.keytide(t, "status", "-o", "json"), &status); err != nil || !status.FIPS.Enabled || status.FIPS.Module != "v1.0.0" {
		t.Errorf("status = %+v, %v; want the certified module", status, err)
	}
	roll(2)
	s.agentsOfBothKinds(t, fips("keytide-agent"))

	s.stop()
	s.edit(t, "fips: required\n", "")
	s.serve(t, "keytide")
	roll(3) // the certified sidecar is there by now
	before := users.served()
	eventually(t, "users go on", func() error {
		if n := users.served(); n < before+100 {
			return fmt.Errorf("%d requests", n-before)
		}
		return nil
	})
	users.end()
	users.check(t, versions)
}

// agentsOfBothKinds fetches with a sidecar of each kind, and has the plain one refuse
// what asks for a certified module.
func (s *site) agentsOfBothKinds(t *testing.T, certified string) {
	t.Helper()
	want := s.ring(t)
	host := s.host(t, "web-1")
	for _, program := range []string{certified, filepath.Join(binaries, "keytide-agent")} {
		out, err := exec.Command(program, "fetch", "--once", "--host-file", host, "-o", "json").Output()
		if err != nil {
			t.Fatalf("%s fetch: %v", program, err)
		}
		got := decode[struct{ Rings []ringView }](t, out)
		if len(got.Rings) != 1 || got.Rings[0].Version != want.Version || got.Rings[0].current() != want.current() {
			t.Errorf("%s fetched %+v, want %+v", program, got, want)
		}
	}
	config := filepath.Join(t.TempDir(), "agent.yaml")
	text := "host_file: " + host + "\nfips: required\noutputs:\n  - name: web\n    files:\n      - {path: ring.json, format: json}\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	refusesToStart(t, "holds no certificate", nil, filepath.Join(binaries, "keytide-agent"), "run", "--config", config)
	start(t, s.output, "", certified, "run", "--config", config)
	eventually(t, "the certified sidecar's file", func() error {
		_, err := os.Stat(filepath.Join(filepath.Dir(config), "ring.json"))
		return err
	})
}
