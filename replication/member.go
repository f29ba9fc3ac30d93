package replication

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/events/ledger"
	"github.com/keytide/keytide/keystore"
)

// A Log is what a Member needs of a ledger: events.Log, and the state of the
// bucket. *ledger.Ledger is one.
type Log interface {
	events.Log
	Info(ctx context.Context) (ledger.Info, error)
	Newest(ctx context.Context, key string) (events.Entry, error)
}

// An Identity says which policy server a member is.
type Identity struct {
	Server  string
	Region  string
	Address string
	Key     ed25519.PrivateKey // signs its events, beacons and record
}

// Defaults of a MemberConfig.
const (
	DefaultBeaconPeriod = time.Second
	DefaultFreshLimit   = 4 * time.Second
	DefaultTakeover     = 3 * time.Second
	DefaultRecordPeriod = 15 * time.Second
	DefaultSendTimeout  = 5 * time.Second
	DefaultHoldWait     = 5 * time.Second
	DefaultElectionWait = 10 * time.Second // measured: 4 to 9 s after a half-open leader
)

// A MemberConfig says what a Member works with. Zero periods mean the defaults.
type MemberConfig struct {
	Log      Log
	Replica  *Replica
	Identity Identity
	// Logger gets one line a change of state. If nil, none.
	Logger *slog.Logger

	// BeaconPeriod is how often the holder sends a beacon. Close to FreshLimit,
	// replicas look stale now and then; very short, the core does little else.
	BeaconPeriod time.Duration
	// FreshLimit is the age of the newest beacon from which a replica is stale.
	FreshLimit time.Duration
	// Takeover is how long the beacon may be silent before another server takes it
	// over; up to a third is added by chance, so that not all try at once.
	Takeover time.Duration
	// RecordPeriod is how often the server puts its own record, besides after each
	// event that it applied.
	RecordPeriod time.Duration
	// SendTimeout is how long one attempt to write waits for an answer before its
	// fate counts as unknown.
	SendTimeout time.Duration
	// ElectionWait is how long a write is tried anew while the core has no leader.
	ElectionWait time.Duration
	// HoldWait is how long an acknowledgement waits for a fresh server of another
	// region to have applied the event.
	HoldWait time.Duration

	// Reconnect is called when the beacon is silent although the link seems to be
	// well, to force a new connection to another core server. It may be nil.
	Reconnect func() error
	// Own reports whether the link is to this process's own core server, which is there
	// whatever is cut off. Where following fails at it, another is tried at once: that
	// costs nobody else anything. It may be nil.
	Own func() bool
	// Turned returns a channel that is closed when the connection to the core comes or
	// goes: following is then tried at once instead of at the next attempt. It may be
	// nil.
	Turned func() <-chan struct{}
	// Agents tells how many agents are connected, and how many of them are behind.
	// It may be nil.
	Agents func() (connected, behind int)

	// Hosts tells what the agents have applied of the hosts that policies name. If nil, or
	// beyond what a record holds, the record does not say.
	Hosts func() []events.HostApplied
	// Seed is that of jitter. If zero, it is drawn.
	Seed uint64

	step func(string) // if set, called with the name of each step of a change: tests die there
}

func (c *MemberConfig) fill() error {
	var faults []error
	if c.Log == nil || c.Replica == nil {
		faults = append(faults, errors.New("log or replica is missing"))
	}
	for _, name := range []string{c.Identity.Server, c.Identity.Region} {
		if err := keystore.CheckName(name); err != nil {
			faults = append(faults, fmt.Errorf("server or region %q: %w", name, err))
		}
	}
	if len(c.Identity.Key) != ed25519.PrivateKeySize {
		faults = append(faults, fmt.Errorf("signing key of %d bytes", len(c.Identity.Key)))
	}
	for _, p := range []struct {
		period *time.Duration
		def    time.Duration
	}{
		{&c.BeaconPeriod, DefaultBeaconPeriod}, {&c.FreshLimit, DefaultFreshLimit}, {&c.Takeover, DefaultTakeover},
		{&c.RecordPeriod, DefaultRecordPeriod}, {&c.SendTimeout, DefaultSendTimeout}, {&c.HoldWait, DefaultHoldWait},
		{&c.ElectionWait, DefaultElectionWait},
	} {
		if *p.period < 0 {
			faults = append(faults, fmt.Errorf("period %v is negative", *p.period))
		}
		if *p.period == 0 {
			*p.period = p.def
		}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Seed == 0 {
		c.Seed = mathrand.Uint64()
	}
	return errors.Join(faults...)
}

// A Member is a policy server's part in one ledger. Its methods are safe for
// concurrent use.
type Member struct {
	cfg     MemberConfig
	log     Log
	replica *Replica
	id      Identity
	logger  *slog.Logger
	alarms  *alarms
	boot    [16]byte

	commits chan *commitRequest
	stopped chan struct{} // closed when Run has returned
	run     sync.Once

	pending     *part                 // owned by the follower: handed over, not in the file
	short       time.Time             // owned by the follower: since when the core ends too early
	lacking     bool                  // owned by the follower: it did for so long that this is a fork
	gone        time.Time             // owned by the follower: since when the core says that it has no bucket
	position    cell[events.Revision] // of the newest entry that was taken
	reached     cell[events.Revision] // the end of the stream when following began, once position is there
	views       cell[uint64]          // counts records that were accepted
	wakeBeat    chan struct{}         // holds one: look at the beacon now
	wakeSelf    chan struct{}         // holds one: put the own record, recordGap after the one before
	wakeWitness chan struct{}         // holds one: put the own record now
	kick        chan struct{}         // holds one: follow anew

	mu       sync.Mutex // guards the fields below
	base     time.Time  // the clock that does not jump: base plus time elapsed
	fresh    *freshness
	tip      tip
	holder   holder
	servers  map[string]ServerView // of members, by their id
	caughtUp time.Time             // when everything was read that stood there as following began
	self     presence
	standing Standing
	trial    *events.State // owned by the writer
	state    events.ServerState
	fatal    chan error
}

// New makes a member of the ledger that the replica is of. It does nothing before
// Run.
func New(cfg MemberConfig) (*Member, error) {
	if err := cfg.fill(); err != nil {
		return nil, fmt.Errorf("replication: %w", err)
	}
	m := &Member{
		cfg: cfg, log: cfg.Log, replica: cfg.Replica, id: cfg.Identity,
		logger:   cfg.Logger.With("ledger", cfg.Replica.pin.Kind.String()),
		commits:  make(chan *commitRequest),
		stopped:  make(chan struct{}),
		wakeBeat: make(chan struct{}, 1), wakeSelf: make(chan struct{}, 1), wakeWitness: make(chan struct{}, 1), kick: make(chan struct{}, 1),
		base:    time.Now(),
		fresh:   newFreshness(cfg.FreshLimit),
		servers: make(map[string]ServerView),
		fatal:   make(chan error, 1),
		state:   events.Stale,
	}
	m.alarms = newAlarms(m.logger, cfg.Replica.alarms, m.forgetAlarm)
	rand.Read(m.boot[:])
	jitter := mathrand.New(mathrand.NewPCG(cfg.Seed, 4)).Int64N(int64(cfg.Takeover)/3 + 1)
	m.holder = holder{server: m.id.Server, patience: cfg.Takeover + time.Duration(jitter)}
	return m, nil
}

// Run keeps the replica current until ctx ends; then it says in the server's record
// that it stopped in order, and returns nil. It returns an error only if this
// server must not go on: a *TwoBootsError. Call it once.
func (m *Member) Run(ctx context.Context) error {
	err := errors.New("replication: Run was called before")
	m.run.Do(func() { err = m.runParts(ctx) })
	return err
}

func (m *Member) runParts(ctx context.Context) error {
	defer close(m.stopped)
	m.noteStanding()
	g, inner := errgroup.WithContext(ctx)
	for _, part := range []func(context.Context){m.follow, m.beat, m.present, m.write, m.observe, m.comeBack, m.askAbsent} {
		g.Go(func() error { part(inner); return nil })
	}
	g.Go(func() error {
		select {
		case err := <-m.fatal:
			return err
		case <-inner.Done():
			return nil
		}
	})
	err := g.Wait()
	if err == nil {
		m.presentStopped()
	}
	return err
}

// Replica is the copy that the member keeps current.
func (m *Member) Replica() *Replica { return m.replica }

// Alarms returns what is wrong and what has been wrong of late, oldest first.
func (m *Member) Alarms() []Alarm { return m.alarms.all() }

func (m *Member) step(name string) {
	if m.cfg.step != nil {
		m.cfg.step(name)
	}
}

// now reads the clock that does not jump.
func (m *Member) now() time.Time { return m.base.Add(time.Since(m.base)) }

// Freshness says what the replica can prove about itself now.
func (m *Member) Freshness() Freshness {
	m.mu.Lock()
	f := m.fresh.at(m.now())
	standing := m.standing
	m.mu.Unlock()
	if state, a, ok := m.standstill(); ok {
		f.State, f.Why = state, a.Why
	} else if why := standing.why(m.replica.applied.load()); why != "" {
		f.State, f.Why, f.AsOf = events.Stale, why, time.Time{}
		if standing.Forgotten != 0 {
			f.State = events.Halted
		}
	}
	return f
}

// observe logs changes of freshness, has the server's record tell them, and follows
// anew when the beacon is silent.
func (m *Member) observe(ctx context.Context) {
	ticker := time.NewTicker(m.cfg.FreshLimit / 8)
	defer ticker.Stop()
	retry := newBackoff(m.cfg.Seed+3, m.cfg.FreshLimit, 8*m.cfg.FreshLimit)
	var kickAt time.Time
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		f := m.Freshness()
		m.tellState(f)
		m.watchClock()
		switch {
		case f.State != events.Stale, !m.Standing().Member:
			retry.reset()
			kickAt = time.Time{}
		case kickAt.IsZero():
			kickAt = m.now().Add(retry.next())
		case m.now().After(kickAt) && m.silent():
			kickAt = m.now().Add(retry.next())
			m.reconnect()
		}
	}
}

func (m *Member) tellState(f Freshness) {
	m.mu.Lock()
	changed := f.State != m.state
	m.state = f.State
	m.mu.Unlock()
	if !changed {
		return
	}
	wake(m.wakeSelf)
	if f.State == events.Fresh {
		m.logger.Info("replica is fresh", "n", m.replica.applied.load())
		return
	}
	m.logger.Error("replica is not fresh", "state", f.State.String(), "why", f.Why)
}

// silent reports whether a beacon had time to come since following began: a link that
// is hardly there again is not broken once more.
func (m *Member) silent() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now().Sub(m.caughtUp) >= m.cfg.FreshLimit/2
}

// reconnect is for a link that looks well and brings no beacon.
func (m *Member) reconnect() {
	m.logger.Warn("beacon is silent: following anew")
	if m.cfg.Reconnect != nil {
		if err := m.cfg.Reconnect(); err != nil {
			m.logger.Warn("reconnecting", "err", err)
		}
	}
	wake(m.kick)
}

func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
