package schedule

import (
	"fmt"
	"slices"
	"time"

	"github.com/keytide/keytide/keystore"
)

// A blackout is the wall-clock times in which no slot falls.
type blackout struct {
	// week has, for each minute since Sunday 00:00, how many minutes the windows
	// that come each week cover from there on; nil if there are none.
	week []int
	back []int // likewise, how many before it
	// dated are the windows that come once, in minutes since 1970-01-01 00:00.
	dated []keystore.Span
}

func newBlackout(weekly, dated []keystore.Span) (blackout, error) {
	b := blackout{dated: dated}
	if len(weekly) == 0 {
		return b, nil
	}
	var covered [keystore.MinutesPerWeek]bool
	for _, span := range weekly {
		for m := span.From; m < span.To; m++ {
			covered[m%len(covered)] = true
		}
	}
	if !slices.Contains(covered[:], false) {
		return blackout{}, fmt.Errorf("%w: blackout: the windows cover the whole week; want some time between them", keystore.ErrInvalid)
	}
	b.week, b.back = make([]int, len(covered)), make([]int, len(covered))
	// Twice around, so that a window over the week's end is whole.
	for i := range 2 * len(covered) {
		m := i % len(covered)
		if before := (m + len(covered) - 1) % len(covered); covered[before] {
			b.back[m] = b.back[before] + 1
		}
		m = len(covered) - 1 - m
		if covered[m] {
			b.week[m] = b.week[(m+1)%len(covered)] + 1
		}
	}
	return b, nil
}

// none reports whether there are no windows at all.
func (b blackout) none() bool { return b.week == nil && len(b.dated) == 0 }

// weekly reports whether a window that comes each week covers this minute of it.
func (b blackout) weekly(minute int) bool { return b.week != nil && b.week[minute] > 0 }

// at returns the wall-clock times, in seconds, from which and to which one of the
// windows covers wall, and false if none does.
func (b blackout) at(wall int64) (begin, end int64, covered bool) {
	minute := floorDiv(wall, 60)
	for _, span := range b.dated {
		if from, to := int64(span.From), int64(span.To); from <= minute && minute < to {
			return from * 60, to * 60, true
		}
	}
	if b.week == nil {
		return 0, 0, false
	}
	// 1970-01-01 was a Thursday.
	m := floorMod(minute+int64(time.Thursday)*keystore.MinutesPerDay, keystore.MinutesPerWeek)
	return (minute - int64(b.back[m])) * 60, (minute + int64(b.week[m])) * 60, b.week[m] > 0
}

// maxMoves bounds the moves from window to window and from clock change to clock
// change: 32 windows of a year each, in a zone with several changes a year, need fewer.
const maxMoves = 10_000

// release returns t, or the first instant after it that no window covers.
func (p *Plan) release(t time.Time) (time.Time, bool) {
	if p.black.none() {
		return t, true
	}
	for range maxMoves {
		wall := p.zone.wall(t)
		_, end, covered := p.black.at(wall)
		if !covered {
			return t, true
		}
		next := time.Unix(t.Unix()+end-wall, 0).UTC()
		if bound, ok := p.zone.bound(t); ok && bound.Before(next) {
			next = bound
		}
		t = next
	}
	return time.Time{}, false
}

// begin returns since when windows have covered every instant up to t, and false if
// none covers t.
func (p *Plan) begin(t time.Time) (time.Time, bool) {
	if p.black.none() {
		return t, false
	}
	found := false
	for range maxMoves {
		wall := p.zone.wall(t)
		begin, _, covered := p.black.at(wall)
		if !covered {
			break
		}
		found = true
		since := time.Unix(t.Unix()+begin-wall, 0).UTC()
		for bound, ok := p.zone.bound(since); ok && !bound.After(t); bound, ok = p.zone.bound(bound) {
			since = bound
		}
		t = since.Add(-time.Second)
	}
	return t.Add(time.Second), found
}

// ends returns the instants at which dated windows end.
func (p *Plan) ends() []time.Time {
	var ends []time.Time
	for _, span := range p.black.dated {
		ends = append(ends, p.zone.instant(int64(span.To)*60))
	}
	return ends
}
