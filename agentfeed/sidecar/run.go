package sidecar

import (
	"bytes"
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

// write brings every file up to date. A file that fails keeps no other from it.
func (k *keeper) write() error {
	var content bytes.Buffer
	if err := writeJSON(&content, exposedRingsOf(k.client)); err != nil {
		return err
	}
	defer clear(content.Bytes())
	var faults []error
	for _, o := range k.config.Outputs {
		for _, f := range o.Files {
			changed, err := place(f.Path, content.Bytes(), f.Mode)
			if err != nil {
				faults = append(faults, fmt.Errorf("output %s: %w", o.Name, err))
			} else if changed {
				k.log.Info("file written", "output", o.Name, "path", f.Path)
			}
		}
	}
	return errors.Join(faults...)
}
