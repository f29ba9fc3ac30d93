package console

import (
	"fmt"
	"time"
)

// The time line of a ring ends a fifth of its width after now, so that now is at
// the same place on every page.
const (
	nowAt   = 82.0 // per cent of the width
	minSpan = 2 * time.Minute
)

// A scale maps times to places on a time line.
type scale struct{ from, now time.Time }

// newScale begins at the earliest of the times, but shows two minutes at least.
func newScale(now time.Time, times ...time.Time) scale {
	s := scale{from: now.Add(-minSpan), now: now}
	for _, t := range times {
		if !t.IsZero() && t.Before(s.from) {
			s.from = t
		}
	}
	return s
}

// at is the place of t, in per cent of the width, clipped to the line's ends.
func (s scale) at(t time.Time) float64 {
	x := float64(t.Sub(s.from)) / float64(s.now.Sub(s.from)) * nowAt
	return max(0, min(100, x))
}

// A span is a part of a key's life on the line, in per cent of the width.
type span struct {
	Kind     string // next, seals, opens, kept, static, ticket
	From, To float64
}

// X and W are the span's place as SVG attributes.
func (s span) X() string { return percent(s.From) }
func (s span) W() string { return percent(max(s.To-s.From, 0.5)) }

// percent writes a place as an SVG length.
func percent(x float64) string { return fmt.Sprintf("%.2f%%", x) }

// A tick is a labelled time on the line.
type tick struct{ X, Label string }

// steps are the distances that two ticks may have.
var steps = []time.Duration{
	time.Minute, 2 * time.Minute, 5 * time.Minute, 15 * time.Minute, 30 * time.Minute,
	time.Hour, 2 * time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour,
	day, 2 * day, 7 * day, 14 * day, 30 * day, 90 * day, 365 * day, 10 * 365 * day,
}

const day = 24 * time.Hour

// ticks returns up to four round times of the past, apart from now and from each
// other by enough for their labels.
func (s scale) ticks() []tick {
	length := s.now.Sub(s.from)
	step := steps[len(steps)-1]
	for _, candidate := range steps {
		if length/candidate <= 4 {
			step = candidate
			break
		}
	}
	layout := "15:04"
	switch {
	case step >= 90*day:
		layout = "Jan 2006"
	case step >= day:
		layout = "2 Jan"
	}
	var ticks []tick
	for t := s.from.UTC().Truncate(step); t.Before(s.now); t = t.Add(step) {
		if x := s.at(t); t.After(s.from) && x > 3 && x < nowAt-6 {
			ticks = append(ticks, tick{X: percent(x), Label: t.Format(layout)})
		}
	}
	return ticks
}

// spans are the phases of a key's life: published but not yet sealing, sealing,
// and opening only; and, after now, what is still to come of it. keptUntil is zero
// where nobody knows.
func (s scale) spans(role string, l life, keptUntil time.Time) []span {
	end := s.now
	if !l.destroyed.IsZero() {
		end = l.destroyed
	}
	switch role {
	case "static", "session_ticket":
		return []span{{Kind: kindOf[role], From: s.at(l.made), To: s.at(end)}}
	}
	var spans []span
	drawn := 0.0
	add := func(kind string, from, to time.Time) {
		// Events carry the clocks of the servers that wrote them. What has happened is
		// before now all the same, and one phase is after the other.
		a, b := max(drawn, min(s.at(from), nowAt)), min(s.at(to), nowAt)
		if a < b {
			spans = append(spans, span{Kind: kind, From: a, To: b})
			drawn = b
		}
	}
	switch {
	case l.from.IsZero() && role == "future":
		add("next", l.made, end)
		return spans
	case l.from.IsZero() && role == "current": // nobody knows since when
		return nil
	case l.from.IsZero():
		add("opens", l.made, end)
		return spans
	}
	add("next", l.made, l.from)
	if l.to.IsZero() {
		add("seals", l.from, end)
		return spans
	}
	add("seals", l.from, l.to)
	add("opens", l.to, end)
	if l.destroyed.IsZero() && keptUntil.After(s.now) {
		spans = append(spans, span{Kind: "kept", From: nowAt, To: s.at(keptUntil)})
	}
	return spans
}

var kindOf = map[string]string{"static": "static", "session_ticket": "ticket"}
