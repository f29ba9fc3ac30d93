package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/events/ledger"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/replication"
	"github.com/keytide/keytide/replication/bus"
)

// openBus starts the embedded server, unless the ledgers are elsewhere.
func (s *site) openBus() error {
	if s.cfg.shared != nil {
		s.bus = s.cfg.shared
		return nil
	}
	cfg := bus.Config{
		StoreDir: filepath.Join(s.cfg.Dir, busDir), ServerName: s.id.Server, Listen: s.cfg.nats,
		MaxStore: maxStore, Logger: s.log,
	}
	if s.cfg.Bus != nil {
		if err := s.readBus(&cfg); err != nil || cfg.Core == nil {
			return err
		}
	}
	b, err := s.startBus(cfg)
	if err != nil {
		return err
	}
	s.bus = b
	s.later(func() error {
		if s.keepBus {
			return nil
		}
		return b.Close()
	})
	return nil
}

// startBus starts the embedded server, or takes up the one that runs.
func (s *site) startBus(cfg bus.Config) (*bus.Bus, error) {
	kept := s.cfg.kept
	if kept == nil {
		return bus.Start(cfg)
	}
	kept.taken = true
	if cfg.Core == nil {
		return kept.bus, nil
	}
	return kept.bus, kept.bus.SetUsers(cfg.Core.Users)
}

// readBus reads the files of the bus section: what this server connects with, and,
// in a member of a core, what makes it one.
func (s *site) readBus(cfg *bus.Config) (err error) {
	if s.credentials, err = s.cfg.Bus.credentials(); err != nil {
		return err
	}
	if s.cas, err = loadCAs(s.cfg.Bus.CA); err != nil {
		return err
	}
	core := s.cfg.core()
	if core == nil {
		return nil
	}
	pair := &certificate{listener: "core", cert: core.Cert, key: core.Key, log: s.log}
	if s.cfg.kept != nil {
		pair = s.cfg.kept.pair // the one that the running server asks
	}
	if err := pair.load(); err != nil {
		return err
	}
	s.corePair, s.certificates = pair, append(s.certificates, pair)
	cas, err := loadCAs(core.CA)
	if err != nil {
		return err
	}
	users, err := loadUsers(core.Users)
	if err != nil {
		return err
	}
	cfg.Listen = core.Listen
	cfg.Core = &bus.Core{
		Cluster: "keytide-" + s.id.Store, Routes: core.RoutesListen, CAs: cas, Users: s.grants(users, nil),
		Certificate: func() (*tls.Certificate, error) { return pair.pair.Load(), nil },
	}
	for _, server := range core.Servers {
		cfg.Core.Peers = append(cfg.Core.Peers, bus.Peer{Server: server.Server, Routes: server.Routes})
	}
	return nil
}

// nats is where other NATS tools may connect; empty: nowhere.
func (s *site) nats() string {
	if s.cfg.nats == "" {
		return ""
	}
	return s.bus.ClientURL()
}

// grants turns the users of a core into permissions, without those that are gone.
func (s *site) grants(users []coreUser, gone func(coreUser) bool) []bus.User {
	var granted []bus.User
	for _, u := range users {
		if gone != nil && gone(u) {
			continue
		}
		user := bus.User{Nkey: u.nkey}
		for _, kind := range []events.Kind{events.Keys, events.Hosts} {
			bucket := events.BucketName(kind, s.id.Store, s.id.Epoch)
			if u.writes {
				user.Publish = append(user.Publish, ledger.WriteAccess(bucket)...)
			} else {
				user.Publish = append(user.Publish, ledger.ReadAccess(bucket)...)
			}
			for ahead := range keystore.Epoch(epochsAhead) {
				user.Publish = append(user.Publish, ledger.ReadAccess(events.BucketName(kind, s.id.Store, s.id.Epoch+1+ahead))...)
			}
		}
		granted = append(granted, user)
	}
	return granted
}

// admitUsers keeps the users of a core current until ctx ends: the users file may
// have changed, a server that joined by invitation comes with its nkey, and a
// forgotten server's credentials end. A file that does not read
// changes nobody.
func (s *site) admitUsers(ctx context.Context) error {
	if s.cfg.core() == nil {
		return nil
	}
	ticker := time.NewTicker(certCheck)
	defer ticker.Stop()
	for fault := ""; ; {
		_, changed := s.keys.Replica().Watch()
		err := s.admit()
		if text := fmt.Sprint(err); err != nil && text != fault {
			s.log.Error("the core's users are not renewed", "err", err)
			fault = text
		}
		if err == nil {
			fault = ""
		}
		select {
		case <-ticker.C:
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

func (s *site) admit() error {
	users, err := loadUsers(s.cfg.core().Users)
	if err != nil {
		return err
	}
	members := make(map[string]events.Member)
	s.keys.Replica().Read(func(state *events.State) {
		for _, m := range state.Members() {
			members[m.ID] = m
			listed := slices.ContainsFunc(users, func(u coreUser) bool { return u.nkey == m.Nkey })
			if m.Nkey != "" && !listed {
				users = append(users, coreUser{nkey: m.Nkey, writes: true, server: m.ID})
			}
		}
	})
	return s.bus.SetUsers(s.grants(users, func(u coreUser) bool { return userIsGone(u, members[u.server]) }))
}

// userIsGone reports whether a user of a core is one no more, as the ledger goes: its
// server is forgotten, or another has joined anew under its id, with an nkey of its
// own. A line of the users file outlives both.
func userIsGone(u coreUser, m events.Member) bool {
	return m.Forgotten != 0 || m.Nkey != "" && m.Nkey != u.nkey
}

// An openedLedger is a ledger with its replica.
type openedLedger struct {
	kind      events.Kind
	log       *ledger.Ledger
	replica   *replication.Replica
	reconnect func() error
	own       func() bool            // whether the connection is to this process's own server; nil: it is to no other
	turned    func() <-chan struct{} // nil in memory: nothing comes and goes there
}

func (s *site) openReplica(kind events.Kind, genesis events.Hash) (*openedLedger, error) {
	replica, err := replication.OpenReplica(filepath.Join(s.cfg.Dir, s.id.replicaFile(kind)), replication.Pin{
		Kind: kind, Store: s.id.Store, Epoch: s.id.Epoch, Genesis: genesis,
	})
	if err != nil {
		return nil, err
	}
	s.later(replica.Close)
	if s.replicas == nil {
		s.replicas = make(map[events.Kind]*replication.Replica)
	}
	s.replicas[kind] = replica
	return &openedLedger{kind: kind, replica: replica}, nil
}

// empty reports whether the replica has nothing to serve.
func (l *openedLedger) empty() bool {
	n, _ := l.replica.Watch()
	return n == 0
}

// connectLedger opens a connection of the ledger's own. It asks nothing of the core
// that a server with a full replica would have to wait for: whether the bucket is
// there and as it must be is looked at when it is followed. It never makes a bucket:
// one that is missing has been lost, and an empty one in its place would hide that.
func (s *site) connectLedger(ctx context.Context, l *openedLedger) error {
	js, usable, err := s.connect(l)
	if err != nil {
		return err
	}
	s.js, s.usable = js, usable
	l.log, err = ledger.Bind(js, events.BucketName(l.kind, s.id.Store, s.id.Epoch), usable)
	if err != nil || !l.empty() {
		return err
	}
	return s.await(ctx, "ledger of "+l.kind.String(), func(attempt context.Context) error {
		info, err := l.log.Info(attempt)
		if errors.Is(err, events.ErrNoBucket) {
			err = errors.Join(err, s.seekEpoch(ctx)) // the ledger may have gone on in another
		}
		if err != nil {
			return err
		}
		return info.Unsafe(l.log.Bucket())
	})
}

func (s *site) connect(l *openedLedger) (js jetstream.JetStream, usable func() error, err error) {
	name := s.id.Server + " " + l.kind.String()
	if s.cfg.Bus == nil {
		js, nc, err := s.bus.JetStream(name)
		if err != nil {
			return nil, nil, err
		}
		s.later(func() error { nc.Close(); return nil })
		l.reconnect = nc.ForceReconnect
		return js, nil, nil
	}
	link, err := s.dial(name, s.credentials, s.cfg.Bus.urls(s.id.Server))
	if err != nil {
		return nil, nil, err
	}
	s.later(func() error { link.Close(); return nil })
	s.links = append(s.links, link)
	if old, ok := errors.AsType[*bus.VersionError](link.Fault()); ok && l.empty() {
		return nil, nil, old
	}
	l.reconnect, l.turned, l.own = link.Reconnect, link.Turned, link.Own
	return link.JetStream(), link.Fault, nil
}

func (s *site) dial(name string, credentials bus.Credentials, urls []string) (*bus.Link, error) {
	cfg := bus.DialConfig{Name: name, URLs: urls, CAs: s.cas, Credentials: credentials, Logger: s.log}
	if core := s.cfg.core(); core != nil {
		cfg.Own, cfg.OwnAddress = s.bus, core.own(s.id.Server).Clients
	}
	return bus.Dial(cfg)
}

const (
	awaitAttempt = 3 * time.Second
	awaitPause   = 500 * time.Millisecond
	awaitLog     = 10 * time.Second
)

// await tries what a server cannot do without for the first time, until it succeeds.
// A server that is alone tells at once what is wrong with its own store; with a core,
// others may have to start first.
func (s *site) await(ctx context.Context, what string, try func(context.Context) error) error {
	alone := s.cfg.Bus == nil
	var logged time.Time
	for {
		attempt, cancel := context.WithTimeout(ctx, awaitAttempt)
		err := try(attempt)
		cancel()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errMoved):
			return errMoved
		case errors.Is(err, events.ErrSettings), errors.Is(err, events.ErrConflict) && !errors.Is(err, context.DeadlineExceeded):
			return err
		case errors.Is(err, events.ErrNoBucket) && s.cfg.core() == nil:
			return &hinted{error: err, hint: "the core has no such ledger, and this server has no replica of it.\n" +
				"Another server's replica may have it (keys.db and hosts.db in its dir): keep those files"}
		case alone:
			return err
		}
		if time.Since(logged) > awaitLog {
			s.log.Warn("waiting for the core", "for", what, "err", err)
			logged = time.Now()
		}
		select {
		case <-time.After(awaitPause):
		case <-s.busDone():
			return errBusDied
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

var errBusDied = errors.New("the embedded bus has stopped by itself")

// busDone is closed when the embedded bus has stopped; nil: there is none.
func (s *site) busDone() <-chan struct{} {
	if s.bus == nil {
		return nil
	}
	return s.bus.Done()
}

// watchBus takes the server down when the bus dies.
func (s *site) watchBus(ctx context.Context) error {
	select {
	case <-s.busDone():
		return errBusDied
	case <-ctx.Done():
		return nil
	}
}

// joinBus is what a server that joins is told of the core; nil: no other server can
// reach the ledgers.
func (s *site) joinBus() (*adminapi.JoinBus, error) {
	if s.cfg.shared != nil {
		return &adminapi.JoinBus{}, nil
	}
	if s.cfg.Bus == nil {
		return nil, nil
	}
	told := &adminapi.JoinBus{URLs: s.cfg.Bus.urls(s.id.Server)}
	if s.cfg.Bus.CA == "" {
		return told, nil
	}
	ca, err := os.ReadFile(s.cfg.Bus.CA)
	told.CA = string(ca)
	return told, err
}
