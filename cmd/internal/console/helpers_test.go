package console_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/cmd/internal/console"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

// A fake is a key store that tests write down.
type fake struct {
	status    adminapi.Status
	rings     []adminapi.Ring
	history   map[string][]adminapi.HistoryEvent
	lacking   []string
	refused   *adminapi.Problem
	err       error
	histories atomic.Int32 // how often the whole log was walked
	walking   func()       // called while it is, if set
}

func (f *fake) Status(context.Context) (adminapi.Status, error) { return f.status, f.err }
func (f *fake) Rings(context.Context) (adminapi.Rings, error) {
	return adminapi.Rings{Rings: f.rings}, f.err
}
func (f *fake) Preview(context.Context, keystore.RingName, adminapi.Rollover) (adminapi.Preview, error) {
	return adminapi.Preview{Allowed: f.refused == nil, Refused: f.refused}, f.err
}
func (f *fake) Reach(context.Context, keystore.RingName, keystore.N) (adminapi.Reach, error) {
	return adminapi.Reach{Connected: 2, Lacking: f.lacking}, f.err
}
func (f *fake) History(ctx context.Context, name keystore.RingName, _ adminhttp.Span) (adminapi.History, error) {
	f.histories.Add(1)
	if f.walking != nil {
		f.walking()
	}
	if err := ctx.Err(); err != nil {
		return adminapi.History{}, err
	}
	return adminapi.History{Ring: string(name), Events: f.history[string(name)]}, f.err
}

const goodToken = "keytide_admin_good"

var errBroken = errors.New("the replica is broken")

// A browser talks to a console and keeps its cookie.
type browser struct {
	tb      testing.TB
	handler http.Handler
	log     *bytes.Buffer
	cookie  *http.Cookie
	address string
	header  http.Header
	ctx     context.Context // of its requests
}

func newBrowser(tb testing.TB, f *fake) *browser {
	tb.Helper()
	b := &browser{tb: tb, log: new(bytes.Buffer), address: "192.0.2.1:4711", header: http.Header{}, ctx: tb.Context()}
	tokens, err := adminhttp.ParseTokens([]byte(adminhttp.TokenLine("alice", goodToken)))
	if err != nil {
		tb.Fatal(err)
	}
	mux := http.NewServeMux()
	console.Mount(mux, console.Config{
		Reader: f, Tokens: tokens, Refusals: new(adminhttp.Refusals), Server: "dev-1",
		Logger: slog.New(slog.NewTextHandler(b.log, nil)),
	})
	b.handler = mux
	return b
}

// other is another browser at the same console.
func (b *browser) other(address string) *browser {
	other := *b
	other.cookie, other.address, other.header = nil, address, http.Header{}
	return &other
}

func (b *browser) do(method, target string, form url.Values) *http.Response {
	b.tb.Helper()
	req := httptest.NewRequest(method, "https://keytide.test"+target, strings.NewReader(form.Encode()))
	req = req.WithContext(b.ctx)
	req.RemoteAddr = b.address
	for name, values := range b.header {
		req.Header[name] = values
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if b.cookie != nil {
		req.AddCookie(&http.Cookie{Name: b.cookie.Name, Value: b.cookie.Value})
	}
	answer := httptest.NewRecorder()
	b.handler.ServeHTTP(answer, req)
	resp := answer.Result()
	for _, cookie := range resp.Cookies() {
		b.cookie = cookie
	}
	return resp
}

func (b *browser) get(target string) (*http.Response, string) {
	b.tb.Helper()
	resp := b.do(http.MethodGet, target, nil)
	return resp, body(b.tb, resp)
}

func (b *browser) signIn(token string) *http.Response {
	b.tb.Helper()
	return b.do(http.MethodPost, "/console/sign-in", url.Values{"token": {token}})
}

func body(tb testing.TB, resp *http.Response) string {
	tb.Helper()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return string(text)
}

func (b *browser) want(resp *http.Response, status int) {
	b.tb.Helper()
	if resp.StatusCode != status {
		b.tb.Fatalf("status %d, want %d: %s", resp.StatusCode, status, body(b.tb, resp))
	}
}

// rolledOver is a key store with one ring that has rolled over twice, at a time.
func rolledOver(now time.Time) *fake {
	at := func(ago time.Duration) time.Time { return now.Add(-ago).UTC().Truncate(time.Millisecond) }
	created, first, second := at(5*time.Hour), at(3*time.Hour), at(time.Hour)
	history := []adminapi.HistoryEvent{
		{N: 2, ID: "A", Type: "ring_created", At: created, Version: 1, Server: "dev-1", Actor: "keytide", Reason: "first start", Made: []adminapi.Made{
			{Role: "current", KID: kid(1)}, {Role: "future", KID: kid(2)}, {Role: "static", KID: kid(3)}, {Role: "session_ticket", KID: kid(4)},
		}},
		{N: 3, ID: "B", Type: "rollover", At: first, Version: 2, Server: "dev-1", Actor: "bob", Trigger: "manual", Made: []adminapi.Made{{Role: "future", KID: kid(5)}}},
		{N: 4, ID: "C", Type: "rollover", At: second, Version: 3, Server: "dev-1", Actor: "bob", Trigger: "manual", Forced: true, Reason: "<script>alert(1)</script>",
			Made: []adminapi.Made{{Role: "future", KID: kid(6)}}, Gone: []string{kid(1)}},
	}
	ring := adminapi.Ring{
		Name: "sso", Epoch: 1, Version: 3, Mode: "dynamic",
		Policy:    adminapi.Policy{MaxSession: "8h0m0s", Retain: "auto", MinInterval: "1h0m0s", Schedule: "manual"},
		LastEvent: adminapi.Event{N: 4, ID: "C", Type: "rollover", At: second},
		Keys: []adminapi.Key{
			{Role: "current", KID: kid(5), CreatedAt: first, Seals: true}, {Role: "old", KID: kid(2), CreatedAt: created},
			{Role: "future", KID: kid(6), CreatedAt: second}, {Role: "static", KID: kid(3), CreatedAt: created},
			{Role: "session_ticket", KID: kid(4), CreatedAt: created},
		},
	}
	return &fake{
		status: adminapi.Status{
			Store: "main", Epoch: 1, N: 4, Servers: []adminapi.Server{{ID: "dev-1", Region: "local", State: "fresh", N: 4, AgeMS: 300, Agents: 2}},
			Rings: []adminapi.RingStatus{{Name: "sso", Version: 3, HeldBy: []string{}}},
		},
		rings: []adminapi.Ring{ring}, history: map[string][]adminapi.HistoryEvent{"sso": history},
	}
}

// kid is the text of a key id.
func kid(n byte) string { return strings.Repeat("0", 14) + "a" + string('0'+rune(n)) }
