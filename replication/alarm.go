package replication

import (
	"cmp"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// An AlarmKind names what is wrong. The words are stable: status and metrics use
// them.
type AlarmKind string

const (
	// AlarmTampered: an entry that no member could have written.
	AlarmTampered AlarmKind = "tampered"
	// AlarmValueDiffers: a value is not the one that its event names.
	AlarmValueDiffers AlarmKind = "value_differs"
	// AlarmHalted: an event cannot be applied; the replica stays at the n before.
	AlarmHalted AlarmKind = "halted"
	// AlarmForked: the core has less than, or other than, this replica.
	AlarmForked AlarmKind = "forked"
	// AlarmNoBucket: the core answers, and has not the ledger's bucket.
	AlarmNoBucket AlarmKind = "no_bucket"
	// AlarmSettings: the bucket is kept in a way that could lose events.
	AlarmSettings AlarmKind = "settings"
	// AlarmTwoBoots: two running servers use one server id.
	AlarmTwoBoots AlarmKind = "two_boots"
	// AlarmForgotten: this server was forgotten; or, with a key, a server that was
	// forgotten, and knows it, still speaks in the ledger.
	AlarmForgotten AlarmKind = "forgotten"
	// AlarmClock: this server's clock is not to be relied on.
	AlarmClock AlarmKind = "clock"
	// AlarmEnded: a later epoch has taken the place of the one that this replica follows.
	AlarmEnded AlarmKind = "ended"
	// AlarmEpoch: a bucket with the name of a later epoch is not one of this ledger.
	AlarmEpoch AlarmKind = "epoch"
	// AlarmSetAside: a file has events that the epoch which is followed has not kept.
	AlarmSetAside AlarmKind = "set_aside"
	// AlarmDisk: the replica's file does not take what was applied.
	AlarmDisk AlarmKind = "disk"
)

// An Alarm is one thing that is wrong and a person should look at. It stands
// until it is put right, over restarts too, and is listed for a day after that.
type Alarm struct {
	Kind  AlarmKind `json:"kind"`
	Key   string    `json:"key,omitempty"` // the KV key that it is about, if one
	Why   string    `json:"why"`
	Since time.Time `json:"since"`
	Ended time.Time `json:"ended,omitzero"` // zero: it stands
}

// ofEntry reports whether the alarm is about what somebody wrote, and changes nothing
// of what this server does.
func (a Alarm) ofEntry() bool {
	return a.Kind == AlarmTampered || a.Kind == AlarmValueDiffers || a.Kind == AlarmForgotten && a.Key != ""
}

const (
	alarmsKept = 24 * time.Hour // after they ended
	// alarmsMost bounds the alarms of entries: more are logged and not kept, because
	// whoever writes to the bucket makes as many as he likes.
	alarmsMost = 256
)

type alarmID struct {
	kind AlarmKind
	key  string
}

// alarms is the set of standing alarms. It logs each once when it begins and
// once when it ends. It is safe for concurrent use.
type alarms struct {
	log    *slog.Logger
	forget func(Alarm) // called, with mu held, for what is no longer listed

	mu  sync.Mutex // guards set
	set map[alarmID]Alarm
}

func newAlarms(log *slog.Logger, standing []Alarm, forget func(Alarm)) *alarms {
	a := &alarms{log: log, forget: forget, set: make(map[alarmID]Alarm)}
	for _, alarm := range standing {
		a.set[alarmID{alarm.Kind, alarm.Key}] = alarm
	}
	return a
}

// raise makes an alarm stand, and reports whether that changed anything that is to
// be kept.
func (a *alarms) raise(alarm Alarm) bool {
	id := alarmID{alarm.Kind, alarm.Key}
	a.mu.Lock()
	defer a.mu.Unlock()
	old, known := a.set[id]
	if known && old.Ended.IsZero() && old.Why == alarm.Why {
		return false
	}
	a.log.Error("alarm", "kind", alarm.Kind, "key", alarm.Key, "why", alarm.Why)
	a.prune(alarm.Since)
	if !known && alarm.ofEntry() && len(a.set) >= alarmsMost {
		return false
	}
	a.set[id] = alarm
	return true
}

// clear ends an alarm; it reports false if none stands.
func (a *alarms) clear(id alarmID, at time.Time) (Alarm, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	alarm, ok := a.set[id]
	if !ok || !alarm.Ended.IsZero() {
		return Alarm{}, false
	}
	alarm.Ended = at
	a.set[id] = alarm
	a.log.Info("alarm ended", "kind", id.kind, "key", id.key)
	return alarm, true
}

func (a *alarms) prune(now time.Time) {
	for id, alarm := range a.set {
		if !alarm.Ended.IsZero() && now.Sub(alarm.Ended) > alarmsKept {
			delete(a.set, id)
			a.forget(alarm)
		}
	}
}

// all returns the alarms that stand and those that ended of late, oldest first.
func (a *alarms) all() []Alarm {
	a.mu.Lock()
	out := make([]Alarm, 0, len(a.set))
	for _, alarm := range a.set {
		out = append(out, alarm)
	}
	a.mu.Unlock()
	slices.SortFunc(out, func(x, y Alarm) int {
		return cmp.Or(x.Since.Compare(y.Since), cmp.Compare(x.Kind, y.Kind), cmp.Compare(x.Key, y.Key))
	})
	return out
}

// standing returns the alarm of this kind and key, if it stands.
func (a *alarms) standing(id alarmID) (Alarm, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	alarm, ok := a.set[id]
	return alarm, ok && alarm.Ended.IsZero()
}

// first returns the oldest standing alarm of a kind.
func (a *alarms) first(kind AlarmKind) (Alarm, bool) {
	for _, alarm := range a.all() {
		if alarm.Kind == kind && alarm.Ended.IsZero() {
			return alarm, true
		}
	}
	return Alarm{}, false
}
