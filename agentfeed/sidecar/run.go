package sidecar

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/keytide/keytide/agentfeed"
)

// retryAfter is how long the agent waits after a file could not be written. The
// rings are not fetched again for it.
const retryAfter = 5 * time.Second

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
	if c.StateDir != "" {
		unlock, err := lock(c.StateDir)
		if err != nil {
			return err
		}
		defer unlock()
	}
	client, err := agentfeed.New(agentfeed.Config{HostFile: c.HostFile, Proxy: env.Proxy, Logger: log})
	if err != nil {
		return err
	}
	defer client.Close()
	k := keeper{config: c, client: client, log: log}
	for range client.Updates(ctx) {
		if err := k.writeUntilDone(ctx); err != nil {
			return err
		}
	}
	return nil
}

// A keeper writes the files.
type keeper struct {
	config *Config
	client *agentfeed.Client
	log    *slog.Logger
	begun  bool // all files have been written once
}

// writeUntilDone writes the newest rings, again and again while that fails. What
// cannot be written at the start is an error: somebody is there to see it.
func (k *keeper) writeUntilDone(ctx context.Context) error {
	for {
		err := k.write()
		if err == nil {
			k.begun = true
			return nil
		}
		if !k.begun {
			return err
		}
		k.log.Error("files not written; they stay as they were", "err", err, "retry_in", retryAfter)
		select {
		case <-time.After(retryAfter):
		case <-ctx.Done():
			return nil
		}
	}
}

// write brings every output up to date. One that fails keeps no other from it.
func (k *keeper) write() error {
	now := source{k.client.Status(), k.client.Snapshot()}
	var faults []error
	for i := range k.config.Outputs {
		o := &k.config.Outputs[i]
		if err := k.writeSet(o, now); err != nil {
			faults = append(faults, fmt.Errorf("output %s: %w", o.Name, err))
		}
	}
	return errors.Join(faults...)
}

func (k *keeper) writeSet(o *Output, now source) error {
	set, err := o.render(now)
	if err != nil {
		return err
	}
	defer set.clear()
	if !set.differs() {
		return nil
	}
	if err := set.place(); err != nil {
		return err
	}
	k.log.Info("files written", "output", o.Name)
	return nil
}
