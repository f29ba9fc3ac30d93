package schedule_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/schedule"
)

func TestShortest(t *testing.T) {
	for _, c := range []struct {
		rule, tz, blackout string
		want               time.Duration
	}{
		{"manual", "", "", 0},
		{"every 3h", "Europe/Berlin", "08:00-10:00", 3 * time.Hour},
		{"daily 02:30", "", "", 24 * time.Hour},
		{"daily 02:30", "Europe/Berlin", "", 23*time.Hour + 30*time.Minute}, // 03:00 for 02:30
		{"daily 04:00", "Europe/Berlin", "", 23 * time.Hour},
		{"daily 02:30", "Asia/Tokyo", "", 24 * time.Hour},
		{"daily 02:15", "Australia/Lord_Howe", "", 23*time.Hour + 45*time.Minute},
		{"daily 02:30,14:30", "Europe/Berlin", "", 11*time.Hour + 30*time.Minute},
		{"daily 02:30,03:10", "Europe/Berlin", "", 10 * time.Minute}, // 03:00 for 02:30
		{"daily 02:30,03:10", "", "", 40 * time.Minute},
		{"daily 00:00,00:40", "Europe/Berlin", "", 40 * time.Minute},
		{"daily 00:00,00:40", "America/Santiago", "", 40 * time.Minute},
		{"daily 00:00,01:20", "America/Santiago", "", 20 * time.Minute},
		{"weekly mon@02:30", "Europe/Berlin", "", 167 * time.Hour},
		{"weekly mon@02:30,thu@14:30", "", "", 84 * time.Hour},
		{"cron * * * * *", "Europe/Berlin", "", time.Minute},
		{"cron */7 * * * *", "Europe/Berlin", "", 4 * time.Minute},
		{"cron 0 3 1 * *", "Europe/Berlin", "", 28 * 24 * time.Hour},
		{"cron 0 3 29 2 *", "", "", 1461 * 24 * time.Hour},
		{"cron 0 3 29 2 */7", "", "", 28*365*24*time.Hour + 7*24*time.Hour},
		{"daily 02:30,06:30", "", "02:00-06:00", 30 * time.Minute},
		{"daily 02:30,06:30", "", "sun@02:00-06:00", 30 * time.Minute},
		{"daily 02:30,06:00", "", "sun@02:00-06:00", 3*time.Hour + 30*time.Minute},
		{"weekly mon@02:30", "", "2026-12-20..2027-01-06", 98*time.Hour + 30*time.Minute},
		{"weekly mon@02:30", "", "2026-12-21..2026-12-21", 146*time.Hour + 30*time.Minute},
		// The clock change moves 02:30 to 03:00, and the window that to 04:00.
		{"daily 02:30,04:10", "Europe/Berlin", "03:00-04:00", 10 * time.Minute},
		{"daily 02:30,12:10,14:00", "Europe/Berlin", "03:00-12:00", 10 * time.Minute},
	} {
		if got := compile(t, c.rule, c.tz, c.blackout).Shortest(); got != c.want {
			t.Errorf("%s %s %s: Shortest = %v, want %v", c.rule, c.tz, c.blackout, got, c.want)
		}
	}
}

// TestShortestIsReached walks through all slots of the years that Shortest speaks of.
func TestShortestIsReached(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(*slotSeed, 0))
	first := time.Date(2025, time.January, 1, 0, 0, 0, 0, time.UTC)
	last := time.Date(2100, time.December, 31, 0, 0, 0, 0, time.UTC)
	for n := 0; n < 12; {
		rule, zone := randomRule(r), slowZones[r.IntN(len(slowZones))]
		s, err := keystore.ParseSchedule(rule, zone, randomBlackouts(r, first.AddDate(r.IntN(10), 0, 0))...)
		if err != nil {
			t.Fatal(err)
		}
		plan, err := schedule.Compile(s)
		if err != nil {
			continue
		}
		want, slots := last.Sub(first), 0
		slot, ok := plan.Next(first)
		for ok && slot.Before(last) && slots < 120_000 {
			var next time.Time
			if next, ok = plan.Next(slot); ok {
				want, slot = min(want, next.Sub(slot)), next
				slots++
			}
		}
		if slots == 120_000 {
			continue // too many to walk through
		}
		n++
		if got := plan.Shortest(); got != want {
			t.Errorf("%+v: Shortest = %v, want %v", s, got, want)
		}
	}
}
