package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/keystore/seal"
	"github.com/keytide/keytide/keystore/secretfile"
	"github.com/keytide/keytide/replication/bus"
)

// A realm is a key store on one bus, for several policy servers in this process.
type realm struct {
	t   *testing.T
	dir string
	bus *bus.Bus
	// step, if set, is called at each step of the servers started next.
	step func(string)
}

// newRealm makes a store whose first server is ps-1.
func newRealm(t *testing.T) *realm {
	t.Helper()
	w := &realm{t: t, dir: t.TempDir()}
	_, err := Init(t.Context(), InitConfig{
		Dir: w.path("ps-1"), Store: "main", Region: "eu", Server: "ps-1", Listen: "127.0.0.1:0", FeedListen: "127.0.0.1:0",
	})
	if err != nil {
		t.Fatal(err)
	}
	w.bus, err = bus.Start(bus.Config{StoreDir: filepath.Join(w.path("ps-1"), busDir), ServerName: "ps-1", MaxStore: maxStore})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.bus.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *realm) path(server string) string { return filepath.Join(w.dir, server) }

// start runs the server of a directory on the realm's bus.
func (w *realm) start(server string) *running {
	w.t.Helper()
	cfg, err := LoadConfig(filepath.Join(w.path(server), configFile))
	if err != nil {
		w.t.Fatal(err)
	}
	cfg.shared, cfg.Metrics.Listen, cfg.step = w.bus, "", w.step
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{log: &lockedBuffer{}}
	ready, ended := make(chan Ready, 1), make(chan error, 1)
	go func() {
		ended <- Run(ctx, cfg, Hooks{
			Logger: slog.New(slog.NewTextHandler(r.log, nil)),
			Ready:  func(where Ready) { ready <- where }, opened: func(s *site) { r.site = s },
		})
	}()
	stopped := false
	r.stop = func() error {
		cancel()
		if stopped {
			return nil
		}
		stopped = true
		return <-ended
	}
	w.t.Cleanup(func() {
		if err := r.stop(); err != nil {
			w.t.Errorf("%s: stop: %v\n%s", server, err, r.log)
		}
	})
	select {
	case r.ready = <-ready:
	case err := <-ended:
		stopped = true
		w.t.Fatalf("%s ended before it was ready: %v\n%s", server, err, r.log)
	}
	return r
}

// invite has ps-1 invite a server, and returns the invitation.
func (r *running) invite(t *testing.T, id string) Invitation {
	t.Helper()
	token, hash := NewInviteToken()
	made, err := r.service.InviteServer(t.Context(), "eva", id, adminapi.InviteServer{
		Intent: adminapi.Intent{Request: ulid.Make().String()}, Region: "us", TokenHash: hash, TTLSeconds: 3600,
	})
	if err != nil {
		t.Fatal(err)
	}
	return NewInvitation(made, token)
}

// join makes a server's directory by an invitation.
func (w *realm) join(i Invitation) error {
	w.t.Helper()
	text, err := i.Encode()
	if err != nil {
		w.t.Fatal(err)
	}
	file := w.path(i.Server + ".invite")
	if err := secretfile.Replace(file, text); err != nil {
		w.t.Fatal(err)
	}
	_, err = Join(w.t.Context(), JoinConfig{Invite: file, Dir: w.path(i.Server), Listen: "127.0.0.1:0", FeedListen: "127.0.0.1:0"})
	return err
}

// says is what a server says of another.
func (r *running) says(t *testing.T, id string) adminapi.Server {
	t.Helper()
	status, err := r.service.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(status.Servers, func(s adminapi.Server) bool { return s.ID == id })
	if i < 0 {
		return adminapi.Server{}
	}
	return status.Servers[i]
}

func (r *running) create(t *testing.T, ring string) {
	t.Helper()
	if _, err := r.service.CreateRing(t.Context(), "eva", adminapi.CreateRing{Intent: adminapi.Intent{Request: ulid.Make().String()}, Name: ring}); err != nil {
		t.Fatal(err)
	}
}

func (r *running) rollRing(t *testing.T, ring string) (adminapi.RolledOver, error) {
	t.Helper()
	zero := "0s"
	if _, err := r.service.SetPolicy(t.Context(), "eva", keystore.RingName(ring), adminapi.SetPolicy{
		Intent: adminapi.Intent{Request: ulid.Make().String()}, Policy: adminapi.PolicyChange{MinInterval: &zero},
	}); err != nil {
		t.Fatal(err)
	}
	return r.service.Rollover(t.Context(), "eva", keystore.RingName(ring), adminapi.Rollover{Intent: adminapi.Intent{Request: ulid.Make().String()}})
}

// A server that was invited joins, feeds, writes, is what rollovers wait for, and is
// waited for no more when it has stopped in order, is excluded, or is forgotten.
func TestInvitedServerIsAFullMember(t *testing.T) {
	w := newRealm(t)
	first := w.start("ps-1")
	first.create(t, "sso")
	i := first.invite(t, "ps-2")
	if err := w.join(i); err != nil {
		t.Fatal(err)
	}
	if v := first.says(t, "ps-2"); v.State != "stale" || v.Why == "" || v.Region != "us" {
		t.Errorf("joined and not started: %+v", v)
	}
	second := w.start("ps-2")
	await(t, "ps-2 is fresh", func() bool { return first.says(t, "ps-2").State == "fresh" })
	if got := first.service.unvouched(); len(got) > 0 {
		t.Errorf("unvouched: %v", got)
	}
	await(t, "both clocks", func() bool { _, ok := second.service.reference(); return ok })
	rolled, err := second.rollRing(t, "sso")
	if err != nil || !slices.Equal(rolled.Replicas, []string{"ps-2", "ps-1"}) {
		t.Fatalf("rollover by ps-2: %+v, %v", rolled, err)
	}
	for _, r := range []*running{first, second} {
		await(t, "the ring is fed", func() bool {
			state, _ := r.source.Watch()
			return state.Rings["sso"].Version == rolled.Version && slices.Equal(slices.Sorted(slices.Values(state.Servers)), slices.Sorted(slices.Values([]string{first.ready.Feed, second.ready.Feed})))
		})
	}
	checkFeedCertificate(t, w, second)
	second.hold(t, first)
}

// hold checks what rollovers at first wait for, as this server goes.
func (r *running) hold(t *testing.T, first *running) {
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	await(t, "ps-2 says that it stopped", func() bool { return first.says(t, "ps-2").State == "stopped" })
	for range 2 {
		if _, err := first.rollRing(t, "sso"); err != nil {
			t.Errorf("rollover while ps-2 is stopped in order: %v", err)
		}
	}
	done, err := first.service.ExcludeServer(t.Context(), "eva", "ps-2", leaveOut(false))
	if err != nil || done.HostsN == 0 || !first.says(t, "ps-2").Excluded {
		t.Errorf("ExcludeServer = %+v, %v", done, err)
	}
	if _, err := first.service.ExcludeServer(t.Context(), "eva", "ps-1", leaveOut(false)); !errors.Is(err, keystore.ErrRefused) {
		t.Errorf("excluding the last that counts: %v", err)
	}
}

// checkFeedCertificate: agents that trust the store's CA trust the new server.
func checkFeedCertificate(t *testing.T, w *realm, second *running) {
	t.Helper()
	ca, err := os.ReadFile(filepath.Join(w.path("ps-1"), caFile))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}}}
	defer client.CloseIdleConnections()
	res, err := client.Get(second.ready.Feed + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
}

func TestGuardNamesTheServerThatIsGone(t *testing.T) {
	w := newRealm(t)
	first := w.start("ps-1")
	first.create(t, "sso")
	if err := w.join(first.invite(t, "ps-2")); err != nil {
		t.Fatal(err)
	}
	// It joined after the ring was made and has never confirmed anything.
	_, err := first.rollRing(t, "sso")
	held, ok := errors.AsType[*keystore.HeldError](err)
	if !ok || len(held.Behind) != 1 || held.Behind[0].Server != "ps-2" || held.Behind[0].Region != "us" {
		t.Fatalf("rollover = %v, want it held by ps-2", err)
	}
	status, err := first.service.Status(t.Context())
	if err != nil || !slices.Equal(status.Rings[0].HeldBy, []string{"ps-2"}) || status.Rings[0].Behind[0].By == 0 || status.Rings[0].Behind[0].Since.IsZero() {
		t.Errorf("status = %+v, %v", status.Rings, err)
	}
	shown, err := first.service.ServerShown(t.Context(), "ps-2")
	if err != nil || !shown.Exclude.Allowed || !shown.Forget.Allowed || !strings.Contains(strings.Join(shown.Exclude.Effects, " "), "sso") {
		t.Errorf("ServerShown = %+v, %v", shown, err)
	}
	if _, err := first.service.ExcludeServer(t.Context(), "eva", "ps-2", leaveOut(false)); err != nil {
		t.Fatal(err)
	}
	if _, err := first.rollRing(t, "sso"); err != nil {
		t.Errorf("rollover with ps-2 excluded: %v", err)
	}
	// Its exclusion ends in both ledgers when it is fresh.
	second := w.start("ps-2")
	await(t, "ps-2 counts again", func() bool {
		counts := true
		for _, m := range []func(func(*events.State)){first.keys.Replica().Read, first.hosts.Replica().Read} {
			m(func(s *events.State) { member, _ := s.Member("ps-2"); counts = counts && member.Counts() })
		}
		return counts
	})
	await(t, "ps-2 says that it is fresh", func() bool { return first.says(t, "ps-2").State == "fresh" })
	if _, err := first.service.ExcludeServer(t.Context(), "eva", "ps-2", leaveOut(false)); !errors.Is(err, keystore.ErrRefused) {
		t.Errorf("excluding a fresh server = %v, want refused", err)
	}
	first.forget(t, second)
}

// forget has a server forgotten while it runs.
func (r *running) forget(t *testing.T, second *running) {
	done, err := r.service.ForgetServer(t.Context(), "eva", "ps-2", leaveOut(false))
	if err != nil || done.N == 0 || done.HostsN == 0 {
		t.Fatalf("ForgetServer = %+v, %v", done, err)
	}
	await(t, "ps-2 says that it was forgotten", func() bool {
		v := second.says(t, "ps-2")
		return v.State == "halted" && strings.Contains(v.Why, "forgotten")
	})
	await(t, "its feed is closed", func() bool {
		w := httptest.NewRecorder()
		second.hub.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/feed", nil))
		return w.Code == http.StatusServiceUnavailable && !second.site.ready.Load()
	})
	if _, err := second.rollForced(t); !errors.Is(err, events.ErrUnavailable) {
		t.Errorf("a change at the forgotten server = %v, want unavailable", err)
	}
	if v := r.says(t, "ps-2"); v.ID != "" {
		t.Errorf("ps-1 still lists it: %+v", v)
	}
	if _, err := r.service.ForgetServer(t.Context(), "eva", "ps-2", leaveOut(false)); !errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("forgetting it again = %v, want not found", err)
	}
	if _, err := r.rollRing(t, "sso"); err != nil {
		t.Errorf("rollover with ps-2 forgotten: %v", err)
	}
}

func (r *running) rollForced(t *testing.T) (adminapi.RolledOver, error) {
	return r.service.Rollover(t.Context(), "eva", "sso", adminapi.Rollover{Intent: adminapi.Intent{Request: ulid.Make().String()}, Force: true})
}

// A reply that is lost, and a crash of the new server before it has its directory, are
// mended by asking again.
func TestJoinIsTheSameWhenTheReplyIsLost(t *testing.T) {
	w := newRealm(t)
	first := w.start("ps-1")
	i := first.invite(t, "ps-2")
	direct := i.Servers
	proxy := losingProxy(t, i)
	i.Servers = []string{proxy.URL}
	real := i.CA
	i.CA = proxy.ca
	if err := w.join(i); err == nil {
		t.Fatal("joined although every reply was lost")
	}
	n := first.says(t, "ps-1").N
	if member, live := w.member(first, "ps-2"); !live || member.Token != events.TokenHash(i.Token) {
		t.Fatalf("member = %+v, %v; want that the request was heard", member, live)
	}
	i.Servers, i.CA = direct, real
	if err := w.join(i); err != nil {
		t.Fatal(err)
	}
	if after := first.says(t, "ps-1").N; after != n {
		t.Errorf("joining again made events %d to %d", n+1, after)
	}
	w.start("ps-2")
	await(t, "ps-2 is fresh", func() bool { return first.says(t, "ps-2").State == "fresh" })
	if _, err := os.Stat(filepath.Join(w.path("ps-2"), pendingFile)); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", pendingFile, err)
	}
}

func (w *realm) member(r *running, id string) (m events.Member, live bool) {
	r.keys.Replica().Read(func(s *events.State) { m, live = liveMember(s, id) })
	return m, live
}

type losing struct {
	*httptest.Server
	ca string
}

// losingProxy passes requests on and cuts every reply off.
func losingProxy(t *testing.T, i Invitation) losing {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(i.CA))
	target, err := url.Parse(i.Servers[0])
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}}
	t.Cleanup(transport.CloseIdleConnections)
	proxy.Transport = transport
	proxy.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		proxy.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	}))
	server.StartTLS()
	t.Cleanup(server.Close)
	return losing{server, pemOf(server.Certificate())}
}

func pemOf(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

func TestJoinRefusals(t *testing.T) {
	w := newRealm(t)
	first := w.start("ps-1")
	i := first.invite(t, "ps-2")
	wrong := i
	wrong.Token, _ = NewInviteToken()
	if err := w.join(wrong); !errors.Is(err, adminhttp.ErrUnauthorized) {
		t.Errorf("another token: %v, want unauthorized", err)
	}
	other := i
	other.Server = "ps-3"
	if err := w.join(other); !errors.Is(err, adminhttp.ErrUnauthorized) {
		t.Errorf("another server: %v, want unauthorized", err)
	}
	region := i
	region.Region = "ap"
	if err := w.join(region); !errors.Is(err, keystore.ErrInvalid) {
		t.Errorf("another region: %v, want invalid", err)
	}
	os.RemoveAll(filepath.Join(w.dir, ".ps-2.joining"))
	if err := w.join(i); err != nil {
		t.Fatal(err)
	}
	// Its keys are in the ledger for all to read: without the token they say nothing.
	m, _ := w.member(first, "ps-2")
	if _, err := first.service.JoinServer(t.Context(), wrong.Token, adminapi.Join{
		Server: m.ID, Region: m.Region, PublicKey: m.PublicKey, P256Key: m.P256Key, Nkey: m.Nkey,
	}); !errors.Is(err, adminhttp.ErrUnauthorized) {
		t.Errorf("a member's keys with another token: %v, want unauthorized", err)
	}
	// The same token with other keys: somebody else has the invitation.
	if err := os.Rename(w.path("ps-2"), w.path("ps-2 of before")); err != nil {
		t.Fatal(err)
	}
	if err := w.join(i); !errors.Is(err, keystore.ErrExists) {
		t.Errorf("the invitation again, with other keys: %v, want exists", err)
	}
	_, hash := NewInviteToken()
	if _, err := first.service.InviteServer(t.Context(), "eva", "ps-2", adminapi.InviteServer{
		Intent: adminapi.Intent{Request: ulid.Make().String()}, Region: "us", TokenHash: hash, TTLSeconds: 60,
	}); !errors.Is(err, keystore.ErrExists) {
		t.Errorf("inviting a member: %v, want exists", err)
	}
	// An invitation that is forgotten is none.
	ended := first.invite(t, "ps-4")
	if _, err := first.service.ForgetServer(t.Context(), "eva", "ps-4", leaveOut(false)); err != nil {
		t.Fatal(err)
	}
	if err := w.join(ended); !errors.Is(err, adminhttp.ErrUnauthorized) {
		t.Errorf("an ended invitation: %v, want unauthorized", err)
	}
	_, err := first.service.JoinServer(t.Context(), ended.Token, adminapi.Join{Server: "ps-4", Region: "us", PublicKey: []byte{1}, P256Key: []byte{4}})
	if err == nil {
		t.Error("joined with keys that are none")
	}
}

// What a join leaves on the disk and in the log holds no secret in the clear.
func TestJoinKeepsItsSecrets(t *testing.T) {
	w := newRealm(t)
	first := w.start("ps-1")
	i := first.invite(t, "ps-2")
	if err := w.join(i); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(w.path("ps-2"), func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if strings.Contains(first.log.String(), i.Token) {
		t.Error("the token is in the log")
	}
	id, err := loadIdentity(w.path("ps-2"))
	if err != nil || len(id.Slots) != 1 {
		t.Fatalf("identity = %+v, %v", id, err)
	}
	unlock, err := seal.FileKey(filepath.Join(w.path("ps-2"), unlockFile))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := seal.Unlock(id.KSK, id.Slots, unlock, id.Store); err != nil {
		t.Errorf("its own unlock key: %v", err)
	}
	theirs, err := seal.FileKey(filepath.Join(w.path("ps-1"), unlockFile))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := seal.Unlock(id.KSK, id.Slots, theirs, id.Store); !errors.Is(err, seal.ErrWrongKey) {
		t.Errorf("another server's unlock key: %v, want that it does not open", err)
	}
}

// Who can sign as a member, and has no key store key, makes no member unnoticed.
func TestMemberThatNobodyVouchesForIsNamed(t *testing.T) {
	w := newRealm(t)
	first := w.start("ps-1")
	i := first.invite(t, "ps-2")
	keys, err := newServerKeys()
	if err != nil {
		t.Fatal(err)
	}
	m := keys.member("ps-2", "us")
	c := events.ServerChange{
		Type: events.TypeServerJoined, ID: m.ID, Region: i.Region, PublicKey: m.PublicKey, P256Key: m.P256Key, MAC: [32]byte{1},
	}
	_, err = first.service.commitServer(t.Context(), first.keys, "eva", adminapi.Intent{Request: ulid.Make().String()}, c,
		func(*events.State) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	status, err := first.service.Status(t.Context())
	if err != nil || !slices.ContainsFunc(status.Alarms, func(a adminapi.Alarm) bool {
		return a.Kind == "unvouched" && a.Key == "server.ps-2" && a.Ledger == "keys" && !a.Since.IsZero()
	}) {
		t.Errorf("alarms = %+v, %v; want that ps-2 is named", status.Alarms, err)
	}
	first.wantMetric(t, `keytide_alarms{ledger="keys"} 1`)
	first.wantMetric(t, `keytide_alarms{ledger="hosts"} 0`)
}

// A store whose ledgers nobody else can reach invites nobody.
func TestServerOfItsOwnInvitesNobody(t *testing.T) {
	r := start(t, filepath.Join(t.TempDir(), "dev"))
	defer r.stop()
	_, hash := NewInviteToken()
	_, err := r.service.InviteServer(t.Context(), "eva", "ps-2", adminapi.InviteServer{
		Intent: adminapi.Intent{Request: ulid.Make().String()}, Region: "us", TokenHash: hash, TTLSeconds: 60,
	})
	if !errors.Is(err, keystore.ErrRefused) {
		t.Errorf("InviteServer = %v, want refused", err)
	}
}

func FuzzInvitation(f *testing.F) {
	token, _ := NewInviteToken()
	good := Invitation{
		Format: 1, Server: "ps-2", Region: "us", Store: "main", Epoch: 1, KSK: "00000000000000a1",
		Genesis: adminapi.Pins{Keys: strings.Repeat("ab", 32), Hosts: strings.Repeat("cd", 32)},
		Servers: []string{"https://127.0.0.1:7480"}, Expires: time.Unix(1, 0).UTC(), Token: token,
	}
	text, err := good.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		i, err := parseInvitation(text)
		if err != nil {
			return
		}
		again, err := i.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if j, err := parseInvitation(again); err != nil || !jsonEqual(i, j) {
			t.Fatalf("%+v reads back as %+v, %v", i, j, err)
		}
	})
}

func jsonEqual(a, b any) bool {
	x, err := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err == nil && err2 == nil && bytes.Equal(x, y)
}

// A server joins a core over the network: by TLS, as a user that the core knows from
// the ledger alone; and it is refused there once it is forgotten. That holds for what the
// users file says of it too, also when another server has joined under its id.
func TestServerJoinsACoreAndIsRefusedOnceForgotten(t *testing.T) {
	dir, _ := coreOf(t, 1)
	first := launch(t, filepath.Join(dir, "eu-1"), nil).awaitReady(t)
	w := &realm{t: t, dir: t.TempDir()}
	if err := w.join(first.invite(t, "edge-1")); err != nil {
		t.Fatal(err)
	}
	second := launch(t, w.path("edge-1"), func(c *Config) { c.Metrics.Listen = "" }).awaitReady(t)
	await(t, "edge-1 is fresh", func() bool { return first.says(t, "edge-1").State == "fresh" })
	second.create(t, "sso")
	rolled, err := second.rollRing(t, "sso")
	if err != nil || !slices.Equal(rolled.Replicas, []string{"edge-1", "eu-1"}) {
		t.Errorf("rollover by the server that joined: %+v, %v", rolled, err)
	}
	before, _ := w.member(first, "edge-1")
	list(t, first.cfg.core().Users, before)
	if _, err := first.service.ForgetServer(t.Context(), "eva", "edge-1", leaveOut(false)); err != nil {
		t.Fatal(err)
	}
	await(t, "the core refuses its credentials", func() bool {
		return slices.ContainsFunc(second.links, func(l *bus.Link) bool { return l.Fault() != nil })
	})
	again := &realm{t: t, dir: t.TempDir()}
	if err := again.join(first.invite(t, "edge-1")); err != nil {
		t.Fatal(err)
	}
	third := launch(t, again.path("edge-1"), func(c *Config) { c.Metrics.Listen = "" }).awaitReady(t)
	await(t, "the new edge-1 is fresh", func() bool { return first.says(t, "edge-1").State == "fresh" })
	if err := first.admit(); err != nil { // with the file as it is now
		t.Fatal(err)
	}
	old, err := second.dial("the old one", second.credentials, second.cfg.Bus.urls("edge-1"))
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	await(t, "the old one's nkey is refused", func() bool { return old.Fault() != nil })
	if third.keys.Freshness().State != events.Fresh {
		t.Errorf("the new one is %+v", third.keys.Freshness())
	}
}

// list has a users file name a member's nkey, as an administrator may.
func list(t *testing.T, file string, m events.Member) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := secretfile.Replace(file, append(text, m.Nkey+" writer "+m.ID+"\n"...)); err != nil {
		t.Fatal(err)
	}
}
