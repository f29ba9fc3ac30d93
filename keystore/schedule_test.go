package keystore_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keytide/keytide/keystore"
)

func TestScheduleHasOneForm(t *testing.T) {
	for _, c := range []struct{ rule, want string }{
		{"", ""},
		{"manual", ""},
		{"every 3h", "every 3h"},
		{"every 90m", "every 1h30m"},
		{"every 45m0s", "every 45m"},
		{"every 10m", "every 10m"},
		{"every 100h", "every 100h"},
		{"every 8784h", "every 8784h"},
		{" daily  14:30,02:30 ", "daily 02:30,14:30"},
		{"weekly mon,thu@02:30", "weekly mon,thu@02:30"},
		{"weekly Thu,MON@02:30", "weekly mon,thu@02:30"},
		{"weekly sun@04:00,mon-wed@02:30", "weekly mon-wed@02:30,sun@04:00"},
		{"weekly mon@14:30,02:30,sat@04:00", "weekly mon@02:30,14:30,sat@04:00"},
		{"weekly sat-mon@00:00", "weekly mon,sat,sun@00:00"},
		{"weekly mon@02:30,mon@03:30", "weekly mon@02:30,03:30"},
		{"cron  0 3 *  * MON", "cron 0 3 * * mon"},
		{"cron 0-30/15,45 */2 1-7,L JAN mon-FRI", "cron 0-30/15,45 */2 1-7,l jan mon-fri"}, // values are Compile's to check
	} {
		s, err := keystore.ParseSchedule(c.rule, "")
		if err != nil {
			t.Errorf("%q: %v", c.rule, err)
			continue
		}
		if s.Rule != c.want {
			t.Errorf("%q: Rule = %q, want %q", c.rule, s.Rule, c.want)
		}
		if again, err := keystore.ParseSchedule(s.String(), s.Zone()); err != nil || again != s {
			t.Errorf("%q: read back as %+v, %v; want %+v", s, again, err, s)
		}
	}
}

func TestScheduleRefuses(t *testing.T) {
	for _, c := range []struct{ rule, want string }{
		{"hourly", "want \"manual\""},
		{"hourly 1", "\"hourly\" is no kind of schedule"},
		{"manual 3h", "want \"manual\""},
		{"every", "want \"manual\""},
		{"every 3h 4h", "want \"manual\""},
		{"every 3", "whole minutes or hours"},
		{"every 30s", "whole minutes or hours"},
		{"every 1h30s", "whole minutes or hours"},
		{"every -3h", "from 1m to 8784h"},
		{"every 8785h", "from 1m to 8784h"},
		{"daily 2:30", "\"2:30\" is no time"},
		{"daily 24:00", "\"24:00\" is no time"},
		{"daily 02:60", "\"02:60\" is no time"},
		{"daily +2:30", "\"+2:30\" is no time"},
		{"daily 02:30,", "\"\" is no time"},
		{"daily 02:30,02:30", "02:30 is there twice"},
		{"weekly 02:30", "want days before a time"},
		{"weekly mon,thu", "want a time after the days"},
		{"weekly mon@02:30,thu", "want a time after the days"},
		{"weekly monday@02:30", "\"monday\" is no day"},
		{"weekly mon-@02:30", "\"\" is no day"},
		{"weekly mon@", "\"\" is no time"},
		{"weekly mon-wed,tue@02:30", "tue@02:30 is there twice"},
		{"cron TZ=Europe/Berlin 0 3 * * *", "the time zone stands apart"},
		{"cron CRON_TZ=UTC 0 3 * * *", "the time zone stands apart"},
		{"cron @daily", "want five fields instead of @daily"},
		{"cron 0 0 3 * * *", "without seconds"},
		{"cron 0 3 * *", "has 4 fields"},
		{"cron 0 3 ? * *", "\"?\": want *, a number"},
		{"cron , 3 * * *", "\",\": want *, a number"},
		{"cron 1,,2 3 * * *", "\"1,,2\": want *, a number"},
		{"cron *-5 3 * * *", "\"*-5\": want *, a number"},
		{"cron 5/15 3 * * *", "\"5/15\": want *, a number"},
		{"cron */ 3 * * *", "\"*/\": want *, a number"},
		{"cron 0 3 l * *-", "\"*-\": want *, a number"},
		{"cron 0 3 * * fri#2", "\"fri#2\": want *, a number"},
		{"daily " + strings.Repeat("02:30,", 100), "at most 512"},
	} {
		_, err := keystore.ParseSchedule(c.rule, "")
		checkInvalid(t, c.rule, err, c.want)
	}
}

func checkInvalid(t *testing.T, text string, err error, want string) {
	t.Helper()
	if !errors.Is(err, keystore.ErrInvalid) || !strings.Contains(err.Error(), want) {
		t.Errorf("%q: error %v; want one that wraps ErrInvalid and has %q", text, err, want)
	}
}

func TestBlackoutHasOneForm(t *testing.T) {
	day := func(s string) int {
		at, err := time.Parse(time.DateOnly, s)
		if err != nil {
			t.Fatal(err)
		}
		return int(at.Unix() / 60)
	}
	all := func(from, to int) (spans []keystore.Span) {
		for _, d := range []int{1, 2, 3, 4, 5, 6, 0} {
			spans = append(spans, keystore.Span{From: d*1440 + from, To: d*1440 + to})
		}
		return spans
	}
	for _, c := range []struct {
		text, want    string
		weekly, dated []keystore.Span
	}{
		{"08:00-10:00", "08:00-10:00", all(480, 600), nil},
		{"22:00-06:00", "22:00-06:00", all(1320, 1800), nil},
		{"22:00-00:00", "22:00-24:00", all(1320, 1440), nil},
		{"00:00-24:00", "00:00-24:00", all(0, 1440), nil},
		{"Fri,sun@08:00-10:00", "fri,sun@08:00-10:00", []keystore.Span{{From: 7680, To: 7800}, {From: 480, To: 600}}, nil},
		{"mon-wed@23:00-01:00", "mon-wed@23:00-01:00", []keystore.Span{
			{From: 2820, To: 2940}, {From: 4260, To: 4380}, {From: 5700, To: 5820}}, nil},
		{"fri@22:00-sun@06:00", "fri@22:00-sun@06:00", []keystore.Span{{From: 8520, To: 10440}}, nil},
		{"sat@22:00-sun@06:00", "sat@22:00-sun@06:00", []keystore.Span{{From: 9960, To: 10440}}, nil},
		{"2026-12-20..2027-01-06", "2026-12-20..2027-01-06", nil, []keystore.Span{{From: day("2026-12-20"), To: day("2027-01-07")}}},
		{"2026-12-20..2026-12-20", "2026-12-20..2026-12-20", nil, []keystore.Span{{From: day("2026-12-20"), To: day("2026-12-21")}}},
		{"2026-12-20@18:00..2027-01-06@06:30", "2026-12-20@18:00..2027-01-06@06:30", nil,
			[]keystore.Span{{From: day("2026-12-20") + 1080, To: day("2027-01-06") + 390}}},
	} {
		s, err := keystore.ParseSchedule("daily 02:30", "", c.text)
		if err != nil {
			t.Errorf("%q: %v", c.text, err)
			continue
		}
		if s.Blackout != c.want {
			t.Errorf("%q: Blackout = %q, want %q", c.text, s.Blackout, c.want)
		}
		parts, err := s.Parts()
		if err != nil {
			t.Errorf("%q: Parts: %v", c.text, err)
		}
		if diff := cmp.Diff([2][]keystore.Span{c.weekly, c.dated}, [2][]keystore.Span{parts.Weekly, parts.Dated}); diff != "" {
			t.Errorf("%q: spans (-want +got):\n%s", c.text, diff)
		}
	}
}

func TestBlackoutRefuses(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"08:00", "want a window such as"},
		{"weekends", "want a window such as"},
		{"08:00-08:00", "is empty"},
		{"00:00-00:00", "is empty"},
		{"24:00-08:00", "\"24:00\" is no time"},
		{"08:00-25:00", "\"25:00\" is no time"},
		{"@08:00-10:00", "\"\" is no day"},
		{"mon,mon@08:00-10:00", "mon is there twice"},
		{"mon,tue-@08:00-10:00", "\"\" is no day"},
		{"fri@22:00-fri@22:00", "is empty"},
		{"22:00-sun@06:00", "want a day and a time"},
		{"fri@22:00-sun@24:00", "\"24:00\" is no time"},
		{"2026-12-20..", "\"\" is no date"},
		{"2026-02-29..2026-03-01", "\"2026-02-29\" is no date"},
		{"1999-12-31..2000-01-01", "want 2000-01-01 to 2199-12-31"},
		{"2027-01-06..2026-12-20", "ends before it begins"},
		{"2026-12-20@06:00..2026-12-20@06:00", "ends before it begins"},
		{"2026-12-20@18:00..2027-01-06", "at both ends or at neither"},
		{"2026-01-01..2027-01-02", "longer than 366 days"},
		{"08:00-10:00 08:00-10:00", "is there twice"},
		{strings.Repeat("08:00-10:00 ", 33), "at most 32"},
	} {
		_, err := keystore.ParseSchedule("daily 02:30", "", c.text)
		checkInvalid(t, c.text, err, c.want)
	}
}

func TestScheduleZoneNames(t *testing.T) {
	for _, tz := range []string{"", "UTC"} {
		if s, err := keystore.ParseSchedule("daily 02:30", tz); err != nil || s.TZ != "" || s.Zone() != "UTC" {
			t.Errorf("%q: %+v, %v; want the zone UTC, which is empty", tz, s, err)
		}
	}
	for _, tz := range []string{"Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+5", "EST5EDT"} {
		if s, err := keystore.ParseSchedule("daily 02:30", tz); err != nil || s.Zone() != tz {
			t.Errorf("%q: %+v, %v", tz, s, err)
		}
	}
	for tz, want := range map[string]string{
		"Local": "same zone on every machine", "localtime": "same zone on every machine", "right/UTC": "same zone on every machine",
		"/etc/passwd": "same zone on every machine", "../zone": "has '.'", "Europe/Berlin ": "has ' '",
		strings.Repeat("a", 65): "at most 64",
	} {
		_, err := keystore.ParseSchedule("daily 02:30", tz)
		checkInvalid(t, tz, err, want)
	}
}

func TestScheduleReportsAllFaults(t *testing.T) {
	_, err := keystore.ParseSchedule("daily 2:30", "Local", "08:00-08:00", "25:00-26:00")
	for _, want := range []string{"2:30", "Local", "08:00-08:00", "25:00"} {
		checkInvalid(t, "all at once", err, want)
	}
}

// TestScheduleCheck refuses what is not as ParseSchedule returns it.
func TestScheduleCheck(t *testing.T) {
	for _, s := range []keystore.Schedule{
		{Rule: "manual"}, {Rule: "daily 14:30,02:30"}, {Rule: "every 90m"}, {TZ: "UTC"}, {Blackout: "08:00-10:00  11:00-12:00"},
	} {
		checkInvalid(t, s.Rule, s.Check(), "is stored as")
	}
	if err := (keystore.Schedule{}).Check(); err != nil {
		t.Errorf("the zero schedule: %v", err)
	}
}

func TestScheduleJSON(t *testing.T) {
	s, err := keystore.ParseSchedule("weekly mon,thu@02:30", "Europe/Berlin", "08:00-10:00", "2026-12-20..2027-01-06")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		schedule keystore.Schedule
		want     string
	}{
		{s, `{"rule":"weekly mon,thu@02:30","tz":"Europe/Berlin","blackout":["08:00-10:00","2026-12-20..2027-01-06"]}`},
		{keystore.Schedule{}, `{"rule":"manual","tz":"UTC","blackout":[]}`},
	} {
		got, err := json.Marshal(c.schedule)
		if err != nil || string(got) != c.want {
			t.Errorf("Marshal = %s, %v, want %s", got, err, c.want)
		}
		var back keystore.Schedule
		if err := json.Unmarshal(got, &back); err != nil || back != c.schedule {
			t.Errorf("Unmarshal(%s) = %+v, %v, want %+v", got, back, err, c.schedule)
		}
	}
	var back keystore.Schedule
	checkInvalid(t, "JSON", json.Unmarshal([]byte(`{"rule":"daily 25:00"}`), &back), `"25:00" is no time`)
}

// FuzzParseSchedule: what is read has one form, which reads back as itself.
func FuzzParseSchedule(f *testing.F) {
	f.Add("every 3h", "UTC", "08:00-10:00")
	f.Add("daily 02:30,14:30", "Europe/Berlin", "22:00-06:00 mon-fri@08:00-24:00")
	f.Add("weekly mon,thu@02:30,04:00,sat@04:00", "", "fri@22:00-sun@06:00")
	f.Add("cron */5 3 1,15 * mon-fri", "Etc/GMT+5", "2026-12-20@18:00..2027-01-06@06:00")
	f.Fuzz(func(t *testing.T, rule, tz, blackout string) {
		s, err := keystore.ParseSchedule(rule, tz, blackout)
		if err != nil {
			if !errors.Is(err, keystore.ErrInvalid) || s != (keystore.Schedule{}) {
				t.Errorf("ParseSchedule = %+v, %v", s, err)
			}
			return
		}
		parts, err := s.Parts()
		if err != nil {
			t.Fatalf("Parts of %+v: %v", s, err)
		}
		for _, span := range append(parts.Weekly, parts.Dated...) {
			if span.From < 0 || span.To <= span.From {
				t.Errorf("%+v: span %+v", s, span)
			}
		}
		for _, span := range parts.Weekly {
			if span.From >= keystore.MinutesPerWeek || span.To-span.From > keystore.MinutesPerWeek {
				t.Errorf("%+v: weekly span %+v", s, span)
			}
		}
		data, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var back keystore.Schedule
		if err := json.Unmarshal(data, &back); err != nil || back != s {
			t.Errorf("%s reads back as %+v, %v; want %+v", data, back, err, s)
		}
	})
}
