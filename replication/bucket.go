package replication

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/events/ledger"
)

// judgeBucket looks at what the core said, or did not say, of the bucket. No answer
// says nothing. A core that says that it has no bucket has lost it, and the replica,
// which has it still, is the other side of a fork, unless the bucket comes back; it
// is never made anew.
func (m *Member) judgeBucket(info ledger.Info, err error) {
	missing := errors.Is(err, events.ErrNoBucket)
	switch {
	case missing && m.replica.applied.load() == 0: // not founded yet, as far as this replica knows
	case missing && m.gone.IsZero():
		m.gone = m.now()
	case missing && m.now().Sub(m.gone) >= forkPatience:
		m.raise(Alarm{Kind: AlarmNoBucket, Why: fmt.Sprintf("%v: the core has lost it; this replica has %d events",
			err, m.replica.applied.load())})
	}
	if err != nil {
		return
	}
	m.gone = time.Time{}
	m.clear(alarmID{AlarmNoBucket, ""})
	if info.Sealed {
		m.raise(Alarm{Kind: AlarmEnded, Key: events.HeadKey, Why: "the bucket is sealed: a later epoch of the ledger has begun, and takes its place as soon as this server finds it"})
	}
	if len(info.Faults) > 0 {
		m.raise(Alarm{Kind: AlarmSettings, Why: "the bucket could lose events: " + strings.Join(info.Faults, "; ")})
		return
	}
	m.clear(alarmID{AlarmSettings, ""})
}

// standstill returns the alarm because of which the replica applies nothing and the
// member writes nothing, and the state that this is.
func (m *Member) standstill() (events.ServerState, Alarm, bool) {
	for _, stands := range []struct {
		kind  AlarmKind
		state events.ServerState
	}{{AlarmForked, events.Forked}, {AlarmNoBucket, events.Forked}, {AlarmEnded, events.Halted}, {AlarmHalted, events.Halted}} {
		if alarm, ok := m.alarms.first(stands.kind); ok {
			return stands.state, alarm, true
		}
	}
	return 0, Alarm{}, false
}
