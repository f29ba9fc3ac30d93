package keystore

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// parseRule reads a rule into p and returns its one form, which is empty for manual.
func (p *ScheduleParts) parseRule(rule string) (string, error) {
	if len(rule) > maxRule {
		return "", invalidf("schedule: has %d characters; at most %d are allowed", len(rule), maxRule)
	}
	words := strings.Fields(rule)
	if len(words) == 0 {
		words = []string{string(ScheduleManual)}
	}
	p.Kind = ScheduleKind(words[0])
	var text string
	var err error
	switch arguments := words[1:]; {
	case p.Kind == ScheduleManual && len(arguments) == 0:
		return "", nil
	case p.Kind == ScheduleCron:
		text, err = p.parseCron(arguments)
	case len(arguments) != 1 || p.Kind == ScheduleManual:
		err = invalidf(`want "manual", "every 3h", "daily 02:30,14:30", "weekly mon,thu@02:30" or "cron 0 3 * * 1"`)
	case p.Kind == ScheduleEvery:
		text, err = p.parseEvery(arguments[0])
	case p.Kind == ScheduleDaily:
		text, err = p.parseDaily(arguments[0])
	case p.Kind == ScheduleWeekly:
		text, err = p.parseWeekly(arguments[0])
	default:
		err = invalidf("%q is no kind of schedule; want manual, every, daily, weekly or cron", words[0])
	}
	if err != nil {
		return "", prefixed(err, "schedule %q", rule)
	}
	return words[0] + " " + text, nil
}

func (p *ScheduleParts) parseEvery(s string) (string, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d%time.Minute != 0 || d < time.Minute || d > longest {
		return "", invalidf("%q: want whole minutes or hours from 1m to %s, such as 90m or 3h", s, everyText(longest))
	}
	p.Every = d
	return everyText(d), nil
}

// everyText is d in hours and minutes: 3h, 45m, 1h30m.
func everyText(d time.Duration) string {
	text := strings.TrimSuffix(d.String(), "0s")
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

func (p *ScheduleParts) parseDaily(s string) (string, error) {
	var minutes []int
	for _, word := range strings.Split(s, ",") {
		m, err := parseClock(word)
		if err != nil {
			return "", err
		}
		if slices.Contains(minutes, m) {
			return "", invalidf("%s is there twice", clockText(m))
		}
		minutes = append(minutes, m)
	}
	slices.Sort(minutes)
	for day := range p.Week {
		p.Week[day] = minutes
	}
	return clocksText(minutes), nil
}

// parseWeekly reads days and times: "mon,thu@02:30,14:30,sat@04:00" is Monday and
// Thursday at both times, and Saturday at 04:00. A day or a range of days after a
// time begins a new group.
func (p *ScheduleParts) parseWeekly(s string) (string, error) {
	var days []time.Weekday // of the group
	timed := false          // the group has a time
	for _, word := range strings.Split(s, ",") {
		dayWord, clock, at := strings.Cut(word, "@")
		if !at && strings.Contains(word, ":") {
			if !timed {
				return "", invalidf("%q: want days before a time, such as mon,thu@02:30", word)
			}
			clock = word
		} else {
			if timed {
				days, timed = nil, false
			}
			more, err := parseDays(dayWord)
			if err != nil {
				return "", err
			}
			days = append(days, more...)
			if !at {
				continue
			}
		}
		timed = true
		if err := p.addWeekly(days, clock); err != nil {
			return "", err
		}
	}
	if !timed {
		return "", invalidf("%q: want a time after the days, such as mon,thu@02:30", s)
	}
	return p.weeklyText(), nil
}

func (p *ScheduleParts) addWeekly(days []time.Weekday, clock string) error {
	m, err := parseClock(clock)
	if err != nil {
		return err
	}
	for _, day := range days {
		i, found := slices.BinarySearch(p.Week[day], m)
		if found {
			return invalidf("%s@%s is there twice", dayNames[day], clockText(m))
		}
		p.Week[day] = slices.Insert(p.Week[day], i, m)
	}
	return nil
}

// weeklyText groups days that have the same times.
func (p *ScheduleParts) weeklyText() string {
	var groups []string
	var done [7]bool
	for _, day := range week {
		if done[day] || len(p.Week[day]) == 0 {
			continue
		}
		var days []time.Weekday
		for _, other := range week {
			if slices.Equal(p.Week[day], p.Week[other]) {
				days, done[other] = append(days, other), true
			}
		}
		groups = append(groups, daysText(days)+"@"+clocksText(p.Week[day]))
	}
	return strings.Join(groups, ",")
}

// parseCron checks an expression's form; its values are checked when it is compiled.
func (p *ScheduleParts) parseCron(fields []string) (string, error) {
	text := strings.ToLower(strings.Join(fields, " "))
	switch {
	case strings.Contains(text, "tz="):
		return "", invalidf("the time zone stands apart, in tz")
	case strings.HasPrefix(text, "@"):
		return "", invalidf("want five fields instead of %s", fields[0])
	case len(fields) == 6:
		return "", invalidf("has 6 fields; want five, without seconds: minute, hour, day of month, month, weekday")
	case len(fields) != 5:
		return "", invalidf("has %d fields; want five: minute, hour, day of month, month, weekday", len(fields))
	}
	for _, field := range strings.Fields(text) {
		for _, part := range strings.Split(field, ",") {
			if !isCronPart(part) {
				return "", invalidf("%q: want *, a number or name, or a range such as 1-5, and after * or a range a step such as */15, separated by commas", field)
			}
		}
	}
	p.Cron = text
	return text, nil
}

// isCronPart reports whether s has the form of one part of a field: *, 5, 1-5, mon-fri,
// */15 or 0-30/15. What crontab does not know, or not everywhere, is refused.
func isCronPart(s string) bool {
	values, step, stepped := strings.Cut(s, "/")
	from, to, isRange := strings.Cut(values, "-")
	if stepped && (!isWord(step, "0123456789") || values != "*" && !isRange) {
		return false
	}
	const valueChars = "abcdefghijklmnopqrstuvwxyz0123456789"
	return values == "*" || isWord(from, valueChars) && (!isRange || isWord(to, valueChars))
}

// isWord reports whether s is 1 to 3 of the characters.
func isWord(s, chars string) bool {
	return s != "" && len(s) <= 3 && strings.Trim(s, chars) == ""
}

// week is the days of a week as they are written.
var week = [7]time.Weekday{
	time.Monday, time.Tuesday, time.Wednesday, time.Thursday, time.Friday, time.Saturday, time.Sunday,
}

var dayNames = [7]string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

func parseDay(s string) (time.Weekday, error) {
	i := slices.Index(dayNames[:], strings.ToLower(s))
	if i < 0 {
		return 0, invalidf("%q is no day; want mon, tue, wed, thu, fri, sat or sun", s)
	}
	return time.Weekday(i), nil
}

// parseDays reads a day or a range of days, which may run over the week's end.
func parseDays(s string) ([]time.Weekday, error) {
	first, last, isRange := strings.Cut(s, "-")
	from, err := parseDay(first)
	if err != nil {
		return nil, err
	}
	to := from
	if isRange {
		if to, err = parseDay(last); err != nil {
			return nil, err
		}
	}
	days := []time.Weekday{from}
	for day := from; day != to; {
		day = (day + 1) % 7
		days = append(days, day)
	}
	return days, nil
}

// daysText writes days that are in the order of week: three and more in a row as a
// range.
func daysText(days []time.Weekday) string {
	place := func(i int) int { return slices.Index(week[:], days[i]) }
	var words []string
	for i := 0; i < len(days); {
		end := i
		for end+1 < len(days) && place(end+1) == place(end)+1 {
			end++
		}
		if end-i < 2 {
			end = i
			words = append(words, dayNames[days[i]])
		} else {
			words = append(words, dayNames[days[i]]+"-"+dayNames[days[end]])
		}
		i = end + 1
	}
	return strings.Join(words, ",")
}

// parseClock reads HH:MM, from 00:00 to 23:59, as minutes of the day.
func parseClock(s string) (int, error) {
	if len(s) == 5 && s[2] == ':' {
		h, errH := strconv.ParseUint(s[:2], 10, 8)
		m, errM := strconv.ParseUint(s[3:], 10, 8)
		if errH == nil && errM == nil && h < 24 && m < 60 {
			return int(h*60 + m), nil
		}
	}
	return 0, invalidf("%q is no time; want 00:00 to 23:59", s)
}

func clockText(minute int) string {
	two := func(n int) string { return string([]byte{'0' + byte(n/10), '0' + byte(n%10)}) }
	return two(minute/60) + ":" + two(minute%60)
}

func clocksText(minutes []int) string {
	words := make([]string, len(minutes))
	for i, m := range minutes {
		words[i] = clockText(m)
	}
	return strings.Join(words, ",")
}
