package sidecar_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/keytide/keytide/agentfeed/feedtest"
	"github.com/keytide/keytide/agentfeed/sidecar"
	"github.com/keytide/keytide/keystore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 60 * time.Second

type buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// An agent is a run of the program.
type agent struct {
	t         *testing.T
	out, talk buffer
	code      int
	stop      context.CancelFunc
	done      chan struct{}
}

func start(t *testing.T, args ...string) *agent {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	a := &agent{t: t, stop: stop, done: make(chan struct{})}
	go func() {
		defer close(a.done)
		a.code = sidecar.Main(ctx, sidecar.Env{Args: args, Stdout: &a.out, Stderr: &a.talk, Version: "test"})
	}()
	t.Cleanup(func() { a.end() })
	return a
}

// end stops the program and returns its exit code.
func (a *agent) end() int {
	a.stop()
	return a.wait()
}

// wait waits until the program ends by itself.
func (a *agent) wait() int {
	select {
	case <-a.done:
	case <-time.After(patience):
		a.t.Error("the program does not end")
		<-a.done
	}
	return a.code
}

func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for limit := time.After(patience); !condition(); {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// held is the part of the output that tests look at.
type held struct {
	State  string
	Server string
	Rings  []struct {
		Name    string
		Epoch   uint64
		Version uint64
		Mode    string
		Keys    []struct{ Role, KID, K string }
	}
}

func parse(t *testing.T, text string) held {
	t.Helper()
	var h held
	if err := json.Unmarshal([]byte(text), &h); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return h
}

func TestFetch(t *testing.T) {
	server := feedtest.NewServer(t, "sso")
	set := server.Rollover("sso")
	a := start(t, "fetch", "--once", "--host-file", server.WriteHostFile("web-1"), "-o", "json")
	if code := a.wait(); code != 0 || a.talk.String() != "" {
		t.Fatalf("exit %d: %s", code, a.talk.String())
	}
	var want strings.Builder
	want.WriteString(`{"state":"fresh","server":"feedtest","rings":[{"name":"sso","epoch":1,"version":2,"mode":"dynamic","keys":[`)
	for i, k := range set.Keys {
		if i > 0 {
			want.WriteByte(',')
		}
		want.WriteString(`{"role":"` + k.Role.String() + `","kid":"` + k.KID.String() + `"}`)
	}
	want.WriteString(`]}]}`)
	var got bytes.Buffer
	if err := json.Compact(&got, []byte(a.out.String())); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.String(), got.String()); diff != "" {
		t.Errorf("fetch prints (-want +got):\n%s", diff)
	}
	a = start(t, "fetch", "--once", "--host-file", server.WriteHostFile("web-1"))
	if code := a.wait(); code != 0 || !strings.Contains(a.out.String(), "sso   1.2      dynamic  current  "+set.Keys[0].KID.String()) {
		t.Errorf("exit %d: %s%s", code, a.out.String(), a.talk.String())
	}
}

func TestFetchFails(t *testing.T) {
	server := feedtest.NewServer(t, "sso")
	path := server.WriteHostFile("web-1")
	server.Revoke("web-1")
	a := start(t, "fetch", "--once", "--host-file", path)
	if code := a.wait(); code != 1 || !strings.Contains(a.talk.String(), "error: no rings: "+server.URL()+": the trusted host is revoked (host-revoked)") ||
		!strings.Contains(a.talk.String(), "hint:  ") {
		t.Errorf("exit %d: %s", code, a.talk.String())
	}
	server.Stop()
	a = start(t, "fetch", "--once", "--host-file", path, "--timeout", "300ms")
	if code := a.wait(); code != 1 || !strings.Contains(a.talk.String(), "connection refused") {
		t.Errorf("exit %d: %s", code, a.talk.String())
	}
}

// writeConfig writes a configuration beside the host file.
func writeConfig(t *testing.T, hostFile, text string) (path, dir string) {
	t.Helper()
	dir = filepath.Dir(hostFile)
	path = filepath.Join(dir, "agent.yaml")
	if err := os.WriteFile(path, []byte("host_file: web-1.yaml\n"+text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path, dir
}

const twoFiles = `state_dir: state
outputs:
  - name: web
    files:
      - {path: out/ring.json, format: json}
      - {path: out/group.json, format: json, mode: "0640"}
`

func readFile(t *testing.T, path string) (string, fs.FileMode) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		return "", 0
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content), info.Mode()
}

func TestRunKeepsFiles(t *testing.T) {
	server := feedtest.NewServer(t, "sso")
	config, dir := writeConfig(t, server.WriteHostFile("web-1"), twoFiles)
	a := start(t, "run", "--config", config)
	one, two := filepath.Join(dir, "out/ring.json"), filepath.Join(dir, "out/group.json")
	reached := func(version keystore.Version) func() bool {
		return func() bool {
			for _, path := range []string{one, two} {
				text, _ := readFile(t, path)
				if text == "" || parse(t, text).Rings[0].Version != uint64(version) {
					return false
				}
			}
			return true
		}
	}
	until(t, "the files are there", reached(1))
	for range 3 {
		until(t, "the files follow", reached(server.Rollover("sso").Version))
	}
	text, mode := readFile(t, one)
	if _, group := readFile(t, two); mode != 0o600 || group != 0o640 {
		t.Errorf("modes %v and %v, want 0600 and 0640", mode, group)
	}
	keys := parse(t, text).Rings[0].Keys
	for _, k := range keys {
		if len(k.K) != 43 || k.KID == "" {
			t.Errorf("key %s %s has no bytes", k.Role, k.KID)
		}
		if strings.Contains(a.talk.String(), k.K) {
			t.Error("key bytes in the log")
		}
	}
	before, err := os.Stat(one)
	if err != nil {
		t.Fatal(err)
	}
	second := start(t, "run", "--config", config)
	if code := second.wait(); code != 1 || !strings.Contains(second.talk.String(), "another keytide-agent uses it") {
		t.Errorf("a second agent: exit %d: %s", code, second.talk.String())
	}
	if code := a.end(); code != 0 {
		t.Errorf("exit %d: %s", code, a.talk.String())
	}
	again := start(t, "run", "--config", config)
	until(t, "it is connected", func() bool { return strings.Contains(again.talk.String(), "feed connected") })
	set := server.Rollover("sso")
	until(t, "it writes", reached(set.Version))
	again.end()
	if strings.Count(again.talk.String(), "files written") != 1 {
		t.Errorf("it wrote what was so already:\n%s", again.talk.String())
	}
	if after, err := os.Stat(one); err != nil || os.SameFile(before, after) {
		t.Error("the file was changed in place")
	}
	entries, err := os.ReadDir(filepath.Join(dir, "out"))
	if err != nil || len(entries) != 2 {
		t.Errorf("%v in the directory, %v; want the two files alone", entries, err)
	}
}

func TestRunReplacesWhatIsInTheWay(t *testing.T) {
	server := feedtest.NewServer(t, "sso")
	config, dir := writeConfig(t, server.WriteHostFile("web-1"), "outputs: [{name: web, files: [{path: ring.json, format: json}]}]\n")
	ring, victim := filepath.Join(dir, "ring.json"), filepath.Join(dir, "victim")
	leftover := filepath.Join(dir, ".ring.json.OLD.tmp")
	for _, path := range []string{victim, leftover} {
		if err := os.WriteFile(path, []byte("mine"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(victim, ring); err != nil {
		t.Fatal(err)
	}
	start(t, "run", "--config", config)
	until(t, "the file is written", func() bool {
		info, err := os.Lstat(ring)
		return err == nil && info.Mode() == 0o600
	})
	if text, _ := readFile(t, victim); text != "mine" {
		t.Error("it wrote through a symbolic link")
	}
	if _, err := os.Stat(leftover); err == nil {
		t.Error("it left a former agent's temporary file")
	}
}

func TestRunInAnUnsafeDirectory(t *testing.T) {
	server := feedtest.NewServer(t, "sso")
	config, dir := writeConfig(t, server.WriteHostFile("web-1"), "outputs: [{name: web, files: [{path: open/ring.json, format: json}]}]\n")
	open := filepath.Join(dir, "open")
	if err := os.Mkdir(open, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	a := start(t, "run", "--config", config)
	if code := a.wait(); code != 3 || !strings.Contains(a.talk.String(), "everybody can put files there") || !strings.Contains(a.talk.String(), "hint:  chmod o-w") {
		t.Errorf("exit %d: %s", code, a.talk.String())
	}
	if _, err := os.Stat(filepath.Join(open, "ring.json")); err == nil {
		t.Error("it wrote the file all the same")
	}
}

func TestRunGoesOnAfterAFileThatCannotBeWritten(t *testing.T) {
	server := feedtest.NewServer(t, "sso")
	config, dir := writeConfig(t, server.WriteHostFile("web-1"), "outputs: [{name: web, files: [{path: a/ring.json, format: json}, {path: b/ring.json, format: json}]}]\n")
	a := start(t, "run", "--config", config)
	second := filepath.Join(dir, "b/ring.json")
	until(t, "the files are there", func() bool { text, _ := readFile(t, second); return text != "" })
	// A directory in the place of the first file cannot be replaced by a file.
	first := filepath.Join(dir, "a/ring.json")
	if err := os.Remove(first); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(first, "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	want := server.Rollover("sso")
	until(t, "the other file follows", func() bool {
		text, _ := readFile(t, second)
		return parse(t, text).Rings[0].Version == uint64(want.Version)
	})
	until(t, "it says so", func() bool { return strings.Contains(a.talk.String(), "files not written") })
	if err := os.RemoveAll(first); err != nil {
		t.Fatal(err)
	}
	until(t, "it has tried again", func() bool { text, _ := readFile(t, first); return text != "" })
	if connected := strings.Count(a.talk.String(), "feed connected"); connected != 1 {
		t.Errorf("it fetched %d times", connected)
	}
}
