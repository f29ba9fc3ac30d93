package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/keystore/doctor"
)

// diagnose examines a server, and fails unless the codes above info are these.
func (r *running) diagnose(t *testing.T, want ...doctor.Code) adminapi.Diagnosis {
	t.Helper()
	d, err := r.service.Doctor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []doctor.Code
	for _, f := range d.Findings {
		if f.Severity > doctor.Info && !slices.Contains(got, f.Code) {
			got = append(got, f.Code)
		}
		if f.Severity > doctor.Info && (f.Text == "" || f.Mend == "" || f.Subject == "") {
			t.Errorf("finding %+v does not say what it is about, what it means and how it is mended", f)
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Fatalf("findings = %v, want %v:\n%+v", got, want, d.Findings)
	}
	return d
}

// forge puts a value past the server, as anybody who reaches the bus can.
func (r *running) forge(t *testing.T, key string, value []byte) {
	t.Helper()
	js, nc, err := r.bus.JetStream("forger")
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	subject := events.Subject(events.BucketName(events.Keys, r.id.Store, r.id.Epoch), key)
	if _, err := js.Publish(t.Context(), subject, value); err != nil {
		t.Fatal(err)
	}
}

// alarmed reports whether an alarm of a kind stands in the status.
func (r *running) alarmed(kind string) bool {
	return slices.ContainsFunc(r.service.alarms(), func(a adminapi.Alarm) bool { return a.Kind == kind && a.Ended.IsZero() })
}

// TestDoctorMends walks a server alone through a good examination, an event and a key
// that were written over, one in the next event's place, and out of each.
func TestDoctorMends(t *testing.T) {
	r := start(t, filepath.Join(t.TempDir(), "dev"))
	d := r.diagnose(t)
	if l := d.Observation.Ledgers; len(l) != 2 || l[0].Examined == 0 || l[0].Bucket == nil || len(l[0].Marks) == 0 {
		t.Fatalf("ledgers = %+v", l)
	}
	if c := d.Observation.Core; len(c.Servers) != 1 || len(c.Servers[0].Streams) != 2 || c.Store == nil || c.Store.Bytes == 0 {
		t.Fatalf("core = %+v", c)
	}
	kid := r.show(t).Keys[0].KID
	for _, spoiled := range []struct {
		key  string
		code doctor.Code
		also []doctor.Code
	}{
		{events.LogKey(2), doctor.EventOverwritten, nil},
		{"material." + kid, doctor.MaterialForged, nil},
		{events.RingKey(devRing), doctor.ValueDiffers, nil},
		{"", doctor.ForgedEvent, []doctor.Code{doctor.Halted}},
	} {
		key := spoiled.key
		if key == "" {
			n, _ := r.keys.Replica().Watch()
			key = events.LogKey(n + 1)
		}
		r.forge(t, key, []byte("forged"))
		eventually(t, func() error {
			for _, a := range r.service.alarms() {
				if a.Key == key && a.Ended.IsZero() {
					return nil
				}
			}
			return fmt.Errorf("no alarm of %s", key)
		})
		d := r.diagnose(t, append(spoiled.also, spoiled.code)...)
		i := slices.IndexFunc(d.Findings, func(f doctor.Finding) bool { return f.Repair != nil })
		if i < 0 {
			t.Fatalf("%s: nothing is to be mended: %+v", key, d.Findings)
		}
		got, err := r.service.Mend(t.Context(), "alice", adminapi.Mend{Intent: intent(), Repairs: []doctor.Repair{*d.Findings[i].Repair}})
		if err != nil || len(got.Mended) != 1 || got.N == 0 {
			t.Fatalf("%s: Mend = %+v, %v", key, got, err)
		}
		r.awaitState(t, events.Fresh)
		eventually(t, func() error {
			d, err := r.service.Doctor(t.Context())
			if err == nil && doctor.Worst(d.Findings) > doctor.Info {
				err = fmt.Errorf("after mending: %+v", d.Findings)
			}
			return err
		})
	}
}

// TestDoctorSeesAWrongKeyStoreKey: a key that another key store key has sealed.
func TestDoctorSeesAWrongKeyStoreKey(t *testing.T) {
	r := start(t, filepath.Join(t.TempDir(), "dev"))
	r.service.vault.keep()                                 // none: all that it meets is sealed by another
	r.diagnose(t, doctor.WrongKSK, doctor.UnvouchedServer) // nor does the membership key open
}

// TestCoreFilesThatRot flips bits in the files of one and of two of a core's three
// servers. Each finds its own within a round, while it serves; one after the other takes
// its stream anew from the others, as the finding says.
func TestCoreFilesThatRot(t *testing.T) {
	dir, _ := coreOf(t, 3)
	var all []*running
	often := func(c *Config) { c.checkup = time.Second }
	ids := []string{"eu-1", "us-1", "ap-1"}
	for _, id := range ids {
		all = append(all, launch(t, filepath.Join(dir, id), often))
	}
	for _, r := range all {
		r.awaitReady(t)
	}
	all[0].createRing(t, "sso")
	for i, r := range all {
		r.awaitRing(t, "sso")
		r.awaitState(t, events.Fresh)
		eventually(t, func() error {
			d, err := r.service.Doctor(t.Context())
			if err == nil && doctor.Worst(d.Findings) > doctor.Info {
				err = fmt.Errorf("a healthy core has findings at %s: %+v", ids[i], d.Findings)
			}
			return err
		})
	}
	for _, i := range []int{1, 2} {
		r := all[i]
		flip(t, r)
		eventually(t, func() error {
			if !r.alarmed(string(doctor.StoreDamaged)) {
				return errors.New(r.id.Server + " does not notice that its files have rotted")
			}
			return nil
		})
	}
	if all[0].alarmed(string(doctor.StoreDamaged)) {
		t.Error("eu-1 alarms, although its files are good")
	}
	for _, i := range []int{1, 2} { // the steps of the finding, one server at a time
		stream := filepath.Dir(all[i].bus.StreamDir(events.StreamName(events.BucketName(events.Keys, "main", 1))))
		if err := all[i].stop(); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(stream, filepath.Join(t.TempDir(), "rotten")); err != nil {
			t.Fatal(err)
		}
		all[i] = launch(t, filepath.Join(dir, ids[i]), often).awaitReady(t)
		all[i].awaitState(t, events.Fresh)
		eventually(t, func() error {
			d, err := all[i].service.Doctor(t.Context())
			if err == nil && doctor.Worst(d.Findings) > doctor.Info {
				err = fmt.Errorf("%s after its quarantine: %+v", ids[i], d.Findings)
			}
			return err
		})
	}
	all[1].createRing(t, "after")
	all[0].awaitRing(t, "after")
}

// flip changes one bit of the genesis event in a core server's file.
func flip(t *testing.T, r *running) {
	t.Helper()
	file := filepath.Join(r.bus.StreamDir(events.StreamName(events.BucketName(events.Keys, "main", 1))), "1.blk")
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	one := make([]byte, 1)
	_, err = f.ReadAt(one, 150)
	one[0] ^= 1
	if err == nil {
		_, err = f.WriteAt(one, 150)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}
