package keystore

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// parseBlackouts reads windows into p and returns their one form.
func (p *ScheduleParts) parseBlackouts(texts []string) (string, error) {
	given := strings.Join(texts, " ")
	windows := strings.Fields(given)
	if len(windows) > maxWindows || len(given) > maxBlackout {
		return "", invalidf("blackout: has %d windows in %d characters; at most %d in %d are allowed",
			len(windows), len(given), maxWindows, maxBlackout)
	}
	var errs []error
	for i, window := range windows {
		text, err := p.parseWindow(window)
		if err == nil && slices.Contains(windows[:i], text) {
			err = invalidf("is there twice")
		}
		if err != nil {
			errs = append(errs, prefixed(err, "blackout %q", window))
		}
		windows[i] = text
	}
	return strings.Join(windows, " "), errors.Join(errs...)
}

func (p *ScheduleParts) parseWindow(s string) (string, error) {
	if from, to, ok := strings.Cut(s, ".."); ok {
		return p.parseDated(from, to)
	}
	if i := strings.LastIndex(s, "-"); i >= 0 && strings.Contains(s[i:], "@") {
		return p.parseFromTo(s[:i], s[i+1:])
	}
	return p.parseHours(s)
}

// parseHours reads 08:00-10:00, on all days or those before an @.
func (p *ScheduleParts) parseHours(s string) (string, error) {
	dayWords, hours, ok := strings.Cut(s, "@")
	if !ok {
		dayWords, hours = "", s
	}
	from, to, isRange := strings.Cut(hours, "-")
	if !isRange {
		return "", invalidf("want a window such as 08:00-10:00, mon-fri@08:00-18:00, fri@22:00-sun@06:00 or 2026-12-20..2027-01-06")
	}
	days := slices.Clone(week[:])
	if ok {
		var err error
		if days, err = parseDayList(dayWords); err != nil {
			return "", err
		}
	}
	begin, err := parseClock(from)
	if err != nil {
		return "", err
	}
	end, err := parseEnd(to)
	if err != nil {
		return "", err
	}
	if begin == end {
		return "", invalidf("is empty")
	}
	if end == 0 {
		end = MinutesPerDay
	}
	text := clockText(begin) + "-" + clockText(end)
	if ok {
		text = daysText(days) + "@" + text
	}
	if end < begin {
		end += MinutesPerDay
	}
	for _, day := range days {
		p.Weekly = append(p.Weekly, Span{int(day)*MinutesPerDay + begin, int(day)*MinutesPerDay + end})
	}
	return text, nil
}

// parseDayList reads days and ranges of days, separated by commas, and returns them
// in the order of week.
func parseDayList(s string) ([]time.Weekday, error) {
	var has [7]bool
	for _, word := range strings.Split(s, ",") {
		days, err := parseDays(word)
		if err != nil {
			return nil, err
		}
		for _, day := range days {
			if has[day] {
				return nil, invalidf("%s is there twice", dayNames[day])
			}
			has[day] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(week[:]), func(day time.Weekday) bool { return !has[day] }), nil
}

// parseEnd reads the end of a window, which may be 24:00.
func parseEnd(s string) (int, error) {
	if s == "24:00" {
		return MinutesPerDay, nil
	}
	return parseClock(s)
}

// parseFromTo reads fri@22:00-sun@06:00.
func (p *ScheduleParts) parseFromTo(from, to string) (string, error) {
	begin, err := parseMoment(from)
	if err != nil {
		return "", err
	}
	end, err := parseMoment(to)
	if err != nil {
		return "", err
	}
	if begin == end {
		return "", invalidf("is empty")
	}
	text := momentText(begin) + "-" + momentText(end)
	if end < begin {
		end += MinutesPerWeek
	}
	p.Weekly = append(p.Weekly, Span{begin, end})
	return text, nil
}

// parseMoment reads fri@22:00 as minutes since Sunday 00:00.
func parseMoment(s string) (int, error) {
	dayWord, clock, ok := strings.Cut(s, "@")
	if !ok {
		return 0, invalidf("%q: want a day and a time, such as fri@22:00", s)
	}
	day, err := parseDay(dayWord)
	if err != nil {
		return 0, err
	}
	m, err := parseClock(clock)
	return int(day)*MinutesPerDay + m, err
}

func momentText(minute int) string {
	return dayNames[minute/MinutesPerDay] + "@" + clockText(minute%MinutesPerDay)
}

// parseDated reads 2026-12-20..2027-01-06, or with a time at both ends.
func (p *ScheduleParts) parseDated(from, to string) (string, error) {
	begin, beginTimed, err := parseDate(from)
	if err != nil {
		return "", err
	}
	end, endTimed, err := parseDate(to)
	if err != nil {
		return "", err
	}
	if beginTimed != endTimed {
		return "", invalidf("want a time at both ends or at neither")
	}
	if !endTimed {
		end += MinutesPerDay
	}
	switch {
	case end <= begin:
		return "", invalidf("ends before it begins")
	case end-begin > int(longest/time.Minute):
		return "", invalidf("is longer than %d days", longest/(24*time.Hour))
	}
	p.Dated = append(p.Dated, Span{begin, end})
	return from + ".." + to, nil
}

// parseDate reads 2026-12-20 or 2026-12-20@18:00 as wall-clock minutes since
// 1970-01-01 00:00.
func parseDate(s string) (minute int, timed bool, err error) {
	date, clock, timed := strings.Cut(s, "@")
	day, err := time.Parse(time.DateOnly, date)
	if err != nil || day.Year() < 2000 || day.Year() > 2199 {
		return 0, false, invalidf("%q is no date; want 2000-01-01 to 2199-12-31, or one with a time such as 2026-12-20@18:00", date)
	}
	if timed {
		if minute, err = parseClock(clock); err != nil {
			return 0, false, err
		}
	}
	return int(day.Unix()/60) + minute, timed, nil
}

func prefixed(err error, format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, err)...)
}
