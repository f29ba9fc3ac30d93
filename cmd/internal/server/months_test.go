package server

import (
	"context"
	"errors"
	flags "flag"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keytide/keytide/agentfeed/cookie"
	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/events/ledger"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/replication"
)

var (
	virtualDays = flags.Int("days", 30, "how many days TestMonthsOfRings lives through in virtual time")
	virtualSeed = flags.Uint64("seed", 0, "the seed of the tests in virtual time; 0 draws one, which they print")
)

// seeded is the source of a test's chance, and prints its seed.
func seeded(t *testing.T) *rand.Rand {
	seed := *virtualSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-seed %d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// A nowhere is a listener that nobody reaches: there is no network in a bubble.
type nowhere struct{}

func (nowhere) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (nowhere) Close() error              { return nil }
func (nowhere) Addr() net.Addr            { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7443} }

// slowly lets virtual time pass cheaply: a beacon each quarter of an hour.
func slowly(c *replication.MemberConfig) {
	c.Log.(*ledger.Ledger).SetPace(ledger.Pace{Heartbeat: 30 * time.Second, Expiry: 10 * time.Minute, Inactive: time.Hour})
	c.BeaconPeriod, c.FreshLimit, c.Takeover, c.RecordPeriod = 15*time.Minute, time.Hour, 45*time.Minute, time.Hour
}

// A virtual is a server in a bubble: all of it but its ports.
type virtual struct {
	*site
	stop    func()
	running context.Context // ends when the server stops
}

// makeVirtual makes a store in a bubble.
func makeVirtual(t *testing.T) Config {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "store")
	made, err := Init(t.Context(), InitConfig{
		Dir: dir, Store: "main", Region: "eu", Server: "ps-1", Listen: "127.0.0.1:7480", FeedListen: "127.0.0.1:7443",
	})
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := LoadConfig(made.Config)
	if err != nil {
		t.Fatal(err)
	}
	cfg.pace = slowly
	return cfg
}

// startVirtual opens a store, lets the test prepare the server, and waits until it is
// fresh.
func startVirtual(t *testing.T, cfg Config, log *slog.Logger, prepare func(*site)) *virtual {
	t.Helper()
	s := &site{cfg: cfg, log: log}
	fail := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(errors.Join(err, s.close()))
		}
	}
	var err error
	s.id, err = loadIdentity(cfg.Dir)
	fail(err)
	unlock, err := cfg.unlockKeys()
	fail(err)
	fail(s.openBus())
	s.feed = &listener{name: "feed", socket: nowhere{}}
	fail(s.openLedgers(t.Context(), unlock))
	if prepare != nil {
		prepare(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var g errgroup.Group
	g.Go(func() error { return s.keys.Run(ctx) })
	g.Go(func() error { return s.hosts.Run(ctx) })
	for _, m := range []*replication.Member{s.keys, s.hosts} {
		fail(loaded(ctx, ctx, m))
	}
	if faults := s.source.rebuild(); len(faults) > 0 {
		fail(errors.Join(faults...))
	}
	s.awaitFresh(ctx)
	s.retention.period, s.retention.save = 10*time.Minute, 2*time.Hour
	s.activation.period = 10 * time.Minute
	s.service.scheduler.retry = 10 * time.Second
	g.Go(func() error { return s.source.run(ctx) })
	g.Go(func() error { return s.retention.run(ctx) })
	g.Go(func() error { return s.activation.run(ctx) })
	g.Go(func() error { return s.service.scheduler.run(ctx) })
	return &virtual{site: s, running: ctx, stop: sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(g.Wait(), s.close()); err != nil {
			t.Errorf("stop: %v", err)
		}
		<-time.After(time.Second) // what the NATS server leaves behind ends by itself
		synctest.Wait()
	})}
}

// An agent holds the sets of rings as it heard of them last.
type virtualAgent struct {
	mu     sync.Mutex // guards sets
	sets   map[keystore.RingName]*keystore.KeySet
	codecs map[keystore.RingName]*cookie.Codec
}

type agentRing struct {
	agent *virtualAgent
	name  keystore.RingName
}

func (r agentRing) Snapshot() *keystore.KeySet {
	r.agent.mu.Lock()
	defer r.agent.mu.Unlock()
	return r.agent.sets[r.name]
}

// follow has the agent hear of every state of a server after a lag, until the context
// ends.
func (a *virtualAgent) follow(ctx context.Context, s *source, lag func() time.Duration) {
	for {
		state, changed := s.Watch()
		select {
		case <-ctx.Done():
			return
		case <-time.After(lag()):
		}
		a.mu.Lock()
		a.sets = state.Rings
		a.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// A months is a run of the test.
type months struct {
	t      *testing.T
	random *rand.Rand
	cfg    Config
	log    *slog.Logger
	server *virtual // nil while it is down
	rings  []keystore.RingName
	agents []*virtualAgent
	end    context.CancelFunc // of what the agents follow
	ended  sync.WaitGroup
	tokens []virtualToken
	opened int
	upAt   time.Time // while it is down: when it starts again
}

type virtualToken struct {
	ring  keystore.RingName
	token []byte
	lives time.Time
}

// TestMonthsOfRings lives through months with a real JetStream: rings that roll over weekly
// in three time zones, and one daily, while agents seal and open sessions, the server
// restarts and is down over slots, and an administrator changes policies, rolls over,
// and undoes. At every step every session opens at every agent. A year:
//
//	go test ./cmd/internal/server -run TestMonthsOfRings -days 366 -timeout 1h
func TestMonthsOfRings(t *testing.T) {
	t.Parallel()
	random := seeded(t)
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(time.Date(2026, 10, 12, 0, 0, 0, 0, time.UTC))) // clocks are set back within a month
		m := &months{t: t, random: random, cfg: makeVirtual(t), log: slog.New(slog.NewTextHandler(io.Discard, nil))}
		m.up()
		defer func() { m.down(0) }()
		m.create("berlin", "weekly mon@02:30", "Europe/Berlin")
		m.create("new-york", "weekly sun@01:30", "America/New_York")
		m.create("sydney", "weekly thu@23:30", "Australia/Sydney")
		m.create("daily", "daily 02:30", "Europe/Berlin")
		for range 2 {
			m.join()
		}
		began := time.Now()
		for time.Since(began) < time.Duration(*virtualDays)*24*time.Hour {
			m.step()
		}
		if m.server == nil {
			time.Sleep(time.Until(m.upAt))
			m.up()
		}
		time.Sleep(2 * time.Minute)
		for _, ring := range m.rings {
			m.audit(ring)
		}
		t.Logf("%d sessions opened", m.opened)
	})
}

func (m *months) create(name keystore.RingName, rule, tz string) {
	m.t.Helper()
	_, err := m.server.service.CreateRing(m.t.Context(), "alice", adminapi.CreateRing{
		Intent: intent(), Name: string(name), Policy: adminapi.PolicyChange{Schedule: &rule, TZ: &tz},
	})
	if err != nil {
		m.t.Fatal(err)
	}
	m.rings = append(m.rings, name)
}

func (m *months) join() {
	a := &virtualAgent{codecs: map[keystore.RingName]*cookie.Codec{}}
	for _, name := range m.rings {
		codec, err := cookie.New(cookie.Config{Ring: agentRing{a, name}, Name: "session", MaxAge: 30 * time.Hour})
		if err != nil {
			m.t.Fatal(err)
		}
		a.codecs[name] = codec
	}
	m.agents = append(m.agents, a)
	m.followAll()
}

// followAll has every agent follow the server.
func (m *months) followAll() {
	if m.end != nil {
		m.end()
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.end = cancel
	for _, a := range m.agents {
		source, random := m.server.source, rand.New(rand.NewPCG(m.random.Uint64(), 2))
		m.ended.Go(func() {
			a.follow(ctx, source, func() time.Duration { return time.Duration(random.Int64N(int64(time.Minute))) })
		})
	}
	time.Sleep(time.Minute)
}

func (m *months) up() {
	m.server = startVirtual(m.t, m.cfg, m.log, nil)
	if len(m.agents) > 0 {
		m.followAll()
	}
}

func (m *months) down(for_ time.Duration) {
	if m.server == nil {
		return
	}
	if m.end != nil {
		m.end()
		m.ended.Wait()
	}
	m.server.stop()
	m.server, m.upAt = nil, time.Now().Add(for_)
}

// step lets half an hour pass, in which something happens now and then.
func (m *months) step() {
	time.Sleep(30 * time.Minute)
	if m.server == nil && !time.Now().Before(m.upAt) {
		m.up()
	}
	if m.server != nil {
		ring := m.rings[m.random.IntN(len(m.rings))]
		switch m.random.IntN(200) {
		case 0:
			m.down(time.Duration(m.random.IntN(120)) * time.Minute)
		case 1:
			m.down(time.Duration(m.random.IntN(50)) * time.Hour) // a slot may be missed, or even skipped
		case 2, 3:
			session := (time.Duration(1+m.random.IntN(24)) * time.Hour).String()
			m.did(m.server.service.SetPolicy(m.t.Context(), "alice", ring, adminapi.SetPolicy{Intent: intent(), Policy: adminapi.PolicyChange{MaxSession: &session}}))
		case 4:
			m.did(m.server.service.Rollover(m.t.Context(), "alice", ring, adminapi.Rollover{Intent: intent()}))
		case 5:
			m.did(m.server.service.Rollover(m.t.Context(), "alice", ring, adminapi.Rollover{Intent: intent(), Undo: true}))
		}
	}
	m.traffic()
}

// did takes a refusal for an answer.
func (m *months) did(_ any, err error) {
	m.t.Helper()
	if err != nil && !errors.Is(err, keystore.ErrRefused) {
		m.t.Fatal(err)
	}
}

// traffic seals a session at one agent and opens all that live at all of them.
func (m *months) traffic() {
	m.t.Helper()
	now := time.Now()
	m.tokens = slices.DeleteFunc(m.tokens, func(t virtualToken) bool { return !now.Before(t.lives) })
	for _, a := range m.agents {
		for _, t := range m.tokens {
			if _, err := a.codecs[t.ring].Open(nil, t.token); err != nil {
				m.t.Fatalf("%v: a session of ring %s that lives until %v is refused: %v", now, t.ring, t.lives, err)
			}
			m.opened++
		}
	}
	ring := m.rings[m.random.IntN(len(m.rings))]
	token, err := m.agents[m.random.IntN(len(m.agents))].codecs[ring].Seal(nil, []byte("alice"))
	if err != nil {
		m.t.Fatal(err)
	}
	m.tokens = append(m.tokens, virtualToken{ring, token, now.Add(m.session(ring))})
}

// session is how long a session of a ring may live that is sealed now: while the
// server is down, what it said last.
func (m *months) session(ring keystore.RingName) time.Duration {
	m.t.Helper()
	if m.server == nil {
		return time.Hour // every policy allows as much
	}
	r, err := m.server.service.ring(ring)
	if err != nil {
		m.t.Fatal(err)
	}
	return r.Policy.MaxSession
}

// audit checks by the history alone that every slot since the ring was made was answered
// or skipped by one event, or gave way to a rollover as the rules have it.
func (m *months) audit(name keystore.RingName) {
	m.t.Helper()
	ring, err := m.server.service.ring(name)
	if err != nil {
		m.t.Fatal(err)
	}
	plan, err := m.server.service.plans.of(ring.Policy)
	if err != nil {
		m.t.Fatal(err)
	}
	history, err := m.server.service.History(m.t.Context(), name, adminhttp.Span{})
	if err != nil {
		m.t.Fatal(err)
	}
	var committed time.Time // the slot that comes next
	answered, others := 0, 0
	for _, e := range history.Events {
		if e.NextSlot.IsZero() {
			continue
		}
		if committed.IsZero() {
			committed, _ = plan.Next(e.At)
		}
		own := e.Trigger == keystore.Scheduled.String() || e.Type == events.TypeSlotSkipped.String()
		if own && !e.Slot.Equal(committed) {
			m.t.Errorf("ring %s: event %d answers slot %v, but %v was committed", name, e.N, e.Slot, committed)
		}
		for ; committed.Before(e.NextSlot); committed, _ = plan.Next(committed) {
			switch {
			case own && committed.Equal(e.Slot):
				answered++
			case gaveWay(committed, e, ring.Policy):
				others++
			default:
				m.t.Errorf("ring %s: event %d passes slot %v over: it is of %v and commits %v", name, e.N, committed, e.At, e.NextSlot)
			}
		}
		if !committed.Equal(e.NextSlot) {
			m.t.Errorf("ring %s: event %d commits slot %v, but %v is the schedule's", name, e.N, e.NextSlot, committed)
		}
	}
	m.t.Logf("ring %s: %d slots were answered or skipped by an event of their own, %d gave way to another's", name, answered, others)
	if !committed.After(time.Now()) {
		m.t.Errorf("ring %s: slot %v is not answered", name, committed)
	}
	if verified, err := m.server.service.Verify(m.t.Context()); err != nil || !verified.OK {
		m.t.Errorf("Verify = %+v, %v", verified, err)
	}
}

// gaveWay reports whether an event may take the place of a slot that is not its own: a
// rollover does of what is due, and of what min_interval after it forbids, whether it
// came by hand or late for its slot; a skip does of what is due.
func gaveWay(slot time.Time, e adminapi.HistoryEvent, p keystore.Policy) bool {
	rollover := e.Type == events.TypeRollover.String()
	skip := e.Type == events.TypeSlotSkipped.String()
	return (rollover || skip) && !slot.After(e.At) || rollover && slot.Before(e.At.Add(p.MinInterval-keystore.SlotSlack))
}
