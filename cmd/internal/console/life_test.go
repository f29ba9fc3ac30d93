package console_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keytide/keytide/cmd/internal/console"
	"github.com/keytide/keytide/keystore/adminapi"
)

// TestTimeLineOfEveryRollover: after a fresh rollover, a rollover by hand and its undo,
// an emergency. An hour is 16.4 per cent.
func TestTimeLineOfEveryRollover(t *testing.T) {
	now := time.Date(2026, 11, 22, 23, 30, 0, 0, time.UTC)
	at := func(hours int) time.Time { return now.Add(time.Duration(hours-5) * time.Hour) }
	made := func(keys ...byte) (list []adminapi.Made) { // current and future
		for i, k := range keys {
			list = append(list, adminapi.Made{Role: []string{"current", "future"}[i], KID: kid(k)})
		}
		return list
	}
	history := []adminapi.HistoryEvent{
		{N: 1, Type: "ring_created", At: at(0), Version: 1, Made: made(1, 2)},
		{N: 2, Type: "rollover", Trigger: "fresh", At: at(1), Version: 2, Made: made(3, 4), Gone: []string{kid(2)}},
		{N: 3, Type: "rollover", Trigger: "manual", At: at(2), Version: 3, Made: []adminapi.Made{{Role: "future", KID: kid(5)}}},
		{N: 4, Type: "rollover_undone", At: at(3), Version: 4, Restored: kid(3)},
	}
	key := func(role string, k byte, hours int) adminapi.Key {
		return adminapi.Key{Role: role, KID: kid(k), CreatedAt: at(hours), Seals: role == "current"}
	}
	ring := adminapi.Ring{
		Name: "sso", Version: 4, Policy: adminapi.Policy{MaxSession: "1h", Retain: "auto"}, LastEvent: adminapi.Event{N: 4},
		Keys: []adminapi.Key{key("current", 3, 1), key("old", 4, 1), key("old", 1, 0), key("future", 5, 2)},
	}
	spans, _ := console.Line(ring, history, now)
	want := map[string][]string{
		kid(1): {"seals 0-16", "opens 16-82"},
		kid(2): {"opens 0-16"},
		kid(3): {"seals 16-82"},
		kid(4): {"next 16-33", "seals 33-49", "opens 49-82"},
		kid(5): {"next 33-82"},
	}
	if diff := cmp.Diff(want, spans); diff != "" {
		t.Errorf("after the undo (-want +got):\n%s", diff)
	}
	history = append(history, adminapi.HistoryEvent{
		N: 5, Type: "rollover", Trigger: "emergency", At: at(4), Version: 5, Made: made(6, 7), Gone: []string{kid(3), kid(4), kid(1), kid(5)},
	})
	ring.Version, ring.LastEvent.N = 5, 5
	ring.Keys = []adminapi.Key{key("current", 6, 4), key("future", 7, 4)}
	spans, _ = console.Line(ring, history, now)
	if diff := cmp.Diff([]string{"seals 66-82"}, spans[kid(6)]); diff != "" {
		t.Errorf("the current key after the emergency (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"next 66-82"}, spans[kid(7)]); diff != "" {
		t.Errorf("the future key after the emergency (-want +got):\n%s", diff)
	}
}
