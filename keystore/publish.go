package keystore

import (
	"slices"
	"time"
)

const (
	// MaxFormer is the most static or session ticket keys, of each of both, that a ring
	// may hold besides the one that seals and the pending one: each is tried by agents,
	// and travels to them.
	MaxFormer = 8

	// LongestOverlap bounds for how long a former key may still open.
	LongestOverlap = longest
)

// A NewMode is a ring's change between its modes. A mode is published first: agents
// open what the next mode seals with before anybody seals so. When a ring leaves static
// mode, its static keys go on opening sessions for the overlap.
type NewMode struct {
	Next      Mode          `json:"next,omitzero"`       // published, not sealed with yet; zero: none
	Published N             `json:"published,omitempty"` // the event that published it
	Overlap   time.Duration `json:"-"`                   // of Next: for how long static keys still open sessions once static mode is left
	Left      N             `json:"left,omitempty"`      // the event that left static mode, while its overlap lasts
	LeftAt    time.Time     `json:"left_at,omitzero"`    // that event's time
	Session   time.Duration `json:"-"`                   // how long the overlap lasts, from when every server has confirmed Left
}

// IsZero reports whether no change is under way.
func (m NewMode) IsZero() bool { return m == NewMode{} }

// OpensStatic reports whether the static keys open sessions: in static mode, before it
// begins and while its overlap lasts.
func (r Ring) OpensStatic() bool {
	return r.Mode == ModeStatic || r.NewMode.Next == ModeStatic || r.NewMode.Left != 0
}

// A PublishedKey is a key that is to be published.
type PublishedKey struct {
	Key      NewKey
	Role     Role // Static or SessionTicket
	OpenOnly bool // it must never seal here: another store does
}

// A Publication is a request to publish static or session ticket keys.
type Publication struct {
	Keys []PublishedKey
	// Overlap is how long the key that a new one takes the place of still opens, from
	// when every server has stopped to seal with it; and how long an OpenOnly key opens.
	Overlap time.Duration
	Force   bool // take an overlap that may log users out
}

// Publish decides that keys are published: pending, so that every region and agent has
// them before one of them seals. Activate is the second step. OpenOnly keys never
// seal, and stand with the former ones from the start.
//
// It is refused with a *PendingError while a key of the role is pending already, with
// an *OverlapError, which force overrides, when sessions or tickets would end, and
// with a *FormerError when there would be more than MaxFormer keys that only open.
func (r Ring) Publish(req Publication) (Change, error) {
	if !r.lives() {
		return Change{}, ErrNotFound
	}
	if req.Overlap < 0 || req.Overlap > LongestOverlap || req.Overlap%time.Millisecond != 0 {
		return Change{}, invalidf("ring %s: overlap %v: want 0s to %v, in whole milliseconds", r.Name, req.Overlap, LongestOverlap)
	}
	c := Change{Kind: KeyPublished, Ring: r.Name, Version: r.Version + 1, Overlap: req.Overlap}
	for _, k := range req.Keys {
		made := k.Key.made(k.Role)
		made.OpenOnly = k.OpenOnly
		c.Made = append(c.Made, made)
		if refusal := r.unpublishable(k, req.Overlap); refusal != nil {
			if !req.Force || !refusal.Forceable() {
				return Change{}, refusal
			}
			c.Forced = true
		}
	}
	for _, role := range []Role{Static, SessionTicket} {
		if n := r.former(role, req.Keys); n > MaxFormer {
			return Change{}, &FormerError{Ring: r.Name, Role: role, Keys: n}
		}
	}
	return decided(r, c)
}

func (r Ring) unpublishable(k PublishedKey, overlap time.Duration) Refusal {
	if k.OpenOnly {
		return nil
	}
	for _, held := range r.ByRole(k.Role) {
		if held.Pending {
			return &PendingError{Ring: r.Name, Role: k.Role, KID: held.KID}
		}
	}
	if least := r.LeastOverlap(k.Role); overlap < least {
		return &OverlapError{Ring: r.Name, What: "the former " + k.Role.String() + " key", Overlap: overlap, MaxSession: least}
	}
	return nil
}

// LeastOverlap is how long sessions, or tickets, may live that the present key of the
// role has sealed, or still seals: as long as the longest max_session since it became
// active. Static keys seal sessions in static mode alone.
func (r Ring) LeastOverlap(role Role) time.Duration {
	least := time.Duration(0)
	if role == SessionTicket || role == Static && r.OpensStatic() {
		least = r.Policy.MaxSession
	}
	for i := range r.Keys {
		if k := &r.Keys[i]; k.Role == role && k.seals() {
			least = max(least, k.Session)
		}
	}
	return least
}

// LeastModeOverlap is how long static keys must still open sessions when static mode is
// left: the present one as by LeastOverlap, and former ones for what they sealed.
func (r Ring) LeastModeOverlap() time.Duration {
	least := r.LeastOverlap(Static)
	for i := range r.Keys {
		if k := &r.Keys[i]; k.Role == Static && k.Retired != 0 {
			least = max(least, k.Session)
		}
	}
	return least
}

// former counts the keys of a role that will only open once those are there and active.
func (r Ring) former(role Role, more []PublishedKey) int {
	n := len(r.ByRole(role)) - 1 // all but the one that seals then
	for _, k := range more {
		if k.Role == role {
			n++
		}
	}
	return n
}

// A ModeRequest asks for the ring's other mode.
type ModeRequest struct {
	Mode Mode
	// Overlap is for how long static keys still open sessions once static mode is left,
	// from when every server has stopped to seal with them.
	Overlap time.Duration
	Force   bool // take an overlap that may log users out
}

// SetMode decides that the ring's other mode is published. Activate is the second
// step. The present mode takes back one that is published and not active yet.
//
// It is refused with an *OverlapError, which force overrides, when sessions of static
// mode would end.
func (r Ring) SetMode(req ModeRequest) (Change, error) {
	c := Change{Kind: ModeSet, Ring: r.Name, Version: r.Version + 1, Mode: req.Mode}
	switch {
	case !r.lives():
		return Change{}, ErrNotFound
	case req.Mode != ModeDynamic && req.Mode != ModeStatic:
		return Change{}, invalidf("ring %s: unknown mode %d", r.Name, uint8(req.Mode))
	case req.Overlap < 0 || req.Overlap > LongestOverlap || req.Overlap%time.Millisecond != 0:
		return Change{}, invalidf("ring %s: overlap %v: want 0s to %v, in whole milliseconds", r.Name, req.Overlap, LongestOverlap)
	case req.Mode == r.NewMode.Next:
		return Change{}, invalidf("ring %s: %s mode is published already, and begins when every server has confirmed it", r.Name, req.Mode)
	case req.Mode == r.Mode && r.NewMode.Next == 0:
		return Change{}, invalidf("ring %s is in %s mode", r.Name, req.Mode)
	case req.Mode == ModeDynamic && r.Mode == ModeStatic:
		c.Overlap = req.Overlap
		if least := r.LeastModeOverlap(); req.Overlap < least {
			if !req.Force {
				return Change{}, &OverlapError{Ring: r.Name, What: "static mode", Overlap: req.Overlap, MaxSession: least}
			}
			c.Forced = true
		}
	}
	return decided(r, c)
}

// Activate decides that what is published and confirmed by every server that counts is
// sealed with from now on: pending keys, the next mode, or both. What it takes the place
// of retires, and opens for the overlap. It is refused with an *UnconfirmedError while
// nothing that is published is confirmed; ErrNotFound says that nothing is published.
func (r Ring) Activate(servers []Confirmation) (Change, error) {
	c := Change{Kind: KeyActivated, Ring: r.Name, Version: r.Version + 1}
	waits := &UnconfirmedError{Ring: r.Name}
	ripe := func(published N) bool {
		behind, confirmed := unconfirmed(servers, published)
		if confirmed > 0 && len(behind) == 0 {
			return true
		}
		waits.Behind = behind
		return false
	}
	published := false
	for _, k := range r.Keys {
		if k.Pending {
			published = true
			if ripe(k.Published) {
				c.Activated = append(c.Activated, k.KID)
			}
		}
	}
	if r.NewMode.Next != 0 {
		published = true
		if ripe(r.NewMode.Published) {
			c.Mode = r.NewMode.Next
		}
	}
	switch {
	case !r.lives() || !published:
		return Change{}, ErrNotFound
	case len(c.Activated) == 0 && c.Mode == 0:
		return Change{}, waits
	}
	return decided(r, c)
}

// EndOverlap decides that static keys open no sessions any more: their overlap after
// static mode is over at now. confirmed is as for Due. ErrNotFound says that it is not.
func (r Ring) EndOverlap(now time.Time, confirmed func(N) (time.Time, bool)) (Change, error) {
	if !r.lives() || r.NewMode.Left == 0 || r.NewMode.Next != 0 {
		return Change{}, ErrNotFound
	}
	if at, ok := confirmed(r.NewMode.Left); !ok || now.Before(at.Add(r.NewMode.Session+RetainMargin)) {
		return Change{}, ErrNotFound
	}
	return decided(r, Change{Kind: ModeSet, Ring: r.Name, Version: r.Version + 1, Mode: r.Mode})
}

// Retirements are the events that took something out of sealing which still opens:
// what a count of ages must follow.
func (r Ring) Retirements() []N {
	var ns []N
	for _, k := range r.Keys {
		if k.Retired != 0 && !slices.Contains(ns, k.Retired) {
			ns = append(ns, k.Retired)
		}
	}
	if left := r.NewMode.Left; left != 0 && !slices.Contains(ns, left) {
		ns = append(ns, left)
	}
	return ns
}
