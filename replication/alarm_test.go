package replication

import (
	"fmt"
	"log/slog"
	"testing"
	"time"
)

// Whoever can write to the bucket can raise as many alarms as he likes. What stops the
// server from writing, or tells why it stands still, is not crowded out by them.
func TestManyAlarmsHideNoHalt(t *testing.T) {
	a := newAlarms(slog.New(slog.DiscardHandler), nil, func(Alarm) {})
	for i := range 2 * alarmsMost {
		a.raise(Alarm{Kind: AlarmTampered, Key: fmt.Sprint(i), Why: "forged", Since: time.Now()})
	}
	if got := len(a.all()); got != alarmsMost {
		t.Errorf("%d alarms are kept, want %d", got, alarmsMost)
	}
	for _, kind := range []AlarmKind{AlarmHalted, AlarmForked, AlarmTwoBoots, AlarmDisk} {
		a.raise(Alarm{Kind: kind, Why: "true", Since: time.Now()})
		if _, ok := a.first(kind); !ok {
			t.Errorf("alarm %s is not kept", kind)
		}
	}
}
