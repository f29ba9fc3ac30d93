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
// confirmed the ring's present version.
type HeldError struct {
	Ring    RingName
	Version Version  // the version that is not confirmed everywhere
	Behind  []Behind // in the order given; empty: no server at all has confirmed
}

func (e *HeldError) Error() string {
	if len(e.Behind) == 0 {
		return fmt.Sprintf("ring %s: rollover held: no policy server is known to have version %d", e.Ring, e.Version)
	}
	names := make([]string, len(e.Behind))
	for i, b := range e.Behind {
		names[i] = b.String()
	}
	return fmt.Sprintf("ring %s: rollover held at version %d: %s", e.Ring, e.Version, strings.Join(names, "; "))
}

func (e *HeldError) Hint() string {
	who := "them"
	if len(e.Behind) == 1 {
		who = e.Behind[0].Server
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
	Policy Policy
}

// Kept is the least time for which the policy keeps an old key.
func (e *RetainError) Kept() time.Duration {
	return time.Duration(e.Policy.Retain) * e.Policy.MinInterval
}

func (e *RetainError) Error() string {
	return fmt.Sprintf("retain %v keeps an old key for as little as %v (%v × min_interval %v), less than max_session %v: users would be logged out",
		e.Policy.Retain, e.Kept(), e.Policy.Retain, e.Policy.MinInterval, e.Policy.MaxSession)
}

func (e *RetainError) Hint() string {
	p := e.Policy
	ways := "policies that work:  --retain auto"
	if p.MinInterval > 0 {
		if n := (p.MaxSession + p.MinInterval - 1) / p.MinInterval; n <= MaxOld {
			ways += fmt.Sprintf("  or  --retain %d", n)
		}
		ways += fmt.Sprintf("  or  --max-session %v", e.Kept())
	}
	interval := (p.MaxSession + time.Duration(p.Retain) - 1) / time.Duration(p.Retain)
	return ways + fmt.Sprintf("  or  --min-interval %v\n", interval) +
		fmt.Sprintf("SiteMinder's rule, session ≤ 2 × interval, allows sessions of %v here\n", 2*p.MinInterval) +
		"to set it all the same:  --force"
}

func (e *RetainError) Forceable() bool { return true }
func (e *RetainError) Unwrap() error   { return ErrRefused }

// brief rounds a duration for people.
func brief(d time.Duration) time.Duration {
	if d < time.Minute {
		return d.Round(time.Millisecond)
	}
	return d.Round(time.Second)
}
