//go:build unix

package sidecar_test

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keytide/keytide/agentfeed/feedtest"
	"github.com/keytide/keytide/agentfeed/sidecar"
)

// startAction runs an agent with one file, ring.json, and a shell script as its action.
func startAction(t *testing.T, server *feedtest.Server, settings, script string) (a *agent, config, dir string) {
	t.Helper()
	config, dir = writeConfig(t, server.WriteHostFile("web-1"), `state_dir: state
outputs:
  - name: web
    files: [{path: ring.json, format: json}]
    action: {exec: [./reload.sh, one word, "$(id) *"], `+settings+`}
`)
	path := writeBeside(t, config, "reload.sh", "#!/bin/sh\ncd \"${0%/*}\"\n"+script)
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	return start(t, "run", "--config", config), config, dir
}

func report(t *testing.T, dir string) (r sidecar.Report) {
	t.Helper()
	text, mode := readFile(t, filepath.Join(dir, "state/status.json"))
	if text == "" {
		return r
	}
	if err := json.Unmarshal([]byte(text), &r); err != nil || mode != 0o600 {
		t.Fatalf("status.json: %v, mode %v", err, mode)
	}
	return r
}

func lines(t *testing.T, dir, name string) []string {
	t.Helper()
	text, _ := readFile(t, filepath.Join(dir, name))
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}

// TestActionRunsOnceASet: many changes at once are one run, with the arguments as
// they stand, after the last of them.
func TestActionRunsOnceASet(t *testing.T) {
	server := feedtest.NewServer(t, "sso")
	a, config, dir := startAction(t, server, "debounce: 100ms, min_interval: 1ms", `cp ring.json seen.json; echo "$# $1 $2" >>log`)
	done := func() bool {
		r := report(t, dir)
		return len(r.Outputs) == 1 && r.Outputs[0].Action.Result == sidecar.ActionDone
	}
	until(t, "the action is done", done)
	set := server.Rollover("sso")
	for range 4 {
		set = server.Rollover("sso")
	}
	seen := filepath.Join(dir, "seen.json")
	until(t, "the server has read the last set", func() bool {
		text, _ := readFile(t, seen)
		return text != "" && parse(t, text).Rings[0].Version == uint64(set.Version) && done()
	})
	got := lines(t, dir, "log")
	if len(got) > 4 || got[0] != "2 one word $(id) *" {
		t.Errorf("runs: %q, want few, and arguments as they stand", got)
	}
	r := report(t, dir)
	if action := r.Outputs[0].Action; action.Runs != uint64(len(got)) || action.Failures != 0 || action.At == nil || r.Outputs[0].WrittenAt == nil {
		t.Errorf("report: %+v", action)
	}
	a.end()
	// What is as it was is no change.
	again := start(t, "run", "--config", config)
	until(t, "it is ready", func() bool { return strings.Contains(again.out.String(), "keytide-agent ready") })
	server.Rollover("sso")
	until(t, "it runs for a change", func() bool { return len(lines(t, dir, "log")) == len(got)+1 })
}

// TestFailedActionIsRunAgain: a failed action neither loses files nor fetches again.
func TestFailedActionIsRunAgain(t *testing.T) {
	server := feedtest.NewServer(t, "sso")
	a, _, dir := startAction(t, server, "debounce: 1ms, min_interval: 1ms", `echo run >>log; test -e good || { echo "no good" >&2; exit 3; }`)
	until(t, "it has failed twice", func() bool { return len(lines(t, dir, "log")) >= 2 })
	r := report(t, dir)
	if action := r.Outputs[0].Action; action.Error != "exit status 3: no good" || action.Failures == 0 {
		t.Errorf("report: %+v", action)
	}
	set := server.Rollover("sso")
	until(t, "files follow all the same", func() bool {
		text, _ := readFile(t, filepath.Join(dir, "ring.json"))
		return parse(t, text).Rings[0].Version == uint64(set.Version)
	})
	writeBeside(t, filepath.Join(dir, "x"), "good", "")
	until(t, "it is done", func() bool { return report(t, dir).Outputs[0].Action.Result == sidecar.ActionDone })
	if connected := strings.Count(a.talk.String(), "feed connected"); connected != 1 {
		t.Errorf("it fetched %d times", connected)
	}
}

// TestActionEndsInTime: a command that hangs is ended with all that it started.
func TestActionEndsInTime(t *testing.T) {
	server := feedtest.NewServer(t, "sso")
	a, _, dir := startAction(t, server, "debounce: 1ms, timeout: 300ms", `trap "" TERM; sleep 3600 & echo $! >>log; wait; wait`)
	until(t, "it is ended", func() bool {
		return strings.Contains(a.talk.String(), "not done within 300ms")
	})
	child := filepath.Join("/proc", lines(t, dir, "log")[0]) // written long before it was ended
	until(t, "its child has ended", func() bool {
		stat, err := os.ReadFile(filepath.Join(child, "stat"))
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
}

// TestActionOwedAtTheEnd: what is owed when the agent stops is done by the next one,
// although no file changes.
func TestActionOwedAtTheEnd(t *testing.T) {
	server := feedtest.NewServer(t, "sso")
	a, config, dir := startAction(t, server, "debounce: 1ms", `echo run >>log; test -e good || exec sleep 3600`)
	until(t, "it runs", func() bool { return lines(t, dir, "log")[0] == "run" })
	if code := a.end(); code != 0 {
		t.Fatalf("exit %d: %s", code, a.talk.String())
	}
	writeBeside(t, config, "good", "")
	again := start(t, "run", "--config", config)
	until(t, "it is done", func() bool { return report(t, dir).Outputs[0].Action.Result == sidecar.ActionDone })
	if strings.Contains(again.talk.String(), "files written") || len(lines(t, dir, "log")) != 2 {
		t.Errorf("runs %q: %s", lines(t, dir, "log"), again.talk.String())
	}
}

// TestActionOwedAfterACrash: an agent that is killed while its action runs leaves whole
// files, and the next one makes up for the action.
func TestActionOwedAfterACrash(t *testing.T) {
	server := feedtest.NewServer(t, "sso")
	config, dir := writeConfig(t, server.WriteHostFile("web-1"), `state_dir: state
outputs:
  - name: web
    files: [{path: ring.json, format: json}]
    action: {exec: [./reload.sh], debounce: 1ms}
`)
	path := writeBeside(t, config, "reload.sh", "#!/bin/sh\ncd \"${0%/*}\"\necho run >>log; test -e good || kill -9 $PPID\n")
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	crash := exec.Command(build(t), "run", "--config", config)
	if err := crash.Run(); err == nil || crash.ProcessState.ExitCode() != -1 {
		t.Fatalf("the agent is not killed: %v", err)
	}
	text, _ := readFile(t, filepath.Join(dir, "ring.json"))
	parse(t, text)
	if code, r, _ := ask(t, config); code != 1 || r.Running || r.Outputs[0].Action.Result != sidecar.ActionRunning {
		t.Errorf("exit %d: %+v", code, r)
	}
	writeBeside(t, config, "good", "")
	again := start(t, "run", "--config", config)
	until(t, "the action is done", func() bool { return report(t, dir).Outputs[0].Action.Result == sidecar.ActionDone })
	if strings.Contains(again.talk.String(), "files written") {
		t.Errorf("files changed again: %s", again.talk.String())
	}
}

// TestReadiness: the service manager, and who reads stdout, hear once that all files
// are there.
func TestReadiness(t *testing.T) {
	server := feedtest.NewServer(t, "sso")
	config, dir := writeConfig(t, server.WriteHostFile("web-1"), twoFiles)
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	ctx, stop := context.WithCancel(context.Background())
	a := &agent{t: t, stop: stop, done: make(chan struct{})}
	go func() {
		defer close(a.done)
		a.code = sidecar.Main(ctx, sidecar.Env{Args: []string{"run", "--config", config}, Stdout: &a.out, Stderr: &a.talk, NotifySocket: socket.LocalAddr().String()})
	}()
	defer a.end()
	if err := socket.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	message := make([]byte, 1024)
	n, err := socket.Read(message)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"out/ring.json", "out/group.json"} {
		if text, _ := readFile(t, filepath.Join(dir, name)); text == "" {
			t.Errorf("ready without %s", name)
		}
	}
	if got := string(message[:n]); !strings.HasPrefix(got, "READY=1\n") {
		t.Errorf("the service manager hears %q", got)
	}
	if got, want := a.out.String(), "keytide-agent ready state=fresh rings=sso:1.1\n"; got != want {
		t.Errorf("stdout %q, want %q", got, want)
	}
}
