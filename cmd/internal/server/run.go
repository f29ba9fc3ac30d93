package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/replication"
)

const (
	// stopLimit bounds an orderly stop from the first signal on.
	stopLimit = 10 * time.Second
	// freshLimit is how long a start waits to be fresh before it serves all the
	// same: a policy server serves what it has.
	freshLimit = 10 * time.Second
)

// Ready says where a server serves.
type Ready struct {
	Admin   string // base URL
	Feed    string
	Client  string   // the profile's path; empty if it is not the server's to write
	Regions []string // of a development store of several
	NATS    string   // address for other NATS tools; empty: none
}

// Hooks are what a server tells its caller. Logger must be set.
type Hooks struct {
	Ready  func(Ready) // called once, when the server serves
	Logger *slog.Logger

	opened func(*site) // for tests: called once everything is open
}

// Run serves until ctx ends, or a part dies, and then stops everything in reverse
// order. It returns nil after an orderly stop.
func Run(ctx context.Context, cfg Config, hooks Hooks) error {
	leanHeap()
	if told := hooks.Ready; told != nil {
		var once sync.Once
		hooks.Ready = func(r Ready) { once.Do(func() { told(r) }) }
	}
	for {
		kept, err := runEpoch(ctx, cfg, hooks)
		if !errors.Is(err, errMoved) {
			return errors.Join(err, kept.close(), cfg.kept.close())
		}
		if ctx.Err() != nil {
			return kept.close()
		}
		hooks.Logger.Warn("a later epoch has begun: opening everything anew", "while", err)
		cfg.kept = kept
	}
}

// runEpoch serves one epoch of the ledgers: until ctx ends, a part dies, or a later epoch
// has begun, which is errMoved. The embedded bus then goes on.
func runEpoch(ctx context.Context, cfg Config, hooks Hooks) (*keptBus, error) {
	s, err := open(ctx, cfg, hooks.Logger)
	if err != nil {
		return s.kept(err), err
	}
	if hooks.opened != nil {
		hooks.opened(s)
	}
	err = s.serve(ctx, hooks)
	kept := s.kept(err)
	return kept, errors.Join(err, s.close())
}

// serve runs all parts. Those that agents and administrators see stop first, the
// ledgers' members next, and the bus last.
func (s *site) serve(ctx context.Context, hooks Hooks) error {
	g, dead := errgroup.WithContext(context.WithoutCancel(ctx))
	core, stopCore := context.WithCancel(dead)
	defer stopCore()
	front, stopFront := context.WithCancel(core)
	defer stopFront()
	g.Go(func() error { return s.keys.Run(core) })
	g.Go(func() error { return s.hosts.Run(core) })
	g.Go(func() error { return s.watchBus(core) })
	g.Go(func() error { return s.watchEpoch(core) })

	err := s.start(ctx, front, g)
	if err == nil {
		err = s.announce(ctx, hooks)
	}
	if err == nil {
		select {
		case <-ctx.Done():
		case <-dead.Done(): // a part has died: g.Wait says which and why
		}
	}
	if ctx.Err() != nil {
		s.log.Info("stopping")
		err = nil // whatever the start was at, it was told to stop
	}
	deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
	defer cancel()
	stopped := s.stopListeners(deadline)
	stopFront()
	stopCore()
	return errors.Join(err, g.Wait(), stopped)
}

// start brings up what stands on the members, once both replicas have something
// to serve.
func (s *site) start(ctx, front context.Context, g *errgroup.Group) error {
	for _, m := range []*replication.Member{s.keys, s.hosts} {
		if err := loaded(ctx, front, m); err != nil {
			return err
		}
	}
	if err := s.refuseGenesis(); err != nil {
		return err
	}
	if faults := s.source.rebuild(); len(faults) > 0 {
		return fmt.Errorf("the key store does not open: %w", errors.Join(faults...))
	}
	if err := s.closeForgotten(front); err != nil {
		return err
	}
	g.Go(func() error { return s.watchStanding(front) })
	g.Go(func() error { return s.source.run(front) })
	g.Go(func() error { return s.retention.run(front) })
	g.Go(func() error { return s.activation.run(front) })
	g.Go(func() error { return s.rekeying.run(front) })
	g.Go(func() error { return s.sights.run(front) })
	g.Go(func() error { return s.service.checkup.run(front) })
	if s.cfg.generates() {
		g.Go(func() error { return s.service.scheduler.run(front) })
	}
	g.Go(func() error { return s.renewCertificates(front) })
	g.Go(func() error { return s.admitUsers(front) })
	for _, l := range s.listeners {
		g.Go(l.serve)
	}
	return nil
}

// loaded waits until a replica has the ledger's first event.
func loaded(ctx, front context.Context, m *replication.Member) error {
	for {
		n, changed := m.Replica().Watch()
		if n > 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-front.Done():
			return front.Err()
		}
	}
}

// refuseGenesis looks at what the ledgers say of themselves: a development store
// stays one, whatever the directory's file says.
func (s *site) refuseGenesis() error {
	for _, m := range []*replication.Member{s.keys, s.hosts} {
		var genesis events.Genesis
		m.Replica().Read(func(state *events.State) { genesis = state.Genesis() })
		id := s.id
		id.Dev = genesis.Dev
		if err := id.fits(s.cfg); err != nil {
			return err
		}
	}
	return nil
}

// announce waits until the server is fresh, and says that it serves.
func (s *site) announce(ctx context.Context, hooks Hooks) error {
	s.awaitFresh(ctx)
	if s.cfg.dev && s.cfg.Bus == nil {
		if err := s.service.firstRing(ctx, 1); err != nil && ctx.Err() == nil {
			return fmt.Errorf("the first ring: %w", err)
		}
	}
	ready := Ready{Admin: s.admin.url(), Feed: s.feed.url(), NATS: s.nats()}
	if s.cfg.dev && s.cfg.Bus == nil {
		if err := writeProfile(s.cfg.Dir, s.admin.address()); err != nil {
			return err
		}
		ready.Client = filepath.Join(s.cfg.Dir, profileFile)
	}
	s.ready.Store(!s.forgotten())
	if hooks.Ready != nil && ctx.Err() == nil {
		hooks.Ready(ready)
	}
	return nil
}

func (s *site) awaitFresh(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, freshLimit)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		keys, hosts := s.keys.Freshness().State, s.hosts.Freshness().State
		if keys == events.Fresh && hosts == events.Fresh {
			return
		}
		if keys == events.Forked || hosts == events.Forked { // waiting will not help
			s.log.Warn("serving although forked", "keys", s.keys.Freshness().Why, "hosts", s.hosts.Freshness().Why)
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			s.log.Warn("serving although not fresh", "why", s.keys.Freshness().Why)
			return
		}
	}
}

// stopListeners tells agents to go, and lets requests that are being answered end.
func (s *site) stopListeners(deadline context.Context) error {
	s.ready.Store(false)
	faults := []error{s.hub.Close(deadline)}
	for _, l := range s.listeners {
		faults = append(faults, l.stop(deadline))
	}
	return errors.Join(faults...)
}
