package console_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/keytide/keytide/cmd/internal/console"
	"github.com/keytide/keytide/keystore/adminapi"
)

// TestTimeLine: five hours of past are 82 per cent; what is to come goes on at the
// same scale to the line's end.
func TestTimeLine(t *testing.T) {
	now := time.Date(2026, 11, 22, 23, 30, 0, 0, time.UTC)
	f := rolledOver(now)
	spans, ticks := console.Line(f.rings[0], f.history["sso"], now)
	want := map[string][]string{
		kid(6): {"next 66-82"},
		kid(5): {"next 33-66", "seals 66-82"},
		kid(2): {"next 0-33", "seals 33-66", "opens 66-82", "kept 82-100"},
		kid(3): {"static 0-82"},
		kid(4): {"ticket 0-82"},
		kid(1): {"seals 0-33", "opens 33-66"},
	}
	if diff := cmp.Diff(want, spans); diff != "" {
		t.Errorf("spans (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"20:00", "22:00"}, ticks); diff != "" {
		t.Errorf("ticks (-want +got):\n%s", diff)
	}
}

// TestTimeLineOfAnyRing: whatever times a history tells, spans lie on the line in
// the order of time, and labels are few.
func TestTimeLineOfAnyRing(t *testing.T) {
	now := time.Date(2026, 11, 22, 23, 30, 0, 0, time.UTC)
	rapid.Check(t, func(t *rapid.T) {
		f := rolledOver(now)
		ring, history := f.rings[0], f.history["sso"]
		at := rapid.Custom(func(t *rapid.T) time.Time {
			return now.Add(-time.Duration(rapid.Int64Range(-int64(time.Hour), int64(20*365*24*time.Hour)).Draw(t, "ago")))
		})
		for i := range history {
			history[i].At = at.Draw(t, fmt.Sprintf("event %d", i))
		}
		for i := range ring.Keys {
			ring.Keys[i].CreatedAt = at.Draw(t, fmt.Sprintf("key %d", i))
		}
		spans, ticks := console.Line(ring, history, now)
		if len(ticks) > 5 {
			t.Errorf("labels %v", ticks)
		}
		for kid, each := range spans {
			end := 0
			for _, s := range each {
				var kind string
				var from, to int
				if _, err := fmt.Sscanf(s, "%s %d-%d", &kind, &from, &to); err != nil || from < 0 || to > 100 || kind != "static" && kind != "ticket" && (to < from || from < end) {
					t.Errorf("key %s: %v (%v)", kid, each, err)
				}
				end = to
			}
		}
	})
}

// TestPageIsAsItsRing: what happened since the ring was read is not told.
func TestPageIsAsItsRing(t *testing.T) {
	now := time.Date(2026, 11, 22, 23, 30, 0, 0, time.UTC)
	f := rolledOver(now)
	later := append(f.history["sso"], adminapi.HistoryEvent{
		N: 5, Type: "rollover", At: now, Version: 4, Trigger: "manual", Made: []adminapi.Made{{Role: "future", KID: kid(7)}},
	})
	want, _ := console.Line(f.rings[0], f.history["sso"], now)
	got, _ := console.Line(f.rings[0], later, now)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("spans (-want +got):\n%s", diff)
	}
}
