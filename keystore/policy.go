package keystore

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
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

// A Policy says how a ring rolls over. Its JSON has the fields max_session, retain,
// min_interval, schedule, tz, blackout, max_hold and guard_agents; durations are Go duration strings.
type Policy struct {
	// MaxSession is the longest that a session may live after it was sealed last.
	// Old keys are kept for it. 1 s to 366 days. Too short logs users out at a
	// rollover; too long keeps old keys, which a thief could use, for longer.
	MaxSession time.Duration
	// Retain says how many old keys are kept: RetainAuto, or 1 to MaxOld.
	Retain Retain
	// MinInterval is the least time between two rollovers without force. 0 to 366
	// days; 0 sets no floor, and a double click makes two rollovers.
	// It binds the schedule, too: one that would come sooner is refused.
	MinInterval time.Duration
	// Schedule is when the ring rolls over by itself; the zero one: never.
	Schedule Schedule
	// MaxHold is how long a slot may be held by servers that have not confirmed before
	// they are excluded. 1 min to 366 days; 0: it waits for them as long as CatchUp says. Too short
	// logs out the users of a region that was cut off; too long keeps a key in use.
	MaxHold time.Duration
	// GuardAgents names hosts, sorted, with a space between two: a rollover waits for
	// the confirmation of their agents, too. At most MaxGuardAgents; empty: it waits for
	// none. One whose agents do not report holds every rollover up.
	GuardAgents string
}

// MaxGuardAgents is how many hosts a ring's guard may name.
const MaxGuardAgents = 32

// Agents are the hosts of GuardAgents, each by itself.
func (p Policy) Agents() []string { return strings.Fields(p.GuardAgents) }

// AgentsText is the GuardAgents that names these hosts, in whatever order.
func AgentsText(hosts []string) string {
	hosts = slices.Clone(hosts)
	slices.Sort(hosts)
	return strings.Join(slices.Compact(hosts), " ")
}

// DefaultPolicy keeps old keys for sessions of eight hours and allows a rollover
// an hour.
func DefaultPolicy() Policy {
	return Policy{MaxSession: 8 * time.Hour, Retain: RetainAuto, MinInterval: time.Hour}
}

// Check reports all faults of p together. plan is that of p's schedule, nil without
// one. Faults that nothing makes right wrap ErrInvalid. Others are a Refusal: an
// *IntervalError for a schedule that min_interval forbids, a *CrowdedError where more
// than MaxOld old keys would be held, and a *RetainError where users would be logged
// out, which alone may be forced.
func (p Policy) Check(plan Plan) error {
	if err := p.invalid(); err != nil {
		return err
	}
	if plan != nil && plan.Shortest() < p.MinInterval {
		return &IntervalError{Policy: p, Shortest: plan.Shortest()}
	}
	if n := p.crowd(plan); n > MaxOld {
		return &CrowdedError{Policy: p, Shortest: plan.Shortest(), Keys: n}
	}
	if p.logsOut(plan) {
		return &RetainError{Policy: p, Interval: p.interval(plan), Scheduled: plan != nil}
	}
	return nil
}

func (p Policy) scheduled() bool { return !p.Schedule.IsManual() }

// sameSchedule reports whether both policies roll over at the same times.
func (p Policy) sameSchedule(q Policy) bool { return p.Schedule == q.Schedule }

// interval is the shortest time between two rollovers that nobody forces: the
// schedule's shortest gap, or min_interval where there is no schedule.
func (p Policy) interval(plan Plan) time.Duration {
	if plan != nil {
		return plan.Shortest()
	}
	return p.MinInterval
}

// logsOut reports whether keys may end before the sessions that they sealed.
func (p Policy) logsOut(plan Plan) bool {
	return p.Retain != RetainAuto && time.Duration(p.Retain)*p.interval(plan) < p.MaxSession
}

// crowd is how many old keys a schedule has at a time, each kept for as long as its
// sessions may live. A ring without a schedule has no rate: its rollovers are refused
// once it is full.
func (p Policy) crowd(plan Plan) int {
	if plan == nil || p.Retain != RetainAuto || plan.Shortest() <= 0 {
		return 0
	}
	return int((p.MaxSession+RetainMargin)/plan.Shortest()) + 1
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
	if p.MaxHold != 0 && (p.MaxHold < time.Minute || p.MaxHold > longest) {
		faults = append(faults, invalidf("max_hold %v: want none, or 1m0s to %v", p.MaxHold, longest))
	}
	if agents := p.Agents(); AgentsText(agents) != p.GuardAgents || len(agents) > MaxGuardAgents {
		faults = append(faults, invalidf("guard_agents: want at most %d hosts, each once", MaxGuardAgents))
	}
	for _, host := range p.Agents() {
		if err := CheckName(host); err != nil {
			faults = append(faults, invalidf("guard_agents: %v", err))
		}
	}
	return errors.Join(append(faults, p.Schedule.Check())...)
}

// policyJSON is a policy's JSON.
type policyJSON struct {
	MaxSession  string   `json:"max_session"`
	Retain      Retain   `json:"retain"`
	MinInterval string   `json:"min_interval"`
	Schedule    string   `json:"schedule"`
	TZ          string   `json:"tz"`
	Blackout    []string `json:"blackout"`
	MaxHold     string   `json:"max_hold"`
	GuardAgents []string `json:"guard_agents"`
}

// NoMaxHold is the text of a MaxHold of 0.
const NoMaxHold = "none"

// MaxHoldText is MaxHold as people and programs read it: a duration, or none.
func (p Policy) MaxHoldText() string {
	if p.MaxHold == 0 {
		return NoMaxHold
	}
	return p.MaxHold.String()
}

func (p Policy) words() policyJSON {
	return policyJSON{
		p.MaxSession.String(), p.Retain, p.MinInterval.String(), p.Schedule.String(), p.Schedule.Zone(),
		append([]string{}, p.Schedule.Blackouts()...), p.MaxHoldText(),
		append([]string{}, p.Agents()...),
	}
}

func (p Policy) MarshalJSON() ([]byte, error) { return json.Marshal(p.words()) }

// UnmarshalJSON reads a policy. A missing field has DefaultPolicy's value.
func (p *Policy) UnmarshalJSON(data []byte) error {
	def := DefaultPolicy()
	in := def.words()
	if err := json.Unmarshal(data, &in); err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	var errs [4]error
	def.Retain = in.Retain
	def.MaxSession, errs[0] = parseDuration("max_session", in.MaxSession)
	def.MinInterval, errs[1] = parseDuration("min_interval", in.MinInterval)
	def.Schedule, errs[2] = ParseSchedule(in.Schedule, in.TZ, in.Blackout...)
	def.GuardAgents = AgentsText(in.GuardAgents)
	if in.MaxHold != NoMaxHold {
		def.MaxHold, errs[3] = parseDuration("max_hold", in.MaxHold)
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
