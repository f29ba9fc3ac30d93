package doctor_test

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/doctor"
)

var at = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// healthy is what a server of a core of three sees when all is well.
func healthy() doctor.Observation {
	stream := func(last uint64) []doctor.Stream {
		return []doctor.Stream{{Ledger: "keys", Msgs: 20, First: 1, Last: last}, {Ledger: "hosts", Msgs: 9, First: 1, Last: last}}
	}
	server := func(id string, last uint64) doctor.CoreServer {
		return doctor.CoreServer{Server: id, SyncAlways: true, MaxStore: 1 << 30, Used: 1 << 20, Streams: stream(last)}
	}
	ledger := func(kind string) doctor.Ledger {
		return doctor.Ledger{
			Kind: kind, Epoch: 1, State: "fresh", N: 3, Marks: []doctor.Mark{{N: 3, Hash: "c"}, {N: 2, Hash: "b"}, {N: 1, Hash: "a"}},
			Bucket: &doctor.Bucket{Replicas: 3, Bytes: 1000, MaxBytes: 1 << 30, MaxConsumers: 8192, Consumers: 3},
		}
	}
	return doctor.Observation{
		Server: "eu-1", Region: "eu", At: at, KSK: "00",
		Ledgers: []doctor.Ledger{ledger("keys"), ledger("hosts")},
		Core: doctor.Core{
			Kind: "member", Size: 3, Expected: []string{"eu-1", "us-1", "ap-1"}, Durability: "verified",
			Servers: []doctor.CoreServer{server("eu-1", 100), server("us-1", 101), server("ap-1", 99)}, Store: &doctor.Store{Dir: "bus"},
		},
		Disk:         doctor.Disk{Dir: "dir", Free: 500, Total: 1000},
		Certificates: []doctor.Certificate{{Name: "feed", File: "cert.pem", NotAfter: at.AddDate(0, 6, 0), Generated: true}},
		Servers: []doctor.Server{
			{ID: "eu-1", Region: "eu", Self: true, State: "fresh", N: 3, Heard: true},
			{ID: "us-1", Region: "us", State: "fresh", N: 3, Heard: true, Silent: 10 * time.Second},
		},
		Rings: []doctor.Ring{{Name: "sso"}},
	}
}

// Every fault gives its finding, with its severity, and nothing else.
func TestEachFaultGivesItsFinding(t *testing.T) {
	if found := doctor.Examine(healthy()); len(found) != 0 {
		t.Fatalf("a healthy server has findings: %+v", found)
	}
	keys := func(o *doctor.Observation) *doctor.Ledger { return &o.Ledgers[0] }
	flaw := func(key string, fault doctor.Fault) func(*doctor.Observation) {
		return func(o *doctor.Observation) {
			keys(o).Flaws = []doctor.Flaw{{Key: key, Fault: fault, Revision: 7}}
		}
	}
	alarm := func(kind, key string) func(*doctor.Observation) {
		return func(o *doctor.Observation) {
			o.Alarms = []doctor.Alarm{{Ledger: "keys", Kind: kind, Key: key, Text: "text", Since: at}}
		}
	}
	for _, c := range []struct {
		spoil    func(*doctor.Observation)
		code     doctor.Code
		severity doctor.Severity
	}{
		{func(o *doctor.Observation) { keys(o).State = "forked" }, doctor.Forked, doctor.Critical},
		{func(o *doctor.Observation) { keys(o).State = "halted" }, doctor.Halted, doctor.Critical},
		{func(o *doctor.Observation) { keys(o).State = "stale" }, doctor.Stale, doctor.Warning},
		{func(o *doctor.Observation) { keys(o).Bad = 2 }, doctor.ReplicaDamaged, doctor.Critical},
		{func(o *doctor.Observation) { keys(o).Sealed = []string{"key"} }, doctor.WrongKSK, doctor.Critical},
		{flaw("log.2", doctor.Overwritten), doctor.EventOverwritten, doctor.Critical},
		{flaw("log.2", doctor.Missing), doctor.EventMissing, doctor.Critical},
		{flaw("log.4", doctor.Forged), doctor.ForgedEvent, doctor.Critical},
		{flaw("head", doctor.Overwritten), doctor.ForgedHead, doctor.Warning},
		{flaw("material.00", doctor.Overwritten), doctor.MaterialForged, doctor.Critical},
		{flaw("ring.sso", doctor.Overwritten), doctor.ValueDiffers, doctor.Warning},
		{flaw("ring.no", doctor.Foreign), doctor.ValueDiffers, doctor.Warning},
		{func(o *doctor.Observation) { keys(o).Bucket.Faults = []string{"allow_rollup is true"} }, doctor.UnsafeSettings, doctor.Critical},
		{func(o *doctor.Observation) { keys(o).Bucket.Replicas = 1 }, doctor.FewReplicas, doctor.Warning},
		{func(o *doctor.Observation) { keys(o).Bucket.MaxConsumers = 1000 }, doctor.FewConsumers, doctor.Warning},
		{func(o *doctor.Observation) { keys(o).Bucket.MaxBytes = 1200 }, doctor.LedgerFull, doctor.Warning},
		{func(o *doctor.Observation) { keys(o).Bucket.MaxBytes = 1001 }, doctor.LedgerFull, doctor.Critical},
		{func(o *doctor.Observation) { o.Core.Servers[1].SyncAlways = false }, doctor.UnsafeServer, doctor.Critical},
		{func(o *doctor.Observation) { o.Core.Servers[1].MaxStore = 0 }, doctor.UnsafeServer, doctor.Critical},
		{func(o *doctor.Observation) { o.Core.Servers[1].Used = 1 << 30 }, doctor.LedgerFull, doctor.Critical},
		{func(o *doctor.Observation) { o.Core.Servers[1].Streams[0].Msgs-- }, doctor.StoreDiffers, doctor.Critical},
		{func(o *doctor.Observation) { o.Core.Servers[1].Streams = nil }, doctor.StoreDiffers, doctor.Critical},
		{func(o *doctor.Observation) { o.Core.Servers[1].Streams[0].Last = 5000 }, doctor.CoreServerBehind, doctor.Warning},
		{func(o *doctor.Observation) { o.Core.Servers = o.Core.Servers[:2] }, doctor.CoreServerAway, doctor.Warning},
		{func(o *doctor.Observation) { o.Core.Servers = o.Core.Servers[:1] }, doctor.CoreServerAway, doctor.Critical},
		{func(o *doctor.Observation) { o.Core.Fault = "refused" }, doctor.CoreAway, doctor.Warning},
		{func(o *doctor.Observation) { o.Core.Durability = "unverified" }, doctor.Unverified, doctor.Warning},
		{func(o *doctor.Observation) { o.Core.Store.Damage = []string{"1.blk"} }, doctor.StoreDamaged, doctor.Critical},
		{func(o *doctor.Observation) { o.Core.Store.Holes = []string{"log.2"} }, doctor.StoreHoles, doctor.Critical},
		{func(o *doctor.Observation) { o.Disk.Free = 90 }, doctor.DiskFull, doctor.Warning},
		{func(o *doctor.Observation) { o.Disk.Free = 9 }, doctor.DiskFull, doctor.Critical},
		{func(o *doctor.Observation) { o.Certificates[0].NotAfter = at.AddDate(0, 0, 29) }, doctor.CertificateEnds, doctor.Warning},
		{func(o *doctor.Observation) { o.Certificates[0].NotAfter = at }, doctor.CertificateEnds, doctor.Critical},
		{func(o *doctor.Observation) { o.Servers[1].Silent = time.Minute }, doctor.ServerSilent, doctor.Warning},
		{func(o *doctor.Observation) { o.Servers[1].Heard = false }, doctor.ServerSilent, doctor.Warning},
		{func(o *doctor.Observation) { o.Servers[1].State = "halted" }, doctor.ServerBehind, doctor.Warning},
		{func(o *doctor.Observation) { o.Servers[1].State = "stopped" }, doctor.ServerStopped, doctor.Info},
		{func(o *doctor.Observation) { o.Servers[1].Excluded = true }, doctor.ServerExcluded, doctor.Info},
		{func(o *doctor.Observation) { o.Servers[1].ClockOffset = -6 * time.Second }, doctor.ClockOff, doctor.Warning},
		{func(o *doctor.Observation) { o.Servers[1].AgentsBehind = 2 }, doctor.AgentsBehind, doctor.Warning},
		{func(o *doctor.Observation) { o.Rings[0].HeldBy = []string{"us-1"} }, doctor.RolloverHeld, doctor.Warning},
		{func(o *doctor.Observation) { o.Rings[0].Failing = "full" }, doctor.RolloverFailed, doctor.Warning},
		{func(o *doctor.Observation) { o.Rings[0].Incident = "us-1" }, doctor.IncidentOpen, doctor.Warning},
		{func(o *doctor.Observation) { o.Hosts = []doctor.Host{{Name: "web", Cloned: "2"}} }, doctor.HostCloned, doctor.Warning},
		{alarm("no_bucket", ""), doctor.NoBucket, doctor.Critical},
		{alarm("two_boots", "server.us-1"), doctor.TwoBoots, doctor.Critical},
		{alarm("forgotten", ""), doctor.ForgottenServer, doctor.Critical},
		{alarm("unvouched", "server.us-1"), doctor.UnvouchedServer, doctor.Critical},
		{alarm("disk", ""), doctor.ReplicaUnwritten, doctor.Critical},
		{alarm("material", ""), doctor.WrongKSK, doctor.Critical},
		{alarm("tampered", "log.2"), doctor.EventOverwritten, doctor.Critical},
		{alarm("tampered", "beacon"), doctor.ForgedSigned, doctor.Warning},
		{alarm("tampered", "head"), doctor.ForgedHead, doctor.Warning},
		{alarm("tampered", "material.00"), doctor.MaterialForged, doctor.Critical},
		{alarm("a new kind", ""), doctor.OtherAlarm, doctor.Warning},
		{func(o *doctor.Observation) {
			o.Alarms = []doctor.Alarm{{Ledger: "keys", Kind: "tampered", Key: "head", Since: at, Ended: at}}
		}, doctor.PastAlarm, doctor.Info},
	} {
		o := healthy()
		c.spoil(&o)
		found := doctor.Examine(o)
		if len(found) == 0 || slices.ContainsFunc(found, func(f doctor.Finding) bool { return f.Code != c.code || f.Severity != c.severity }) {
			t.Errorf("findings = %+v, want %s, %s", found, c.severity, c.code)
			continue
		}
		if f := found[0]; f.Text == "" || f.Subject == "" || f.Severity > doctor.Info && f.Mend == "" {
			t.Errorf("%s does not say what it is about, what it means, and how it is mended: %+v", c.code, f)
		}
	}
}

func TestCompareFindsTwoHistories(t *testing.T) {
	a, b := healthy(), healthy()
	b.Server = "us-1"
	if found := doctor.Compare([]doctor.Observation{a, b}); len(found) != 0 {
		t.Errorf("equal histories: %+v", found)
	}
	b.Ledgers[1].Marks[1].Hash = "other"
	found := doctor.Compare([]doctor.Observation{a, b})
	if len(found) != 1 || found[0].Code != doctor.Diverged || found[0].Severity != doctor.Critical {
		t.Errorf("two histories: %+v", found)
	}
	b.Ledgers[1].Epoch = 2
	if found := doctor.Compare([]doctor.Observation{a, b}); len(found) != 0 {
		t.Errorf("another epoch has another history: %+v", found)
	}
	if found := doctor.Compare([]doctor.Observation{a}); len(found) != 1 || found[0].Code != doctor.ServerUnasked || found[0].Severity != doctor.Info {
		t.Errorf("one of two servers was asked: %+v", found)
	}
}

// Two replicas of lengths that are not far apart tell some hashes of the same events.
func TestMarksHaveSomeInCommon(t *testing.T) {
	for _, n := range []keystore.N{1, 2, 31, 32, 33, 100, 1000, 4096, 4097, 1_000_000} {
		marks := doctor.MarksAt(n)
		if len(marks) > 100 || marks[0] != n || marks[len(marks)-1] != 1 || !slices.IsSortedFunc(marks, func(a, b keystore.N) int { return int(b) - int(a) }) {
			t.Errorf("MarksAt(%d) = %v", n, marks)
		}
		for _, behind := range []keystore.N{0, 1, 10, n / 3} {
			if m := n - behind; m > 0 && m < n {
				common := 0
				for _, at := range doctor.MarksAt(m) {
					if slices.Contains(marks, at) {
						common++
					}
				}
				if common < 1 || n > 100 && common < 8 {
					t.Errorf("replicas of %d and %d events have %d marks in common", n, m, common)
				}
			}
		}
	}
	if got := doctor.MarksAt(0); len(got) != 0 {
		t.Errorf("MarksAt(0) = %v", got)
	}
}

func TestMergeListsTheLedgersFindingsOnce(t *testing.T) {
	a := doctor.Finding{Code: doctor.EventOverwritten, Severity: doctor.Critical, Server: "eu-1", Subject: "keys log.2", Repair: &doctor.Repair{Ledger: "keys", Key: "log.2", Revision: 7}}
	b := a
	b.Server = "us-1"
	disk := doctor.Finding{Code: doctor.DiskFull, Severity: doctor.Warning, Server: "us-1", Subject: "/srv"}
	other := disk
	other.Server = "eu-1"
	got := doctor.Merge([]doctor.Finding{disk, a}, []doctor.Finding{b, other})
	if len(got) != 3 || got[0].Code != doctor.EventOverwritten || doctor.Worst(got) != doctor.Critical {
		t.Errorf("Merge = %+v, want the event once and both disks", got)
	}
	text, err := json.Marshal(got[0])
	if err != nil {
		t.Fatal(err)
	}
	var back doctor.Finding
	if err := json.Unmarshal(text, &back); err != nil || back.Severity != doctor.Critical || *back.Repair != *a.Repair {
		t.Errorf("back from JSON: %+v, %v", back, err)
	}
	if doctor.Worst(nil) != 0 {
		t.Error("Worst of nothing is something")
	}
}
