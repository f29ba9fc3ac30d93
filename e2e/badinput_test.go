package e2e

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestBadInput runs testdata/badinput.txtar: what hosts and browsers may send, and
// what they are told. The commands' own bad input is tested beside them.
func TestBadInput(t *testing.T) {
	s := startSite(t)
	web := startWebapp(t, s.output, s.host(t, "web-1"))
	testscript.Run(t, testscript.Params{
		Files: []string{filepath.Join("testdata", "badinput.txtar")},
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", binaries+":"+env.Getenv("PATH"))
			env.Setenv("KEYTIDE_CLIENT", filepath.Join(s.dir, "client.yaml"))
			env.Setenv("WEB", web)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"feed": feedCommand(t), "cookie": cookieCommand(t)},
	})
}

// feedCommand is: feed HOSTFILE good|wrong-secret|unknown-host|replayed|unsigned|ahead DURATION
//
// It asks for the feed in that way and prints the status and the problem.
func feedCommand(t *testing.T) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, _ bool, args []string) {
		r := readHostFile(t, ts.MkAbs(args[0]))
		var skew time.Duration
		switch args[1] {
		case "wrong-secret":
			r.Secret = base64.RawURLEncoding.EncodeToString([]byte("thirty-two bytes that nobody has"))
		case "unknown-host":
			r.Host = "nobody"
		case "ahead":
			var err error
			skew, err = time.ParseDuration(args[2])
			ts.Check(err)
		}
		r.sign(t, skew)
		if args[1] == "unsigned" {
			r.header = ""
		}
		status, refusal := r.send(t)
		if args[1] == "replayed" {
			status, refusal = r.send(t)
		}
		fmt.Fprintln(ts.Stdout(), status, refusal.Type)
		fmt.Fprintln(ts.Stdout(), refusal.Title)
		fmt.Fprintln(ts.Stdout(), refusal.Detail)
	}
}

// cookieCommand is: cookie good|garbage|truncated|changed|long
//
// It logs in at $WEB, spoils the cookie in that way, counts with it, and prints the
// answer's status and what it says.
func cookieCommand(t *testing.T) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, _ bool, args []string) {
		client := &http.Client{Timeout: patience}
		_, cookie, err := post(client, ts.Getenv("WEB")+"login", url.Values{"user": {"ann"}}, nil)
		ts.Check(err)
		switch args[0] {
		case "garbage":
			cookie.Value = "nonsense"
		case "truncated":
			cookie.Value = cookie.Value[:len(cookie.Value)/2]
		case "changed":
			last := cookie.Value[len(cookie.Value)-5]
			cookie.Value = cookie.Value[:len(cookie.Value)-5] + string(last^1) + cookie.Value[len(cookie.Value)-4:]
		case "long":
			cookie.Value += strings.Repeat("A", 4000)
		}
		view, _, err := post(client, ts.Getenv("WEB")+"count", nil, cookie)
		ts.Check(err)
		fmt.Fprintf(ts.Stdout(), "logged in %v, count %d, error %q\n", view.LoggedIn, view.Count, view.Error)
	}
}

// TestHostFileOfOthersIsRefused: a host file that others can read is no secret.
func TestHostFileOfOthersIsRefused(t *testing.T) {
	s := startSite(t)
	file := s.host(t, "web-1")
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := s.run("keytide-agent", "fetch", "--once", "--host-file", file)
	if !refused(err) || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("fetch with a host file that others can read: %v, %s; want exit code 3 and a hint", err, out)
	}
}
