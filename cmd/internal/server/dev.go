package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/keystore/seal"
)

// DevConfig is what keytide dev was asked for.
type DevConfig struct {
	Dir        string
	Listen     string // of the admin API
	FeedListen string
	Regions    int           // 1, or as many as devRegions; 0 is 1
	NATSListen string        // empty: none
	Insecure   bool          // allow listeners beyond loopback
	FeedClock  time.Duration // added to the feed's clock
	Ready      func(Ready)
	Logger     *slog.Logger

	step   func(string) // of the first start: tests die there
	opened func(*site)
}

// devRing is the ring that a development store begins with.
const devRing = "sso"

// Dev serves a development store until ctx ends. It makes the store at the first
// start.
func Dev(ctx context.Context, dev DevConfig) error {
	if err := dev.checkListeners(); err != nil {
		return err
	}
	dir, err := filepath.Abs(dev.Dir)
	if err != nil {
		return err
	}
	dev.Dir = dir
	if dev.Regions > 1 || dev.Regions < 0 {
		return devRegionsRun(ctx, dev)
	}
	if err := dev.ensure(ctx); err != nil {
		return err
	}
	if dev.step != nil {
		dev.step("serving")
	}
	cfg, err := devConfig(dir)
	if err != nil {
		return err
	}
	cfg.Admin.Listen, cfg.Feed.Listen = dev.Listen, dev.FeedListen
	cfg.nats, cfg.clockOffset = dev.NATSListen, dev.FeedClock
	return Run(ctx, cfg, Hooks{Ready: dev.Ready, Logger: dev.Logger, opened: dev.opened})
}

// devConfig is the configuration of a development store of one region. It has no file.
func devConfig(dir string) (Config, error) {
	id, err := loadIdentity(dir)
	if err != nil {
		return Config{}, err
	}
	cfg := Config{
		Store: id.Store, Region: id.Region, Server: id.Server, Dir: dir,
		Unlock: Unlock{File: filepath.Join(dir, unlockFile)}, dev: true,
	}
	cfg.Genesis.Keys, cfg.Genesis.Hosts = id.Genesis.Keys, id.Genesis.Hosts
	cfg.fill()
	cfg.resolve(dir)
	return cfg, nil
}

// DirConfig is the configuration of the server of a directory: the file that core init or
// server join made there, or a development store's.
func DirConfig(dir string) (Config, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Config{}, err
	}
	if _, err := os.Stat(filepath.Join(dir, configFile)); err == nil {
		return LoadConfig(filepath.Join(dir, configFile))
	}
	return devConfig(dir)
}

// checkListeners refuses addresses that other machines can reach.
func (dev DevConfig) checkListeners() error {
	for _, l := range []struct{ flag, listen string }{
		{"--listen", dev.Listen}, {"--feed-listen", dev.FeedListen}, {"--nats-listen", dev.NATSListen},
	} {
		if l.listen == "" && l.flag == "--nats-listen" {
			continue
		}
		host, _, err := net.SplitHostPort(l.listen)
		if err != nil {
			return fmt.Errorf("%w: %s %q: want HOST:PORT", keystore.ErrInvalid, l.flag, l.listen)
		}
		ip := net.ParseIP(host)
		if !dev.Insecure && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return &hinted{
				error: fmt.Errorf("%w: %s %s: other machines can reach it, and a development store guards nothing", keystore.ErrRefused, l.flag, l.listen),
				hint:  "listen on 127.0.0.1, or to do it all the same:  --insecure-listen",
			}
		}
	}
	return nil
}

// ensure makes the store unless it is there.
func (dev DevConfig) ensure(ctx context.Context) error {
	free, err := vacant(dev.Dir)
	if err != nil {
		return err
	}
	if !free {
		_, err := loadIdentity(dev.Dir)
		if errors.Is(err, errNoStore) {
			return notOurs(dev.Dir)
		}
		return err
	}
	m := &making{dir: dev.Dir, listen: []string{dev.Listen, dev.FeedListen}, step: dev.step}
	m.id = identity{Store: "main", Dev: true, Region: "local", Server: "dev-1"}
	m.unlock = func() (seal.UnlockKey, error) { return newUnlockFile(filepath.Join(m.temp, unlockFile)) }
	m.extra = func(m *making) error { return writeProfile(m.temp, dev.Listen) }
	return m.make(ctx)
}

// firstRing creates a development store's ring where the ledger has no more than the
// events of its founding: at the first start, or at the one after a crash before this.
func (s *service) firstRing(ctx context.Context, founding keystore.N) error {
	var n keystore.N
	s.keys.Replica().Read(func(state *events.State) { n = state.N() })
	if n != founding {
		return nil
	}
	_, err := s.CreateRing(ctx, "keytide", adminapi.CreateRing{
		Intent: adminapi.Intent{Request: "dev/" + devRing, Reason: "first start"}, Name: devRing,
	})
	if errors.Is(err, keystore.ErrExists) {
		return nil
	}
	return err
}
