package sidecar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/keystore/fips"
)

// retryAfter is how long the agent waits after a file could not be written. The
// rings are not fetched again for it.
const retryAfter = 5 * time.Second

// saveEvery is how often the status file follows what heartbeats say.
const saveEvery = 5 * time.Second

// cacheName is the file in the state directory with the sealed rings.
const cacheName = "rings.cache"

type lockedError struct{ dir string }

func (e *lockedError) Error() string {
	return fmt.Sprintf("state directory %s: another keytide-agent uses it", e.dir)
}
func (e *lockedError) Hint() string {
	return "stop that one, or give this one a state_dir of its own"
}

// run keeps the configured files at the newest rings until ctx ends.
func run(ctx context.Context, c *Config, env Env) error {
	log := env.logger()
	if err := fips.Demand(c.FIPS, fips.Running()); err != nil {
		return err
	}
	if c.StateDir != "" {
		unlock, err := lock(c.StateDir)
		if err != nil {
			return err
		}
		defer unlock()
	}
	cache, err := c.cacheFile()
	if err != nil {
		return err
	}
	client, err := agentfeed.New(agentfeed.Config{
		HostFile: c.HostFile, Region: c.Region, PollInterval: c.PollInterval, CacheFile: cache, Proxy: env.Proxy, Logger: log,
		SecretState: c.SecretState, FixedSecret: c.KeepSecret != nil && !*c.KeepSecret,
	})
	if err != nil {
		return err
	}
	defer client.Close()
	k := keeper{config: c, client: client, log: log, env: env, board: newBoard(c, client, log)}
	return k.run(ctx)
}

// cacheFile is where the rings are kept, sealed; "" = nowhere. Where there is to be
// none, one from before is removed.
func (c *Config) cacheFile() (string, error) {
	if c.StateDir == "" {
		return "", nil
	}
	path := filepath.Join(c.StateDir, cacheName)
	if c.Cache == nil || *c.Cache {
		return path, nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	return "", nil
}

// A keeper writes the files and has the actions run.
type keeper struct {
	config *Config
	client *agentfeed.Client
	log    *slog.Logger
	env    Env
	board  *board
	actors []*actor    // of each output; nil where it has no action
	begun  atomic.Bool // all files have been written once
}

// run works until ctx ends. All goroutines that it starts have ended when it returns.
func (k *keeper) run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	var parts sync.WaitGroup
	defer parts.Wait()
	defer stop()
	if address := k.config.Metrics.Listen; address != "" {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			return fmt.Errorf("metrics.listen: %w", err)
		}
		k.log.Info("metrics are served", "address", listener.Addr().String())
		parts.Go(func() { k.serve(ctx, listener) })
	}
	for i, o := range k.config.Outputs {
		var a *actor
		if o.Action != nil {
			a = newActor(o.Name, *o.Action, k.log, func(e actionEvent) { k.board.acted(i, e) })
			parts.Go(func() { a.run(ctx) })
		}
		k.actors = append(k.actors, a)
	}
	parts.Go(func() { k.saveStatus(ctx) })
	for range k.client.Updates(ctx) {
		if err := k.writeUntilDone(ctx); err != nil {
			return err
		}
	}
	return nil
}

// saveStatus keeps the status file up to date until ctx ends.
func (k *keeper) saveStatus(ctx context.Context) {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	for {
		k.board.save()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// writeUntilDone writes the newest rings, again and again while that fails. What
// cannot be written at the start is an error: somebody is there to see it.
func (k *keeper) writeUntilDone(ctx context.Context) error {
	for last := ""; ; {
		err := k.write()
		if err == nil {
			return k.ready()
		}
		if !k.begun.Load() {
			return err
		}
		if text := err.Error(); text != last { // once, not at each attempt that ends alike
			k.log.Error("files not written; they stay as they were", "err", err, "retry_every", retryAfter)
			last = text
		}
		select {
		case <-time.After(retryAfter):
		case <-ctx.Done():
			return nil
		}
	}
}

// ready says, once, that all files are there: what reads them can start.
func (k *keeper) ready() error {
	if k.begun.Load() {
		return nil
	}
	k.begun.Store(true)
	rings := ringsOf(k.client)
	line := "keytide-agent ready state=" + string(rings.State) + " rings="
	for i, r := range rings.Rings {
		if i > 0 {
			line += ","
		}
		line += fmt.Sprintf("%s:%d.%d", r.Name, r.Epoch, r.Version)
	}
	if _, err := fmt.Fprintln(k.env.Stdout, line); err != nil {
		return err
	}
	if err := notify(k.env.NotifySocket, "READY=1\nSTATUS="+strings.TrimPrefix(line, "keytide-agent ")); err != nil {
		k.log.Error("the service manager cannot be told that the agent is ready", "err", err)
	}
	return nil
}

// write brings every output up to date. One that fails keeps no other from it.
func (k *keeper) write() error {
	now := source{k.client.Status(), k.client.Snapshot()}
	var faults []error
	for i := range k.config.Outputs {
		changed, err := k.writeSet(i, now)
		k.board.wrote(i, changed, err)
		if err != nil {
			faults = append(faults, fmt.Errorf("output %s: %w", k.config.Outputs[i].Name, err))
			continue
		}
		if k.actors[i] != nil && (changed || k.board.pending(i)) {
			k.actors[i].wake()
		}
	}
	return errors.Join(faults...)
}

// writeSet brings one output up to date. It reports whether that changed a file.
func (k *keeper) writeSet(i int, now source) (bool, error) {
	o := &k.config.Outputs[i]
	set, err := o.render(now)
	if err != nil {
		return false, err
	}
	defer set.clear()
	if !set.differs() {
		return false, nil
	}
	k.board.changing(i)
	if err := set.place(); err != nil {
		return false, err
	}
	k.log.Info("files written", "output", o.Name)
	return true, nil
}
