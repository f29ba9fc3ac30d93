package adminhttp_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/oklog/ulid/v2"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

// A fake answers every call with its error, and remembers what it was asked.
type fake struct {
	adminhttp.TrustedHosts // what no test here asks for
	err                    error
	actor                  string
	asked                  any
	calls                  atomic.Int32
}

func (f *fake) Rekey(context.Context) (adminapi.Rekey, error) { return adminapi.Rekey{}, f.err }
func (f *fake) BeginRekey(context.Context, string, adminapi.BeginRekey) (adminapi.RekeyBegun, error) {
	return adminapi.RekeyBegun{}, f.err
}
func (f *fake) UnlockSlots(context.Context) (adminapi.UnlockSlots, error) {
	return adminapi.UnlockSlots{}, f.err
}
func (f *fake) AddSlot(context.Context, string, adminapi.AddSlot) (adminapi.SlotAdded, error) {
	return adminapi.SlotAdded{}, f.err
}
func (f *fake) RemoveSlot(context.Context, string, keystore.KID, adminapi.RemoveSlot) (adminapi.SlotRemoved, error) {
	return adminapi.SlotRemoved{}, f.err
}

func (f *fake) ask(actor string, v any) error {
	f.calls.Add(1)
	f.actor, f.asked = actor, v
	return f.err
}

func (f *fake) Status(context.Context) (adminapi.Status, error) {
	return adminapi.Status{Store: "main", Servers: []adminapi.Server{}, Rings: []adminapi.RingStatus{}}, f.ask("", nil)
}
func (f *fake) Doctor(context.Context) (adminapi.Diagnosis, error) {
	return adminapi.Diagnosis{}, f.ask("", nil)
}
func (f *fake) Mend(_ context.Context, actor string, req adminapi.Mend) (adminapi.Mended, error) {
	return adminapi.Mended{}, f.ask(actor, req)
}
func (f *fake) Rings(context.Context) (adminapi.Rings, error) {
	return adminapi.Rings{}, f.ask("", nil)
}
func (f *fake) Ring(_ context.Context, name keystore.RingName) (adminapi.Ring, error) {
	return adminapi.Ring{Name: string(name)}, f.ask("", name)
}
func (f *fake) Preview(_ context.Context, _ keystore.RingName, req adminapi.Rollover) (adminapi.Preview, error) {
	return adminapi.Preview{}, f.ask("", req)
}
func (f *fake) Slots(_ context.Context, _ keystore.RingName, from time.Time, count int) (adminapi.Slots, error) {
	return adminapi.Slots{}, f.ask("", []any{from, count})
}
func (f *fake) DeleteRing(_ context.Context, actor string, name keystore.RingName, req adminapi.DeleteRing) (adminapi.RingDeleted, error) {
	return adminapi.RingDeleted{Ring: string(name)}, f.ask(actor, req)
}
func (f *fake) Reach(_ context.Context, _ keystore.RingName, n keystore.N) (adminapi.Reach, error) {
	return adminapi.Reach{}, f.ask("", n)
}
func (f *fake) History(_ context.Context, _ keystore.RingName, span adminhttp.Span) (adminapi.History, error) {
	return adminapi.History{}, f.ask("", span)
}
func (f *fake) Replay(_ context.Context, _ keystore.RingName, point adminhttp.Point) (adminapi.Ring, error) {
	return adminapi.Ring{}, f.ask("", point)
}
func (f *fake) Verify(context.Context) (adminapi.Verification, error) {
	return adminapi.Verification{}, f.ask("", nil)
}
func (f *fake) Backup(_ context.Context, bases adminhttp.Bases, w io.Writer) error {
	if err := f.ask("", bases); err != nil {
		return err
	}
	_, err := io.WriteString(w, "a backup")
	return err
}
func (f *fake) Export(_ context.Context, span adminhttp.Span, w io.Writer) error {
	if err := f.ask("", span); err != nil {
		return err
	}
	_, err := io.WriteString(w, "{}\n")
	return err
}
func (f *fake) Hosts(context.Context) (adminapi.Hosts, error) {
	return adminapi.Hosts{}, f.ask("", nil)
}
func (f *fake) Key(_ context.Context, kid keystore.KID) (adminapi.KeyUses, error) {
	return adminapi.KeyUses{KID: kid.String()}, f.ask("", kid)
}
func (f *fake) Host(_ context.Context, name string) (adminapi.HostShown, error) {
	return adminapi.HostShown{Host: adminapi.Host{Name: name}}, f.ask("", name)
}
func (f *fake) RevokeHost(_ context.Context, actor, name string, req adminapi.RevokeHost) (adminapi.Revoked, error) {
	return adminapi.Revoked{Host: name}, f.ask(actor, req)
}
func (f *fake) ServerShown(_ context.Context, id string) (adminapi.ServerShown, error) {
	return adminapi.ServerShown{Server: adminapi.Server{ID: id}}, f.ask("", id)
}
func (f *fake) InviteServer(_ context.Context, actor, id string, req adminapi.InviteServer) (adminapi.ServerInvited, error) {
	return adminapi.ServerInvited{Server: id}, f.ask(actor, req)
}
func (f *fake) JoinServer(_ context.Context, token string, _ adminapi.Join) (adminapi.Joined, error) {
	return adminapi.Joined{}, f.ask("", token)
}
func (f *fake) ExcludeServer(_ context.Context, actor, id string, req adminapi.LeaveOut) (adminapi.LeftOut, error) {
	return adminapi.LeftOut{Server: id}, f.ask(actor, req)
}
func (f *fake) ForgetServer(_ context.Context, actor, id string, req adminapi.LeaveOut) (adminapi.LeftOut, error) {
	return adminapi.LeftOut{Server: id}, f.ask(actor, req)
}
func (f *fake) CreateRing(_ context.Context, actor string, req adminapi.CreateRing) (adminapi.RingChanged, error) {
	return adminapi.RingChanged{}, f.ask(actor, req)
}
func (f *fake) SetPolicy(_ context.Context, actor string, _ keystore.RingName, req adminapi.SetPolicy) (adminapi.RingChanged, error) {
	return adminapi.RingChanged{}, f.ask(actor, req)
}
func (f *fake) Rollover(_ context.Context, actor string, _ keystore.RingName, req adminapi.Rollover) (adminapi.RolledOver, error) {
	return adminapi.RolledOver{}, f.ask(actor, req)
}
func (f *fake) RegisterHost(_ context.Context, actor string, req adminapi.RegisterHost) (adminapi.Registered, error) {
	return adminapi.Registered{Secret: "c2VjcmV0"}, f.ask(actor, req)
}

// A site is a handler on a TLS server, with a client that knows its token.
type site struct {
	*fake
	client *adminhttp.Client
	server *httptest.Server
	token  string
	log    *bytes.Buffer

	refusals *adminhttp.Refusals
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{fake: &fake{}, token: adminhttp.NewToken(), log: &bytes.Buffer{}, refusals: &adminhttp.Refusals{}}
	tokens, err := adminhttp.ParseTokens([]byte("# tokens\n\n" + adminhttp.TokenLine("alice", s.token)))
	if err != nil {
		t.Fatal(err)
	}
	s.server = httptest.NewTLSServer(adminhttp.New(adminhttp.Config{
		Service: s.fake, Tokens: tokens, Refusals: s.refusals, Version: "test", Logger: slog.New(slog.NewTextHandler(s.log, nil)),
	}))
	t.Cleanup(s.server.Close)
	s.client = s.newClient(s.token)
	t.Cleanup(s.client.Close)
	return s
}

func (s *site) newClient(token string) *adminhttp.Client {
	pool := x509.NewCertPool()
	pool.AddCert(s.server.Certificate())
	return adminhttp.NewClient(adminhttp.ClientConfig{Servers: []string{s.server.URL}, CA: pool, Token: token})
}

func intent() adminapi.Intent { return adminapi.Intent{Request: ulid.Make().String()} }

// TestErrorsRoundTrip lists every sentinel: the client's error is the server's.
func TestErrorsRoundTrip(t *testing.T) {
	soon := &keystore.TooSoonError{Ring: "sso", Last: time.Unix(1000, 0), Now: time.Unix(1060, 0), MinInterval: time.Hour}
	for _, c := range []struct {
		err      error
		sentinel error
		name     string
		status   int
	}{
		{adminhttp.ErrUnauthorized, adminhttp.ErrUnauthorized, "unauthorized", 401},
		{soon, keystore.ErrRefused, "rollover-too-soon", 409},
		{&keystore.HeldError{Ring: "sso", Version: 3}, keystore.ErrRefused, "rollover-held", 409},
		{&keystore.FullError{Ring: "sso"}, keystore.ErrRefused, "ring-full", 409},
		{&keystore.RetainError{Policy: keystore.Policy{Retain: 1, MaxSession: time.Hour}}, keystore.ErrRefused, "refused", 409},
		{keystore.ErrRefused, keystore.ErrRefused, "refused", 409},
		{keystore.ErrInvalid, keystore.ErrInvalid, "invalid", 422},
		{keystore.ErrNotFound, keystore.ErrNotFound, "not-found", 404},
		{keystore.ErrExists, keystore.ErrExists, "exists", 409},
		{events.ErrConflict, events.ErrConflict, "conflict", 409},
		{events.ErrUnknown, events.ErrUnknown, "unknown-outcome", 504},
		{events.ErrUnavailable, events.ErrUnavailable, "unavailable", 503},
		{events.ErrNoLeader, events.ErrUnavailable, "unavailable", 503},
		{errors.New("disk on fire"), adminhttp.ErrInternal, "internal", 500},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			s.err = c.err
			_, err := s.client.Rollover(t.Context(), "sso", adminapi.Rollover{Intent: intent()})
			var problem *adminapi.Error
			if !errors.As(err, &problem) {
				t.Fatalf("Rollover = %v, want a problem", err)
			}
			if problem.Name() != c.name || problem.Status != c.status {
				t.Errorf("problem = %s %d, want %s %d", problem.Name(), problem.Status, c.name, c.status)
			}
			if !errors.Is(err, c.sentinel) {
				t.Errorf("errors.Is(%v, %v) = false, want true", err, c.sentinel)
			}
			if known := c.status != 500; known && err.Error() != c.err.Error() {
				t.Errorf("error = %q, want %q", err, c.err)
			}
			if adminhttp.HintOf(c.err) != "" && adminhttp.HintOf(err) != adminhttp.HintOf(c.err) {
				t.Errorf("hint = %q, want %q", adminhttp.HintOf(err), adminhttp.HintOf(c.err))
			}
		})
	}
}

func TestUnknownErrorIsForTheLogAlone(t *testing.T) {
	s := newSite(t)
	s.err = errors.New("disk on fire")
	_, err := s.client.Status(t.Context())
	if err == nil || strings.Contains(err.Error()+adminhttp.HintOf(err), "fire") {
		t.Errorf("error = %v, want one that does not say what went wrong", err)
	}
	if !strings.Contains(s.log.String(), "disk on fire") {
		t.Errorf("log = %q, want what went wrong", s.log)
	}
}

func TestUnknownOutcomeIsSentAgain(t *testing.T) {
	s := newSite(t)
	s.err = events.ErrUnknown
	if _, err := s.client.CreateRing(t.Context(), adminapi.CreateRing{Intent: intent(), Name: "sso"}); err == nil {
		t.Fatal("CreateRing = nil, want the unknown outcome")
	}
	if got := s.calls.Load(); got != 3 {
		t.Errorf("calls = %d, want 3", got)
	}
}

func TestToken(t *testing.T) {
	s := newSite(t)
	if _, err := s.client.Rollover(t.Context(), "sso", adminapi.Rollover{Intent: intent()}); err != nil || s.actor != "alice" {
		t.Errorf("Rollover = %v by %q, want nil by alice", err, s.actor)
	}
	for _, token := range []string{"", adminhttp.NewToken(), s.token + "x", strings.ToUpper(s.token)} {
		client := s.newClient(token)
		before := s.calls.Load()
		_, err := client.Status(t.Context())
		client.Close()
		if !errors.Is(err, adminhttp.ErrUnauthorized) {
			t.Errorf("Status with another token = %v, want %v", err, adminhttp.ErrUnauthorized)
		}
		if s.calls.Load() != before {
			t.Error("the service was asked without a good token")
		}
	}
}

func TestParseTokensNamesEveryFault(t *testing.T) {
	token := adminhttp.NewToken()
	_, err := adminhttp.ParseTokens([]byte(token + "\nal ice sha256:00\nbob sha256:00\n"))
	if !errors.Is(err, keystore.ErrInvalid) {
		t.Fatalf("ParseTokens = %v, want %v", err, keystore.ErrInvalid)
	}
	for _, want := range []string{"line 1", "line 2", "line 3"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not name %s", err, want)
		}
	}
	if strings.Contains(err.Error(), token) {
		t.Error("the error shows a token")
	}
	if _, err := adminhttp.ParseTokens(nil); !errors.Is(err, keystore.ErrInvalid) {
		t.Errorf("ParseTokens of nothing = %v, want %v", err, keystore.ErrInvalid)
	}
}

// raw sends a request as it is and returns the problem that it is answered with.
func (s *site) raw(t *testing.T, method, path, body string) adminapi.Problem {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.server.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	req.Header.Set("Content-Type", "application/json")
	res, err := s.server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var p adminapi.Problem
	if got := res.Header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("%s %s: content type = %q, want application/problem+json: %s", method, path, got, answer)
	}
	if err := json.Unmarshal(answer, &p); err != nil {
		t.Fatalf("%s %s: %v in %s", method, path, err, answer)
	}
	if p.Status != res.StatusCode {
		t.Errorf("%s %s: status in the problem = %d, in HTTP %d", method, path, p.Status, res.StatusCode)
	}
	return p
}

func TestBadRequests(t *testing.T) {
	s := newSite(t)
	for _, c := range []struct {
		method, path, body string
		name               string
		status             int
		faults             []string
	}{
		{"POST", "/v1/rings", `{"request":"short","nmae":"x","policy":{"max_sesion":"8h"}}`, "invalid", 422,
			[]string{"body", "body.nmae", "body.request", "body.policy.max_sesion"}},
		{"POST", "/v1/rings", `{`, "invalid", 400, nil},
		{"POST", "/v1/rings", strings.Repeat(" ", 70<<10), "invalid", 413, nil},
		{"GET", "/v1/rings/Bad%20Name", "", "invalid", 422, nil},
		{"GET", "/v1/keys/0123", "", "invalid", 422, nil},
		{"GET", "/v1/hosts/Web-1", "", "invalid", 422, nil},
		{"POST", "/v1/hosts/web-1/revoke", `{}`, "invalid", 422, []string{"body"}},
		{"GET", "/v1/rings/sso/replay", "", "invalid", 422, nil},
		{"GET", "/v1/rings/sso/replay?at=yesterday", "", "invalid", 422, []string{"query.at"}},
		{"GET", "/v1/rings/sso/history?form=x", "", "invalid", 422, []string{"query.form"}},
		{"GET", "/", "", "not-found", 404, nil},
		{"GET", "/v1/nothing", "", "not-found", 404, nil},
		{"DELETE", "/v1/rings", "", "not-found", 404, nil},
	} {
		p := s.raw(t, c.method, c.path, c.body)
		if p.Name() != c.name || p.Status != c.status {
			t.Errorf("%s %s: problem = %s %d %+v, want %s %d", c.method, c.path, p.Name(), p.Status, p, c.name, c.status)
		}
		for _, path := range c.faults {
			found := false
			for _, f := range p.Faults {
				found = found || f.Path == path
			}
			if !found {
				t.Errorf("%s %s: faults = %+v, want one at %s", c.method, c.path, p.Faults, path)
			}
		}
	}
	if s.calls.Load() != 0 {
		t.Errorf("the service was asked %d times, want 0", s.calls.Load())
	}
}

func TestQueriesArrive(t *testing.T) {
	s := newSite(t)
	since := time.Date(2026, 11, 22, 8, 0, 0, 123e6, time.UTC)
	for _, c := range []struct {
		call func() error
		want any
	}{
		{func() error { _, err := s.client.History(t.Context(), "sso", adminhttp.Span{Since: since}); return err },
			adminhttp.Span{Since: since}},
		{func() error { _, err := s.client.Replay(t.Context(), "sso", adminhttp.Point{Version: 7}); return err },
			adminhttp.Point{Version: 7}},
		{func() error { _, err := s.client.Replay(t.Context(), "sso", adminhttp.Point{At: since}); return err },
			adminhttp.Point{At: since}},
		{func() error { _, err := s.client.Preview(t.Context(), "sso", adminapi.Rollover{}); return err }, adminapi.Rollover{}},
		{func() error {
			_, err := s.client.Preview(t.Context(), "sso", adminapi.Rollover{Force: true, Emergency: true, With: []string{"static", "ticket"}})
			return err
		}, adminapi.Rollover{Force: true, Emergency: true, With: []string{"static", "ticket"}}},
		{func() error {
			_, err := s.client.Preview(t.Context(), "sso", adminapi.Rollover{Fresh: true, Undo: true})
			return err
		}, adminapi.Rollover{Fresh: true, Undo: true}},
		{func() error { _, err := s.client.Slots(t.Context(), "sso", since, 3); return err }, []any{since, 3}},
		{func() error { _, err := s.client.Slots(t.Context(), "sso", time.Time{}, 1000); return err }, []any{time.Time{}, 1000}},
		{func() error { _, err := s.client.Reach(t.Context(), "sso", 42); return err }, keystore.N(42)},
		{func() error { _, err := s.client.Ring(t.Context(), "sso"); return err }, keystore.RingName("sso")},
		{func() error { _, err := s.client.Key(t.Context(), keystore.KID{1, 2}); return err }, keystore.KID{1, 2}},
		{func() error { _, err := s.client.Host(t.Context(), "web-1"); return err }, "web-1"},
	} {
		if err := c.call(); err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff(c.want, s.asked); diff != "" {
			t.Errorf("asked (-want +got):\n%s", diff)
		}
	}
}

func TestOpenAPI(t *testing.T) {
	s := newSite(t)
	res, err := s.server.Client().Get(s.server.URL + "/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var page struct {
		OpenAPI string
		Paths   map[string]any
	}
	if err := json.NewDecoder(res.Body).Decode(&page); err != nil {
		t.Fatal(err)
	}
	if page.OpenAPI != "3.1.0" || page.Paths["/v1/rings/{ring}/rollover"] == nil {
		t.Errorf("OpenAPI %s with %d paths, want 3.1.0 with the rollover", page.OpenAPI, len(page.Paths))
	}
}

func TestSecretDoesNotPrint(t *testing.T) {
	s := newSite(t)
	done, err := s.client.RegisterHost(t.Context(), adminapi.RegisterHost{Intent: intent(), Name: "web-1", Rings: []string{"sso"}})
	if err != nil {
		t.Fatal(err)
	}
	if done.Secret != "c2VjcmV0" {
		t.Error("the secret did not arrive")
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "secret", done.Secret)
	if strings.Contains(log.String(), "c2VjcmV0") {
		t.Error("the log shows the secret")
	}
}

func TestNoServer(t *testing.T) {
	s := newSite(t)
	s.server.Close()
	_, err := s.client.Status(t.Context())
	var unreachable *adminhttp.UnreachableError
	if !errors.As(err, &unreachable) || unreachable.Hint() == "" {
		t.Errorf("Status = %v, want an *UnreachableError with a hint", err)
	}
}

func TestForeignCertificate(t *testing.T) {
	s := newSite(t)
	client := adminhttp.NewClient(adminhttp.ClientConfig{Servers: []string{s.server.URL}, CA: x509.NewCertPool(), Token: s.token})
	defer client.Close()
	_, err := client.Status(t.Context())
	if err == nil || !strings.Contains(adminhttp.HintOf(err), "CA") {
		t.Errorf("Status = %v with hint %q, want one about the CA", err, adminhttp.HintOf(err))
	}
}
