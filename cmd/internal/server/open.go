package server

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/keytide/keytide/agentfeed/hub"
	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/cmd/internal/console"
	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore/fips"
	"github.com/keytide/keytide/keystore/seal"
	"github.com/keytide/keytide/replication"
	"github.com/keytide/keytide/replication/bus"
)

// A site is one policy server with everything that it has opened.
type site struct {
	cfg  Config
	id   identity // as it was when the ledgers were opened
	disk *keptIdentity
	log  *slog.Logger

	bus         *bus.Bus     // the embedded server; nil: the ledgers are elsewhere
	keepBus     bool         // close leaves it running
	corePair    *certificate // what the core's server shows; nil: it is none
	js          jetstream.JetStream
	usable      func() error    // whether js may be used; nil: always
	links       []*bus.Link     // to a core, one a ledger
	credentials bus.Credentials // of links
	cas         *x509.CertPool  // of links
	keys, hosts *replication.Member
	replicas    map[events.Kind]*replication.Replica
	source      *source
	hub         *hub.Hub
	service     *service
	retention   *retention
	activation  *activation
	rekeying    *rekeying
	sights      *sights

	admin, feed  *listener
	listeners    []*listener // in the order in which they stop
	certificates []*certificate
	expiries     expiryLog // the renewal's goroutine alone
	ready        atomic.Bool
	refusals     adminhttp.Refusals

	closers []func() error // run in reverse
}

func (s *site) reach(step string) { s.cfg.reach(step) }

// open reads every file, takes every lock and opens every port that the server
// needs. After an error nothing stays open.
func open(ctx context.Context, cfg Config, log *slog.Logger) (_ *site, err error) {
	s := &site{cfg: cfg, log: log, expiries: make(expiryLog)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if err := fips.Demand(cfg.FIPS, fips.Running()); err != nil {
		return nil, err
	}
	if s.id, err = loadIdentity(cfg.Dir); err != nil {
		return nil, err
	}
	if err := s.id.fits(cfg); err != nil {
		return nil, err
	}
	unlock, err := cfg.unlockKeys()
	if err != nil {
		return nil, fmt.Errorf("unlock key: %w", err)
	}
	tokens, err := cfg.tokens()
	if err != nil {
		return nil, err
	}
	if err := s.openBus(); err != nil {
		return nil, err
	}
	if err := s.listen(); err != nil {
		return nil, err
	}
	if err := s.openLedgers(ctx, unlock); err != nil {
		return nil, err
	}
	s.tellSetAside()
	return s, s.openFront(tokens)
}

// close gives everything back, last opened first.
func (s *site) close() error {
	var faults []error
	for i := len(s.closers) - 1; i >= 0; i-- {
		faults = append(faults, s.closers[i]())
	}
	s.closers = nil
	return errors.Join(faults...)
}

func (s *site) later(fn func() error) { s.closers = append(s.closers, fn) }

// openLedgers opens both ledgers and replicas, the key store key and, with it, the
// server's signing key.
func (s *site) openLedgers(ctx context.Context, unlock []seal.UnlockKey) error {
	s.disk = &keptIdentity{dir: s.cfg.Dir, id: s.id}
	pinKeys, pinHosts, err := s.id.pins()
	if err != nil {
		return err
	}
	keys, err := s.openReplica(events.Keys, pinKeys)
	if err != nil {
		return err
	}
	hosts, err := s.openReplica(events.Hosts, pinHosts)
	if err != nil {
		return err
	}
	if err := s.foundCore(ctx, keys, hosts); err != nil {
		return err
	}
	for _, l := range []*openedLedger{keys, hosts} {
		if err := s.connectLedger(ctx, l); err != nil {
			return err
		}
	}
	ksks, err := s.unlock(ctx, keys, unlock)
	if err != nil {
		return err
	}
	own, err := s.id.openKeys(ksks[0])
	if err != nil {
		return err
	}
	if s.keys, err = s.member(keys, own.signing); err != nil {
		return err
	}
	if s.hosts, err = s.member(hosts, own.signing); err != nil {
		return err
	}
	v := newVault(s.id.Store, ksks...)
	if err := s.openSource(v, own.signing); err != nil {
		return err
	}
	s.rekeying = newRekeying(s.service, s.disk, own, unlock)
	s.service.rekeying, s.source.learn = s.rekeying, s.rekeying.learnAll
	return nil
}

// member makes the server's part in one ledger.
func (s *site) member(l *openedLedger, key ed25519.PrivateKey) (*replication.Member, error) {
	cfg := replication.MemberConfig{
		Log: l.log, Replica: l.replica, Logger: s.log,
		Identity: replication.Identity{
			Server: s.id.Server, Region: s.id.Region, Address: s.feed.url(), Key: key,
		},
		Reconnect: l.reconnect, Turned: l.turned, Own: l.own,
		Agents: func() (connected, behind int) { return s.service.agents() },
		Hosts:  func() []events.HostApplied { return s.service.ownHosts() },
	}
	if s.cfg.pace != nil {
		s.cfg.pace(&cfg)
	}
	return replication.New(cfg)
}

// openSource joins the replicas with the feed.
func (s *site) openSource(v *vault, signer ed25519.PrivateKey) error {
	caPath := s.cfg.Feed.CA
	if caPath == "" {
		caPath = filepath.Join(s.cfg.Dir, caFile)
	}
	ca, err := os.ReadFile(caPath)
	if err != nil {
		return fmt.Errorf("the CA for agents: %w", err)
	}
	s.source = &source{
		keys: s.keys, hosts: s.hosts, vault: v, ca: ca, log: s.log,
		self: s.feed.url(), region: s.id.Region, fixed: s.cfg.Feed.Servers, fixedRegions: s.cfg.Feed.Regions,
		known: make(map[string]knownHost), unopened: make(map[string]bool), changed: make(chan struct{}),
	}
	s.sights = newSights(nil, s.log)
	s.hub, err = hub.New(hub.Config{
		Tickets: s.source.ticketKeys,
		Seen:    s.sights.see,
		Source:  s.source, Server: s.id.Server, Logger: s.log, ClockOffset: s.cfg.clockOffset,
		Heartbeat: s.cfg.Feed.Heartbeat, StaleAfter: s.cfg.Feed.StaleAfter, MaxStale: s.cfg.Feed.MaxStale,
	})
	if err != nil {
		return err
	}
	s.service = &service{
		id: s.id, keys: s.keys, hosts: s.hosts, vault: v, source: s.source, hub: s.hub, log: s.log,
		generate: s.cfg.generates(), signer: signer, cfg: s.cfg, adminURL: func() string { return s.admin.url() },
		reference: func() (time.Time, bool) { c := s.keys.Clock(); return c.Now, c.OK },
		core:      s.coreView,
		expiring:  s.expiring,
	}
	s.service.checkup = newCheckup(s)
	s.service.scheduler = newScheduler(s.service, s.log)
	if s.service.joinBus, err = s.joinBus(); err != nil {
		return err
	}
	s.retention = newRetention(s.service, s.log)
	s.activation = newActivation(s.service, s.log)
	s.sights.service, s.service.sights = s.service, s.sights
	return nil
}

// openFront puts handlers on the listeners.
func (s *site) openFront(tokens adminhttp.Tokens) error {
	front := http.NewServeMux()
	front.Handle("/", adminhttp.New(adminhttp.Config{
		Service: s.service, Tokens: tokens, Refusals: &s.refusals, Version: "1", Logger: s.log,
	}))
	console.Mount(front, console.Config{
		Reader: s.service, Tokens: tokens, Refusals: &s.refusals, Server: s.id.Server, Logger: s.log,
	})
	s.admin.handle(front)
	feed := http.NewServeMux()
	feed.Handle("/v1/register", hub.NewRegisterHandler(registrar{s.service}, s.log))
	feed.Handle("/", s.hub)
	s.feed.handle(feed)
	if l := s.metricsListener(); l != nil {
		handler, err := s.metrics()
		if err != nil {
			return err
		}
		l.handle(handler)
	}
	return nil
}
