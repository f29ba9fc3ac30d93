package replication_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/replication"
)

// withFile runs a test on a replica file with 12 events.
func withFile(t *testing.T, test func(t *testing.T, c *core, path string)) {
	t.Helper()
	bubble(t, func(t *testing.T, c *core) {
		n := c.run("replica.db")
		n.awaitReady()
		n.commit(replication.CreateRing(t, "sso"))
		for range 10 {
			n.commit(replication.Roll(t, "sso", ""))
		}
		n.stop()
		test(t, c, filepath.Join(c.dir, "replica.db"))
	})
}

func open(t *testing.T, path string, pin replication.Pin) *replication.Replica {
	t.Helper()
	r, err := replication.OpenReplica(path, pin)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func TestReplicaHoldsAllRecordsValuesAndMarks(t *testing.T) {
	withFile(t, func(t *testing.T, c *core, path string) {
		r := open(t, path, replication.Pin{Kind: c.pin.Kind, Store: "main", Epoch: 1}) // takes the file's own genesis
		if r.Pin() != c.pin {
			t.Errorf("Pin = %+v, want %+v", r.Pin(), c.pin)
		}
		s, err := events.Replay(r.Records(1, 1000), nil)
		if err != nil || s.N() != 12 {
			t.Errorf("replay = event %d, %v; want 12", s.N(), err)
		}
		r.Read(func(have *events.State) {
			if have.Head() != s.Head() {
				t.Errorf("head = %+v, want %+v", have.Head(), s.Head())
			}
			for _, key := range have.Live() {
				value, ok := r.Value(key)
				if want, _ := have.Expect(key); !ok || events.HashOf(value) != want {
					t.Errorf("value of %s is not the one of its event", key)
				}
			}
		})
		if _, err := r.Record(13); !errors.Is(err, keystore.ErrNotFound) {
			t.Errorf("Record(13) = %v, want keystore.ErrNotFound", err)
		}
		if n, _ := r.Durable(); n != 12 {
			t.Errorf("Durable = %d, want 12", n)
		}
		at := time.Now()
		if err := r.SetMark("retired sso 3", at); err != nil {
			t.Fatal(err)
		}
		r.Close()
		if got := open(t, path, c.pin).Mark("retired sso 3"); !got.Equal(at) {
			t.Errorf("Mark = %v, want %v", got, at)
		}
	})
}

func TestReplicaFileIsPrivate(t *testing.T) {
	withFile(t, func(t *testing.T, c *core, path string) {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != 0o600 {
			t.Errorf("mode = %v, want 0600", got)
		}
		if err := os.Chmod(path, 0o640); err != nil {
			t.Fatal(err)
		}
		if _, err := replication.OpenReplica(path, c.pin); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("OpenReplica of a file that others can read = %v, want an error that names it", err)
		}
	})
}

func TestReplicaOfAnotherLedgerIsRefused(t *testing.T) {
	withFile(t, func(t *testing.T, c *core, path string) {
		for name, edit := range map[string]func(*replication.Pin){
			"store":   func(p *replication.Pin) { p.Store = "other" },
			"kind":    func(p *replication.Pin) { p.Kind = events.Hosts },
			"epoch":   func(p *replication.Pin) { p.Epoch = 2 },
			"genesis": func(p *replication.Pin) { p.Genesis[0] ^= 1 },
		} {
			pin := c.pin
			edit(&pin)
			_, err := replication.OpenReplica(path, pin)
			bad, ok := errors.AsType[*replication.PinError](err)
			if !ok || bad.Path != path || bad.Hint() == "" {
				t.Errorf("another %s: OpenReplica = %v, want a *PinError that names the file", name, err)
			}
		}
		if _, err := replication.OpenReplica(filepath.Join(c.dir, "new.db"), replication.Pin{Kind: events.Keys, Store: "main", Epoch: 1}); err == nil {
			t.Error("a new replica without a pinned genesis: no error")
		}
	})
}

func TestSecondOpenerIsRefused(t *testing.T) {
	withFile(t, func(t *testing.T, c *core, path string) {
		open(t, path, c.pin)
		if _, err := replication.OpenReplica(path, c.pin); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("second OpenReplica = %v, want an error that names the file", err)
		}
	})
}

// Whatever a file holds, opening it gives a replica that is right or an error that
// names it: never a crash.
func TestDamagedReplicaIsRefused(t *testing.T) {
	withFile(t, func(t *testing.T, c *core, path string) {
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var want events.Head
		r := open(t, path, c.pin)
		r.Read(func(s *events.State) { want = s.Head() })
		r.Close()
		damaged := map[string][]byte{"empty": {}, "garbage": []byte(strings.Repeat("garbage ", 4096))}
		for size := 1; size < len(good); size = size*2 + 777 {
			damaged["cut at "+time.Duration(size).String()] = good[:size]
		}
		for page := 0; page < len(good)/4096; page++ {
			zeroed := append([]byte{}, good...)
			clear(zeroed[page*4096 : (page+1)*4096])
			damaged["page zeroed at "+time.Duration(page*4096).String()] = zeroed
		}
		for name, content := range damaged {
			file := filepath.Join(c.dir, "damaged.db")
			if err := os.WriteFile(file, content, 0o600); err != nil {
				t.Fatal(err)
			}
			r, err := replication.OpenReplica(file, c.pin)
			if err != nil {
				if !strings.Contains(err.Error(), file) {
					t.Errorf("%s: error %q does not name the file", name, err)
				}
				os.Remove(file)
				continue
			}
			r.Read(func(s *events.State) {
				if diff := cmp.Diff(want, s.Head()); diff != "" && s.N() > 0 && s.N() != want.N-1 {
					t.Errorf("%s: opened with another head (-want +got):\n%s", name, diff)
				}
			})
			r.Close()
			os.Remove(file)
		}
	})
}

func TestReplicaOlderThanTheBucketCatchesUp(t *testing.T) {
	withFile(t, func(t *testing.T, c *core, path string) {
		old, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		n := c.run("replica.db")
		n.awaitReady()
		for range 5 {
			n.commit(replication.Roll(t, "sso", ""))
		}
		version := ringVersion(n.Replica())
		n.stop()
		if err := os.WriteFile(path, old, 0o600); err != nil {
			t.Fatal(err)
		}
		n = c.run("replica.db")
		n.awaitN(17)
		if got := ringVersion(n.Replica()); got != version || len(n.Alarms()) > 0 {
			t.Errorf("version = %d and alarms %v, want %d and none", got, n.Alarms(), version)
		}
		n.awaitReady()
	})
}

func TestNewReplicaOfAnOldBucket(t *testing.T) {
	withFile(t, func(t *testing.T, c *core, _ string) {
		n := c.run("second.db")
		n.awaitReady()
		if n, _ := n.Replica().Durable(); n != 12 {
			t.Errorf("Durable = %d, want 12", n)
		}
		if len(n.Alarms()) > 0 {
			t.Errorf("alarms = %v, want none", n.Alarms())
		}
	})
}
