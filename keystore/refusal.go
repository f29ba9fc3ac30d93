package keystore

import (
	"fmt"
	"strings"
	"time"
)

// A Refusal is the error of a rule that found a change possible but unsafe. It
// wraps ErrRefused. Its message says what and why, Hint says what next.
type Refusal interface {
	error
	// Hint says what to do next, one hint a line.
	Hint() string
	// Forceable reports whether the same request with force would be carried out.
	Forceable() bool
}

// TooSoonError refuses a rollover within min_interval of the one before.
type TooSoonError struct {
	Ring        RingName
	Last        time.Time     // the rollover before
	Now         time.Time     // the decider's clock
	MinInterval time.Duration // the policy's
}

// Wait is how long it takes until the rollover is allowed.
func (e *TooSoonError) Wait() time.Duration { return e.Last.Add(e.MinInterval).Sub(e.Now) }

func (e *TooSoonError) Error() string {
	if e.Now.Before(e.Last) {
		return fmt.Sprintf("ring %s: rollover refused: the last one is dated %v after this server's clock", e.Ring, e.Last.Sub(e.Now).Round(time.Millisecond))
	}
	return fmt.Sprintf("ring %s: rollover refused: the last one was %v ago, and min_interval is %v", e.Ring, brief(e.Now.Sub(e.Last)), e.MinInterval)
}

func (e *TooSoonError) Hint() string {
	return fmt.Sprintf("wait %v, until %s, or shorten min_interval:  keytide ring set %s --min-interval DURATION\n",
		brief(e.Wait()), e.Last.Add(e.MinInterval).UTC().Format(time.RFC3339), e.Ring) +
		"to roll over now all the same:  --force"
}

func (e *TooSoonError) Forceable() bool { return true }
func (e *TooSoonError) Unwrap() error   { return ErrRefused }

// A Behind is a server that has not confirmed what a rollover needs.
type Behind struct {
	Server, Region string
	Applied        N // what it has confirmed; 0 = nothing yet
	Needs          N // the event of the ring's last change of keys
}

// By is the number of events that the server is behind.
func (b Behind) By() N { return b.Needs - b.Applied }

func (b Behind) String() string {
	if b.Applied == 0 {
		return fmt.Sprintf("server %s in region %s has confirmed nothing yet (needs event %d)", b.Server, b.Region, b.Needs)
	}
	events := "events"
	if b.By() == 1 {
		events = "event"
	}
	return fmt.Sprintf("server %s in region %s is %d %s behind (at %d, needs %d)", b.Server, b.Region, b.By(), events, b.Applied, b.Needs)
}

// HeldError is the guard's: a rollover is held until every policy server has
// confirmed the ring's present version, and the agents that its policy names.
type HeldError struct {
	Ring    RingName
	Version Version  // the version that is not confirmed everywhere
	Behind  []Behind // in the order given; empty, with no Agents: no server at all has confirmed
	Agents  []string // hosts of the policy's GuardAgents whose agents have not
}

func (e *HeldError) Error() string {
	if len(e.Behind) == 0 && len(e.Agents) == 0 {
		return fmt.Sprintf("ring %s: rollover held: no policy server is known to have version %d", e.Ring, e.Version)
	}
	names := make([]string, len(e.Behind))
	for i, b := range e.Behind {
		names[i] = b.String()
	}
	for _, host := range e.Agents {
		names = append(names, "agents of "+host+" have not confirmed it")
	}
	return fmt.Sprintf("ring %s: rollover held at version %d: %s", e.Ring, e.Version, strings.Join(names, "; "))
}

func (e *HeldError) Hint() string {
	who := "them"
	switch {
	case len(e.Behind) == 1 && len(e.Agents) == 0:
		who = e.Behind[0].Server
	case len(e.Behind) == 0 && len(e.Agents) > 0:
		return "see what they report:  keytide status\n" +
			"they say so within a minute of applying it; an agent that does not report, or has outputs that fail, holds it: roll over all the same with --force, or wait for others:  keytide ring set " + string(e.Ring) + " --guard-agents none"
	}
	return "see who is behind and why:  keytide status\n" +
		fmt.Sprintf("it goes on by itself once they have confirmed; rolling over now would make agents of %s refuse cookies sealed elsewhere; to do it all the same:  --force", who)
}

func (e *HeldError) Forceable() bool { return true }
func (e *HeldError) Unwrap() error   { return ErrRefused }

// FullError refuses a rollover that would leave more than MaxOld old keys.
type FullError struct {
	Ring       RingName
	Old        int           // old keys held now
	MaxSession time.Duration // for which the oldest one's sessions may live
	Free       time.Time     // when the oldest one may end, if every server has confirmed its retirement
}

func (e *FullError) Error() string {
	return fmt.Sprintf("ring %s: rollover refused: it holds %d old keys, and %d is the most; each is kept for max_session %v and %v more",
		e.Ring, e.Old, MaxOld, e.MaxSession, RetainMargin)
}

func (e *FullError) Hint() string {
	return fmt.Sprintf("wait until %s, when the oldest key may end; keys to come end sooner with:  keytide ring set %s --max-session DURATION",
		e.Free.UTC().Format(time.RFC3339), e.Ring)
}

func (e *FullError) Forceable() bool { return false }
func (e *FullError) Unwrap() error   { return ErrRefused }

// RetainError refuses a policy that destroys keys while sessions that they sealed
// may still live.
type RetainError struct {
	Policy    Policy
	Interval  time.Duration // the shortest time between two rollovers
	Scheduled bool          // Interval is the schedule's shortest gap, not min_interval
}

// Kept is the least time for which the policy keeps an old key.
func (e *RetainError) Kept() time.Duration { return time.Duration(e.Policy.Retain) * e.Interval }

func (e *RetainError) Error() string {
	what := "min_interval"
	if e.Scheduled {
		what = "the schedule's shortest gap"
	}
	return fmt.Sprintf("retain %v keeps an old key for as little as %v (%v × %s %v), less than max_session %v: users would be logged out",
		e.Policy.Retain, e.Kept(), e.Policy.Retain, what, e.Interval, e.Policy.MaxSession)
}

func (e *RetainError) Hint() string {
	p := e.Policy
	ways := "policies that work:"
	// Without limits of its own a number always works; auto does where the keys that it
	// keeps are not too many.
	if !e.Scheduled || e.Interval > 0 && int((p.MaxSession+RetainMargin)/e.Interval)+1 <= MaxOld {
		ways += "  --retain auto  or"
	}
	if e.Interval > 0 {
		if n := (p.MaxSession + e.Interval - 1) / e.Interval; n <= MaxOld {
			ways += fmt.Sprintf("  --retain %d  or", n)
		}
		ways += fmt.Sprintf("  --max-session %v  or", e.Kept())
	}
	interval := (p.MaxSession + time.Duration(p.Retain) - 1) / time.Duration(p.Retain)
	if e.Scheduled {
		ways += fmt.Sprintf("  a schedule with %v or more between two rollovers\n", interval)
	} else {
		ways += fmt.Sprintf("  --min-interval %v\n", interval)
	}
	return ways + fmt.Sprintf("SiteMinder's rule, session ≤ 2 × interval, allows sessions of %v here\n", 2*e.Interval) +
		"to set it all the same:  --force"
}

func (e *RetainError) Forceable() bool { return true }
func (e *RetainError) Unwrap() error   { return ErrRefused }

// IntervalError refuses a schedule that comes sooner than min_interval allows.
type IntervalError struct {
	Policy   Policy
	Shortest time.Duration // the schedule's shortest gap
}

func (e *IntervalError) Error() string {
	return fmt.Sprintf("schedule %q rolls over again after %v, sooner than min_interval %v allows", e.Policy.Schedule, e.Shortest, e.Policy.MinInterval)
}

func (e *IntervalError) Hint() string {
	return fmt.Sprintf("policies that work:  a schedule with %v or more between two rollovers  or  --min-interval %v", e.Policy.MinInterval, e.Shortest)
}

func (e *IntervalError) Forceable() bool { return false }
func (e *IntervalError) Unwrap() error   { return ErrRefused }

// CrowdedError refuses a policy whose schedule would have more than MaxOld old keys
// at a time.
type CrowdedError struct {
	Policy   Policy
	Shortest time.Duration // the schedule's shortest gap
	Keys     int           // that the ring would hold
}

func (e *CrowdedError) Error() string {
	return fmt.Sprintf("retain auto keeps an old key for %v (max_session %v and %v), and schedule %q makes one every %v: %d old keys, and %d is the most",
		e.Policy.MaxSession+RetainMargin, e.Policy.MaxSession, RetainMargin, e.Policy.Schedule, e.Shortest, e.Keys, MaxOld)
}

func (e *CrowdedError) Hint() string {
	kept := e.Policy.MaxSession + RetainMargin
	ways := fmt.Sprintf("policies that work:  a schedule with %v or more between two rollovers", (kept/MaxOld).Truncate(time.Minute)+time.Minute)
	if session := MaxOld*e.Shortest - RetainMargin - 1; session >= time.Second {
		ways += fmt.Sprintf("  or  --max-session %v", session.Truncate(time.Second))
	}
	return ways
}

func (e *CrowdedError) Forceable() bool { return false }
func (e *CrowdedError) Unwrap() error   { return ErrRefused }

// UndoError refuses an undo where there is nothing to go back to.
type UndoError struct {
	Ring   RingName
	Rolled time.Time // the last rollover; zero: none yet
}

func (e *UndoError) Error() string {
	if e.Rolled.IsZero() {
		return fmt.Sprintf("ring %s: nothing to undo: it has not rolled over yet", e.Ring)
	}
	return fmt.Sprintf("ring %s: nothing to undo: the key that was current before the rollover of %s is not held any more, or was made current again",
		e.Ring, SlotText(e.Rolled))
}

func (e *UndoError) Hint() string {
	return fmt.Sprintf("see what happened:  keytide history %s\nto have other keys seal:  keytide rollover %s", e.Ring, e.Ring)
}

func (e *UndoError) Forceable() bool { return false }
func (e *UndoError) Unwrap() error   { return ErrRefused }

// GrantedError refuses to delete a ring that hosts are granted.
type GrantedError struct {
	Ring  RingName
	Hosts []string
}

const namedHosts = 8 // hosts that an error names

func (e *GrantedError) Error() string {
	text := fmt.Sprintf("ring %s: deletion refused: %d trusted hosts are granted it: ", e.Ring, len(e.Hosts))
	if len(e.Hosts) == 1 {
		text = fmt.Sprintf("ring %s: deletion refused: a trusted host is granted it: ", e.Ring)
	}
	text += strings.Join(e.Hosts[:min(len(e.Hosts), namedHosts)], ", ")
	if more := len(e.Hosts) - namedHosts; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

func (e *GrantedError) Hint() string {
	return "see which hosts there are:  keytide host list\n" +
		"their agents would have no key of the ring any more, and every cookie that it sealed would be refused; to do it all the same:  --force"
}

func (e *GrantedError) Forceable() bool { return true }
func (e *GrantedError) Unwrap() error   { return ErrRefused }

// brief rounds a duration for people.
func brief(d time.Duration) time.Duration {
	if d < time.Second {
		return d.Round(time.Millisecond)
	}
	return d.Round(time.Second)
}
