package schedule

import (
	"fmt"
	"time"

	"github.com/keytide/keytide/keystore"
)

// A Plan is a schedule that is ready to compute slots. Slots are whole seconds, in
// UTC. A Plan never changes, and its methods may run concurrently.
type Plan struct {
	zone  zone
	every time.Duration // elapsed time; 0 = the calendar counts
	times *calendar     // wall-clock times; nil with every, and for a manual schedule
	black blackout
}

// Compile checks everything about s and makes its plan. Refused are an unknown time
// zone, a cron expression with values out of range, one that never fires, blackout
// windows that leave no time, and a schedule all of whose times they cover. The error
// wraps keystore.ErrInvalid.
func Compile(s keystore.Schedule) (*Plan, error) {
	parts, err := s.Parts()
	if err != nil {
		return nil, err
	}
	p := &Plan{every: parts.Every}
	if p.zone, err = loadZone(s.Zone()); err != nil {
		return nil, err
	}
	if p.black, err = newBlackout(parts.Weekly, parts.Dated); err != nil {
		return nil, err
	}
	switch parts.Kind {
	case keystore.ScheduleDaily, keystore.ScheduleWeekly:
		p.times = &calendar{week: parts.Week}
	case keystore.ScheduleCron:
		if p.times, err = parseCron(parts.Cron); err != nil {
			return nil, fmt.Errorf("schedule %q: %w", s.Rule, err)
		}
	}
	if p.times != nil {
		if err := p.times.fires(p.black); err != nil {
			return nil, fmt.Errorf("schedule %q: %w", s.Rule, err)
		}
	}
	return p, nil
}

// Years between which slots are computed.
const (
	firstYear = 1
	lastYear  = 9999
)

// Next returns the first slot strictly after the given instant, and false if there is
// none: a manual schedule has no slots.
//
// With an "every" schedule, after is where counting begins: the slot, rollover or
// change of policy before. Otherwise slots do not depend on where one looks from; an
// instant within a blackout is followed by the slot at its end, if one has moved there
// from before the instant too.
func (p *Plan) Next(after time.Time) (time.Time, bool) {
	after = after.UTC()
	if year := after.Year(); year < firstYear || year > lastYear {
		return time.Time{}, false
	}
	var slot time.Time
	ok := false
	switch {
	case p.every != 0:
		slot, ok = ceil(after.Add(p.every)), true
	case p.times != nil && p.moved(after):
		slot, ok = after, true
	case p.times != nil:
		slot, ok = p.nextTime(after)
	}
	if ok {
		slot, ok = p.release(slot)
	}
	if !ok || slot.Year() > lastYear {
		return time.Time{}, false
	}
	return slot, true
}

// Following returns the slot that follows a rollover which answered slot last, as seen
// at now: the first one after both. An "every" schedule keeps its step: its slots
// are whole multiples of it after last, so that neither a rollover a moment late nor
// missed slots shift those to come.
func (p *Plan) Following(last, now time.Time) (time.Time, bool) {
	from := last
	if now.After(last) {
		from = now
		if p.every != 0 {
			from = last.Add(now.Sub(last) / p.every * p.every)
		}
	}
	return p.Next(from)
}

// nextTime returns the first instant after the given one to which a wall-clock time
// of the calendar comes, without regard to blackouts.
func (p *Plan) nextTime(after time.Time) (time.Time, bool) {
	// Times up to what the clock shows have come. Those after it may have, too, if the
	// clock was set back since: at most a day's, so the loop ends.
	wall := p.zone.wall(after)
	for {
		next, ok := p.times.next(wall)
		if !ok {
			return time.Time{}, false
		}
		if at := p.zone.instant(next); at.After(after) {
			return at, true
		}
		wall = next
	}
}

// moved reports whether at lies within a blackout, to whose end a time that came
// before at, or at it, has moved.
func (p *Plan) moved(at time.Time) bool {
	begin, ok := p.begin(at)
	if !ok {
		return false
	}
	first, ok := p.nextTime(begin.Add(-time.Nanosecond))
	return ok && !first.After(at)
}

// ceil is t, or the next whole second.
func ceil(t time.Time) time.Time {
	if s := t.Truncate(time.Second); !s.Equal(t) {
		return s.Add(time.Second)
	}
	return t
}
