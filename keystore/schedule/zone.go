package schedule

import (
	"fmt"
	"time"

	"github.com/keytide/keytide/keystore"
)

// A zone maps instants to what its wall clock shows and back. Wall-clock times are
// seconds since 1970-01-01 00:00, as the clock would count them.
type zone struct{ location *time.Location }

func loadZone(name string) (zone, error) {
	location, err := time.LoadLocation(name)
	if err != nil {
		return zone{}, fmt.Errorf("%w: tz %q: %w; want an IANA name such as Europe/Berlin", keystore.ErrInvalid, name, err)
	}
	return zone{location}, nil
}

// wall is what the clock shows at t, to the second.
func (z zone) wall(t time.Time) int64 {
	_, offset := t.In(z.location).Zone()
	return t.Unix() + int64(offset)
}

// farthest is more than any zone has ever been off UTC, in seconds.
const farthest = 36 * 60 * 60

// instant is the first instant at which the clock shows wall or later.
func (z zone) instant(wall int64) time.Time {
	// Here the clock has not come to wall yet. From here it runs evenly up to each
	// bound; if it shows more than wall just after one, wall fell into a gap there.
	t := time.Unix(wall-farthest, 0)
	for {
		at := max(wall-z.wall(t)+t.Unix(), t.Unix())
		end, ok := z.bound(t)
		if !ok || at < end.Unix() {
			return time.Unix(at, 0).UTC()
		}
		t = end
	}
}

// bound returns an instant after t up to which the clock is not changed, and false if
// it never is again. There need not be a change at it.
func (z zone) bound(t time.Time) (time.Time, bool) {
	_, end := t.In(z.location).ZoneBounds()
	if end.IsZero() {
		return time.Time{}, false
	}
	if !end.After(t) {
		// Where a zone goes by its yearly rule, ZoneBounds ends each year after 365 days:
		// on the last day of a leap year, before t.
		end = time.Date(t.UTC().Year()+1, time.January, 1, 0, 0, 0, 0, time.UTC)
	}
	return end.UTC(), true
}

// changes returns the instants from one to the other at which the clock is changed.
func (z zone) changes(from, to time.Time) []time.Time {
	var changes []time.Time
	for t, ok := z.bound(from); ok && !t.After(to); t, ok = z.bound(t) {
		before := t.Add(-time.Second)
		if z.wall(t)-z.wall(before) != 1 {
			changes = append(changes, t)
		}
	}
	return changes
}
