package schedule

import (
	"fmt"
	"slices"
	"strings"
	"time"

	cron "github.com/netresearch/go-cron"

	"github.com/keytide/keytide/keystore"
)

const (
	daySeconds = 24 * 60 * 60
	// searchDays bounds every search for a day. Any day of a month falls on any weekday
	// at least once in 40 years, 29 February around a year such as 2100 included.
	searchDays = 50 * 366
)

// A calendar is a set of wall-clock times: the minutes of each weekday, on all days
// or on those of a cron expression.
type calendar struct {
	week [7][]int // ascending
	days *cronDays
}

// cronDays are the days of a cron expression, as sets of bits.
type cronDays struct {
	month, day, weekday uint64
	both                bool // day and weekday must fit; otherwise either does
}

var cronParser = cron.MustNewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow)

// parseCron reads an expression of five fields. Only its sets of values are taken
// from the cron package: how they make times is decided here.
func parseCron(expression string) (*calendar, error) {
	parsed, err := cronParser.Parse(expression)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", keystore.ErrInvalid, err)
	}
	spec, ok := parsed.(*cron.SpecSchedule)
	fields := strings.Fields(expression)
	if !ok || len(fields) != 5 {
		return nil, fmt.Errorf("%w: is no expression of five fields", keystore.ErrInvalid)
	}
	var minutes []int
	for m := range keystore.MinutesPerDay {
		if has(spec.Hour, m/60) && has(spec.Minute, m%60) {
			minutes = append(minutes, m)
		}
	}
	c := &calendar{days: &cronDays{
		month: spec.Month, day: spec.Dom, weekday: spec.Dow,
		// As crontab has it: a field that begins with * restricts nothing by itself, so
		// the other one decides; of two that restrict, either suffices.
		both: strings.HasPrefix(fields[2], "*") || strings.HasPrefix(fields[4], "*"),
	}}
	for i := range c.week {
		c.week[i] = minutes
	}
	return c, nil
}

func has(bits uint64, i int) bool { return bits>>i&1 != 0 }

// on returns the minutes of a day, counted from 1970-01-01.
func (c *calendar) on(day int64) []int {
	weekday := weekdayOf(day)
	if c.days != nil {
		_, month, dayOfMonth := time.Unix(day*daySeconds, 0).UTC().Date()
		onDay, onWeekday := has(c.days.day, dayOfMonth), has(c.days.weekday, weekday)
		fits := onDay && onWeekday || !c.days.both && (onDay || onWeekday)
		if !fits || !has(c.days.month, int(month)) {
			return nil
		}
	}
	return c.week[weekday]
}

// weekdayOf is a day's weekday; Sunday is 0.
func weekdayOf(day int64) int {
	return int(floorMod(day+int64(time.Thursday), 7)) // 1970-01-01 was a Thursday
}

// next returns the first time of the calendar after wall.
func (c *calendar) next(wall int64) (int64, bool) {
	today := floorDiv(wall, daySeconds)
	for day := today; day < today+searchDays; day++ {
		minutes := c.on(day)
		if day == today {
			passed, _ := slices.BinarySearch(minutes, int(floorMod(wall, daySeconds)/60)+1)
			minutes = minutes[passed:]
		}
		if len(minutes) > 0 {
			return day*daySeconds + int64(minutes[0])*60, true
		}
	}
	return 0, false
}

// fires refuses a calendar without times, or without any that is clear of the windows
// that come each week.
func (c *calendar) fires(black blackout) error {
	clear := [7]bool{}
	for weekday, minutes := range c.week {
		for _, minute := range minutes {
			if !black.weekly(weekday*keystore.MinutesPerDay + minute) {
				clear[weekday] = true
			}
		}
	}
	fires := false
	for day := range int64(searchDays) {
		if len(c.on(day)) == 0 {
			continue
		}
		if fires = true; clear[weekdayOf(day)] {
			return nil
		}
	}
	if !fires {
		return fmt.Errorf("%w: never fires: none of its months has such a day", keystore.ErrInvalid)
	}
	return fmt.Errorf("%w: all of its times are within blackout windows, and would move to their ends; want times outside them", keystore.ErrInvalid)
}

func floorDiv(a, b int64) int64 { return (a - floorMod(a, b)) / b }

func floorMod(a, b int64) int64 { return (a%b + b) % b }
