package keystore

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// A Schedule says when a ring rolls over by itself. The zero Schedule never does:
// the ring rolls over by hand.
//
// It is three texts, each in the one form that ParseSchedule gives it, so that two
// schedules are the same if they are ==, and are stored as they stand. Package
// keystore/schedule computes its slots.
type Schedule struct {
	// Rule is empty (manual) or one of
	//
	//	every 3h                      elapsed time: whole minutes, 1m to 8784h
	//	daily 02:30,14:30             wall-clock times of each day
	//	weekly mon,thu@02:30,sat@04:00   days @ times; a day after a time begins anew
	//	cron 0 3 1,15 * *             minute, hour, day of month, month, weekday
	Rule string
	// TZ is the IANA name of the time zone whose wall clock Rule and Blackout speak
	// of; empty means UTC.
	TZ string
	// Blackout is the windows, separated by spaces, in which no slot falls: those that
	// would are moved to the window's end. A window includes its first minute, not
	// its last:
	//
	//	08:00-10:00                   each day; 22:00-06:00 runs over midnight
	//	mon-fri@08:00-18:00           on those days; mon,wed@22:00-06:00 begins on them
	//	fri@22:00-sun@06:00           each week, from one moment to another
	//	2026-12-20..2027-01-06        whole days, the last one included
	//	2026-12-20@18:00..2027-01-06@06:00   moments
	Blackout string
}

// Limits of a schedule.
const (
	maxRule     = 512 // bytes of Rule
	maxTZ       = 64  // bytes of TZ
	maxWindows  = 32  // windows of Blackout
	maxBlackout = 2048
)

// A ScheduleKind is the kind of a schedule's rule: its first word.
type ScheduleKind string

const (
	ScheduleManual ScheduleKind = "manual"
	ScheduleEvery  ScheduleKind = "every"
	ScheduleDaily  ScheduleKind = "daily"
	ScheduleWeekly ScheduleKind = "weekly"
	ScheduleCron   ScheduleKind = "cron"
)

// ParseSchedule reads a rule ("manual", "every 3h", "daily 02:30,14:30",
// "weekly mon,thu@02:30", "cron 0 3 * * 1"; empty means manual), a time zone (empty
// means UTC) and blackout windows, each text one or several of them, separated by
// spaces. It reports all faults together; they wrap ErrInvalid.
//
// It knows no time zones and does not say whether a rule ever fires: that is
// keystore/schedule's Compile.
func ParseSchedule(rule, tz string, blackouts ...string) (Schedule, error) {
	var s Schedule
	var parts ScheduleParts
	var errs [3]error
	s.Rule, errs[0] = parts.parseRule(rule)
	s.TZ, errs[1] = parseTZ(tz)
	s.Blackout, errs[2] = parts.parseBlackouts(blackouts)
	if err := errors.Join(errs[:]...); err != nil {
		return Schedule{}, err
	}
	return s, nil
}

// Check reports whether s is what ParseSchedule returns. The error wraps ErrInvalid.
func (s Schedule) Check() error {
	_, err := s.Parts()
	return err
}

// IsManual reports whether the ring rolls over by hand only.
func (s Schedule) IsManual() bool { return s.Rule == "" }

// String is the rule's text: "manual", "every 3h", ...
func (s Schedule) String() string {
	if s.IsManual() {
		return string(ScheduleManual)
	}
	return s.Rule
}

// Zone is the name of the time zone: "UTC" if TZ is empty.
func (s Schedule) Zone() string {
	if s.TZ == "" {
		return time.UTC.String()
	}
	return s.TZ
}

// Blackouts are the windows, each by itself.
func (s Schedule) Blackouts() []string { return strings.Fields(s.Blackout) }

// ScheduleParts is a schedule taken apart.
type ScheduleParts struct {
	Kind  ScheduleKind
	Every time.Duration // ScheduleEvery: how long from one slot to the next
	Week  [7][]int      // ScheduleDaily, ScheduleWeekly: each weekday's minutes (Sunday is 0), ascending
	Cron  string        // ScheduleCron: the five fields
	// Weekly are the windows that come each week, in minutes since Sunday 00:00. One
	// that runs over the week's end ends after MinutesPerWeek.
	Weekly []Span
	// Dated are the windows that come once, in minutes of the wall clock since
	// 1970-01-01 00:00.
	Dated []Span
}

// A Span is wall-clock minutes from From to before To.
type Span struct{ From, To int }

// Lengths in minutes.
const (
	MinutesPerDay  = 24 * 60
	MinutesPerWeek = 7 * MinutesPerDay
)

// Parts takes s apart. The error, which wraps ErrInvalid, is about a text that
// ParseSchedule refuses, or gives another form.
func (s Schedule) Parts() (ScheduleParts, error) {
	var parts ScheduleParts
	var errs [3]error
	texts := [3]struct{ what, have, want string }{{"schedule", s.Rule, ""}, {"tz", s.TZ, ""}, {"blackout", s.Blackout, ""}}
	texts[0].want, errs[0] = parts.parseRule(s.Rule)
	texts[1].want, errs[1] = parseTZ(s.TZ)
	texts[2].want, errs[2] = parts.parseBlackouts([]string{s.Blackout})
	for i, text := range texts {
		if errs[i] == nil && text.have != text.want {
			errs[i] = invalidf("%s %q: is stored as %q", text.what, text.have, text.want)
		}
	}
	if err := errors.Join(errs[:]...); err != nil {
		return ScheduleParts{}, err
	}
	return parts, nil
}

// scheduleJSON is a schedule's JSON.
type scheduleJSON struct {
	Rule     string   `json:"rule"`
	TZ       string   `json:"tz"`
	Blackout []string `json:"blackout"`
}

// MarshalJSON gives {"rule":"daily 02:30","tz":"Europe/Berlin","blackout":[]}; a
// manual schedule's rule is "manual", an empty zone is "UTC".
func (s Schedule) MarshalJSON() ([]byte, error) {
	return json.Marshal(scheduleJSON{s.String(), s.Zone(), append([]string{}, s.Blackouts()...)})
}

// UnmarshalJSON reads a schedule as ParseSchedule does.
func (s *Schedule) UnmarshalJSON(data []byte) error {
	var in scheduleJSON
	if err := json.Unmarshal(data, &in); err != nil {
		return fmt.Errorf("schedule: %w", err)
	}
	parsed, err := ParseSchedule(in.Rule, in.TZ, in.Blackout...)
	if err != nil {
		return err
	}
	*s = parsed
	return nil
}

// parseTZ checks the form of a zone's name. Names that mean another zone on another
// machine, or count leap seconds, are refused.
func parseTZ(tz string) (string, error) {
	if tz == "" || tz == "UTC" {
		return "", nil
	}
	if len(tz) > maxTZ {
		return "", invalidf("tz: has %d characters; at most %d are allowed", len(tz), maxTZ)
	}
	for _, c := range []byte(tz) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && !(c >= '0' && c <= '9') && !strings.ContainsRune("_+-/", rune(c)) {
			return "", invalidf("tz %q: has %q; want an IANA name such as Europe/Berlin", tz, c)
		}
	}
	first, _, _ := strings.Cut(tz, "/")
	switch strings.ToLower(first) {
	case "", "local", "localtime", "posix", "posixrules", "right", "factory":
		return "", invalidf("tz %q: is not the same zone on every machine; want an IANA name such as Europe/Berlin", tz)
	}
	return tz, nil
}
