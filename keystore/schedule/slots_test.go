package schedule_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/schedule"
)

var (
	slotCount = flag.Int("slots", 1000, "TestSlotsAgainstTheSlowClock: slots of each schedule")
	slotDays  = flag.Int("days", 500, "TestSlotsAgainstTheSlowClock: days that each may take; 40000 suffices for 1,000 slots of any")
	slotSeed  = flag.Uint64("seed", 1, "TestSlotsAgainstTheSlowClock: what the schedules are drawn from")
)

// slowZones are those whose clocks do, or did, what others do not, and a sample of
// the rest.
var slowZones = strings.Fields(`
	UTC Europe/Berlin Europe/London Europe/Dublin Europe/Lisbon Europe/Moscow Europe/Istanbul Europe/Chisinau
	Europe/Kyiv Atlantic/Azores Africa/Casablanca Africa/El_Aaiun Africa/Cairo Africa/Windhoek Africa/Lagos
	Africa/Tripoli America/New_York America/Chicago America/Phoenix America/St_Johns America/Halifax
	America/Havana America/Caracas America/Santiago America/Asuncion America/Sao_Paulo America/Bogota
	America/Buenos_Aires America/Godthab America/Scoresbysund America/Anchorage America/Metlakatla
	Asia/Tehran Asia/Kabul Asia/Kolkata Asia/Kathmandu Asia/Pyongyang Asia/Tokyo Asia/Shanghai Asia/Beirut
	Asia/Gaza Asia/Amman Asia/Jerusalem Australia/Lord_Howe Australia/Sydney Australia/Adelaide
	Antarctica/Troll Antarctica/Casey Pacific/Apia Pacific/Auckland Pacific/Chatham Pacific/Kwajalein
	Pacific/Kiritimati Pacific/Easter Pacific/Norfolk Pacific/Fiji`)

// randomRule draws from a schedule's whole range, in the form that the slow clock reads.
func randomRule(r *rand.Rand) string {
	clock := func() string { return fmt.Sprintf("%02d:%02d", r.IntN(5)*r.IntN(6), r.IntN(60)) }
	pick := func(words ...string) string { return words[r.IntN(len(words))] }
	list := func(n int, word func() string) string {
		var words []string
		for range 1 + r.IntN(n) {
			if w := word(); !strings.Contains(strings.Join(words, ","), w) {
				words = append(words, w)
			}
		}
		return strings.Join(words, ",")
	}
	switch r.IntN(3) {
	case 0:
		return "daily " + list(4, clock)
	case 1:
		return "weekly " + list(5, func() string { return pick("mon", "tue", "wed", "thu", "fri", "sat", "sun") + "@" + clock() })
	}
	return strings.Join([]string{"cron",
		pick("0", "30", "*/15", "5-50/7", "59", "0,1,2", "*"), pick("*", "2", "0", "23", "1-3", "*/6", "0-4/2"),
		pick("*", "*", "1", "29", "30,31", "*/2", "1-7"), pick("*", "*", "*", "2", "3-11", "10"),
		pick("*", "*", "0", "1-5", "6", "*/3")}, " ")
}

func randomBlackouts(r *rand.Rand, near time.Time) []string {
	var windows []string
	if r.IntN(3) == 0 {
		from, to := r.IntN(1440), r.IntN(1440)
		if from != to {
			windows = append(windows, fmt.Sprintf("%02d:%02d-%02d:%02d", from/60, from%60, to/60, to%60))
		}
	}
	if r.IntN(3) == 0 {
		days := strings.Fields("sun mon tue wed thu fri sat")
		i := r.IntN(7)
		windows = append(windows, fmt.Sprintf("%s@%02d:30-%s@%02d:00", days[i], r.IntN(24), days[(i+1+r.IntN(3))%7], r.IntN(24)))
	}
	if r.IntN(3) == 0 {
		from := near.AddDate(0, 0, r.IntN(200))
		windows = append(windows, from.Format(time.DateOnly)+".."+from.AddDate(0, 0, r.IntN(20)).Format(time.DateOnly))
	}
	return windows
}

// TestSlotsAgainstTheSlowClock compares the next slots of a random schedule in each of
// fifty zones, and the shortest time between two of them, with those of a clock that
// lives through every minute.
func TestSlotsAgainstTheSlowClock(t *testing.T) {
	t.Parallel()
	for i, name := range slowZones {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(*slotSeed, uint64(i)))
			location, err := time.LoadLocation(name)
			if err != nil {
				t.Fatal(err)
			}
			from := time.Date(2000+r.IntN(40), time.Month(1+r.IntN(12)), 1+r.IntN(28), r.IntN(24), r.IntN(60), r.IntN(60), 0, time.UTC)
			if name == "Pacific/Apia" {
				from = time.Date(2011, time.December, 1+r.IntN(28), 0, 0, 0, 0, time.UTC)
			}
			compareSlots(t, r, location, from)
		})
	}
}

func compareSlots(t *testing.T, r *rand.Rand, location *time.Location, from time.Time) {
	rule, blackouts := randomRule(r), randomBlackouts(r, from)
	t.Logf("%s %s %v after %v", rule, location, blackouts, from)
	s, err := keystore.ParseSchedule(rule, location.String(), blackouts...)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := schedule.Compile(s)
	if err != nil { // its times may all be in windows, or on 30 February
		compareSlots(t, r, location, from)
		return
	}
	// Windows may hold back what came up to a month before.
	slow := newSlowClock(rule, location, blackouts, from.AddDate(0, 0, -40))
	end := from.AddDate(0, 0, *slotDays)
	shortest, last := plan.Shortest(), from
	for n := 0; n < *slotCount; {
		want, ok := slow.next(end)
		if !ok {
			break
		}
		if !want.After(from) {
			continue
		}
		got, ok := plan.Next(last)
		if !ok || !got.Equal(want) {
			t.Fatalf("slot %d after %v: Next = %v, %v, want %v", n+1, last, got, ok, want)
		}
		// From anywhere between two slots it is the same.
		between := last.Add(time.Duration(r.Int64N(int64(want.Sub(last)))))
		if got, ok := plan.Next(between); !ok || !got.Equal(want) {
			t.Fatalf("slot %d after %v, in between: Next = %v, %v, want %v", n+1, between, got, ok, want)
		}
		// Shortest speaks of the clock changes to come.
		if gap := want.Sub(last); n > 0 && last.Year() >= 2025 && gap < shortest {
			t.Errorf("from %v to %v it is %v; Shortest = %v", last, want, gap, shortest)
		}
		last = want
		n++
	}
}
