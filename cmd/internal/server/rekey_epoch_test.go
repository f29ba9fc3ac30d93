package server

import (
	"path/filepath"
	"testing"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
)

// TestAServerKeepsTheNextKeyStoreKeyInALaterEpoch: a server that has run since before a
// rekey moves to the epoch of a restore, with the key store key that it has taken since it
// started: nobody has the former one any more.
func TestAServerKeepsTheNextKeyStoreKeyInALaterEpoch(t *testing.T) {
	w := newRealm(t)
	first := w.start("ps-1")
	if err := w.join(first.invite(t, "ps-2")); err != nil {
		t.Fatal(err)
	}
	second := runMover(t, w.path("ps-2"), func(c *Config) { c.shared, c.Metrics.Listen = w.bus, "" })
	second.await(1, events.Fresh)
	first.createRing(t, "sso")
	before := w.identity("ps-2").KSK
	first.begin(t)
	after, err := keystore.ParseKID(first.rekeyed(t).KSK)
	if err != nil || after == before {
		t.Fatalf("rekeyed to %s: %v", after, err)
	}
	await(t, "ps-2's own file", func() bool { id := w.identity("ps-2"); return id.KSK == after && len(id.Former) == 0 })
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	js := second.now().js
	for _, kind := range []events.Kind{events.Keys, events.Hosts} { // the core is lost
		if err := js.DeleteKeyValue(t.Context(), events.BucketName(kind, "main", 1)); err != nil {
			t.Fatal(err)
		}
	}
	cfg := restoreConfig(t, w.path("ps-1"))
	cfg.Config.shared = w.bus
	if _, err := restore(t, withReplicas(cfg, w.path("ps-1"))); err != nil {
		t.Fatal(err)
	}
	second.await(2, events.Fresh)
	if id := w.identity("ps-2"); id.Epoch != 2 || id.KSK != after {
		t.Errorf("ps-2 is in epoch %d with key store key %s, want epoch 2 and %s", id.Epoch, id.KSK, after)
	}
	second.createRing("late")
}

// TestRestoreToBeforeARekey: what is restored is older than the newest rekey, and sealed
// under the key store key that the rekey ended. The server's unlock key opens that one by its
// slot in what is restored.
func TestRestoreToBeforeARekey(t *testing.T) {
	dir := newStore(t, "partners")
	older := t.TempDir()
	for _, file := range []string{keysFile, hostsFile} {
		copyFile(t, filepath.Join(dir, file), filepath.Join(older, file))
	}
	r := start(t, dir)
	before := kskOf(r.keys).Sealing
	r.begin(t)
	r.rekeyed(t)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	wipeBus(t, dir)
	if _, err := restore(t, withReplicas(restoreConfig(t, dir), older)); err != nil {
		t.Fatal(err)
	}
	for range 2 { // and again from its own file
		m := runMover(t, dir, nil)
		s := m.await(2, events.Fresh)
		if _, err := s.service.ring("partners"); err != nil || kskOf(s.keys).Sealing != before {
			t.Errorf("ring partners: %v, sealed under %s, want %s", err, kskOf(s.keys).Sealing, before)
		}
		await(t, "the server's own file", func() bool {
			id, err := loadIdentity(dir)
			return err == nil && id.KSK == before && len(id.Former) == 0
		})
		m.end()
	}
}
