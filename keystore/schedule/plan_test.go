package schedule_test

import (
	"errors"
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // the tests' zones do not depend on the machine

	"github.com/google/go-cmp/cmp"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/schedule"
)

func compile(tb testing.TB, rule, tz string, blackouts ...string) *schedule.Plan {
	tb.Helper()
	s, err := keystore.ParseSchedule(rule, tz, blackouts...)
	if err != nil {
		tb.Fatal(err)
	}
	p, err := schedule.Compile(s)
	if err != nil {
		tb.Fatalf("Compile: %v", err)
	}
	return p
}

func at(tb testing.TB, s string) time.Time {
	tb.Helper()
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		tb.Fatal(err)
	}
	return t.UTC()
}

// slots are the next n, in UTC to the minute or, if there are any, to the second.
func slots(p *schedule.Plan, after time.Time, n int) []string {
	var slots []string
	for range n {
		slot, ok := p.Next(after)
		if !ok {
			return append(slots, "none")
		}
		text := slot.Format("2006-01-02 15:04:05")
		slots = append(slots, strings.TrimSuffix(text, ":00"))
		after = slot
	}
	return slots
}

type slotCase struct {
	name, rule, tz string
	blackouts      []string
	after          string
	want           []string
}

func checkSlots(t *testing.T, cases []slotCase) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p := compile(t, c.rule, c.tz, c.blackouts...)
			if diff := cmp.Diff(c.want, slots(p, at(t, c.after), len(c.want))); diff != "" {
				t.Errorf("%s %s %v: slots (-want +got):\n%s", c.rule, c.tz, c.blackouts, diff)
			}
		})
	}
}

// TestSlotsOverClockChanges: the expected instants were worked out by hand from the
// zones' rules.
func TestSlotsOverClockChanges(t *testing.T) {
	checkSlots(t, []slotCase{
		// 2026-03-29 02:00 becomes 03:00 in Berlin; 2026-10-25 03:00 becomes 02:00.
		{name: "Berlin, skipped", rule: "daily 02:30", tz: "Europe/Berlin", after: "2026-03-27T12:00:00Z",
			want: []string{"2026-03-28 01:30", "2026-03-29 01:00", "2026-03-30 00:30"}},
		{name: "Berlin, several skipped are one", rule: "daily 02:00,02:30,03:00,03:30", tz: "Europe/Berlin", after: "2026-03-29T00:59:00Z",
			want: []string{"2026-03-29 01:00", "2026-03-29 01:30", "2026-03-30 00:00"}},
		{name: "Berlin, twice is once", rule: "daily 02:30", tz: "Europe/Berlin", after: "2026-10-24T12:00:00Z",
			want: []string{"2026-10-25 00:30", "2026-10-26 01:30"}},
		{name: "Berlin, from within the second coming", rule: "daily 02:30", tz: "Europe/Berlin", after: "2026-10-25T01:10:00Z",
			want: []string{"2026-10-26 01:30"}},
		{name: "Berlin, each quarter", rule: "cron */15 * * * *", tz: "Europe/Berlin", after: "2026-10-25T00:30:00Z",
			want: []string{"2026-10-25 00:45", "2026-10-25 02:00", "2026-10-25 02:15"}},
		{name: "Berlin, elapsed time", rule: "every 3h", tz: "Europe/Berlin", after: "2026-03-28T23:30:00Z",
			want: []string{"2026-03-29 02:30", "2026-03-29 05:30"}},
		// 2026-03-08 02:00 becomes 03:00 in New York; 2026-11-01 02:00 becomes 01:00.
		{name: "New York, skipped", rule: "weekly sun@02:00", tz: "America/New_York", after: "2026-03-01T12:00:00Z",
			want: []string{"2026-03-08 07:00", "2026-03-15 06:00"}},
		{name: "New York, twice is once", rule: "daily 01:00,01:59", tz: "America/New_York", after: "2026-11-01T04:00:00Z",
			want: []string{"2026-11-01 05:00", "2026-11-01 05:59", "2026-11-02 06:00"}},
		// 2026-04-05 02:00 becomes 01:30 on Lord Howe; 2026-10-04 02:00 becomes 02:30.
		{name: "Lord Howe, half an hour skipped", rule: "daily 02:15,02:30", tz: "Australia/Lord_Howe", after: "2026-10-02T16:00:00Z",
			want: []string{"2026-10-03 15:30", "2026-10-04 15:15", "2026-10-04 15:30"}},
		{name: "Lord Howe, half an hour twice", rule: "daily 01:29,01:45,02:00", tz: "Australia/Lord_Howe", after: "2026-04-04T14:00:00Z",
			want: []string{"2026-04-04 14:29", "2026-04-04 14:45", "2026-04-04 15:30", "2026-04-05 14:59"}},
		// After 2011-12-29 24:00 it was 2011-12-31 00:00 in Apia.
		{name: "Apia, a skipped day", rule: "daily 09:00", tz: "Pacific/Apia", after: "2011-12-29T00:00:00Z",
			want: []string{"2011-12-29 19:00", "2011-12-30 10:00", "2011-12-30 19:00"}},
		{name: "Apia, a weekday skipped", rule: "weekly fri@09:00", tz: "Pacific/Apia", after: "2011-12-25T00:00:00Z",
			want: []string{"2011-12-30 10:00", "2012-01-05 19:00"}},
		{name: "Apia, midnight after it", rule: "daily 00:00", tz: "Pacific/Apia", after: "2011-12-29T00:00:00Z",
			want: []string{"2011-12-29 10:00", "2011-12-30 10:00", "2011-12-31 10:00"}},
		{name: "Apia, cron on the day", rule: "cron 30 * 30 12 *", tz: "Pacific/Apia", after: "2011-01-01T00:00:00Z",
			want: []string{"2011-12-30 10:00", "2012-12-29 10:30"}},
		// 2026-09-06 00:00 becomes 01:00 in Santiago; 2026-04-05 00:00 becomes 23:00.
		{name: "Santiago, no midnight", rule: "daily 00:00", tz: "America/Santiago", after: "2026-09-05T12:00:00Z",
			want: []string{"2026-09-06 04:00", "2026-09-07 03:00"}},
		{name: "Santiago, the day's first hour", rule: "weekly sun@00:30,01:00", tz: "America/Santiago", after: "2026-09-05T12:00:00Z",
			want: []string{"2026-09-06 04:00", "2026-09-13 03:30"}},
		{name: "Santiago, an evening twice", rule: "daily 23:30,00:00", tz: "America/Santiago", after: "2026-04-04T12:00:00Z",
			want: []string{"2026-04-05 02:30", "2026-04-05 04:00", "2026-04-06 03:30"}},
		// 2018-11-04 00:00 became 01:00 in São Paulo; 2019-02-17 00:00 became 23:00.
		{name: "São Paulo, no midnight", rule: "cron 0 0 * * *", tz: "America/Sao_Paulo", after: "2018-11-03T12:00:00Z",
			want: []string{"2018-11-04 03:00", "2018-11-05 02:00"}},
		{name: "São Paulo, an evening twice", rule: "cron 59 23 * * sat", tz: "America/Sao_Paulo", after: "2019-02-16T12:00:00Z",
			want: []string{"2019-02-17 01:59", "2019-02-24 02:59"}},
		// In 2026 Ramadan sets Casablanca's clock back at 03:00 on 15 February and
		// forward at 02:00 on 22 March.
		{name: "Casablanca, twice", rule: "daily 02:30", tz: "Africa/Casablanca", after: "2026-02-14T12:00:00Z",
			want: []string{"2026-02-15 01:30", "2026-02-16 02:30"}},
		{name: "Casablanca, skipped", rule: "daily 02:30", tz: "Africa/Casablanca", after: "2026-03-20T12:00:00Z",
			want: []string{"2026-03-21 02:30", "2026-03-22 02:00", "2026-03-23 01:30"}},
		// Both at once: autumn in Sydney is spring in Berlin.
		{name: "Sydney, twice", rule: "daily 02:30", tz: "Australia/Sydney", after: "2026-04-04T00:00:00Z",
			want: []string{"2026-04-04 15:30", "2026-04-05 16:30"}},
		{name: "Sydney, skipped", rule: "daily 02:30", tz: "Australia/Sydney", after: "2026-10-03T00:00:00Z",
			want: []string{"2026-10-03 16:00", "2026-10-04 15:30"}},
	})
}

func TestSlotsByTheCalendar(t *testing.T) {
	checkSlots(t, []slotCase{
		{name: "manual", rule: "manual", after: "2026-01-01T00:00:00Z", want: []string{"none"}},
		{name: "strictly after", rule: "daily 02:30", after: "2026-01-01T02:30:00Z", want: []string{"2026-01-02 02:30"}},
		{name: "just before", rule: "daily 02:30", after: "2026-01-01T02:29:59.999999999Z", want: []string{"2026-01-01 02:30"}},
		{name: "weekly", rule: "weekly mon,thu@02:30,14:30,sat@04:00", after: "2026-11-24T00:00:00Z", want: []string{
			"2026-11-26 02:30", "2026-11-26 14:30", "2026-11-28 04:00", "2026-11-30 02:30"}},
		{name: "every, to the next whole second", rule: "every 90m", after: "2026-01-01T00:00:00.001Z",
			want: []string{"2026-01-01 01:30:01", "2026-01-01 03:00:01"}},
		{name: "every, over a leap day", rule: "every 24h", after: "2028-02-28T12:00:00Z",
			want: []string{"2028-02-29 12:00", "2028-03-01 12:00"}},
		{name: "leap days", rule: "cron 0 12 29 2 *", after: "2092-03-01T00:00:00Z",
			want: []string{"2096-02-29 12:00", "2104-02-29 12:00", "2108-02-29 12:00"}},
		{name: "a leap day's weekday", rule: "cron 0 12 29 2 */7", after: "2024-01-01T00:00:00Z", // Sundays
			want: []string{"2032-02-29 12:00", "2060-02-29 12:00", "2088-02-29 12:00", "2128-02-29 12:00"}},
		{name: "weekly over a leap day", rule: "weekly tue@12:00", after: "2028-02-23T00:00:00Z",
			want: []string{"2028-02-29 12:00", "2028-03-07 12:00"}},
		{name: "cron, either day", rule: "cron 0 3 1 * mon", after: "2026-11-24T00:00:00Z",
			want: []string{"2026-11-30 03:00", "2026-12-01 03:00", "2026-12-07 03:00"}},
		{name: "cron, a star restricts nothing", rule: "cron 0 3 * * mon", after: "2026-11-24T00:00:00Z",
			want: []string{"2026-11-30 03:00", "2026-12-07 03:00"}},
		{name: "cron, a stepped star lets the other decide", rule: "cron 0 3 */2 * mon", after: "2026-11-24T00:00:00Z",
			want: []string{"2026-12-07 03:00", "2026-12-21 03:00"}},
		{name: "cron, Sunday twice", rule: "cron 0 3 * * 0,7", after: "2026-11-24T00:00:00Z",
			want: []string{"2026-11-29 03:00", "2026-12-06 03:00"}},
		{name: "cron, ranges and steps", rule: "cron 0-30/15 22-1 28-31 2,apr *", after: "2027-04-29T23:20:00Z",
			want: []string{"2027-04-29 23:30", "2027-04-30 00:00", "2027-04-30 00:15", "2027-04-30 00:30", "2027-04-30 01:00"}},
		{name: "the last year", rule: "daily 02:30", after: "9999-12-31T02:30:00Z", want: []string{"none"}},
	})
}

func TestSlotsLeaveBlackouts(t *testing.T) {
	berlin := "Europe/Berlin"
	checkSlots(t, []slotCase{
		{name: "moves to the end", rule: "daily 09:00,12:00", blackouts: []string{"08:00-10:00"}, after: "2026-11-24T00:00:00Z",
			want: []string{"2026-11-24 10:00", "2026-11-24 12:00"}},
		{name: "several are one, also with one at the end", rule: "daily 08:00,09:00,10:00,12:00", blackouts: []string{"08:00-10:00"}, after: "2026-11-24T00:00:00Z",
			want: []string{"2026-11-24 10:00", "2026-11-24 12:00"}},
		{name: "the first minute counts", rule: "daily 08:00,12:00", blackouts: []string{"08:00-10:00"}, after: "2026-11-24T00:00:00Z",
			want: []string{"2026-11-24 10:00", "2026-11-24 12:00"}},
		{name: "from window to window", rule: "daily 09:00,23:00", blackouts: []string{"08:00-10:00", "10:00-11:00", "10:30-12:00"}, after: "2026-11-24T00:00:00Z",
			want: []string{"2026-11-24 12:00", "2026-11-24 23:00"}},
		{name: "over midnight", rule: "daily 23:00,02:00,12:00", blackouts: []string{"22:00-06:00"}, after: "2026-11-24T11:00:00Z",
			want: []string{"2026-11-24 12:00", "2026-11-25 06:00", "2026-11-25 12:00"}},
		{name: "a weekend", rule: "daily 02:30", tz: berlin, blackouts: []string{"fri@22:00-sun@06:00"}, after: "2026-11-26T12:00:00Z",
			want: []string{"2026-11-27 01:30", "2026-11-29 05:00", "2026-11-30 01:30"}},
		{name: "over the week's end", rule: "cron 0 12 * * *", blackouts: []string{"sat@06:00-mon@06:00"}, after: "2026-11-27T12:00:00Z",
			want: []string{"2026-11-30 06:00", "2026-11-30 12:00"}},
		{name: "office hours", rule: "cron 0 */6 * * *", blackouts: []string{"mon-fri@08:00-18:00"}, after: "2026-11-27T06:00:00Z",
			want: []string{"2026-11-27 18:00", "2026-11-28 00:00", "2026-11-28 06:00", "2026-11-28 12:00"}},
		{name: "dates", rule: "weekly mon@02:30", blackouts: []string{"2026-12-20..2027-01-06"}, after: "2026-12-14T12:00:00Z",
			want: []string{"2027-01-07 00:00", "2027-01-11 02:30"}},
		{name: "moments", rule: "daily 02:30", blackouts: []string{"2026-12-20@02:30..2026-12-22@01:00"}, after: "2026-12-19T12:00:00Z",
			want: []string{"2026-12-22 01:00", "2026-12-22 02:30"}},
		{name: "from dates into hours", rule: "daily 12:00,02:30", blackouts: []string{"00:00-03:00", "2026-12-20..2026-12-21"}, after: "2026-12-20T01:00:00Z",
			want: []string{"2026-12-22 03:00", "2026-12-22 12:00"}},
		{name: "elapsed time", rule: "every 3h", blackouts: []string{"08:00-10:00"}, after: "2026-11-24T03:00:00.5Z",
			want: []string{"2026-11-24 06:00:01", "2026-11-24 10:00", "2026-11-24 13:00"}},
		{name: "seen from within", rule: "daily 08:30,12:00", blackouts: []string{"08:00-10:00"}, after: "2026-11-24T09:00:00.25Z",
			want: []string{"2026-11-24 10:00", "2026-11-24 12:00"}},
		{name: "seen from within before it", rule: "daily 09:30,12:00", blackouts: []string{"08:00-10:00"}, after: "2026-11-24T09:00:00Z",
			want: []string{"2026-11-24 10:00", "2026-11-24 12:00"}},
		{name: "seen from within, nothing moved", rule: "daily 07:30,12:00", blackouts: []string{"08:00-10:00"}, after: "2026-11-24T09:00:00Z",
			want: []string{"2026-11-24 12:00", "2026-11-25 07:30"}},
		{name: "seen from its end", rule: "daily 08:30,12:00", blackouts: []string{"08:00-10:00"}, after: "2026-11-24T10:00:00Z",
			want: []string{"2026-11-24 12:00", "2026-11-25 10:00"}},
		{name: "seen from within, over a clock change", rule: "daily 12:00,23:30", tz: berlin, blackouts: []string{"00:00-06:00"}, after: "2026-03-29T03:00:00Z",
			want: []string{"2026-03-29 10:00", "2026-03-29 21:30"}},
		{name: "seen from within dates, over two", rule: "weekly sat@12:00", tz: berlin, blackouts: []string{"2026-03-01..2026-12-31"}, after: "2026-12-01T12:00:00Z",
			want: []string{"2026-12-31 23:00", "2027-01-02 11:00"}},
		{name: "a gap in the window", rule: "daily 02:30,12:00", tz: berlin, blackouts: []string{"02:00-02:45"}, after: "2026-03-28T12:00:00Z",
			want: []string{"2026-03-29 01:00", "2026-03-29 10:00"}},
		{name: "a gap into the window", rule: "daily 02:30,12:00", tz: berlin, blackouts: []string{"03:00-04:00"}, after: "2026-03-28T12:00:00Z",
			want: []string{"2026-03-29 02:00", "2026-03-29 10:00"}},
		{name: "an hour covered twice", rule: "every 1h", tz: berlin, blackouts: []string{"02:00-03:00"}, after: "2026-10-24T23:30:00Z",
			want: []string{"2026-10-25 02:00", "2026-10-25 03:00"}},
		{name: "the clock is set back out of the window", rule: "daily 02:45,12:00", tz: berlin, blackouts: []string{"02:30-03:30"}, after: "2026-10-24T12:00:00Z",
			want: []string{"2026-10-25 01:00", "2026-10-25 11:00"}},
	})
}

func TestCompileRefuses(t *testing.T) {
	for _, c := range []struct {
		rule, tz, blackout, want string
	}{
		{"cron 0 0 30 2 *", "", "", "never fires: none of its months has such a day"},
		{"cron 0 0 31 2,4,jun,sep,nov *", "", "", "never fires"},
		{"cron 0 0 30 2 */2", "", "", "never fires"},
		{"cron 60 0 * * *", "", "", "above maximum (59)"},
		{"cron 0 24 * * *", "", "", "above maximum (23)"},
		{"cron 0 0 0 * *", "", "", "below minimum (1)"},
		{"cron 0 0 * 13 *", "", "", "above maximum (12)"},
		{"cron 0 0 * * 8", "", "", "above maximum (7)"},
		{"cron 0 0 l * *", "", "", "requires DomL option"},
		{"cron 0 0 * mon *", "", "", "mon"},
		{"cron */0 0 * * *", "", "", "step"},
		{"daily 02:30", "Mars/Base", "", `tz "Mars/Base": unknown time zone`},
		{"daily 02:30", "europe/Nowhere", "", "want an IANA name such as Europe/Berlin"},
		{"every 3h", "", "fri@22:00-wed@06:00 tue@00:00-sat@00:00", "cover the whole week"},
		{"daily 02:30", "", "00:00-24:00", "cover the whole week"},
		{"daily 02:30,03:00", "", "02:00-04:00", "all of its times are within blackout windows"},
		{"weekly mon,tue@02:30", "", "mon-tue@02:00-03:00", "all of its times are within blackout windows"},
		{"cron 0 3 29 2 *", "", "22:00-04:00", "all of its times are within blackout windows"},
		{"cron 0 3 1-7 * */7", "", "sat@22:00-sun@04:00", "all of its times are within blackout windows"},
	} {
		s, err := keystore.ParseSchedule(c.rule, c.tz, c.blackout)
		if err != nil {
			t.Errorf("%s %s %s: ParseSchedule: %v", c.rule, c.tz, c.blackout, err)
			continue
		}
		_, err = schedule.Compile(s)
		if !errors.Is(err, keystore.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %s %s: Compile: %v; want one that wraps ErrInvalid and has %q", c.rule, c.tz, c.blackout, err, c.want)
		}
	}
	if _, err := schedule.Compile(keystore.Schedule{Rule: "daily 2:30"}); !errors.Is(err, keystore.ErrInvalid) {
		t.Errorf("a schedule that ParseSchedule did not make: %v", err)
	}
	// Not all weeks' times are covered, or only by windows that come once.
	compile(t, "weekly mon,tue@02:30", "", "mon@02:00-03:00")
	compile(t, "cron 0 3 29 2 *", "", "sat@22:00-sun@04:00")
	compile(t, "cron 0 3 1 * mon", "", "mon@02:00-04:00")
	compile(t, "daily 02:30", "", "2026-01-01..2026-12-31")
}

func TestFollowing(t *testing.T) {
	for _, c := range []struct{ name, rule, last, now, want string }{
		{"a moment late", "every 3h", "2026-11-24T12:00:00Z", "2026-11-24T12:00:00.7Z", "2026-11-24 15:00"},
		{"a moment early", "every 3h", "2026-11-24T12:00:00Z", "2026-11-24T11:59:59.7Z", "2026-11-24 15:00"},
		{"held for long", "every 3h", "2026-11-24T12:00:00Z", "2026-11-24T19:00:00Z", "2026-11-24 21:00"},
		{"at the next slot", "every 3h", "2026-11-24T12:00:00Z", "2026-11-24T15:00:00Z", "2026-11-24 18:00"},
		{"daily, late", "daily 02:30", "2026-11-24T02:30:00Z", "2026-11-24T02:30:01Z", "2026-11-25 02:30"},
		{"daily, early", "daily 02:30", "2026-11-24T02:30:00Z", "2026-11-24T02:29:59Z", "2026-11-25 02:30"},
		{"daily, held for days", "daily 02:30", "2026-11-24T02:30:00Z", "2026-11-27T12:00:00Z", "2026-11-28 02:30"},
	} {
		slot, ok := compile(t, c.rule, "").Following(at(t, c.last), at(t, c.now))
		if got := strings.TrimSuffix(slot.Format("2006-01-02 15:04:05"), ":00"); !ok || got != c.want {
			t.Errorf("%s: Following = %s, %v, want %s", c.name, got, ok, c.want)
		}
	}
	if slot, ok := compile(t, "manual", "").Following(at(t, "2026-11-24T02:30:00Z"), at(t, "2026-11-24T02:30:00Z")); ok {
		t.Errorf("a manual schedule: Following = %v", slot)
	}
}
