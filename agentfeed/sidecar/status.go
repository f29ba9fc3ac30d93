package sidecar

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/keytide/keytide/agentfeed"
)

// Exit codes of keytide-agent status, beside those of every command: a fresh agent
// with all outputs up to date is exitDone, one that does not run exitFailed.
const (
	exitCached  = 4
	exitStale   = 5
	exitExpired = 6
	exitWaiting = 7
	exitBehind  = 8 // fresh, but files are not written or an action fails
)

var stateExits = map[agentfeed.State]int{
	agentfeed.StateFresh: exitDone, agentfeed.StateCached: exitCached, agentfeed.StateStale: exitStale,
	agentfeed.StateExpired: exitExpired, agentfeed.StateWaiting: exitWaiting,
}

// staleAfter is when a status that still says fresh is taken to be stale: the agent
// itself would have noticed, unless it hangs.
const staleAfter = 60 * time.Second

// A stateError carries an exit code; what there is to say has been said.
type stateError struct{ code int }

func (e *stateError) Error() string { return fmt.Sprintf("status %d", e.code) }

// status shows what the agent with a configuration says of itself.
type status struct {
	config string
	format string // json or table
}

func (s status) run(env Env) error {
	c, err := readConfig(s.config)
	if err != nil {
		return err
	}
	if c.StateDir == "" {
		return &noStatusError{what: "config " + s.config + ": has no state_dir", hint: "give the agent a state_dir; without one it keeps no status"}
	}
	r, err := readReport(c.StateDir)
	if err != nil {
		return err
	}
	if s.format == "json" {
		err = writeJSON(env.Stdout, r)
	} else {
		err = r.table(env.Stdout)
	}
	if code := r.exit(); err == nil && code != exitDone {
		return &stateError{code}
	}
	return err
}

type noStatusError struct{ what, hint string }

func (e *noStatusError) Error() string { return e.what }
func (e *noStatusError) Hint() string  { return e.hint }

// readReport reads what the agent of a state directory has last said, and finds out
// whether it runs.
func readReport(dir string) (Report, error) {
	content, err := os.ReadFile(filepath.Join(dir, statusName))
	if errors.Is(err, os.ErrNotExist) {
		return Report{}, &noStatusError{what: "state directory " + dir + ": no agent has left a status", hint: "start it:  keytide-agent run --config FILE"}
	}
	var r Report
	if err == nil {
		err = json.Unmarshal(content, &r)
	}
	if err != nil {
		return Report{}, fmt.Errorf("status: %w", err)
	}
	if r.Running, err = locked(dir); err != nil {
		return Report{}, err
	}
	if r.State == agentfeed.StateFresh && r.AsOf != nil && time.Since(*r.AsOf) >= staleAfter {
		r.State = agentfeed.StateStale
	}
	return r, nil
}

// exit is the exit code that says how the agent stands.
func (r Report) exit() int {
	if !r.Running {
		return exitFailed
	}
	code, known := stateExits[r.State]
	switch {
	case !known:
		return exitFailed
	case code == exitDone && r.behind():
		return exitBehind
	}
	return code
}

// behind reports whether files are not up to date, or what reads them may not be.
func (r Report) behind() bool {
	for _, o := range r.Outputs {
		if o.Error != "" || o.Action != nil && o.Action.Result == ActionFailed {
			return true
		}
	}
	return false
}

func (r Report) table(w io.Writer) error {
	line := string(r.State)
	if !r.Running {
		line = "not running; it was " + line
	}
	if r.AsOf != nil {
		line += ", current " + ago(*r.AsOf)
	}
	if r.Server != "" && r.Running {
		line += fmt.Sprintf(", from policy server %s (%s, %s)", r.Server, r.URL, r.Transport)
	}
	fmt.Fprintln(w, line)
	for _, e := range []string{r.Error, r.CacheError} {
		if e != "" {
			fmt.Fprintln(w, e)
		}
	}
	rings := [][]string{{"RING", "VERSION"}}
	for _, ring := range r.Rings {
		rings = append(rings, []string{string(ring.Name), fmt.Sprintf("%d.%d", ring.Epoch, ring.Version)})
	}
	outputs := [][]string{{"OUTPUT", "WRITTEN", "ACTION", ""}}
	for _, o := range r.Outputs {
		outputs = append(outputs, o.row())
	}
	fmt.Fprintln(w)
	writeRows(w, rings)
	fmt.Fprintln(w)
	return writeRows(w, outputs)
}

func (o OutputReport) row() []string {
	written, action, why := "never", "", o.Error
	if o.WrittenAt != nil {
		written = ago(*o.WrittenAt)
	}
	if a := o.Action; a != nil {
		action = string(a.Result)
		if a.At != nil && a.Result != ActionPending { // else it is when the one before ended
			action += " " + ago(*a.At)
		}
		why = strings.TrimPrefix(strings.Join([]string{why, a.Error}, "; "), "; ")
		why = strings.TrimSuffix(why, "; ")
	}
	return []string{o.Name, written, action, why}
}

// ago says how long ago a time was.
func ago(at time.Time) string {
	return max(0, time.Since(at)).Round(time.Second).String() + " ago"
}
