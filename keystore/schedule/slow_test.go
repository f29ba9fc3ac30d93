package schedule_test

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// A slowClock finds slots without any of the package's arithmetic: it lives through
// every minute, reads the wall clock, and looks up in tables, made from the schedule's
// text, whether this is one. It holds for zones whose offsets are whole minutes, which
// all are since 1972.
type slowClock struct {
	location *time.Location
	times    [7][1440]bool        // of a week, on days that suit
	suits    func(time.Time) bool // of a day: the rule's times count on it
	windows  [7][1440]bool        // of a week
	dated    []string             // windows

	at       time.Time
	wall     time.Time // what the clock shows at at, as a time in UTC
	latest   time.Time // the latest that it has shown
	suitable cachedDay // suits, for latest
	closed   cachedDay // the dated windows, for wall
	even     bool      // the clock is not changed within this hour
	due      bool      // a time has come, and a window holds its slot back
}

type cachedDay struct {
	day   time.Time
	value bool
}

func (c *cachedDay) of(wall time.Time, value func(time.Time) bool) bool {
	if day := wall.Truncate(24 * time.Hour); !day.Equal(c.day) {
		c.day, c.value = day, value(day)
	}
	return c.value
}

func newSlowClock(rule string, location *time.Location, blackouts []string, from time.Time) *slowClock {
	c := &slowClock{location: location, suits: func(time.Time) bool { return true }, at: from.Truncate(time.Minute)}
	kind, arguments, _ := strings.Cut(rule, " ")
	if kind == "cron" {
		c.suits = func(day time.Time) bool { return cronDay(strings.Fields(arguments), day) }
	}
	open := map[string]bool{} // the weekly windows that are open
	for i := range 3 * 7 * 1440 {
		m := time.Date(2023, time.January, 1, 0, i, 0, 0, time.UTC) // a Sunday
		weekday, minute := int(m.Weekday()), m.Hour()*60+m.Minute()
		day, clock := strings.ToLower(m.Weekday().String()[:3]), m.Format("15:04")
		c.times[weekday][minute] = ruleNames(kind, arguments, day, clock, m)
		c.windows[weekday][minute] = false
		for _, window := range blackouts {
			from, to, _ := strings.Cut(window, "-") // 08:00-10:00, fri@22:00-sun@06:00
			switch {
			case to == clock || to == day+"@"+clock:
				open[window] = false
			case from == clock || from == day+"@"+clock:
				open[window] = true
			}
			c.windows[weekday][minute] = c.windows[weekday][minute] || open[window]
		}
	}
	for _, window := range blackouts {
		if strings.Contains(window, "..") {
			c.dated = append(c.dated, window)
		}
	}
	c.wall = c.show(c.at)
	c.latest = c.wall
	return c
}

// show reads the clock.
func (c *slowClock) show(t time.Time) time.Time {
	t = t.In(c.location)
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), 0, 0, time.UTC)
}

// next lives on to the next slot, and gives up at the end.
func (c *slowClock) next(end time.Time) (time.Time, bool) {
	for c.at.Before(end) {
		if c.at.Minute() == 0 { // an hour at whose ends the offset is the same runs evenly
			hour := c.at.Add(time.Hour)
			c.even = c.show(hour).Sub(c.show(c.at)) == time.Hour
		}
		c.at, c.wall = c.at.Add(time.Minute), c.wall.Add(time.Minute)
		if !c.even {
			c.wall = c.show(c.at)
		}
		// Every minute that the clock shows, or jumps over, for the first time.
		for c.latest.Before(c.wall) {
			c.latest = c.latest.Add(time.Minute)
			named := c.times[c.latest.Weekday()][c.latest.Hour()*60+c.latest.Minute()]
			c.due = c.due || named && c.suitable.of(c.latest, c.suits)
		}
		if c.due && !c.covered() {
			c.due = false
			return c.at, true
		}
	}
	return time.Time{}, false
}

func (c *slowClock) covered() bool {
	return c.windows[c.wall.Weekday()][c.wall.Hour()*60+c.wall.Minute()] || c.closed.of(c.wall, func(day time.Time) bool {
		return slices.ContainsFunc(c.dated, func(window string) bool { // 2026-12-20..2027-01-06
			from, to, _ := strings.Cut(window, "..")
			date := day.Format(time.DateOnly)
			return from <= date && date <= to
		})
	})
}

func ruleNames(kind, arguments, day, clock string, m time.Time) bool {
	switch kind {
	case "daily":
		return slices.Contains(strings.Split(arguments, ","), clock)
	case "weekly": // only day@time here
		return slices.Contains(strings.Split(arguments, ","), day+"@"+clock)
	case "cron":
		f := strings.Fields(arguments)
		return fieldNames(f[0], m.Minute(), 0, 59) && fieldNames(f[1], m.Hour(), 0, 23)
	}
	panic("unknown kind " + kind)
}

func cronDay(f []string, day time.Time) bool {
	onDay, onWeekday := fieldNames(f[2], day.Day(), 1, 31), fieldNames(f[4], int(day.Weekday()), 0, 6)
	on := onDay || onWeekday
	if f[2][0] == '*' || f[4][0] == '*' {
		on = onDay && onWeekday
	}
	return on && fieldNames(f[3], int(day.Month()), 1, 12)
}

// fieldNames reads numbers, ranges, * and steps.
func fieldNames(field string, value, first, last int) bool {
	for _, part := range strings.Split(field, ",") {
		values, stepText, stepped := strings.Cut(part, "/")
		step := 1
		if stepped {
			step = number(stepText)
		}
		from, to := first, last
		if values != "*" {
			fromText, toText, isRange := strings.Cut(values, "-")
			from = number(fromText)
			if to = from; isRange {
				to = number(toText)
			}
		}
		if value >= from && value <= to && (value-from)%step == 0 {
			return true
		}
	}
	return false
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return n
}
