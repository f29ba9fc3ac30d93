package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// binaries is the folder with the programs under test, built once a run.
var binaries string

func TestMain(m *testing.M) {
	if file := os.Getenv(ticketUser); file != "" {
		os.Exit(useTickets(file))
	}
	flag.Parse()
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "keytide-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binaries = dir
	build := exec.Command("go", "build", "-o", dir+"/", "./cmd/keytide", "./cmd/keytide-agent", "./e2e/example/webapp")
	build.Dir = ".."
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // static: they run in images from scratch, too
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "building the programs under test:", err)
		return 1
	}
	return m.Run()
}

// patience bounds every wait for a condition. It is no promise of speed: it only
// ends a test whose condition never comes.
const patience = 90 * time.Second

// A process is a program under test. Everything it writes is kept, to be searched
// for what must not be in it.
type process struct {
	tb     testing.TB
	cmd    *exec.Cmd
	ready  string // the rest of its ready line
	output *transcript
	exited chan struct{}
}

// A transcript collects the output of every process of a test.
type transcript struct {
	mu    sync.Mutex
	bytes bytes.Buffer
}

func (t *transcript) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.bytes.Write(p)
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.bytes.String()
}

// start runs a program under test, or one named by an absolute path, and waits for
// the line of its standard output that begins with prefix; with no prefix, for
// nothing. The process is killed when the test ends.
func start(tb testing.TB, output *transcript, prefix string, argv ...string) *process {
	tb.Helper()
	program := argv[0]
	if !filepath.IsAbs(program) {
		program = filepath.Join(binaries, program)
	}
	cmd := exec.Command(program, argv[1:]...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	cmd.Stderr = output
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	p := &process{tb: tb, cmd: cmd, output: output, exited: make(chan struct{})}
	tb.Cleanup(p.kill)
	lines := make(chan string, 1)
	go func() {
		defer close(p.exited)
		defer cmd.Wait()
		defer close(lines)
		scanner := bufio.NewScanner(io.TeeReader(stdout, output))
		for found := false; scanner.Scan(); {
			if rest, ok := strings.CutPrefix(scanner.Text(), prefix); ok && !found && prefix != "" {
				found = true
				lines <- rest
			}
		}
	}()
	if prefix == "" {
		return p
	}
	select {
	case line, ok := <-lines:
		if !ok {
			tb.Fatalf("%s ended before it was ready:\n%s", argv[0], output)
		}
		p.ready = line
	case <-time.After(patience):
		tb.Fatalf("%s was not ready within %v:\n%s", argv[0], patience, output)
	}
	return p
}

// kill ends the process as a power cut would, with SIGKILL, and waits for it.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.exited
}

// stop ends the process in order and waits for it.
func (p *process) stop() {
	p.tb.Helper()
	p.cmd.Process.Signal(os.Interrupt)
	select {
	case <-p.exited:
	case <-time.After(patience):
		p.tb.Errorf("%s did not stop within %v of an interrupt", p.cmd.Path, patience)
		p.kill()
	}
}

// field returns the value of name=value in the ready line.
func (p *process) field(name string) string {
	for _, f := range strings.Fields(p.ready) {
		if v, ok := strings.CutPrefix(f, name+"="); ok {
			return v
		}
	}
	p.tb.Fatalf("ready line %q has no %s", p.ready, name)
	return ""
}

// A site is one policy server, at addresses that stay over restarts.
type site struct {
	*process
	dir, admin, feed, nats string
	command                []string // that starts it
	output                 *transcript
	client                 *http.Client // to its API; nil: not needed yet
	token                  string       // of client
}

// startSite starts keytide dev. more are flags for it.

func startSite(tb testing.TB, more ...string) *site {
	tb.Helper()
	s := &site{
		dir:    filepath.Join(tb.TempDir(), "dev"),
		admin:  freeAddress(tb),
		feed:   freeAddress(tb),
		nats:   freeAddress(tb),
		output: new(transcript),
	}
	s.command = append([]string{"dev", "--dir", s.dir, "--listen", s.admin, "--feed-listen", s.feed, "--nats-listen", s.nats}, more...)
	s.restart(tb)
	return s
}

// startServer starts keytide server on a store that core init made, with its feed at
// an address and a ring sso that may roll over in quick succession. more are lines for
// the configuration of the feed.
func startServer(tb testing.TB, feed string, more ...string) *site {
	tb.Helper()
	s := &site{dir: filepath.Join(tb.TempDir(), "core"), admin: freeAddress(tb), feed: feed, output: new(transcript)}
	s.keytide(tb, "core", "init", "--dir", s.dir, "--store", "main", "--region", "eu", "--server", "ps-1",
		"--listen", s.admin, "--feed-listen", s.feed)
	config := filepath.Join(s.dir, "keytide.yaml")
	text, err := os.ReadFile(config)
	if err != nil {
		tb.Fatal(err)
	}
	beforeMetrics, _, _ := strings.Cut(string(text), "metrics:")
	head, listen, ok := strings.Cut(beforeMetrics, "feed:\n")
	if !ok {
		tb.Fatalf("the configuration that core init made has no feed:\n%s", text)
	}
	write(tb, config, head+"feed:\n  "+strings.Join(more, "\n  ")+"\n"+listen)
	s.command = []string{"server", "--config", config}
	s.restart(tb)
	s.keytide(tb, "ring", "create", "sso", "--min-interval", "0s", "--reason", "rollovers in quick succession", "--yes")
	return s
}

func (s *site) restart(tb testing.TB) {
	tb.Helper()
	s.process = start(tb, s.output, "keytide ready ", append([]string{"keytide"}, s.command...)...)
}

// keytide runs an administration command and returns its standard output.
func (s *site) keytide(tb testing.TB, args ...string) []byte {
	tb.Helper()
	out, err := s.try(args...)
	if err != nil {
		tb.Fatalf("keytide %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// try is keytide for commands that may be refused; the error tells the exit code.
func (s *site) try(args ...string) ([]byte, error) { return s.run("keytide", args...) }

// run runs any of the programs as an administrator of the site.
func (s *site) run(program string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(binaries, program), args...)
	cmd.Env = append(os.Environ(), "KEYTIDE_CLIENT="+filepath.Join(s.dir, "client.yaml"))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	s.output.Write(stdout.Bytes())
	s.output.Write(stderr.Bytes())
	if err != nil {
		return nil, &commandError{code: cmd.ProcessState.ExitCode(), stderr: stderr.String()}
	}
	return stdout.Bytes(), nil
}

type commandError struct {
	code   int
	stderr string
}

func (e *commandError) Error() string { return fmt.Sprintf("exit code %d: %s", e.code, e.stderr) }

func refused(err error) bool {
	var e *commandError
	return errors.As(err, &e) && e.code == 3
}

// decode reads JSON that a command or a program printed.
func decode[T any](tb testing.TB, data []byte) T {
	tb.Helper()
	var v T
	if err := json.Unmarshal(data, &v); err != nil {
		tb.Fatalf("%v in %q", err, data)
	}
	return v
}

// host registers a trusted host for ring sso and returns its host file.
func (s *site) host(tb testing.TB, name string) string {
	tb.Helper()
	file := filepath.Join(tb.TempDir(), name+".yaml")
	s.keytide(tb, "host", "register", name, "--ring", "sso", "--out", file, "--yes")
	return file
}

// eventually waits until check returns nil.
func eventually(tb testing.TB, what string, check func() error) {
	tb.Helper()
	eventuallyWithin(tb, patience, what, check)
}

func eventuallyWithin(tb testing.TB, limit time.Duration, what string, check func() error) {
	tb.Helper()
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("%s: not within %v: %v", what, limit, err)
		}
		<-tick.C
	}
}

// freeAddress reserves no port, it only finds one that was free a moment ago: below
// those that the system gives to connections and to whoever asks for any.
func freeAddress(tb testing.TB) string {
	tb.Helper()
	var err error
	for range 100 {
		var l net.Listener
		address := fmt.Sprintf("127.0.0.1:%d", 12000+rand.IntN(20000))
		if l, err = net.Listen("tcp", address); err == nil {
			l.Close()
			return address
		}
	}
	tb.Fatal(err)
	return ""
}
