package server

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/keystore/seal"
	"github.com/keytide/keytide/replication"
)

// tamper changes a value in a replica's file, behind the server's back.
func tamper(t *testing.T, file, key string, change func(value []byte) []byte) {
	t.Helper()
	db, err := bolt.Open(file, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		values := tx.Bucket([]byte("values"))
		value := values.Get([]byte(key))
		if value == nil {
			return errors.New("no value of " + key)
		}
		return values.Put([]byte(key), change(append([]byte{}, value...)))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
}

func flipLast(value []byte) []byte {
	value[len(value)-1] ^= 1
	return value
}

func TestVerifyNamesAChangedValue(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dev")
	r := start(t, dir)
	if _, err := r.service.CreateRing(t.Context(), "alice", adminapi.CreateRing{Intent: intent(), Name: "web"}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.service.CreateRing(t.Context(), "alice", adminapi.CreateRing{Intent: intent(), Name: "last"}); err != nil {
		t.Fatal(err)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, keysFile)
	if v := verifyFile(t, file, r.keys.Replica().Pin()); !v.OK || v.Events != 4 {
		t.Errorf("verification before = %+v, want 4 good events", v)
	}
	tamper(t, file, events.RingKey("web"), flipLast)
	v := verifyFile(t, file, r.keys.Replica().Pin())
	if v.OK || v.FirstBad == nil || *v.FirstBad != 3 || !strings.Contains(v.Why, "ring.web") {
		t.Errorf("verification = %+v, want event 3 bad because of ring.web", v)
	}
}

// verifyFile verifies a replica that no server has open.
func verifyFile(t *testing.T, file string, pin replication.Pin) adminapi.LedgerVerification {
	t.Helper()
	replica, err := replication.OpenReplica(file, pin)
	if err != nil {
		t.Fatal(err)
	}
	defer replica.Close()
	return verifyLedger(t.Context(), replica)
}

// TestChangedMaterialStopsTheStart: a key whose bytes are not its own is never fed.
func TestChangedMaterialStopsTheStart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dev")
	r := start(t, dir)
	current, err := keystore.ParseKID(r.show(t).Keys[0].KID)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	tamper(t, filepath.Join(dir, keysFile), events.MaterialKey(current), flipLast)
	err = Dev(t.Context(), DevConfig{
		Dir: dir, Listen: "127.0.0.1:0", FeedListen: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler),
		Ready: func(Ready) { t.Error("the server serves") },
	})
	if err == nil || !strings.Contains(err.Error(), current.String()) {
		t.Errorf("Dev = %v, want an error that names key %s", err, current)
	}
}

// fixed gives one value whatever is asked for.
type fixed []byte

func (f fixed) Value(string) ([]byte, bool) { return f, f != nil }

func TestVaultRefusesWhatIsNotInItsPlace(t *testing.T) {
	ksk := seal.NewKSK()
	v := newVault("main", ksk)
	m := seal.Generate()
	value, err := v.seal(ksk.ID(), seal.Place{Owner: "ring:sso", Generation: 1, Purpose: seal.PurposeDynamic, Created: now()}, m)
	if err != nil {
		t.Fatal(err)
	}
	for name, open := range map[string]func() error{
		"another owner": func() error { _, err := v.open(fixed(value), "ring:web", m.KID()); return err },
		"another kid":   func() error { _, err := v.open(fixed(value), "ring:sso", seal.Generate().KID()); return err },
		"another store": func() error { _, err := newVault("other", ksk).open(fixed(value), "ring:sso", m.KID()); return err },
		"another KSK": func() error {
			_, err := newVault("main", seal.NewKSK()).open(fixed(value), "ring:sso", m.KID())
			return err
		},
		"no value":    func() error { _, err := v.open(fixed(nil), "ring:sso", m.KID()); return err },
		"not a value": func() error { _, err := v.open(fixed("x"), "ring:sso", m.KID()); return err },
		"a changed value": func() error {
			_, err := v.open(fixed(flipLast(append([]byte{}, value...))), "ring:sso", m.KID())
			return err
		},
	} {
		if err := open(); err == nil || !strings.Contains(err.Error(), "key ") {
			t.Errorf("%s: open = %v, want an error that names the key", name, err)
		}
	}
	opened, err := v.open(fixed(value), "ring:sso", m.KID())
	if err != nil || opened.KID() != m.KID() {
		t.Fatalf("open = %v, want the key", err)
	}
	if _, err := v.open(fixed(nil), "ring:sso", m.KID()); err != nil {
		t.Errorf("a second open = %v, want what was opened before", err)
	}
	v.forget([]keystore.KID{m.KID()})
	if _, err := v.open(fixed(nil), "ring:sso", m.KID()); err == nil {
		t.Error("the vault still holds a key that it was told to forget")
	}
}

func TestStartThatIsStoppedEndsInOrder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dev")
	ctx, cancel := context.WithCancel(t.Context())
	err := Dev(ctx, DevConfig{
		Dir: dir, Listen: "127.0.0.1:0", FeedListen: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler),
		opened: func(*site) { cancel() },
		Ready:  func(Ready) { t.Error("the server serves") },
	})
	if err != nil {
		t.Errorf("Dev = %v, want nil", err)
	}
	r := start(t, dir)
	if got := r.show(t).Version; got != 1 {
		t.Errorf("version = %d, want 1", got)
	}
}
