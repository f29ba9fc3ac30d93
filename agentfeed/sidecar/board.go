package sidecar

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/keystore"
)

// Report is what an agent says of itself: the content of status.json in its state
// directory, and what keytide-agent status prints. It holds no keys.
type Report struct {
	Running    bool                `json:"running"` // said by the reader, not the file
	State      agentfeed.State     `json:"state"`
	AsOf       *time.Time          `json:"as_of,omitempty"` // when the rings were last known to be current
	Position   string              `json:"position,omitempty"`
	Server     string              `json:"server,omitempty"`
	URL        string              `json:"url,omitempty"`
	Transport  agentfeed.Transport `json:"transport,omitempty"` // stream, longpoll or poll
	Error      string              `json:"error,omitempty"`     // why no server feeds the agent
	CacheError string              `json:"cache_error,omitempty"`
	Rings      []RingReport        `json:"rings"`
	Outputs    []OutputReport      `json:"outputs"`
}

// RingReport names the version of a ring that the agent holds.
type RingReport struct {
	Name    keystore.RingName `json:"name"`
	Epoch   keystore.Epoch    `json:"epoch"`
	Version keystore.Version  `json:"version"`
}

// OutputReport says how an output's files stand.
type OutputReport struct {
	Name      string        `json:"name"`
	WrittenAt *time.Time    `json:"written_at,omitempty"` // when they changed last
	Error     string        `json:"error,omitempty"`      // why they are not up to date
	Action    *ActionReport `json:"action,omitempty"`
}

// An ActionResult is how an action stands.
type ActionResult string

const (
	ActionPending ActionResult = "pending" // owed
	ActionRunning ActionResult = "running"
	ActionDone    ActionResult = "done"
	ActionFailed  ActionResult = "failed" // and owed still
	ActionNone    ActionResult = "none"   // never owed yet
)

// ActionReport says how an output's action stands.
type ActionReport struct {
	Result   ActionResult `json:"result"`
	At       *time.Time   `json:"at,omitempty"` // when a run last began or ended
	Error    string       `json:"error,omitempty"`
	Runs     uint64       `json:"runs"`     // since the agent started
	Failures uint64       `json:"failures"` // of these
}

// A board keeps what an agent reports, in memory and in its state directory.
type board struct {
	client *agentfeed.Client
	path   string // of status.json; "" = memory alone
	log    *slog.Logger

	mu      sync.Mutex // guards the fields below, and the file
	outputs []OutputReport
	saved   []byte
}

// newBoard begins with what the last run of the agent left owed. An agent without a
// state directory does not know, and owes every action.
func newBoard(c *Config, client *agentfeed.Client, log *slog.Logger) *board {
	b := &board{client: client, log: log}
	var last Report
	if c.StateDir != "" {
		b.path = filepath.Join(c.StateDir, statusName)
		if content, err := os.ReadFile(b.path); err == nil && json.Unmarshal(content, &last) != nil {
			log.Warn("the status of the last run cannot be read", "path", b.path)
		}
	}
	for _, o := range c.Outputs {
		report := OutputReport{Name: o.Name}
		former := slices.IndexFunc(last.Outputs, func(l OutputReport) bool { return l.Name == o.Name })
		if former >= 0 {
			report.WrittenAt = last.Outputs[former].WrittenAt
		}
		if o.Action != nil {
			report.Action = &ActionReport{Result: ActionNone}
			if former >= 0 && last.Outputs[former].Action != nil {
				*report.Action = *last.Outputs[former].Action
				report.Action.Runs, report.Action.Failures = 0, 0
			}
			if b.path == "" || report.Action.owed() {
				report.Action.Result = ActionPending
			}
		}
		b.outputs = append(b.outputs, report)
	}
	return b
}

const statusName = "status.json"

func (a *ActionReport) owed() bool {
	return a != nil && (a.Result == ActionPending || a.Result == ActionRunning || a.Result == ActionFailed)
}

// change edits the report of output i, and saves it.
func (b *board) change(i int, edit func(*OutputReport)) {
	b.mu.Lock()
	edit(&b.outputs[i])
	b.client.SetFailures(b.failures()...)
	b.mu.Unlock()
	b.save()
}

// failures are the outputs that do not follow the rings, for the policy servers. It
// needs mu.
func (b *board) failures() (list []agentfeed.Failure) {
	for _, o := range b.outputs {
		why := o.Error
		if why == "" && o.Action.owed() {
			if why = o.Action.Error; why == "" || o.Action.Result != ActionFailed {
				why = "its action is " + string(o.Action.Result)
			}
		}
		if why != "" {
			list = append(list, agentfeed.Failure{Output: o.Name, Error: why})
		}
	}
	return list
}

// changing notes, on disk, that output i is about to change: its action is owed from
// now on, wherever the agent is killed.
func (b *board) changing(i int) {
	b.change(i, func(o *OutputReport) {
		if o.Action != nil {
			o.Action.Result = ActionPending
		}
	})
}

// wrote notes how the last writing of output i ended.
func (b *board) wrote(i int, changed bool, err error) {
	b.change(i, func(o *OutputReport) {
		if o.Error = ""; err != nil {
			o.Error = err.Error()
		}
		if changed {
			now := time.Now().UTC()
			o.WrittenAt = &now
		}
	})
}

// acted notes what became of the action of output i.
func (b *board) acted(i int, e actionEvent) {
	b.change(i, func(o *OutputReport) {
		now := time.Now().UTC()
		a := o.Action
		a.At = &now
		switch {
		case !e.ended:
			a.Result = ActionRunning
			a.Runs++
			return
		case e.err != nil:
			a.Failures++
			a.Error = e.err.Error()
			a.Result = ActionFailed
		default:
			a.Error = ""
			if a.Result == ActionRunning { // else the set has changed meanwhile
				a.Result = ActionDone
			}
		}
	})
}

// pending reports whether the action of output i is owed and has not been begun.
func (b *board) pending(i int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.outputs[i].Action.Result == ActionPending
}

// report is the agent's state now.
func (b *board) report() Report {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now()
}

// now is the agent's state. It needs mu.
func (b *board) now() Report {
	s := b.client.Status()
	r := Report{Running: true, State: s.State, Position: s.Position, Server: s.Server, URL: s.URL, Transport: s.Transport, Error: text(s.Err), CacheError: text(s.CacheErr), Rings: []RingReport{}}
	if !s.AsOf.IsZero() {
		asOf := s.AsOf.UTC()
		r.AsOf = &asOf
	}
	for _, set := range b.client.Snapshot() {
		r.Rings = append(r.Rings, RingReport{set.Ring, set.Epoch, set.Version})
	}
	for _, o := range b.outputs {
		if o.Action != nil {
			action := *o.Action
			o.Action = &action
		}
		r.Outputs = append(r.Outputs, o)
	}
	return r
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// save writes the report to the state directory, if it is another one.
func (b *board) save() {
	if b.path == "" {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var content bytes.Buffer
	err := writeJSON(&content, b.now())
	if err == nil && !bytes.Equal(content.Bytes(), b.saved) {
		_, err = place(b.path, blob{content: content.Bytes(), mode: 0o600})
		b.saved = content.Bytes()
	}
	if err != nil {
		b.log.Error("status not written", "path", b.path, "err", err)
	}
}
