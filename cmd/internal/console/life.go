package console

import (
	"time"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

const (
	maxGone   = 3  // destroyed keys that a ring's time line still shows
	maxEvents = 12 // events of a ring that are kept for the page
)

// A life is what a ring's history says of one key. A zero time is one that has not
// come, or is not known.
type life struct {
	kid       string
	made      time.Time
	from, to  time.Time // current
	destroyed time.Time
}

// fits reports whether a key of this role can have had this life.
func (l life) fits(role string) bool {
	began, ended := !l.from.IsZero(), !l.to.IsZero()
	switch role {
	case keystore.Current.String():
		return began && !ended
	case keystore.Old.String():
		return began && ended
	}
	return !began && !ended
}

// A past is what the page needs of a ring's history. It does not grow with it.
type past struct {
	lives  map[string]life // of the ring's keys
	gone   []life          // destroyed keys, newest first
	events []adminapi.HistoryEvent
}

// pastOf folds the history of a ring up to its last event. Events that the history
// has beyond it, because they happened since the ring was read, are left out.
func pastOf(ring adminapi.Ring, history []adminapi.HistoryEvent) past {
	f := fold{lives: make(map[string]life)}
	for i, e := range history {
		if e.N > ring.LastEvent.N {
			history = history[:i]
			break
		}
		f.apply(e)
	}
	p := past{lives: make(map[string]life, len(ring.Keys)), gone: f.gone}
	for _, k := range ring.Keys {
		l := f.lives[k.KID]
		l.kid, l.made = k.KID, k.CreatedAt
		// A history with changes that this fold does not know must not make the page
		// tell of times that were not.
		if !l.fits(k.Role) {
			l.from, l.to = time.Time{}, time.Time{}
		}
		p.lives[k.KID] = l
	}
	for i := len(history) - 1; i >= 0 && len(p.events) < maxEvents; i-- {
		p.events = append(p.events, history[i])
	}
	return p
}

// A fold follows which key is current and which is next.
type fold struct {
	lives           map[string]life
	current, future string
	gone            []life
}

func (f *fold) apply(e adminapi.HistoryEvent) {
	switch e.Trigger {
	case "":
	case keystore.Fresh.String(), keystore.Emergency.String(): // both keys are new
		f.change(f.current, func(l *life) { l.to = e.At })
		f.current, f.future = "", ""
	default:
		f.change(f.current, func(l *life) { l.to = e.At })
		f.change(f.future, func(l *life) { l.from = e.At })
		f.current, f.future = f.future, ""
	}
	if e.Restored != "" { // an undo
		f.change(f.current, func(l *life) { l.to = e.At })
		f.change(e.Restored, func(l *life) { l.to = time.Time{} })
		f.current = e.Restored
	}
	for _, made := range e.Made {
		l := life{kid: made.KID, made: e.At}
		switch made.Role {
		case keystore.Current.String():
			f.current, l.from = made.KID, e.At
		case keystore.Future.String():
			f.future = made.KID
		}
		f.lives[made.KID] = l
	}
	for _, kid := range e.Gone {
		l := f.lives[kid]
		l.kid, l.destroyed = kid, e.At
		delete(f.lives, kid)
		f.gone = append([]life{l}, f.gone[:min(len(f.gone), maxGone-1)]...)
	}
}

func (f *fold) change(kid string, with func(*life)) {
	if l, ok := f.lives[kid]; ok {
		with(&l)
		f.lives[kid] = l
	}
}
