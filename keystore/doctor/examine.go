package doctor

import (
	"fmt"
	"strings"
	"time"
)

// Limits beyond which something is worth a finding.
const (
	clockLimit    = 5 * time.Second
	silenceLimit  = 30 * time.Second // a server's record comes every 15 s
	diskWarning   = 0.10             // of the file system that is free
	diskCritical  = 0.02
	fullWarning   = 0.80 // of a limit that is used
	fullCritical  = 0.95
	fewConsumers  = 1000
	certWarning   = 30 * 24 * time.Hour
	certCritical  = 24 * time.Hour
	entriesBehind = 1000 // of a stream, at a core server; a beacon comes each second
)

// Examine makes findings of what one server sees, worst first.
func Examine(o Observation) []Finding {
	e := &examination{Observation: o}
	for _, l := range o.Ledgers {
		e.ledger(l)
	}
	e.core()
	e.store()
	e.disk()
	e.certificates()
	e.servers()
	e.rings()
	for _, h := range o.Hosts {
		if h.Cloned != "" {
			e.find(HostCloned, Warning, h.Name, "keytide host list\nkeytide host revoke "+h.Name+"    # if nobody can explain it",
				"several agents use the secret of one trusted host: %s", h.Cloned)
		}
	}
	for _, a := range o.Alarms {
		e.alarm(a)
	}
	return sorted(e.found)
}

type examination struct {
	Observation
	found []Finding
}

func (e *examination) find(code Code, severity Severity, subject, mend, format string, args ...any) *Finding {
	e.found = append(e.found, Finding{
		Code: code, Severity: severity, Server: e.Server, Subject: subject, Text: fmt.Sprintf(format, args...), Mend: mend,
	})
	return &e.found[len(e.found)-1]
}

const (
	mendCommand    = "keytide doctor --mend"
	mendReplica    = "stop this server, move the file away (do not delete it), start: the replica is made anew from the core"
	mendRestore    = "stop all changes and find out which history is right: keytide audit verify at each server\nif the core's disks were replaced: put the right ones back\notherwise: keytide restore, from the replica with the highest event"
	mendBucket     = "put the right bus directory back on the core; nothing makes the bucket anew\nif it is lost for good: keytide restore, from a replica"
	mendQuarantine = "stop this server; move the stream's directory away (DIR/bus/jetstream/*/streams/%s); start: its core server takes the stream from the others\none server at a time, and only while more than half of the others are well"
)

func (e *examination) ledger(l Ledger) {
	subject := "ledger " + l.Kind
	switch l.State {
	case "forked":
		e.find(Forked, Critical, subject, mendRestore, "the core has less than, or other than, this server's replica (event %d): %s. Nothing is written; agents are fed", l.N, l.Why)
	case "halted":
		e.find(Halted, Critical, subject, "see the other findings, and keytide status", "this replica applies nothing after event %d: %s. Agents are fed what it has", l.N, l.Why)
	case "stale":
		e.find(Stale, Warning, subject, "is the core reachable, and has it a majority of its servers?  keytide status", "this server cannot prove that it is up to date: %s. Agents keep their keys; no rollover happens here", l.Why)
	}
	if l.Bad != 0 {
		e.find(ReplicaDamaged, Critical, subject, mendReplica, "this server's replica does not verify from event %d on: %s", l.Bad, l.BadWhy)
	}
	for _, why := range l.Sealed {
		e.find(WrongKSK, Critical, subject, "keytide audit verify\nif another server opens it, this server has a wrong key store key: join it anew", "a key does not open under key store key %s: %s", e.KSK, why)
	}
	for _, f := range l.Flaws {
		e.flaw(l, f)
	}
	if l.Bucket != nil {
		e.bucket(subject, *l.Bucket)
	}
}

func (e *examination) flaw(l Ledger, f Flaw) {
	code, what := ValueDiffers, "it is not the value that its event names"
	severity := Warning
	switch {
	case f.Fault == Forged:
		code, severity = ForgedEvent, Critical
		what = fmt.Sprintf("an event that no member signed stands where event %d belongs: no change can be made", l.N+1)
	case strings.HasPrefix(f.Key, "log.") && f.Fault == Missing:
		code, severity, what = EventMissing, Critical, "the event is missing from the bucket: a new server could not read the history"
	case strings.HasPrefix(f.Key, "log."):
		code, severity, what = EventOverwritten, Critical, "somebody wrote over the event, past the policy servers: a new server could not read the history"
	case f.Key == "head":
		code, severity, what = ForgedHead, Warning, "it does not name the last event; the next change puts it right"
	case strings.HasPrefix(f.Key, "material."), strings.HasPrefix(f.Key, "ksk."):
		code, severity = MaterialForged, Critical
		what = "this key material is not what its event names: a new server could not open the key"
	case f.Fault == Missing:
		what = "the value is missing; nothing in Keytide reads it"
	}
	if f.Fault == Foreign {
		what = "no event puts it: somebody wrote it past the policy servers"
	}
	found := e.find(code, severity, l.Kind+" "+f.Key, mendCommand+"\nfind out who has access to the core", "%s. What the replica has was not changed by it", what)
	found.Repair = &Repair{Ledger: l.Kind, Key: f.Key, Revision: f.Revision}
}

func (e *examination) bucket(subject string, b Bucket) {
	if len(b.Faults) > 0 {
		e.find(UnsafeSettings, Critical, subject, "put them back with nats stream edit, as the text says", "the bucket could lose events: %s", strings.Join(b.Faults, "; "))
	}
	if e.Core.Kind == "member" && b.Replicas != e.Core.Size {
		e.find(FewReplicas, Warning, subject, "grow or shrink the bucket to the core's size", "the bucket is kept %d times, in a core of %d servers", b.Replicas, e.Core.Size)
	}
	if b.MaxConsumers > 0 && b.MaxConsumers <= fewConsumers {
		e.find(FewConsumers, Warning, subject, "nats stream edit: max_consumers 8192", "the bucket allows %d consumers: each policy server needs one, and two while it is connecting anew", b.MaxConsumers)
	}
	if used := float64(b.Bytes) / float64(b.MaxBytes); b.MaxBytes > 0 && used >= fullWarning {
		e.find(LedgerFull, level(used, fullCritical), subject, "nats stream edit: a larger max_bytes, with room for it in each server's store", "%.0f%% of the %d bytes that the bucket may have are used; a full one refuses changes", 100*used, b.MaxBytes)
	}
}

func level(used, critical float64) Severity {
	if used >= critical {
		return Critical
	}
	return Warning
}

func (e *examination) disk() {
	d := e.Disk
	if d.Total == 0 {
		return
	}
	if free := float64(d.Free) / float64(d.Total); free < diskWarning {
		severity := Warning
		if free < diskCritical {
			severity = Critical
		}
		e.find(DiskFull, severity, d.Dir, "free space there; nothing has to be restarted", "%.1f%% of the file system is free (%d MiB): a full one stops this server's replica and changes, and loses nothing", 100*free, d.Free>>20)
	}
}

func (e *examination) certificates() {
	for _, c := range e.Certificates {
		left := c.NotAfter.Sub(e.At)
		if left >= certWarning {
			continue
		}
		severity := Warning
		if left < certCritical {
			severity = Critical
		}
		mend := "write a new certificate to the same files; it is taken within a minute"
		if c.Generated {
			mend = "it should have been renewed by itself: see this server's log"
		}
		e.find(CertificateEnds, severity, c.Name, mend, "the certificate in %s ends on %s: agents or servers would refuse this server then", c.File, c.NotAfter.UTC().Format(time.RFC3339))
	}
}

func (e *examination) servers() {
	for _, s := range e.Servers {
		leave := fmt.Sprintf("bring it back, or find out why it lags:  keytide status\nif it stays away:  keytide server exclude %s\nif it is gone for good:  keytide server forget %s", s.ID, s.ID)
		switch {
		case s.Excluded:
			e.find(ServerExcluded, Info, s.ID, "", "rollovers do not wait for this server; that ends by itself when it is fresh")
		case s.State == "stopped":
			e.find(ServerStopped, Info, s.ID, "if it is not to come back:  keytide server forget "+s.ID, "this server was stopped in order; keys that it may seal with are kept until it is back")
		case s.Self:
		case !s.Heard, s.Silent > silenceLimit:
			e.find(ServerSilent, Warning, s.ID, leave, "nothing has been heard of this server (region %s) for %s: rollovers wait for it", s.Region, silence(s))
		case s.State != "fresh":
			e.find(ServerBehind, Warning, s.ID, leave, "this server (region %s) says that it is %s, at event %d", s.Region, s.State, s.N)
		}
		if s.ClockOffset.Abs() > clockLimit && s.State != "stopped" {
			e.find(ClockOff, Warning, s.ID, "set the clock there, and keep it set (NTP)", "its clock is %v off the others': it starts no scheduled rollover", s.ClockOffset.Round(time.Second))
		}
		if s.AgentsBehind > 0 && s.State == "fresh" {
			e.find(AgentsBehind, Warning, s.ID, "which ones:  keytide rollover RING --wait, or that server's log", "%d of its agents have not been given the newest keys", s.AgentsBehind)
		}
	}
}

func silence(s Server) string {
	if !s.Heard {
		return "as long as this one runs"
	}
	return s.Silent.Round(time.Second).String()
}

func (e *examination) rings() {
	for _, r := range e.Rings {
		if len(r.HeldBy) > 0 {
			e.find(RolloverHeld, Warning, "ring "+r.Name, "bring them back, or for each:  keytide server exclude ID", "the rollover that is due waits for %s", strings.Join(r.HeldBy, ", "))
		}
		if r.Failing != "" {
			e.find(RolloverFailed, Warning, "ring "+r.Name, "as the text says; it is tried again each second", "the scheduled rollover fails here: %s", r.Failing)
		}
		if r.Incident != "" {
			e.find(IncidentOpen, Warning, "ring "+r.Name, "bring them back, or exclude the servers and stop their agents; it closes by itself", "an emergency rollover is open, %s: they may still use what was destroyed", r.Incident)
		}
	}
}
