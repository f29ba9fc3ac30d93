package doctor

import (
	"fmt"
	"strings"
)

// core looks at the NATS servers beside each other.
func (e *examination) core() {
	c := e.Core
	if c.Durability == "unverified" {
		e.find(Unverified, Warning, "core", "see to sync_interval: always, max_file_store, and three or five servers; then bus.durability: verified", "whether this NATS keeps what it acknowledges cannot be read from outside, and nobody has said so")
	}
	if c.Fault != "" {
		e.find(CoreAway, Warning, "core", "is a core server running, and is the way to it open?", "this server reaches no core server: %s. Agents are fed from its replica; nothing can be changed here", c.Fault)
	}
	there := make(map[string]bool)
	for _, s := range c.Servers {
		there[s.Server] = true
		e.coreServer(s)
	}
	if len(c.Servers) > 0 {
		e.away(there)
	}
	for _, kind := range []string{"keys", "hosts"} {
		e.compareStreams(kind)
	}
}

func (e *examination) coreServer(s CoreServer) {
	var faults []string
	if !s.SyncAlways {
		faults = append(faults, "it does not fsync every write (sync_interval: always)")
	}
	if s.MaxStore <= 0 {
		faults = append(faults, "its store has no limit (max_file_store)")
	}
	if len(faults) > 0 {
		e.find(UnsafeServer, Critical, "core server "+s.Server, "correct its configuration, and start it anew", "an acknowledged change could be lost: %s", strings.Join(faults, "; "))
	}
	if used := float64(s.Used) / float64(s.MaxStore); s.MaxStore > 0 && used >= fullWarning {
		e.find(LedgerFull, level(used, fullCritical), "core server "+s.Server, "a larger store limit, on a disk that has room for it", "%.0f%% of the %d bytes that its store may have are used; a full one refuses changes", 100*used, s.MaxStore)
	}
}

// away names core servers that did not answer.
func (e *examination) away(there map[string]bool) {
	var missing []string
	for _, name := range e.Core.Expected {
		if !there[name] {
			missing = append(missing, name)
		}
	}
	severity := Warning
	if 2*len(missing) >= len(e.Core.Expected) {
		severity = Critical
	}
	for _, name := range missing {
		e.find(CoreServerAway, severity, "core server "+name, "start it, or open the way to it (port 7423)", "it does not answer: %d of %d core servers are there, and a change needs more than half", len(e.Core.Expected)-len(missing), len(e.Core.Expected))
	}
}

// compareStreams compares what the core's servers have of one ledger. Beacons come all
// the time, so that the ends of the streams differ a little; but each takes the place of
// the one before, so the numbers of messages do not.
func (e *examination) compareStreams(kind string) {
	var most Stream
	have := make(map[string]Stream)
	for _, s := range e.Core.Servers {
		for _, stream := range s.Streams {
			if stream.Ledger == kind {
				have[s.Server] = stream
				if stream.Msgs > most.Msgs {
					most.Msgs = stream.Msgs
				}
				most.Last = max(most.Last, stream.Last)
			}
		}
	}
	for _, s := range e.Core.Servers {
		stream, ok := have[s.Server]
		subject := "core server " + s.Server
		mend := fmt.Sprintf(strings.Replace(mendQuarantine, "this server", "that server", 1), "KV_keytide_"+kind+"_*")
		switch {
		case !ok && len(have) > 0 && len(e.Core.Servers) > 1:
			e.find(StoreDiffers, Critical, subject, mend, "it has nothing of the ledger of %s, which others have", kind)
		case !ok:
		case most.Last-stream.Last > entriesBehind:
			e.find(CoreServerBehind, Warning, subject, "it catches up by itself; if not, see its log", "it is %d entries of the ledger of %s behind the others", most.Last-stream.Last, kind)
		case stream.Msgs < most.Msgs:
			e.find(StoreDiffers, Critical, subject, mend, "it has %d entries of the ledger of %s, another has %d: JetStream does not notice, and this server could become the one that others copy", stream.Msgs, kind, most.Msgs)
		}
	}
}

// store tells what was found in this server's own files.
func (e *examination) store() {
	s := e.Core.Store
	if s == nil {
		return
	}
	mend := fmt.Sprintf(mendQuarantine, "the name in the path")
	if e.Core.Kind != "member" || e.Core.Size == 1 {
		mend = "this server alone has the bucket, and its replica has all of it.\nbefore the next start: keytide restore, from the replica; or put a copy of the bus directory back"
	}
	for _, place := range s.Damage {
		e.find(StoreDamaged, Critical, "store of "+e.Server, mend, "a file of the core's store does not read: %s. JetStream does not notice, and drops entries at its next start", place)
	}
	for _, hole := range s.Holes {
		e.find(StoreHoles, Critical, "store of "+e.Server, mend, "this core server's files lack what its replica proves: %s", hole)
	}
}
