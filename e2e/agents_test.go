package e2e

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

// A foreignAgent is one of the agents below agents/, which were written from
// agentfeed/SPEC.md alone.
type foreignAgent struct {
	name   string
	output *transcript
}

// last returns the ring sso as the agent printed it last.
func (a *foreignAgent) last() (ringView, error) {
	lines := strings.Split(a.output.String(), "\n")
	for _, line := range slices.Backward(lines) {
		var state struct {
			Rings []ringView `json:"rings"`
		}
		if json.Unmarshal([]byte(line), &state) == nil && len(state.Rings) == 1 {
			return state.Rings[0], nil
		}
	}
	return ringView{}, fmt.Errorf("%s printed no ring yet:\n%s", a.name, a.output)
}

// startForeignAgents runs each agent in each way over each route; nil is the straight
// one.
func startForeignAgents(t *testing.T, s *site, routes map[string]*front) []*foreignAgent {
	t.Helper()
	programs := map[string]string{"python": "agent.py", "node": "agent.mjs"}
	var agents []*foreignAgent
	for language, file := range programs {
		program, err := filepath.Abs(filepath.Join("agents", file))
		if err != nil {
			t.Fatal(err)
		}
		interpreter := tool(t, map[string]string{"python": "python3", "node": "node"}[language])
		for _, way := range [][]string{{"stream"}, {"poll", "1"}} {
			for route, through := range routes {
				a := &foreignAgent{name: strings.Join([]string{language, way[0], route}, "-"), output: new(transcript)}
				hostFile := s.host(t, a.name)
				if through != nil {
					hostFile = through.hostFile(t, hostFile)
				}
				start(t, a.output, "", append([]string{interpreter, program, hostFile}, way[1:]...)...)
				agents = append(agents, a)
			}
		}
	}
	return agents
}

// TestAgentsFromTheSpec: whoever has agentfeed/SPEC.md and a standard library can
// write an agent. Those of Python and Node, streaming and polling, straight and
// through an nginx with its default buffering, take each rollover, also after the
// policy server was killed, and show the kids that an administrator sees.
func TestAgentsFromTheSpec(t *testing.T) {
	s := startSite(t)
	s.keytide(t, "ring", "set", "sso", "--min-interval", "0s", "--reason", "rollovers in quick succession", "--yes")
	hostFile := s.host(t, "agent-1")
	keys := startSidecar(t, s.output, hostFile)
	defer func() {
		if t.Failed() {
			t.Log(s.output)
		}
	}()
	agents := startForeignAgents(t, s, map[string]*front{
		"direct": nil, "nginx": startNginx(t, s, readHostFile(t, hostFile).CA)})
	s.awaitForeign(t, agents)
	keys.collect(t, 1)
	for i := range 3 {
		if i == 1 {
			s.kill()
			s.restart(t)
		}
		s.keytide(t, "rollover", "sso", "--reason", "agents follow", "--yes")
		s.awaitForeign(t, agents)
		keys.collect(t, s.ring(t).Version)
	}
	for _, a := range agents {
		for _, secret := range keys.secrets {
			for _, spelling := range spellings(secret) {
				if bytes.Contains([]byte(a.output.String()), spelling) {
					t.Errorf("%s printed a key's bytes", a.name)
				}
			}
		}
	}
}

// awaitForeign waits until each agent has the ring as the policy server has it.
func (s *site) awaitForeign(t *testing.T, agents []*foreignAgent) {
	t.Helper()
	want := s.ring(t)
	kids := func(r ringView) []string {
		var list []string
		for _, k := range r.Keys {
			if k.Role != "session_ticket" { // which never leaves policy servers
				list = append(list, k.Role+" "+k.KID)
			}
		}
		slices.Sort(list)
		return list
	}
	for _, a := range agents {
		eventually(t, a.name+" takes the ring", func() error {
			got, err := a.last()
			if err != nil {
				return err
			}
			if got.Version != want.Version || !slices.Equal(kids(got), kids(want)) {
				return fmt.Errorf("version %d with %v; want %d with %v\n%s", got.Version, kids(got), want.Version, kids(want), a.output)
			}
			return nil
		})
	}
}

// TestForeignAgentsRefuse: the same agents take nothing from one who changes a single
// character of what is sealed, and all of it as soon as nobody does.
func TestForeignAgentsRefuse(t *testing.T) {
	s := startSite(t)
	var tampers atomic.Bool
	tampers.Store(true)
	agents := startForeignAgents(t, s, map[string]*front{
		"tampered": startTampering(t, s, readHostFile(t, s.host(t, "probe")).CA, &tampers)})
	for _, a := range agents {
		eventually(t, a.name+" refuses", func() error {
			if a.output.String() == "" {
				return errors.New("it has said nothing yet")
			}
			return nil
		})
	}
	for _, a := range agents {
		if got, err := a.last(); err == nil {
			t.Errorf("%s took version %d from one who tampers:\n%s", a.name, got.Version, a.output)
		}
	}
	tampers.Store(false)
	s.awaitForeign(t, agents)
}

// startTampering puts a front before the site that changes one character of each
// message, as long as on is set.
func startTampering(t *testing.T, s *site, feedCA string, on *atomic.Bool) *front {
	t.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(feedCA)) {
		t.Fatal("the host file's ca holds no certificate")
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableCompression: true}
	server := httptest.NewUnstartedServer(&httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "https", Host: s.feed}) },
		Transport:     transport,
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0), // agents go away while it copies
		ModifyResponse: func(r *http.Response) error {
			r.Body = &tampered{ReadCloser: r.Body, on: on}
			return nil
		},
	})
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS13}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(func() { server.CloseClientConnections(); server.Close(); transport.CloseIdleConnections() })
	return &front{url: server.URL, ca: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})}
}

// tampered is a body of which each sealed message is changed.
type tampered struct {
	io.ReadCloser
	on *atomic.Bool
}

func (b *tampered) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if at := bytes.Index(p[:n], []byte(`"ct":"`)); b.on.Load() && at >= 0 && at+30 < n {
		if c := &p[at+30]; *c == 'A' {
			*c = 'B'
		} else {
			*c = 'A'
		}
	}
	return n, err
}
