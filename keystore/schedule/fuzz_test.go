package schedule_test

import (
	"errors"
	"testing"
	"time"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/schedule"
)

// FuzzSlots: whatever is read as a schedule compiles or is refused, and its slots
// come one after the other, within its bounds.
func FuzzSlots(f *testing.F) {
	f.Add("every 3h", "", "", int64(0))
	f.Add("daily 02:30,14:30", "Europe/Berlin", "22:00-06:00", int64(1774746000))
	f.Add("weekly mon,thu@02:30", "Pacific/Apia", "fri@22:00-sun@06:00", int64(1325239200))
	f.Add("cron */5 0-3 29 2 */7", "Africa/Casablanca", "2026-12-20..2027-01-06", int64(-99999999999))
	f.Add("cron 0 0 30 2 *", "America/Santiago", "", int64(253402300799))
	f.Fuzz(func(t *testing.T, rule, tz, blackout string, unix int64) {
		s, err := keystore.ParseSchedule(rule, tz, blackout)
		if err != nil {
			return
		}
		p, err := schedule.Compile(s)
		if err != nil {
			if !errors.Is(err, keystore.ErrInvalid) {
				t.Errorf("Compile of %+v: %v", s, err)
			}
			return
		}
		shortest, last := p.Shortest(), time.Unix(unix, 0)
		if (shortest <= 0) != s.IsManual() {
			t.Errorf("%+v: Shortest = %v", s, shortest)
		}
		for n := range 5 {
			slot, ok := p.Next(last)
			if !ok {
				if year := last.UTC().Year(); !s.IsManual() && year >= 1 && year < 9900 {
					t.Errorf("%+v: no slot after %v", s, last)
				}
				return
			}
			if !slot.After(last) || slot.Nanosecond() != 0 || slot.Location() != time.UTC {
				t.Errorf("%+v: slot %v after %v", s, slot, last)
			}
			if gap := slot.Sub(last); n > 0 && last.Year() > 2025 && last.Year() < 2100 && gap < shortest {
				t.Errorf("%+v: from %v to %v it is %v; Shortest = %v", s, last, slot, gap, shortest)
			}
			last = slot
		}
	})
}
