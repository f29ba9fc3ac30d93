package server

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/keystore/host"
)

// token makes a registration token for this many hosts.
func (r *running) token(t *testing.T, uses uint64) agentfeed.HostToken {
	t.Helper()
	token, err := agentfeed.NewHostToken()
	if err != nil {
		t.Fatal(err)
	}
	public, err := token.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.service.CreateHostToken(t.Context(), "admin", adminapi.CreateHostToken{
		Intent: intent(), Token: token.ID().String(), PublicKey: public[:], Rings: []string{devRing}, Uses: uses, Expires: "1h",
	}); err != nil {
		t.Fatal(err)
	}
	return token
}

func (r *running) registration(t *testing.T, token agentfeed.HostToken, name string) agentfeed.Registration {
	t.Helper()
	ca, err := os.ReadFile(filepath.Join(r.cfg.Dir, caFile))
	if err != nil {
		t.Fatal(err)
	}
	return agentfeed.Registration{
		Servers: []string{r.ready.Feed}, CA: ca, Host: name, Token: token, ID: agentfeed.NewRegistrationID(),
	}
}

func (r *running) hostEvents(t *testing.T) (n int) {
	t.Helper()
	r.hosts.Replica().Read(func(state *events.State) { n = int(state.N()) })
	return n
}

// TestRegistrationIsDoneOnce sends one registration many times at once, as an agent
// whose answers are lost does, and again after a restart: one host, one use, one
// secret.
func TestRegistrationIsDoneOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	r := start(t, dir)
	token := r.token(t, 3)
	registration := r.registration(t, token, "web-1")
	files := make([]agentfeed.HostFile, 8)
	var all sync.WaitGroup
	for i := range files {
		all.Go(func() {
			var err error
			if files[i], err = agentfeed.Register(t.Context(), registration); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for _, f := range files {
		if f.KID != files[0].KID {
			t.Errorf("secrets %s and %s, want one", f.KID, files[0].KID)
		}
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r = start(t, dir)
	registration.Servers = []string{r.ready.Feed}
	again, err := agentfeed.Register(t.Context(), registration)
	if err != nil || again.KID != files[0].KID {
		t.Errorf("after a restart: secret %s, %v; want %s", again.KID, err, files[0].KID)
	}
	if n := r.hostEvents(t); n != 3 { // genesis, token, host
		t.Errorf("%d events, want 3", n)
	}
	tokens, err := r.service.HostTokens(t.Context())
	if err != nil || tokens.Tokens[0].Used != 1 {
		t.Errorf("tokens = %+v, %v; want one use", tokens, err)
	}
	other := r.registration(t, token, "web-1")
	var problem *agentfeed.ProblemError
	if _, err := agentfeed.Register(t.Context(), other); !errors.As(err, &problem) || problem.Name != "host-exists" {
		t.Errorf("another registration of the same name: %v, want host-exists", err)
	}
}

// TestTokenIsUsedNoMoreOftenThanItSays races more agents than a token has uses.
func TestTokenIsUsedNoMoreOftenThanItSays(t *testing.T) {
	r := start(t, filepath.Join(t.TempDir(), "d"))
	token := r.token(t, 4)
	var mu sync.Mutex
	registered := 0
	var all sync.WaitGroup
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		registration := r.registration(t, token, name)
		all.Go(func() {
			_, err := agentfeed.Register(t.Context(), registration)
			var problem *agentfeed.ProblemError
			if err != nil && (!errors.As(err, &problem) || problem.Name != "registration-refused") {
				t.Errorf("host %s: %v, want registration-refused", name, err)
			}
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				registered++
			}
		})
	}
	all.Wait()
	var hosts []host.Host
	r.hosts.Replica().Read(func(state *events.State) { hosts = state.Hosts() })
	if registered != 4 || len(hosts) != 4 {
		t.Errorf("%d were told that they are registered, %d hosts; want 4 and 4", registered, len(hosts))
	}
}

// TestStrangersAreRefusedInTheEnd posts what no token's holder would, until it is not
// looked at any more; a holder at another address is not touched by it, and neither
// is the feed.
func TestStrangersAreRefusedInTheEnd(t *testing.T) {
	r := start(t, filepath.Join(t.TempDir(), "d"))
	registration := r.registration(t, r.token(t, 1), "web-1")
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(registration.CA)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	defer client.CloseIdleConnections()
	post := func(contentType, body string) (int, string) {
		response, err := client.Post(r.ready.Feed+"/v1/register", contentType, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(text)
	}
	if status, text := post("text/plain", "{}"); status != http.StatusBadRequest || !strings.Contains(text, "urn:keytide:problem:bad-request") {
		t.Errorf("text/plain: %d %s", status, text)
	}
	if status, _ := post("application/json", strings.Repeat(" ", 1<<20)); status != http.StatusBadRequest {
		t.Errorf("a megabyte: %d, want 400", status)
	}
	last := 0
	for range 40 {
		last, _ = post("application/json", "{}")
	}
	if last != http.StatusTooManyRequests {
		t.Errorf("after 40 of them: %d, want 429", last)
	}
	if response, err := client.Get(r.ready.Feed + "/v1/register"); err != nil || response.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET: %v, %v; want 405", response, err)
	} else {
		response.Body.Close()
	}
	agent := r.agent(t, "web-2", devRing)
	version(t, agent, devRing, 1)
}
