package schedule

import (
	"slices"
	"time"
)

// The years whose days and clock changes Shortest looks at.
const (
	shortestFrom = 2025
	shortestTo   = 2100
	// cycleDays is after how many days a sequence of dates and weekdays comes again,
	// but for years such as 2100.
	cycleDays = 28*365 + 7
)

// Shortest returns the least time between two slots in a row: under the clock changes
// that the zone's rules set for 2025 to 2100 and around the dated blackout windows.
// 04:00 each day in Berlin has 23h, 02:30 has 23h30m. With "every" it is the step itself. It is 0 for a
// manual schedule. The time between a rollover by hand and a slot may be shorter.
func (p *Plan) Shortest() time.Duration {
	switch {
	case p.every != 0:
		return p.every
	case p.times == nil:
		return 0
	}
	shortest := p.shortestOnWall()
	if shortest <= time.Minute {
		return shortest
	}
	for _, r := range p.odd(shortest) {
		shortest = min(shortest, p.shortestWithin(r))
	}
	return shortest
}

// A period is the time from one instant to another.
type period struct{ from, to time.Time }

// odd returns the periods in which two slots may be closer than on an even wall clock,
// given that they are then closer than shortest: around clock changes and ends of dated
// windows, or the end of the blackout that these lie in.
func (p *Plan) odd(shortest time.Duration) []period {
	at := append(p.ends(), p.zone.changes(
		time.Date(shortestFrom, time.January, 1, 0, 0, 0, 0, time.UTC),
		time.Date(shortestTo+1, time.January, 1, 0, 0, 0, 0, time.UTC))...)
	slices.SortFunc(at, time.Time.Compare)
	var periods []period
	for _, t := range at {
		end, ok := p.release(t)
		if !ok {
			continue
		}
		next := period{t.Add(-shortest - time.Second), end.Add(shortest)}
		if n := len(periods); n > 0 && !next.from.After(periods[n-1].to) {
			periods[n-1].to = latest(periods[n-1].to, next.to)
			continue
		}
		periods = append(periods, next)
	}
	return periods
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (p *Plan) shortestWithin(r period) time.Duration {
	shortest := r.to.Sub(r.from)
	last, ok := p.Next(r.from)
	for ok && last.Before(r.to) {
		var next time.Time
		if next, ok = p.Next(last); ok {
			shortest, last = min(shortest, next.Sub(last)), next
		}
	}
	return shortest
}

// shortestOnWall is the least time between two slots on a wall clock that is never
// changed, without dated windows.
func (p *Plan) shortestOnWall() time.Duration {
	first := time.Date(shortestFrom, time.January, 1, 0, 0, 0, 0, time.UTC).Unix() / daySeconds
	weekly := blackout{week: p.black.week, back: p.black.back}
	least := p.leastOnWall()
	shortest, slots := int64((shortestTo-shortestFrom)*366*daySeconds), 0
	var last int64
	for n := int64(0); n < (shortestTo-shortestFrom+1)*366 && (n < cycleDays || slots < 2); n++ {
		for _, minute := range p.times.on(first + n) {
			slot := (first+n)*daySeconds + int64(minute)*60
			if _, end, covered := weekly.at(slot); covered {
				slot = end
			}
			if slot == last {
				continue
			}
			if slots++; slots > 1 {
				shortest = min(shortest, slot-last)
			}
			last = slot
		}
		if shortest <= least {
			break // no day to come has less
		}
	}
	return time.Duration(shortest) * time.Second
}

// leastOnWall is no more than shortestOnWall would find, in seconds: the least time
// from a time of day, or the end of a window, to the next time of day.
func (p *Plan) leastOnWall() int64 {
	var times, starts [1440]bool
	for weekday, minutes := range p.times.week {
		for _, m := range minutes {
			times[m], starts[m] = true, true
		}
		for m := range 1440 {
			end := weekday*1440 + m
			if p.black.week != nil && p.black.back[end] > 0 && p.black.week[end] == 0 {
				starts[m] = true
			}
		}
	}
	least := int64(daySeconds)
	next := 0 // minutes to the next time of day
	for i := 3*1440 - 1; i >= 0; i-- {
		m := i % 1440
		next++
		if i < 1440 && starts[m] {
			least = min(least, int64(next)*60)
		}
		if times[m] {
			next = 0
		}
	}
	return least
}
