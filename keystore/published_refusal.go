package keystore

import (
	"fmt"
	"strings"
	"time"
)

// PendingError refuses a new static or session ticket key while one is pending.
type PendingError struct {
	Ring RingName
	Role Role
	KID  KID // the pending key
}

func (e *PendingError) Error() string {
	return fmt.Sprintf("ring %s: a new %s key refused: key %s is published and not active yet", e.Ring, e.Role, e.KID)
}

func (e *PendingError) Hint() string {
	return "it becomes active by itself once every policy server has confirmed it; see who has not:  keytide status"
}
func (e *PendingError) Forceable() bool { return false }
func (e *PendingError) Unwrap() error   { return ErrRefused }

// OverlapError refuses an overlap that would end sessions or tickets before their time.
type OverlapError struct {
	Ring                RingName
	What                string        // what would open for too short a time
	Overlap, MaxSession time.Duration // MaxSession: the longest under which it sealed
}

func (e *OverlapError) Error() string {
	return fmt.Sprintf("ring %s: refused: %s would open for %v more, less than max_session %v: users would be logged out",
		e.Ring, e.What, e.Overlap, e.MaxSession)
}

func (e *OverlapError) Hint() string {
	return fmt.Sprintf("give it --overlap %v or more\nto do it all the same:  --force", e.MaxSession)
}
func (e *OverlapError) Forceable() bool { return true }
func (e *OverlapError) Unwrap() error   { return ErrRefused }

// FormerError refuses a key when a ring would hold too many that only open.
type FormerError struct {
	Ring RingName
	Role Role
	Keys int
}

func (e *FormerError) Error() string {
	return fmt.Sprintf("ring %s: refused: it would hold %d %s keys that only open, and %d is the most", e.Ring, e.Keys, e.Role, MaxFormer)
}

func (e *FormerError) Hint() string {
	return fmt.Sprintf("they end by themselves when their overlap is over; see them:  keytide ring show %s", e.Ring)
}
func (e *FormerError) Forceable() bool { return false }
func (e *FormerError) Unwrap() error   { return ErrRefused }

// UnconfirmedError says that what is published is not confirmed by every server yet.
type UnconfirmedError struct {
	Ring   RingName
	Behind []Behind // empty: no server at all has confirmed
}

func (e *UnconfirmedError) Error() string {
	names := make([]string, len(e.Behind))
	for i, b := range e.Behind {
		names[i] = b.String()
	}
	if len(names) == 0 {
		return fmt.Sprintf("ring %s: no policy server is known to have what is published", e.Ring)
	}
	return fmt.Sprintf("ring %s: what is published waits: %s", e.Ring, strings.Join(names, "; "))
}

func (e *UnconfirmedError) Hint() string    { return "see who is behind and why:  keytide status" }
func (e *UnconfirmedError) Forceable() bool { return false }
func (e *UnconfirmedError) Unwrap() error   { return ErrRefused }
