package cli_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/agentfeed/cookie"
	"github.com/keytide/keytide/agentfeed/sidecar"
	"github.com/keytide/keytide/cmd/internal/cli"
	"github.com/keytide/keytide/keystore"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"keytide": func() { os.Exit(run()) }, "keytide-agent": func() { os.Exit(runAgent()) }})
}

// run is the program's main, with the test's surroundings.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return cli.Main(ctx, cli.Env{
		Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Getenv: os.Getenv, Home: os.UserConfigDir, Person: os.Getenv("PERSON") != "", Screen: os.Getenv("SCREEN") != "", Version: "v0.0.0-test",
	})
}

// runAgent is the agent's main.
func runAgent() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return sidecar.Main(ctx, sidecar.Env{Args: os.Args[1:], Stdout: os.Stdout, Stderr: os.Stderr, Version: "v0.0.0-test"})
}

// TestScripts runs testdata/*.txtar. Beside testscript's own, scripts have these
// commands:
//
//	serve NAME ARG...     run keytide ARG... until it is ready; sets $ADMIN, $FEED and $KEYTIDE_CLIENT
//	follow NAME ARG...    run keytide ARG... beside the script, its standard output in file NAME.out
//	expect NAME REGEXP    wait until that output has a match
//	stop NAME             interrupt it; it must exit with 0
//	kill NAME             kill it as a power cut would
//	log NAME              print what it wrote to standard error
//	exits CODE ARG...     run keytide ARG...; it must exit with CODE
//	agentexits CODE ARG...  the same with keytide-agent
//	fields PATH NAME...   the JSON of the last output has, at PATH, these fields and no others
//	until REGEXP ARG...   run keytide ARG... until its standard output has a match
//	save VAR PATH         keep the JSON value at PATH
//	seal VAR FILE         seal a session with the keys that an agent of host file FILE gets
//	overwrite ADDR BUCKET KEY  put a value of its own there, past the server at ADDR
//	forge VAR KID         make what looks like a token that key KID sealed
//	hostfile FILE HOST    FILE is an agent's host file of HOST, with the feed at $FEED
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(env *testscript.Env) error {
			env.Values[serversKey{}] = &servers{byName: make(map[string]*process)}
			env.Setenv("GORACE", "atexit_sleep_ms=0") // else each command ends a second late under the race detector
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve": serve, "stop": stop, "kill": kill, "log": printLog, "exits": exits, "agentexits": agentExits, "fields": fields, "save": save,
			"follow": follow, "expect": expect, "until": until,
			"hostfile": hostfile, "seal": sealToken, "forge": forgeToken,
			"overwrite": overwrite,
		},
	})
}

type serversKey struct{}

type servers struct {
	mu     sync.Mutex
	byName map[string]*process
}

// A process is a server that a script has started.
type process struct {
	cmd    *exec.Cmd
	log    string // file of its standard error
	exited chan struct{}
	err    error // of Wait, once exited is closed
}

func named(ts *testscript.TestScript, name string) *process {
	all := ts.Value(serversKey{}).(*servers)
	all.mu.Lock()
	defer all.mu.Unlock()
	p, ok := all.byName[name]
	if !ok {
		ts.Fatalf("no server %s was started", name)
	}
	return p
}

func command(ts *testscript.TestScript, args ...string) *exec.Cmd {
	program, err := exec.LookPath("keytide")
	ts.Check(err)
	cmd := exec.Command(program, args...)
	cmd.Dir = ts.MkAbs(".")
	for _, name := range []string{"HOME", "PATH", "XDG_CONFIG_HOME", "KEYTIDE_CLIENT", "PERSON", "SCREEN", "GORACE"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	return cmd
}

const patience = 60 * time.Second // bounds a wait whose condition never comes

func serve(ts *testscript.TestScript, _ bool, args []string) {
	p := &process{cmd: command(ts, args[1:]...), log: ts.MkAbs(args[0] + ".log"), exited: make(chan struct{})}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	ts.Check(err)
	defer log.Close()
	p.cmd.Stderr = log
	stdout, err := p.cmd.StdoutPipe()
	ts.Check(err)
	ts.Check(p.cmd.Start())
	ready := make(chan string, 1)
	go func() {
		defer close(p.exited)
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			ready <- lines.Text()
		}
		p.err = p.cmd.Wait()
	}()
	ts.Defer(func() { p.cmd.Process.Kill(); <-p.exited })
	all := ts.Value(serversKey{}).(*servers)
	all.mu.Lock()
	all.byName[args[0]] = p
	all.mu.Unlock()
	select {
	case line := <-ready:
		rest, ok := strings.CutPrefix(line, "keytide ready ")
		if !ok {
			ts.Fatalf("first line is %q", line)
		}
		for _, field := range strings.Fields(rest) {
			name, value, _ := strings.Cut(field, "=")
			ts.Setenv(map[string]string{"admin": "ADMIN", "feed": "FEED", "client": "KEYTIDE_CLIENT", "nats": "NATS"}[name], value)
		}
	case <-p.exited:
		text, _ := os.ReadFile(p.log)
		ts.Fatalf("%s ended before it was ready: %v\n%s", args[0], p.err, text)
	case <-time.After(patience):
		ts.Fatalf("%s was not ready within %v", args[0], patience)
	}
}

func follow(ts *testscript.TestScript, _ bool, args []string) {
	p := &process{cmd: command(ts, args[1:]...), log: ts.MkAbs(args[0] + ".out"), exited: make(chan struct{})}
	out, err := os.Create(p.log)
	ts.Check(err)
	defer out.Close()
	p.cmd.Stdout, p.cmd.Stderr = out, out
	ts.Check(p.cmd.Start())
	go func() {
		defer close(p.exited)
		p.err = p.cmd.Wait()
	}()
	ts.Defer(func() { p.cmd.Process.Kill(); <-p.exited })
	all := ts.Value(serversKey{}).(*servers)
	all.mu.Lock()
	defer all.mu.Unlock()
	all.byName[args[0]] = p
}

func expect(ts *testscript.TestScript, _ bool, args []string) {
	p := named(ts, args[0])
	pattern, err := regexp.Compile("(?m)" + args[1])
	ts.Check(err)
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		text, err := os.ReadFile(p.log)
		ts.Check(err)
		if pattern.Match(text) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s has not printed %q:\n%s", args[0], args[1], text)
		}
		<-tick.C
	}
}

func stop(ts *testscript.TestScript, _ bool, args []string) {
	p := named(ts, args[0])
	ts.Check(p.cmd.Process.Signal(os.Interrupt))
	select {
	case <-p.exited:
		ts.Check(p.err)
	case <-time.After(patience):
		ts.Fatalf("%s did not stop within %v", args[0], patience)
	}
}

func kill(ts *testscript.TestScript, _ bool, args []string) {
	p := named(ts, args[0])
	ts.Check(p.cmd.Process.Kill())
	<-p.exited
}

func printLog(ts *testscript.TestScript, _ bool, args []string) {
	text, err := os.ReadFile(named(ts, args[0]).log)
	ts.Check(err)
	ts.Stdout().Write(text)
}

func exits(ts *testscript.TestScript, _ bool, args []string) {
	exitsWith(ts, args[0], command(ts, args[1:]...))
}

func agentExits(ts *testscript.TestScript, _ bool, args []string) {
	cmd := command(ts, args[1:]...)
	path, err := exec.LookPath("keytide-agent")
	ts.Check(err)
	cmd.Path, cmd.Args[0] = path, path
	exitsWith(ts, args[0], cmd)
}

func exitsWith(ts *testscript.TestScript, code string, cmd *exec.Cmd) {
	cmd.Stdout, cmd.Stderr = ts.Stdout(), ts.Stderr()
	cmd.Run()
	if got := cmd.ProcessState.String(); got != "exit status "+code {
		ts.Fatalf("%s, want exit status %s", got, code)
	}
}

func until(ts *testscript.TestScript, _ bool, args []string) {
	pattern, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	deadline := time.Now().Add(patience)
	for {
		out, err := command(ts, args[1:]...).Output()
		if err == nil && pattern.Match(out) {
			ts.Stdout().Write(out)
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("keytide %s has not printed %q: %v\n%s", strings.Join(args[1:], " "), args[0], err, out)
		}
		time.Sleep(20 * time.Millisecond) // between two looks at a condition
	}
}

// at returns the value of the last output's JSON at a path such as keys.0.role.
func at(ts *testscript.TestScript, path string) any {
	var v any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &v))
	for _, step := range strings.FieldsFunc(path, func(r rune) bool { return r == '.' }) {
		switch inner := v.(type) {
		case map[string]any:
			v = inner[step]
		case []any:
			if step != "0" || len(inner) == 0 {
				ts.Fatalf("%s: only the first element of a list that has one", path)
			}
			v = inner[0]
		default:
			ts.Fatalf("%s: nothing at %s", path, step)
		}
	}
	return v
}

func fields(ts *testscript.TestScript, _ bool, args []string) {
	object, ok := at(ts, args[0]).(map[string]any)
	if !ok {
		ts.Fatalf("%s is not an object", args[0])
	}
	var names []string
	for name := range object {
		names = append(names, name)
	}
	slices.Sort(names)
	want := slices.Sorted(slices.Values(args[1:]))
	if !slices.Equal(names, want) {
		ts.Fatalf("fields at %s = %v, want %v", args[0], names, want)
	}
}

func save(ts *testscript.TestScript, _ bool, args []string) {
	text, err := json.Marshal(at(ts, args[1]))
	ts.Check(err)
	ts.Setenv(args[0], strings.Trim(string(text), `"`))
}

// hostfile reads the file as an agent does, and never prints it.
func hostfile(ts *testscript.TestScript, _ bool, args []string) {
	file, err := agentfeed.ReadHostFile(ts.MkAbs(args[0]))
	ts.Check(err)
	if file.Host != args[1] || !slices.Equal(file.Servers, []string{ts.Getenv("FEED")}) {
		ts.Fatalf("host file of %s at %v, want %s at %s", file.Host, file.Servers, args[1], ts.Getenv("FEED"))
	}
}

func sealToken(ts *testscript.TestScript, _ bool, args []string) {
	client, err := agentfeed.New(agentfeed.Config{HostFile: ts.MkAbs(args[1])})
	ts.Check(err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ts.Check(client.WaitReady(ctx))
	codec, err := cookie.New(cookie.Config{Ring: client.Ring("sso"), Name: "session"})
	ts.Check(err)
	token, err := codec.Seal(nil, []byte("who this is nobody is told"))
	ts.Check(err)
	ts.Setenv(args[0], string(token))
}

func forgeToken(ts *testscript.TestScript, _ bool, args []string) {
	kid, err := keystore.ParseKID(args[1])
	ts.Check(err)
	raw := make([]byte, 70)
	rand.Read(raw)
	raw[0] = 1
	copy(raw[1:], kid[:])
	ts.Setenv(args[0], base64.RawURLEncoding.EncodeToString(raw))
}
