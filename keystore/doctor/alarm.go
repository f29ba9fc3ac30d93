package doctor

import "strings"

// alarmCodes are the findings that a server's alarms are, by their kind. Those that
// other observations tell better are not among them: they are left out.
var alarmCodes = map[string]struct {
	code     Code
	severity Severity
	mend     string
}{
	"no_bucket":       {NoBucket, Critical, mendBucket},
	"settings":        {UnsafeSettings, Critical, "put them back with nats stream edit, as the text says"},
	"two_boots":       {TwoBoots, Critical, "stop one of the two; a copied directory is not a second server"},
	"forgotten":       {ForgottenServer, Critical, "stop it; if another has its key, end its machine and its user of the core"},
	"clock":           {ClockOff, Warning, "set the clock, and keep it set (NTP)"},
	"disk":            {ReplicaUnwritten, Critical, "free the disk; it goes on by itself, nothing is lost"},
	"unvouched":       {UnvouchedServer, Critical, "find out which server signed the event:  keytide audit export\nthen forget the server:  keytide server forget ID"},
	"material":        {WrongKSK, Critical, "keytide audit verify\nanother rollover brings a key that opens"},
	"certificate":     {CertificateEnds, Warning, "as the text says"},
	"value_differs":   {ValueDiffers, Warning, mendCommand},
	"rollover-held":   {},
	"rollover-failed": {},
	"incident-open":   {},
	"forked":          {},
	"halted":          {},
}

// alarm makes a finding of an alarm that nothing else shows.
func (e *examination) alarm(a Alarm) {
	subject := strings.TrimSpace(a.Ledger + " " + a.Key)
	if !a.Ended.IsZero() {
		e.find(PastAlarm, Info, subject, "", "%s until %s: %s", a.Kind, a.Ended.UTC().Format("2006-01-02 15:04:05Z"), a.Text)
		return
	}
	known, ok := alarmCodes[a.Kind]
	switch {
	case a.Kind == "tampered":
		e.tampered(a, subject)
	case a.Ledger == "doctor": // an earlier pass of this examination
	case !ok:
		e.find(OtherAlarm, Warning, subject, "keytide status", "%s: %s", a.Kind, a.Text)
	case known.code != "" && !e.flawed(a):
		e.find(known.code, known.severity, subject, known.mend, "%s", a.Text)
	}
}

func (e *examination) tampered(a Alarm, subject string) {
	if e.flawed(a) {
		return
	}
	code, severity, mend := ForgedSigned, Warning, "the next one puts it right; find out who has access to the core"
	switch kind, _, _ := strings.Cut(a.Key, "."); kind {
	case "log":
		code, severity, mend = EventOverwritten, Critical, mendCommand
	case "material", "ksk":
		code, severity, mend = MaterialForged, Critical, mendCommand
	case "head":
		code = ForgedHead
	}
	e.find(code, severity, subject, mend, "%s", a.Text)
}

// flawed reports whether a look at the bucket has found the same.
func (e *examination) flawed(a Alarm) bool {
	for _, l := range e.Ledgers {
		for _, f := range l.Flaws {
			if l.Kind == a.Ledger && f.Key == a.Key {
				return true
			}
		}
	}
	return false
}
