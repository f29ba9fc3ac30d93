//go:build unix

package sidecar_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keytide/keytide/agentfeed/feedtest"
	"github.com/keytide/keytide/agentfeed/sidecar"
	"github.com/keytide/keytide/keystore"
)

// tool finds a program that tests need, also where only root looks for it.
func tool(t *testing.T, name string) string {
	t.Helper()
	for _, candidate := range []string{name, "/usr/sbin/" + name} {
		if path, err := exec.LookPath(candidate); err == nil {
			return path
		}
	}
	t.Fatalf("%s is not installed; .ci/install installs it", name)
	return ""
}

// build makes the program as it is installed.
func build(t *testing.T) string {
	t.Helper()
	agent := filepath.Join(t.TempDir(), "keytide-agent")
	if out, err := exec.Command("go", "build", "-o", agent, "github.com/keytide/keytide/cmd/keytide-agent").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return agent
}

// A process is a program that runs until the test ends.
func process(t *testing.T, talk io.Writer, program string, args ...string) {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = talk, talk
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Errorf("%s: %v", program, err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s ends with %v", program, err)
		}
	})
}

// A kind is a TLS server that reads ticket keys, with its agent's configuration.
type kind struct {
	program string
	files   string                      // of the agent's output
	reload  func(program string) string // the script that is the agent's action
	config  func(dir string) string     // of the server
	args    func(dir, config string) []string
	current func(t *testing.T, dir string) string // the name of the key that seals
	begun   string                                // what the server logs when new workers begin, beside those of its start
	ended   string                                // and when former ones have ended
}

var nginx = kind{
	program: "nginx",
	files: `
      - {path: current.key, format: nginx, ring: sso, key: current}
      - {path: old.key, format: nginx, ring: sso, key: old}
      - {path: future.key, format: nginx, ring: sso, key: future}`,
	reload: func(program string) string { return program + ` -p "$PWD" -e stderr -c server.conf -s reload` },
	config: func(dir string) string {
		return `daemon off;
worker_processes 1;
error_log stderr notice;
pid nginx.pid;
events {}
http {
	access_log off;
	client_body_temp_path tmp;
	proxy_temp_path tmp;
	fastcgi_temp_path tmp;
	uwsgi_temp_path tmp;
	scgi_temp_path tmp;
	server {
		listen unix:` + dir + `/tls ssl;
		ssl_certificate ../cert.pem;
		ssl_certificate_key ../cert.pem;
		ssl_protocols TLSv1.2 TLSv1.3;
		ssl_session_cache none;
		ssl_session_ticket_key current.key;
		ssl_session_ticket_key old.key;
		ssl_session_ticket_key future.key;
		location / { return 204; }
	}
}
`
	},
	args: func(dir, config string) []string { return []string{"-p", dir, "-e", "stderr", "-c", config} },
	current: func(t *testing.T, dir string) string {
		text, _ := readFile(t, filepath.Join(dir, "current.key"))
		return text[:16]
	},
	begun: ", reconfiguring",
	ended: " exited with code 0",
}

var haproxy = kind{
	program: "haproxy",
	files: `
      - {path: tickets, format: haproxy, ring: sso}`,
	reload: func(string) string { return `kill -USR2 "$(cat haproxy.pid)"` },
	config: func(dir string) string {
		return `global
	tune.ssl.cachesize 0
	hard-stop-after 5s
defaults
	mode http
	timeout client 60s
	timeout http-request 60s
frontend tls
	bind unix@` + dir + `/tls ssl crt ` + filepath.Dir(dir) + `/cert.pem tls-ticket-keys ` + dir + `/tickets ssl-min-ver TLSv1.2
	http-request return status 204
`
	},
	args: func(dir, config string) []string {
		return []string{"-W", "-db", "-p", filepath.Join(dir, "haproxy.pid"), "-f", filepath.Join(dir, config)}
	},
	current: func(t *testing.T, dir string) string {
		all := lines(t, dir, "tickets")
		key, err := base64.StdEncoding.DecodeString(all[len(all)-2])
		if err != nil {
			t.Fatal(err)
		}
		return string(key[:16])
	},
	begun: "Reloading HAProxy",
	ended: "Former worker",
}

// A machine is a server with an agent beside it, both real processes.
type machine struct {
	kind
	t    *testing.T
	dir  string
	talk buffer
}

func (k kind) machine(t *testing.T, server *feedtest.Server, agent, dir string) *machine {
	t.Helper()
	name := filepath.Base(dir)
	m := &machine{kind: k, t: t, dir: dir}
	program := tool(t, k.program)
	if err := os.Mkdir(m.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s: %s", name, m.talk.String())
		}
	})
	m.write("agent.yaml", `host_file: `+server.WriteHostFile(name)+`
state_dir: state
outputs:
  - name: tls
    action: {exec: [./reload.sh], debounce: 10ms, min_interval: 10ms}
    files:`+k.files)
	m.write("server.conf", k.config(dir))
	m.write("reload.sh", "#!/bin/sh\ncd \"${0%/*}\" && "+k.reload(program))
	process(t, &m.talk, agent, "run", "--config", filepath.Join(m.dir, "agent.yaml"))
	until(t, "the ticket keys are there", func() bool { return strings.Contains(m.talk.String(), "keytide-agent ready") })
	process(t, &m.talk, program, k.args(m.dir, "server.conf")...)
	until(t, "it listens", func() bool {
		conn, err := net.Dial("unix", m.socket())
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return m
}

func (m *machine) socket() string { return filepath.Join(m.dir, "tls") }

func (m *machine) write(name, text string) {
	m.t.Helper()
	if err := os.WriteFile(filepath.Join(m.dir, name), []byte(text), 0o700); err != nil {
		m.t.Fatal(err)
	}
}

// applied reports whether the files are at this version and nginx has them: that the
// reload is done means to its workers that they begin to take turns.
func (m *machine) applied(set *keystore.KeySet) bool {
	r := report(m.t, m.dir)
	if len(r.Rings) != 1 || r.Rings[0].Version != set.Version || r.Outputs[0].Action.Result != sidecar.ActionDone {
		return false
	}
	fresh := new(session)
	m.connect(tls.VersionTLS12, fresh)
	log := m.talk.String()
	return m.current(m.t, m.dir) == fresh.sealedWith(m.t) && strings.Count(log, m.begun) == strings.Count(log, m.ended)
}

// connect makes a connection, with what sessions holds for a resumption.
func (m *machine) connect(version uint16, sessions tls.ClientSessionCache) (resumed bool) {
	m.t.Helper()
	raw, err := net.Dial("unix", m.socket())
	if err != nil {
		m.t.Fatal(err)
	}
	// The certificate does not matter here.
	conn := tls.Client(raw, &tls.Config{ServerName: "site", InsecureSkipVerify: true, MinVersion: version, MaxVersion: version, ClientSessionCache: sessions})
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		m.t.Fatal(err)
	}
	// In TLS 1.3 tickets come after the handshake: read to the end.
	_, err = io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n")
	if err == nil {
		_, err = io.ReadAll(conn)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	return conn.ConnectionState().DidResume
}

// A session is what a browser keeps of one connection, and never renews.
type session struct {
	tls.ClientSessionCache
	state *tls.ClientSessionState
}

func (s *session) Get(string) (*tls.ClientSessionState, bool) { return s.state, s.state != nil }
func (s *session) Put(_ string, state *tls.ClientSessionState) {
	if s.state == nil {
		s.state = state
	}
}

// sealedWith returns the session's key's name, the first 16 bytes of its ticket.
func (s *session) sealedWith(t *testing.T) string {
	t.Helper()
	ticket, _, err := s.state.ResumptionState()
	if err != nil || len(ticket) < 16 {
		t.Fatalf("a ticket of %d bytes, %v", len(ticket), err)
	}
	return string(ticket[:16])
}

// TestSessionsResumeAcrossMachines: a TLS session made at one server is resumed at
// another, before, during and after rollovers, until its key is gone.
func TestSessionsResumeAcrossMachines(t *testing.T) {
	agent := build(t)
	for _, k := range []kind{nginx, haproxy} {
		t.Run(k.program, func(t *testing.T) {
			server := feedtest.NewServer(t, "sso")
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "cert.pem"), certificate(t), 0o600); err != nil {
				t.Fatal(err)
			}
			a, b := k.machine(t, server, agent, filepath.Join(dir, "a")), k.machine(t, server, agent, filepath.Join(dir, "b"))
			first := &keystore.KeySet{Version: 1}
			until(t, "both have reloaded", func() bool { return a.applied(first) && b.applied(first) })
			for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				t.Run(tls.VersionName(version), func(t *testing.T) { resumes(t, server, version, a, b) })
			}
		})
	}
}

func resumes(t *testing.T, server *feedtest.Server, version uint16, a, b *machine) {
	first := new(session)
	if a.connect(version, first) || !b.connect(version, first) {
		t.Fatal("a session of one machine is not resumed at the other")
	}
	for i := range 2 {
		before := a.current(t, a.dir)
		set := server.Rollover("sso")
		// Whatever each has done by now, sessions of one are resumed at the other.
		until(t, "both have taken the rollover over", func() bool {
			fromA, fromB := new(session), new(session)
			a.connect(version, fromA)
			b.connect(version, fromB)
			if !b.connect(version, fromA) || !a.connect(version, fromB) {
				t.Fatal("a session is not resumed during a rollover")
			}
			if i == 0 && !b.connect(version, first) {
				t.Fatal("a session from before the rollover is not resumed")
			}
			return a.applied(set) && b.applied(set)
		})
		if a.current(t, a.dir) == before || a.current(t, a.dir) != b.current(t, b.dir) {
			t.Fatal("the rollover left the current key, or another at each machine")
		}
	}
	// HAProxy keeps three keys of four lines, nginx has three files.
	if b.connect(version, first) {
		t.Error("a session outlives its key")
	}
}

// certificate makes a certificate with its key, in PEM.
func certificate(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"site"}, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...)
}
