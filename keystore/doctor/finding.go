package doctor

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
)

// A Severity says how soon a person should look.
type Severity uint8

const (
	Info     Severity = 1 // good to know; nothing is to be done
	Warning  Severity = 2 // should be mended, and nothing is lost meanwhile
	Critical Severity = 3 // something is lost, forged or refused, or about to be
)

var severityNames = map[Severity]string{Info: "info", Warning: "warning", Critical: "critical"}

func (s Severity) String() string { return severityNames[s] }

// MarshalText implements encoding.TextMarshaler.
func (s Severity) MarshalText() ([]byte, error) {
	if name, ok := severityNames[s]; ok {
		return []byte(name), nil
	}
	return nil, fmt.Errorf("severity %d", uint8(s))
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Severity) UnmarshalText(text []byte) error {
	for severity, name := range severityNames {
		if name == string(text) {
			*s = severity
			return nil
		}
	}
	return fmt.Errorf("severity %q: want info, warning or critical", text)
}

// A Code names a kind of finding. Codes are API: never changed, never reused.
type Code string

// The codes.
const (
	Forked           Code = "forked"
	NoBucket         Code = "no_bucket"
	Halted           Code = "halted"
	ForgedEvent      Code = "forged_event"
	EventOverwritten Code = "event_overwritten"
	EventMissing     Code = "event_missing"
	ValueDiffers     Code = "value_differs"
	MaterialForged   Code = "material_forged"
	ForgedHead       Code = "forged_head"
	ForgedSigned     Code = "forged_signed"
	Diverged         Code = "diverged"
	ReplicaDamaged   Code = "replica_damaged"
	ReplicaUnwritten Code = "replica_unwritten"
	WrongKSK         Code = "wrong_ksk"
	UnsafeSettings   Code = "unsafe_settings"
	UnsafeServer     Code = "unsafe_core_server"
	Unverified       Code = "durability_unverified"
	FewReplicas      Code = "replicas"
	FewConsumers     Code = "max_consumers"
	LedgerFull       Code = "ledger_full"
	DiskFull         Code = "disk_full"
	StoreDamaged     Code = "store_damaged"
	StoreHoles       Code = "store_holes"
	StoreDiffers     Code = "store_differs"
	CoreServerAway   Code = "core_server_away"
	CoreServerBehind Code = "core_server_behind"
	CoreAway         Code = "core_away"
	Stale            Code = "stale"
	ServerSilent     Code = "server_silent"
	ServerBehind     Code = "server_behind"
	ServerExcluded   Code = "server_excluded"
	ServerStopped    Code = "server_stopped"
	ServerUnasked    Code = "server_unasked"
	ServerUnanswered Code = "server_unanswered"
	ForgottenServer  Code = "forgotten_server"
	UnvouchedServer  Code = "unvouched_server"
	TwoBoots         Code = "two_boots"
	ClockOff         Code = "clock_off"
	AgentsBehind     Code = "agents_behind"
	HostCloned       Code = "host_cloned"
	CertificateEnds  Code = "certificate_ends"
	RolloverHeld     Code = "rollover_held"
	RolloverFailed   Code = "rollover_failed"
	IncidentOpen     Code = "incident_open"
	OtherAlarm       Code = "alarm"
	PastAlarm        Code = "past_alarm"
)

// A Finding is one thing that a person should know.
type Finding struct {
	Code     Code     `json:"code"`
	Severity Severity `json:"severity"`
	Server   string   `json:"server,omitempty"` // which saw it; empty: it follows from what several saw
	Subject  string   `json:"subject"`          // what it is about: a server, ring, KV key, file
	Text     string   `json:"text"`             // what is wrong, and what that means
	Mend     string   `json:"mend,omitempty"`   // the command or the steps; lines
	// Repair is set where keytide doctor --mend can put it right.
	Repair *Repair `json:"repair,omitempty"`
}

// A Repair is an entry of a bucket that does not hold what the verified events say.
type Repair struct {
	Ledger   string `json:"ledger"` // keys or hosts
	Key      string `json:"key"`
	Revision uint64 `json:"revision"` // of what stands there now; 0: nothing does
}

// Worst is the highest severity of findings; 0 if there are none.
func Worst(findings []Finding) Severity {
	worst := Severity(0)
	for _, f := range findings {
		worst = max(worst, f.Severity)
	}
	return worst
}

// sorted puts the worst first, and each finding once.
func sorted(findings []Finding) []Finding {
	slices.SortStableFunc(findings, func(a, b Finding) int {
		return cmp.Or(-cmp.Compare(a.Severity, b.Severity), cmp.Compare(a.Code, b.Code), cmp.Compare(a.Subject, b.Subject),
			cmp.Compare(a.Server, b.Server), cmp.Compare(a.Text, b.Text))
	})
	return slices.CompactFunc(findings, func(a, b Finding) bool {
		return a.Code == b.Code && a.Subject == b.Subject && a.Server == b.Server && a.Text == b.Text
	})
}

// Merge puts findings of several servers together. What is about the ledger itself, and
// not about the server that saw it, is listed once.
func Merge(lists ...[]Finding) []Finding {
	type id struct {
		code            Code
		server, subject string
		repair          string
	}
	seen := make(map[id]bool)
	all := []Finding{}
	for _, list := range lists {
		for _, f := range list {
			key := id{code: f.Code, server: f.Server, subject: f.Subject}
			if shared[f.Code] {
				key.server = ""
			}
			if f.Repair != nil {
				text, _ := json.Marshal(f.Repair) // of strings and a number: it cannot fail
				key.repair = string(text)
			}
			if !seen[key] {
				seen[key] = true
				all = append(all, f)
			}
		}
	}
	return sorted(all)
}

// shared are the codes of what every server sees alike.
var shared = map[Code]bool{
	EventOverwritten: true, EventMissing: true, ForgedEvent: true, ValueDiffers: true, MaterialForged: true, ForgedHead: true,
	ForgedSigned: true, UnsafeSettings: true, UnsafeServer: true, FewReplicas: true, FewConsumers: true, LedgerFull: true,
	StoreDiffers: true, CoreServerAway: true, CoreServerBehind: true, ServerSilent: true, ServerBehind: true, ServerExcluded: true,
	ServerStopped: true, ForgottenServer: true, UnvouchedServer: true, TwoBoots: true, RolloverHeld: true,
	IncidentOpen: true, HostCloned: true, PastAlarm: true,
}
