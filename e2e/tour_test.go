package e2e

import (
	"bufio"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// promised is what README's tour says of its commands, by how they begin. A command
// that is not here must end well. Each of these must be in the tour.
var promised = []struct {
	command string
	code    string
	output  []string // patterns; the output has all of them
}{
	{"keytide status", "0", []string{`(?m)^dev-1 .* fresh$`}},
	{"keytide ring show sso", "0", []string{`(?m)^current +[0-9a-f]{16} .*seals and opens$`, `(?m)^future `, `(?m)^static `}},
	{"keytide host register web-1", "0", []string{`its secret is in keytide-dev/web-1.yaml`}},
	{"keytide host register web-2", "0", []string{`its secret is in keytide-dev/web-2.yaml`}},
	{"keytide rollover sso --dry-run", "0", []string{`would be at version 2; nothing was changed`, `(?m)^[0-9a-f]{16} +future +current$`}},
	{"keytide rollover sso --reason", "0", []string{`is at version 2`, `all 2 connected agents have been given version 2`}},
	{"keytide rollover sso --yes", "3", []string{`rollover refused: the last one was`, `(?m)^hint:  .*--force$`}},
	{"keytide ring set sso --weekly", "0", []string{`(?m)^schedule +weekly mon@02:30$`, `(?m)^next slot +20`}},
	{"keytide schedule preview sso", "0", []string{`(?m)^20..-..-..T0[01]:30:00Z \(Mon 20..-..-.. 02:30 CES?T\)$`}},
	{"keytide history sso", "0", []string{`ring_created`, `rollover +admin +my first`}},
	{"keytide replay sso --version 1", "0", []string{`(?m)^version +1 `}},
	{"keytide audit verify", "0", []string{`(?m)^keys +4 +good`, `(?m)^hosts +[3-5] +good`}},
	{"keytide-agent fetch --once", "0", []string{`"version": 2`, `"role": "current"`}},
}

// TestTour does what README's "Five minutes" says, as a newcomer would: every block
// in order in a copy of the sources, and between them what the text says to do in a
// browser. Only the ports differ.
func TestTour(t *testing.T) {
	tour := newTour(t)
	tour.dev()
	used := make(map[int]bool)
	for _, command := range tour.commands(t) {
		if strings.HasPrefix(command, "keytide-agent run") {
			command += " &" // it runs until it is stopped
		}
		output, code := tour.shell.run(t, command)
		want := "0"
		for i, p := range promised {
			if strings.HasPrefix(command, p.command) {
				used[i], want = true, p.code
				for _, pattern := range p.output {
					if !regexp.MustCompile(pattern).MatchString(output) {
						t.Errorf("$ %s\nprints\n%s\nREADME promises %s", command, output, pattern)
					}
				}
			}
		}
		if code != want {
			t.Fatalf("$ %s\nexits with %s, want %s:\n%s", command, code, want, output)
		}
		tour.meanwhile(command)
	}
	for i, p := range promised {
		if !used[i] {
			t.Errorf("README's tour has no command that begins with %q", p.command)
		}
	}
	if tour.user.count < 6 {
		t.Errorf("the user counted to %d: the text between the commands was not followed", tour.user.count)
	}
}

type tour struct {
	t      *testing.T
	dir    string            // a copy of the sources
	ports  map[string]string // README's addresses, and what stands in for them
	shell  *shell
	server *group
	user   tourist
}

// newTour copies the sources, with other ports where the Makefile and README name
// or imply some.
func newTour(t *testing.T) *tour {
	t.Helper()
	for _, tool := range []string{"make", "bash"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%v; hint: .ci/install installs it", err)
		}
	}
	s := &tour{t: t, dir: t.TempDir(), ports: map[string]string{
		"127.0.0.1:8001": freeAddress(t), "127.0.0.1:8002": freeAddress(t),
	}}
	if err := copySources(s.dir, ".."); err != nil {
		t.Fatal(err)
	}
	makefile := filepath.Join(s.dir, "Makefile")
	text, err := os.ReadFile(makefile)
	if err != nil {
		t.Fatal(err)
	}
	const recipe = "\tgo run ./cmd/keytide dev\n"
	if !strings.Contains(string(text), recipe) {
		t.Fatalf("make dev is not %q any more", recipe)
	}
	changed := strings.Replace(string(text), recipe, fmt.Sprintf("\tgo run ./cmd/keytide dev --listen %s --feed-listen %s\n", freeAddress(t), freeAddress(t)), 1)
	if err := os.WriteFile(makefile, []byte(changed), 0o644); err != nil {
		t.Fatal(err)
	}
	s.shell = newShell(t, s.dir)
	return s
}

// copySources copies what a clone has, without history and hidden folders.
func copySources(to, from string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		hidden := strings.HasPrefix(entry.Name(), ".") && rel != "."
		switch {
		case entry.IsDir() && (hidden || rel == "bin" || rel == "keytide-dev"):
			return filepath.SkipDir
		case entry.IsDir():
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		case hidden || !entry.Type().IsRegular():
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), content, 0o644)
	})
}

// commands are those of the sh blocks of the section, one by one.
func (s *tour) commands(t *testing.T) (commands []string) {
	t.Helper()
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(readme), "\n## Five minutes\n")
	section, _, ended := strings.Cut(rest, "\n## ")
	if !found || !ended {
		t.Fatal(`README has no section "Five minutes"`)
	}
	for address, free := range s.ports {
		section = strings.ReplaceAll(section, address, free)
	}
	for _, block := range regexp.MustCompile("(?s)\n```sh\n(.*?)\n```\n").FindAllStringSubmatch(section, -1) {
		end := "" // of the here-document that a command has begun
		for line := range strings.Lines(block[1] + "\n") {
			line = strings.TrimSuffix(line, "\n")
			switch {
			case end != "":
				commands[len(commands)-1] += "\n" + line
				if line == end {
					end = ""
				}
			case line != "":
				commands = append(commands, line)
				if here := regexp.MustCompile(`<<'(\w+)'`).FindStringSubmatch(line); here != nil {
					end = here[1]
				}
			}
		}
	}
	if len(commands) < len(promised) {
		t.Fatalf("README's tour has the commands %q", commands)
	}
	return commands
}

// dev runs make dev until it serves.
func (s *tour) dev() {
	s.t.Helper()
	s.server = startGroup(s.t, s.dir, "make", "dev")
	s.server.await(s.t, "keytide ready ")
}

// meanwhile does what the text after a command says.
func (s *tour) meanwhile(command string) {
	t := s.t
	t.Helper()
	one, two := "http://"+s.ports["127.0.0.1:8001"]+"/", "http://"+s.ports["127.0.0.1:8002"]+"/"
	switch {
	case strings.HasPrefix(command, "webapp --host-file keytide-dev/web-2"):
		eventually(t, "both instances serve", func() error {
			for _, instance := range []string{one, two} {
				res, err := http.Get(instance)
				if err != nil {
					return err
				}
				res.Body.Close()
			}
			return nil
		})
		s.user.visit(t, one+"login", url.Values{"user": {"alice"}})
		s.user.counts(t, one, two)
	case strings.HasPrefix(command, "keytide audit verify"):
		before := s.user.sealedBy
		s.user.counts(t, one, two)
		if s.user.sealedBy == before {
			t.Errorf("the page says that key %s sealed the cookie, after the rollover as before", before)
		}
		s.server.kill()
		s.user.counts(t, two, one)
		s.dev()
		output, code := s.shell.run(t, "keytide ring show sso")
		if code != "0" || !regexp.MustCompile(`(?m)^version +2 `).MatchString(output) {
			t.Errorf("after kill -9 and a new start, exit code %s: %s\nwant version 2, where it was", code, output)
		}
	case strings.HasPrefix(command, "keytide-agent run"):
		file := filepath.Join(s.dir, "keytide-dev/agent/ring.json")
		eventually(t, "the sidecar writes the ring", func() error {
			info, err := os.Stat(file)
			if err == nil && info.Mode().Perm() != 0o600 {
				err = fmt.Errorf("%s has mode %v, want 0600", file, info.Mode().Perm())
			}
			return err
		})
	}
}

// A tourist has one browser: one cookie for both ports.
type tourist struct {
	cookie   *http.Cookie
	count    int
	sealedBy string
}

func (u *tourist) visit(t *testing.T, address string, form url.Values) appView {
	t.Helper()
	client := &http.Client{Timeout: patience}
	defer client.CloseIdleConnections()
	view, cookie, err := post(client, address, form, u.cookie)
	if err != nil || cookie == nil || !view.LoggedIn {
		t.Fatalf("%s: %+v, %v; want a session", address, view, err)
	}
	u.cookie, u.count, u.sealedBy = cookie, view.Count, view.SealedBy
	return view
}

// counts goes on counting at each instance: whoever was logged out begins anew.
func (u *tourist) counts(t *testing.T, instances ...string) {
	t.Helper()
	for _, instance := range instances {
		want := u.count + 1
		if view := u.visit(t, instance+"count", nil); view.Count != want || view.User != "alice" {
			t.Errorf("%s: %+v, want alice at count %d", instance, view, want)
		}
	}
}

// A group is a program with all that it has started.
type group struct {
	cmd    *exec.Cmd
	output *transcript
	done   chan struct{}
}

func startGroup(t *testing.T, dir string, argv ...string) *group {
	t.Helper()
	g := &group{cmd: exec.Command(argv[0], argv[1:]...), output: new(transcript), done: make(chan struct{})}
	g.cmd.Dir = dir
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	g.cmd.Stdout, g.cmd.Stderr = g.output, g.output
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(g.done)
		g.cmd.Wait()
	}()
	t.Cleanup(g.kill)
	return g
}

// await waits for a text; what is built first may take its time.
func (g *group) await(t *testing.T, text string) {
	t.Helper()
	deadline := time.After(10 * patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !strings.Contains(g.output.String(), text) {
		select {
		case <-tick.C:
		case <-g.done:
			t.Fatalf("%v ended without %q:\n%s", g.cmd.Args, text, g.output)
		case <-deadline:
			t.Fatalf("%v: no %q within %v:\n%s", g.cmd.Args, text, 10*patience, g.output)
		}
	}
}

func (g *group) kill() {
	select {
	case <-g.done:
	default:
		syscall.Kill(-g.cmd.Process.Pid, syscall.SIGKILL)
		<-g.done
	}
}

// A shell is the newcomer's second terminal.
type shell struct {
	in    io.Writer
	lines chan string
}

func newShell(t *testing.T, dir string) *shell {
	t.Helper()
	cmd := exec.Command("bash", "--noprofile", "--norc")
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = write, write
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	write.Close()
	s := &shell{in: in, lines: make(chan string, 1000)}
	go func() { // ends when the shell and all that it has started have
		defer close(s.lines)
		scanner := bufio.NewScanner(read)
		for scanner.Scan() {
			s.lines <- scanner.Text()
		}
	}()
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
		for range s.lines {
		}
		read.Close()
	})
	return s
}

// run types a command and returns what is printed until it has ended.
func (s *shell) run(t *testing.T, command string) (output, code string) {
	t.Helper()
	const mark = "@@ exit code "
	fmt.Fprintf(s.in, "%s\necho \"%s$?\"\n", command, mark)
	deadline := time.After(10 * patience)
	for {
		select {
		case line, ok := <-s.lines:
			if !ok {
				t.Fatalf("$ %s\nends the shell:\n%s", command, output)
			}
			if code, ok := strings.CutPrefix(line, mark); ok {
				return output, code
			}
			output += line + "\n"
		case <-deadline:
			t.Fatalf("$ %s\ndoes not end:\n%s", command, output)
		}
	}
}
