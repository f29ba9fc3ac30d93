package keystore

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// RetainMargin is how much longer than max_session an old key is kept: agents hear
// of a rollover a little after their policy server has confirmed it.
const RetainMargin = 5 * time.Minute

const longest = 366 * 24 * time.Hour // the most that any duration of a policy may be

// Retain says how many old keys a ring keeps. Its text is "auto" or a number.
type Retain int

// RetainAuto keeps an old key for as long as a session that it sealed may live.
const RetainAuto Retain = 0

func (r Retain) String() string {
	if r == RetainAuto {
		return "auto"
	}
	return strconv.Itoa(int(r))
}

// MarshalText gives "auto" or the number.
func (r Retain) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads "auto" or a number from 1 to MaxOld.
func (r *Retain) UnmarshalText(text []byte) error {
	if string(text) == "auto" {
		*r = RetainAuto
		return nil
	}
	n, err := strconv.Atoi(string(text))
	if err != nil || n < 1 || n > MaxOld || strconv.Itoa(n) != string(text) {
		return invalidf(`retain %q: want "auto" or a number of old keys from 1 to %d`, text, MaxOld)
	}
	*r = Retain(n)
	return nil
}

// A Policy says how a ring rolls over. Its JSON has the fields max_session,
// retain, min_interval and schedule; durations are Go duration strings.
type Policy struct {
	// MaxSession is the longest that a session may live after it was sealed last.
	// Old keys are kept for it. 1 s to 366 days. Too short logs users out at a
	// rollover; too long keeps old keys, which a thief could use, for longer.
	MaxSession time.Duration
	// Retain says how many old keys are kept: RetainAuto, or 1 to MaxOld.
	Retain Retain
	// MinInterval is the least time between two rollovers without force. 0 to 366
	// days; 0 sets no floor, and a double click makes two rollovers.
	MinInterval time.Duration
}

// DefaultPolicy keeps old keys for sessions of eight hours and allows a rollover
// an hour.
func DefaultPolicy() Policy {
	return Policy{MaxSession: 8 * time.Hour, Retain: RetainAuto, MinInterval: time.Hour}
}

// Check reports all faults of p together. Faults that nothing makes right wrap
// ErrInvalid; a policy that would log users out is a *RetainError, which wraps
// ErrRefused and may be forced.
func (p Policy) Check() error {
	faults := []error{p.invalid()}
	if faults[0] == nil && p.logsOut() {
		faults = append(faults, &RetainError{Policy: p})
	}
	return errors.Join(faults...)
}

// logsOut reports whether keys may end before the sessions that they sealed.
func (p Policy) logsOut() bool {
	return p.Retain != RetainAuto && time.Duration(p.Retain)*p.MinInterval < p.MaxSession
}

func (p Policy) invalid() error {
	var faults []error
	if p.MaxSession < time.Second || p.MaxSession > longest {
		faults = append(faults, invalidf("max_session %v: want 1s to %v", p.MaxSession, longest))
	}
	if p.Retain < 0 || p.Retain > MaxOld {
		faults = append(faults, invalidf("retain %d: want auto or a number of old keys from 1 to %d", int(p.Retain), MaxOld))
	}
	if p.MinInterval < 0 || p.MinInterval > longest {
		faults = append(faults, invalidf("min_interval %v: want 0s to %v", p.MinInterval, longest))
	}
	return errors.Join(faults...)
}

// policyJSON is a policy's JSON. A ring without a schedule rolls over by hand:
// "manual".
type policyJSON struct {
	MaxSession  string `json:"max_session"`
	Retain      Retain `json:"retain"`
	MinInterval string `json:"min_interval"`
	Schedule    string `json:"schedule"`
}

const scheduleManual = "manual"

func (p Policy) MarshalJSON() ([]byte, error) {
	return json.Marshal(policyJSON{p.MaxSession.String(), p.Retain, p.MinInterval.String(), scheduleManual})
}

// UnmarshalJSON reads a policy. A missing field has DefaultPolicy's value.
func (p *Policy) UnmarshalJSON(data []byte) error {
	def := DefaultPolicy()
	in := policyJSON{def.MaxSession.String(), def.Retain, def.MinInterval.String(), scheduleManual}
	if err := json.Unmarshal(data, &in); err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	var errs [3]error
	def.Retain = in.Retain
	def.MaxSession, errs[0] = parseDuration("max_session", in.MaxSession)
	def.MinInterval, errs[1] = parseDuration("min_interval", in.MinInterval)
	if in.Schedule != scheduleManual {
		errs[2] = invalidf("schedule %q: want %q", in.Schedule, scheduleManual)
	}
	if err := errors.Join(errs[:]...); err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	*p = def
	return nil
}

func parseDuration(field, s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, invalidf("%s %q: want a duration such as 90m or 8h", field, s)
	}
	return d, nil
}
