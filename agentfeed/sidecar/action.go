package sidecar

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os/exec"
	"strings"
	"time"
)

// Action is a command that the agent runs after a set has changed, to make a server
// read it. It is run as it stands, without a shell, and is never given keys. One that
// fails is run again; the files stay, and nothing is fetched for it.
type Action struct {
	// Exec is the program and its arguments. A program with a slash in it counts from
	// the configuration's directory; one without is looked for on PATH.
	Exec []string `yaml:"exec,required"`

	// Timeout ends the command and all that it started. If zero, 10 s.
	Timeout time.Duration `yaml:"timeout"`

	// Debounce is how long a set must have been at rest before the command runs. If
	// zero, 2 s. Sets that never rest do not hold it up for more than five times that.
	Debounce time.Duration `yaml:"debounce"`

	// MinInterval is the least time between two runs for two changes. If zero, 30 s. A
	// reload costs a server more than this file costs us: too short piles old worker
	// processes up.
	MinInterval time.Duration `yaml:"min_interval"`
}

// Waits after a failed run: the first, and the longest. They grow twofold with each,
// and are spread by a quarter, so that machines do not fall into step.
const (
	firstRetry = time.Second
	lastRetry  = 5 * time.Minute
)

// killAfter is how long a command may take to end once it is told to.
const killAfter = 2 * time.Second

// An actor runs the action of one output. One goroutine runs it.
type actor struct {
	name   string
	action Action
	due    chan struct{} // size 1: a run is owed
	log    *slog.Logger
	report func(actionEvent)
	last   time.Time // when the last run began
}

// An actionEvent is a change of what is known of an action.
type actionEvent struct {
	ended bool
	err   error // why it failed, once it has ended
}

func newActor(name string, action Action, log *slog.Logger, report func(actionEvent)) *actor {
	return &actor{name: name, action: action, due: make(chan struct{}, 1), log: log.With("output", name), report: report}
}

// wake says that a run is owed. Many calls make one run.
func (a *actor) wake() {
	select {
	case a.due <- struct{}{}:
	default:
	}
}

// run does what is owed until ctx ends.
func (a *actor) run(ctx context.Context) {
	for failures := 0; ; {
		var retry <-chan time.Time
		if failures > 0 {
			retry = time.After(retryWait(failures))
		}
		select {
		case <-ctx.Done():
			return
		case <-retry:
		case <-a.due:
			if failures = 0; !a.settle(ctx) {
				return
			}
		}
		select {
		case <-a.due: // this run serves it
		default:
		}
		err := a.once(ctx)
		if ctx.Err() != nil {
			return // the run is owed still
		}
		if failures++; err == nil {
			failures = 0
		}
	}
}

func retryWait(failures int) time.Duration {
	wait := min(firstRetry<<min(failures-1, 20), lastRetry)
	return time.Duration(float64(wait) * (0.75 + rand.Float64()/2))
}

// settle waits until the set is at rest and the last run is long enough ago. It
// reports false if ctx ended.
func (a *actor) settle(ctx context.Context) bool {
	limit := time.After(5 * a.action.Debounce)
	for rest := false; !rest; {
		select {
		case <-ctx.Done():
			return false
		case <-limit:
			rest = true
		case <-time.After(a.action.Debounce):
			rest = true
		case <-a.due:
		}
	}
	if a.last.IsZero() {
		return true
	}
	select {
	case <-time.After(time.Until(a.last.Add(a.action.MinInterval))):
		return true
	case <-ctx.Done():
		return false
	}
}

// once runs the command and tells of it.
func (a *actor) once(ctx context.Context) error {
	a.last = time.Now()
	a.report(actionEvent{})
	err := a.exec(ctx)
	if ctx.Err() != nil {
		return err
	}
	a.report(actionEvent{ended: true, err: err})
	if err != nil {
		a.log.Error("action failed; the files stay, and it is run again", "command", a.action.Exec[0], "err", err)
		return err
	}
	a.log.Info("action done", "command", a.action.Exec[0], "took", time.Since(a.last).Round(time.Millisecond))
	return nil
}

func (a *actor) exec(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, a.action.Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, a.action.Exec[0], a.action.Exec[1:]...)
	var said tail
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &said, &said, killAfter
	kill := inGroup(cmd)
	err := cmd.Run()
	if ctx.Err() != nil {
		kill()
	}
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return nil // with ErrWaitDelay it left a process behind that holds its output open
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		err = fmt.Errorf("not done within %s", a.action.Timeout)
	}
	if line := said.line(); line != "" {
		return fmt.Errorf("%w: %s", err, line)
	}
	return err
}

// A tail keeps the end of what is written to it. It needs no lock: os/exec writes
// both streams from one goroutine when they are one writer.
type tail struct{ held []byte }

const maxTail = 512

func (t *tail) Write(p []byte) (int, error) {
	t.held = append(t.held, p...)
	t.held = t.held[max(0, len(t.held)-maxTail):]
	return len(p), nil
}

// line is the last line, without control characters.
func (t *tail) line() string {
	lines := bytes.Split(bytes.TrimSpace(t.held), []byte("\n"))
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, strings.ToValidUTF8(string(lines[len(lines)-1]), ""))
}
