package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/replication/backup"
)

// A backup and its increment hold what the replicas hold, and no key bytes.
func TestBackupHoldsTheReplicas(t *testing.T) {
	r := start(t, filepath.Join(t.TempDir(), "store"))
	register := func(name string) adminapi.Registered {
		t.Helper()
		got, err := r.service.RegisterHost(t.Context(), "admin", adminapi.RegisterHost{
			Intent: intent(), Name: name, Rings: []string{string(devRing)},
		})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	take := func(bases adminhttp.Bases) []byte {
		t.Helper()
		var out bytes.Buffer
		if err := r.service.Backup(t.Context(), bases, &out); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	first := register("web-1")
	whole := take(nil)
	parts, err := backup.Parts(bytes.NewReader(whole))
	if err != nil {
		t.Fatal(err)
	}
	bases := adminhttp.Bases{}
	for _, p := range parts {
		bases[p.Kind] = p.Head
	}
	if _, err := r.service.Rollover(t.Context(), "admin", devRing, adminapi.Rollover{Intent: intent(), Force: true}); err != nil {
		t.Fatal(err)
	}
	second := register("web-2")
	increment := take(bases)

	ledgers, err := backup.Verify(nil, bytes.NewReader(whole), bytes.NewReader(increment))
	if err != nil || len(ledgers) != 2 {
		t.Fatalf("Verify = %d ledgers, %v; want 2", len(ledgers), err)
	}
	for i, m := range []interface {
		Snapshot() (events.Head, map[string][]byte)
	}{r.keys.Replica(), r.hosts.Replica()} {
		head, values := m.Snapshot()
		l := ledgers[i]
		if l.Bad != 0 || l.State.Head() != head || len(l.Values) != len(values) {
			t.Errorf("%s: bad = %d (%v), head %v, %d values; want head %v, %d values", l.Part.Kind, l.Bad, l.Why, l.State.Head(), len(l.Values), head, len(values))
		}
		for key, value := range values {
			if !bytes.Equal(l.Values[key], value) {
				t.Errorf("%s: the value of %s is another", l.Part.Kind, key)
			}
		}
	}
	for _, secret := range []adminapi.Secret{first.Secret, second.Secret} {
		if bytes.Contains(append(whole, increment...), []byte(secret)) {
			t.Error("a shared secret is in the backup")
		}
	}
	bases[events.Keys] = events.Head{N: 2, Hash: events.HashOf(nil)}
	if err := r.service.Backup(t.Context(), bases, io.Discard); !errors.Is(err, keystore.ErrInvalid) {
		t.Errorf("Backup after an event of another history = %v, want ErrInvalid", err)
	}
}

func TestExportHasEveryEvent(t *testing.T) {
	r := start(t, filepath.Join(t.TempDir(), "store"))
	if _, err := r.service.Rollover(t.Context(), "eva", devRing, adminapi.Rollover{Intent: intent(), Force: true}); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := r.service.Export(t.Context(), adminhttp.Span{}, &out); err != nil {
		t.Fatal(err)
	}
	next := map[string]keystore.N{}
	prev := map[string]string{}
	var last adminapi.AuditEvent
	for line := range strings.Lines(out.String()) {
		var e adminapi.AuditEvent
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		next[e.Ledger]++
		if e.N != next[e.Ledger] || e.N > 1 && e.Prev != prev[e.Ledger] {
			t.Errorf("%s: event %d after %d, prev %s after %s", e.Ledger, e.N, next[e.Ledger]-1, e.Prev, prev[e.Ledger])
		}
		prev[e.Ledger] = e.Hash
		if e.Ledger == "keys" {
			last = e
		}
	}
	keys, _ := r.keys.Replica().Watch()
	hosts, _ := r.hosts.Replica().Watch()
	if next["keys"] != keys || next["hosts"] != hosts {
		t.Errorf("exported %v; want %d and %d events", next, keys, hosts)
	}
	if last.Type != "rollover" || last.Actor != "eva" || last.Subject != string(devRing) || last.Change == nil {
		t.Errorf("the last event = %+v", last)
	}
	out.Reset()
	if err := r.service.Export(t.Context(), adminhttp.Span{Until: time.Unix(1, 0)}, &out); err != nil || out.Len() > 0 {
		t.Errorf("until 1970: %v, %q", err, out.String())
	}
}
