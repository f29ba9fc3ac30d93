package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/agentfeed/feedtest"
	"github.com/keytide/keytide/keystore"
)

// A browser keeps cookies over both instances, as one does over two ports of a host.
type browser struct {
	t      *testing.T
	client *http.Client
}

func newBrowser(t *testing.T) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &browser{t, &http.Client{Jar: jar}}
}

func (b *browser) ask(method, url string, form url.Values) (int, view) {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), method, url, strings.NewReader(form.Encode()))
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Accept", "application/json")
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	answer, err := b.client.Do(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer answer.Body.Close()
	var v view
	if err := json.NewDecoder(answer.Body).Decode(&v); err != nil {
		b.t.Fatal(err)
	}
	return answer.StatusCode, v
}

func serveApp(t *testing.T, client *agentfeed.Client, log *slog.Logger) string {
	t.Helper()
	handler, err := newApp(client.Ring("sso"), client.Status, false, log)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

// TestSessionIsSharedOverRollovers logs in at one instance, counts at the other, and
// goes on over rollovers.
func TestSessionIsSharedOverRollovers(t *testing.T) {
	feed := feedtest.NewServer(t, "sso")
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	var urls []string
	var clients []*agentfeed.Client
	for range 2 {
		client, err := agentfeed.New(feed.Config())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { client.Close() })
		if err := client.WaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		clients = append(clients, client)
		urls = append(urls, serveApp(t, client, logger))
	}
	user := newBrowser(t)
	if status, v := user.ask("GET", urls[0]+"/", nil); status != http.StatusUnauthorized || v.LoggedIn {
		t.Fatalf("without a session: %d %+v, want 401", status, v)
	}
	status, first := user.ask("POST", urls[0]+"/login", url.Values{"user": {"ann"}})
	if status != http.StatusOK || first.User != "ann" || first.SealedBy != first.Ring.Sealing {
		t.Fatalf("login: %d %+v", status, first)
	}
	last := first
	for n := 1; n <= 6; n++ {
		status, v := user.ask("POST", urls[n%2]+"/count", nil)
		if status != http.StatusOK || v.Count != n || v.User != "ann" || !v.Issued.Equal(first.Issued) {
			t.Fatalf("count %d: %d %+v, want the session of %+v", n, status, v, first)
		}
		if v.OpenedBy != last.SealedBy || v.Resealed != (n > 1 && n%2 == 1) {
			t.Fatalf("count %d: opened by %v, resealed %v; the cookie was sealed by %v", n, v.OpenedBy, v.Resealed, last.SealedBy)
		}
		last = v
		if n%2 == 0 {
			rolled := feed.Rollover("sso")
			for _, client := range clients {
				waitFor(t, client, rolled.Version)
			}
		}
	}
	if status, v := user.ask("GET", urls[0]+"/", nil); status != http.StatusOK || !v.Resealed || v.SealedBy != v.Ring.Sealing {
		t.Errorf("after a rollover: %d %+v, want it resealed by the sealing key", status, v)
	}
	if status, v := user.ask("POST", urls[1]+"/logout", nil); status != http.StatusOK || v.LoggedIn {
		t.Errorf("logout: %d %+v", status, v)
	}
	if status, _ := user.ask("POST", urls[0]+"/count", nil); status != http.StatusUnauthorized {
		t.Errorf("count after logout: %d, want 401", status)
	}
	if strings.Contains(log.String(), "ERROR") {
		t.Errorf("log:\n%s", log.String())
	}
}

// waitFor waits until the client holds this version of the ring.
func waitFor(t *testing.T, client *agentfeed.Client, version keystore.Version) {
	t.Helper()
	for set := range client.Ring("sso").Updates(t.Context()) {
		if set != nil && set.Version >= version {
			return
		}
	}
	t.Fatalf("no version %d", version)
}

func TestNoKeysIsNoLogout(t *testing.T) {
	server := httptest.NewServer(must(newApp(&emptyRing{}, waiting, true, slog.New(slog.DiscardHandler))))
	defer server.Close()
	user := newBrowser(t)
	for _, r := range []struct{ method, path string }{{"POST", "/login"}, {"GET", "/healthz"}} {
		if status, _ := user.ask(r.method, server.URL+r.path, url.Values{"user": {"ann"}}); status != http.StatusServiceUnavailable {
			t.Errorf("%s %s: %d, want 503", r.method, r.path, status)
		}
	}
	request := httptest.NewRequestWithContext(t.Context(), "POST", "/count", nil)
	request.AddCookie(&http.Cookie{Name: cookieName, Value: strings.Repeat("A", 100)})
	answer := httptest.NewRecorder()
	server.Config.Handler.ServeHTTP(answer, request)
	if answer.Code != http.StatusServiceUnavailable || answer.Header().Get("Set-Cookie") != "" {
		t.Errorf("a session without keys: %d, Set-Cookie %q; want 503 and the cookie left alone", answer.Code, answer.Header().Get("Set-Cookie"))
	}
}

// emptyRing is a ring without keys yet.
type emptyRing struct{}

func (*emptyRing) Snapshot() *keystore.KeySet { return nil }

func waiting() agentfeed.Status { return agentfeed.Status{State: agentfeed.StateWaiting} }

func must(h http.Handler, err error) http.Handler {
	if err != nil {
		panic(err)
	}
	return h
}

// TestPage walks through the pages as a browser without JSON does.
func TestPage(t *testing.T) {
	feed := feedtest.NewServer(t, "sso")
	client, err := agentfeed.New(feed.Config())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	base := serveApp(t, client, slog.New(slog.DiscardHandler))
	user := newBrowser(t).client
	for _, step := range []struct {
		path string
		form url.Values
		want string
	}{
		{"/login", url.Values{"user": {"<b>ann</b>"}}, "&lt;b&gt;ann&lt;/b&gt;</b>. You have counted to <b>0</b>"},
		{"/count", nil, "You have counted to <b>1</b>"},
		{"/logout", nil, `action="/login"`},
	} {
		answer, err := user.PostForm(base+step.path, step.form)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil || answer.StatusCode != http.StatusOK || !strings.Contains(string(text), step.want) {
			t.Errorf("POST %s: %d %v\n%s\nwant %q in it", step.path, answer.StatusCode, err, text, step.want)
		}
	}
	r, err := http.NewRequestWithContext(t.Context(), "POST", base+"/login", strings.NewReader("user=eve"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	answer, err := user.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusForbidden {
		t.Errorf("a login sent by another site: %d, want 403", answer.StatusCode)
	}
}

// TestProgram runs the whole program against a feed, until it is told to stop.
func TestProgram(t *testing.T) {
	feed := feedtest.NewServer(t, "sso")
	ctx, stop := context.WithCancel(t.Context())
	stdout, in := io.Pipe()
	code := make(chan int, 1)
	go func() {
		defer in.Close()
		code <- run(ctx, []string{"--host-file", feed.WriteHostFile("web-1"), "--listen", "127.0.0.1:0", "--secure"}, in, io.Discard)
	}()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	address, ok := strings.CutPrefix(line, "webapp ready url=")
	if err != nil || !ok {
		t.Fatalf("first line %q, %v", line, err)
	}
	address, _, _ = strings.Cut(address, " ")
	r, err := http.NewRequestWithContext(t.Context(), "POST", address+"login", strings.NewReader("user=ann"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Accept", "application/json")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if c := answer.Header.Get("Set-Cookie"); answer.StatusCode != http.StatusOK ||
		!strings.Contains(c, "; Secure") || !strings.Contains(c, "; HttpOnly") || !strings.Contains(c, "; SameSite=Lax") {
		t.Errorf("login: %d, Set-Cookie %q", answer.StatusCode, c)
	}
	stop()
	if got := <-code; got != 0 {
		t.Errorf("exit code %d, want 0", got)
	}
}

func TestMisuse(t *testing.T) {
	for _, args := range [][]string{{}, {"--host-file", "x", "--ring", "A B"}, {"--host-file", "x", "y"}, {"--nope"}} {
		if code := run(t.Context(), args, io.Discard, io.Discard); code != 2 {
			t.Errorf("%q: exit code %d, want 2", args, code)
		}
	}
	if code := run(t.Context(), []string{"--host-file", "missing.yaml"}, io.Discard, io.Discard); code != 1 {
		t.Errorf("missing host file: exit code %d, want 1", code)
	}
}
