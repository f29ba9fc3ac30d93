package server

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/replication"
	"github.com/keytide/keytide/replication/bus"
)

// This file is the kit of the tests of faults as an operator sees them: several whole
// policy servers, but for their ports, in virtual time on one bus. Each is joined to it by
// wires that fail as the test says.

// A scene is a key store with the ring sso.
type scene struct {
	t      *testing.T
	dir    string
	bus    *bus.Bus
	js     jetstream.JetStream // of somebody who has a writer's credentials of the bus, and is no member
	nc     *nats.Conn
	actors []*actor
}

// play runs a test in a bubble with this many servers, ps-1 and up, all fresh and sure of
// their clocks. ps-1 is the one that holds the beacon.
func play(t *testing.T, servers int, act func(*testing.T, *scene)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t)
		defer s.end()
		first := s.start("ps-1")
		if _, err := first.service.CreateRing(t.Context(), "eva", adminapi.CreateRing{Intent: intent(), Name: "sso"}); err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"ps-2", "ps-3"}[:servers-1] {
			s.join(first, id, id)
			s.start(id)
		}
		for _, a := range s.actors {
			until(t, a.id.Server+" is well", func() bool { _, sure := a.service.reference(); return sure && a.says(a.id.Server).State == "fresh" })
			for _, other := range s.actors {
				until(t, a.id.Server+" knows of "+other.id.Server, func() bool { return a.says(other.id.Server).State == "fresh" })
			}
		}
		act(t, s)
	})
}

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{t: t, dir: t.TempDir()}
	_, err := Init(t.Context(), InitConfig{
		Dir: s.path("ps-1"), Store: "main", Region: "eu", Server: "ps-1", Listen: "127.0.0.1:7480", FeedListen: "127.0.0.1:7443",
	})
	if err != nil {
		t.Fatal(err)
	}
	if s.bus, err = bus.Start(bus.Config{StoreDir: filepath.Join(s.path("ps-1"), busDir), ServerName: "ps-1", MaxStore: maxStore}); err != nil {
		t.Fatal(err)
	}
	if s.js, s.nc, err = s.bus.JetStream("thief"); err != nil {
		t.Fatal(err)
	}
	return s
}

// end stops what runs, and waits for what the NATS server leaves behind.
func (s *scene) end() {
	for _, a := range s.actors {
		if err := a.stop(); err != nil {
			s.t.Errorf("%s: stop: %v", a.id.Server, err)
		}
	}
	s.nc.Close()
	if err := s.bus.Close(); err != nil {
		s.t.Error(err)
	}
	<-time.After(time.Second)
	synctest.Wait()
}

func (s *scene) path(name string) string { return filepath.Join(s.dir, name) }

// join makes a server's directory, by an invitation.
func (s *scene) join(by *actor, id, dir string) {
	s.t.Helper()
	token, hash := NewInviteToken()
	made, err := by.service.InviteServer(s.t.Context(), "eva", id, adminapi.InviteServer{
		Intent: intent(), Region: map[string]string{"ps-2": "us", "ps-3": "ap"}[id], TokenHash: hash, TTLSeconds: 3600,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	j := &joining{
		cfg:    JoinConfig{Dir: s.path(dir), Listen: "127.0.0.1:7480", FeedListen: "127.0.0.1:7443"},
		invite: NewInvitation(made, token),
	}
	lock, err := j.begin()
	if err != nil {
		s.t.Fatal(err)
	}
	defer lock.Close()
	_, err = j.run(s.t.Context(), func(ctx context.Context, req adminapi.Join) (adminapi.Joined, error) {
		return by.service.JoinServer(ctx, token, req)
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// clone copies a server's directory, as who clones a machine does.
func (s *scene) clone(from, to string) {
	s.t.Helper()
	err := filepath.WalkDir(s.path(from), func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		at := s.path(to) + strings.TrimPrefix(path, s.path(from))
		if d.IsDir() {
			return os.MkdirAll(at, 0o700)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if d.Name() == configFile {
			text = []byte(strings.ReplaceAll(string(text), s.path(from), s.path(to)))
		}
		return os.WriteFile(at, text, 0o600)
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// forge writes a message as anybody with a writer's credentials can.
func (s *scene) forge(key string, value []byte) {
	s.t.Helper()
	subject := events.Subject(events.BucketName(events.Keys, "main", 1), key)
	if _, err := s.js.Publish(s.t.Context(), subject, value); err != nil {
		s.t.Fatal(err)
	}
}

// An actor is a running policy server.
type actor struct {
	*site
	t     *testing.T
	wires []*wire
	ended chan error   // what ended a member by itself
	ahead atomic.Int64 // how far its clock is, for the slots of rings
	stop  func() error
}

// start runs the server of a directory.
func (s *scene) start(dir string) *actor {
	s.t.Helper()
	cfg, err := LoadConfig(filepath.Join(s.path(dir), configFile))
	if err != nil {
		s.t.Fatal(err)
	}
	a := &actor{t: s.t, ended: make(chan error, 2)}
	cfg.shared, cfg.pace = s.bus, func(c *replication.MemberConfig) {
		w := &wire{Log: c.Log}
		c.Log = w
		a.wires = append(a.wires, w)
	}
	a.site = &site{cfg: cfg, log: slog.New(slog.NewTextHandler(s.t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})), expiries: make(expiryLog)}
	if err := a.open(); err != nil {
		s.t.Fatal(errors.Join(err, a.close()))
	}
	reference := a.service.reference
	a.service.reference = func() (time.Time, bool) {
		now, sure := reference()
		return now.Add(time.Duration(a.ahead.Load())), sure
	}
	ctx, cancel := context.WithCancel(context.Background())
	var g errgroup.Group
	for _, m := range []*replication.Member{a.keys, a.hosts} {
		g.Go(func() error {
			if err := m.Run(ctx); err != nil {
				a.ended <- err
			}
			return nil
		})
	}
	for _, m := range []*replication.Member{a.keys, a.hosts} {
		if err := loaded(ctx, ctx, m); err != nil {
			s.t.Fatal(err)
		}
	}
	if faults := a.source.rebuild(); len(faults) > 0 {
		s.t.Fatal(errors.Join(faults...))
	}
	a.awaitFresh(ctx)
	for _, run := range []func(context.Context) error{a.source.run, a.service.scheduler.run, a.watchStanding} {
		g.Go(func() error { return run(ctx) })
	}
	a.stop = sync.OnceValue(func() error {
		a.each((*wire).thaw)
		cancel()
		return errors.Join(g.Wait(), a.close())
	})
	s.actors = append(s.actors, a)
	return a
}

// open is what a server opens, but for its ports.
func (a *actor) open() (err error) {
	if a.id, err = loadIdentity(a.cfg.Dir); err != nil {
		return err
	}
	unlock, err := a.cfg.unlockKeys()
	if err != nil {
		return err
	}
	a.feed, a.admin = &listener{name: "feed", socket: nowhere{}}, &listener{name: "admin", socket: nowhere{}}
	return errors.Join(a.openBus(), a.openLedgers(a.t.Context(), unlock))
}

func (a *actor) each(do func(*wire)) {
	for _, w := range a.wires {
		do(w)
	}
}

// status is what the operator sees at this server.
func (a *actor) status() adminapi.Status {
	a.t.Helper()
	status, err := a.service.Status(a.t.Context())
	if err != nil {
		a.t.Fatal(err)
	}
	return status
}

// says is what it shows of a server; of none: the zero value.
func (a *actor) says(id string) adminapi.Server {
	a.t.Helper()
	servers := a.status().Servers
	if i := slices.IndexFunc(servers, func(s adminapi.Server) bool { return s.ID == id }); i >= 0 {
		return servers[i]
	}
	return adminapi.Server{}
}

// alarm is what it shows of this kind and key in the ledger of keys.
func (a *actor) alarm(kind, key string) (shown adminapi.Alarm, ok bool) {
	a.t.Helper()
	for _, alarm := range a.status().Alarms {
		if alarm.Ledger == "keys" && alarm.Kind == kind && alarm.Key == key {
			return alarm, true
		}
	}
	return shown, false
}

// wantNoAlarms checks that none is shown but these kinds, not even one that has ended.
func (a *actor) wantNoAlarms(but ...string) {
	a.t.Helper()
	for _, alarm := range a.status().Alarms {
		if !slices.Contains(but, alarm.Kind) {
			a.t.Errorf("%s shows the alarm %+v", a.id.Server, alarm)
		}
	}
}

// rollover is a forced one, by this request.
func rollover(request string) adminapi.Rollover {
	return adminapi.Rollover{Intent: adminapi.Intent{Request: request, Reason: "test"}, Force: true}
}

func (a *actor) roll(request string) (adminapi.RolledOver, error) {
	return a.service.Rollover(a.t.Context(), "eva", "sso", rollover(request))
}

// rollGuarded rolls over unless the guard holds it.
func (a *actor) rollGuarded() error {
	a.t.Helper()
	zero := "0s"
	if _, err := a.service.SetPolicy(a.t.Context(), "eva", "sso", adminapi.SetPolicy{
		Intent: intent(), Policy: adminapi.PolicyChange{MinInterval: &zero},
	}); err != nil {
		return err
	}
	_, err := a.service.Rollover(a.t.Context(), "eva", "sso", adminapi.Rollover{Intent: intent()})
	return err
}

func (a *actor) version() keystore.Version {
	a.t.Helper()
	ring, err := a.service.ring("sso")
	if err != nil {
		a.t.Fatal(err)
	}
	return ring.Version
}

// fed is the version that it feeds agents.
func (a *actor) fed() keystore.Version {
	state, _ := a.source.Watch()
	return state.Rings["sso"].Version
}

// rollovers counts those in its history.
func (a *actor) rollovers() (count int) {
	a.t.Helper()
	history, err := a.service.History(a.t.Context(), "sso", adminhttp.Span{})
	if err != nil {
		a.t.Fatal(err)
	}
	for _, e := range history.Events {
		if e.Trigger != "" {
			count++
		}
	}
	return count
}

// holder is whose beacon stands in the ledger of keys.
func (s *scene) holder() string {
	s.t.Helper()
	stream, err := s.js.Stream(s.t.Context(), events.StreamName(events.BucketName(events.Keys, "main", 1)))
	if err != nil {
		s.t.Fatal(err)
	}
	msg, err := stream.GetLastMsgForSubject(s.t.Context(), events.Subject(events.BucketName(events.Keys, "main", 1), events.BeaconKey))
	if err != nil {
		s.t.Fatal(err)
	}
	b, err := events.DecodeBeacon(msg.Data)
	if err != nil {
		s.t.Fatal(err)
	}
	return b.Holder
}

// until waits, in virtual time, for what must come.
func until(t *testing.T, what string, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > 3*time.Minute {
			t.Fatalf("not after 3 minutes: %s", what)
		}
		<-time.After(50 * time.Millisecond)
	}
	return time.Since(began)
}

// policyOf gives a ring a schedule.
func policyOf(schedule string) adminapi.SetPolicy {
	return adminapi.SetPolicy{Intent: intent(), Policy: adminapi.PolicyChange{Schedule: &schedule}}
}
