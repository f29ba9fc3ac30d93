package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/keystore/seal"
	"github.com/keytide/keytide/keystore/secretfile"
)

func intended(reason string) adminapi.Intent {
	return adminapi.Intent{Request: ulid.Make().String(), Reason: reason}
}

// rekeyed waits until no rekey is under way at a server, and returns where it stands.
func (r *running) rekeyed(t *testing.T) adminapi.Rekey {
	t.Helper()
	return r.rekeyPhase(t, "none", "erasing")
}

func (r *running) rekeyPhase(t *testing.T, phases ...string) adminapi.Rekey {
	t.Helper()
	var v adminapi.Rekey
	await(t, fmt.Sprintf("a rekey that is %v", phases), func() bool {
		v = r.service.rekeyView()
		return slices.Contains(phases, v.Phase)
	})
	return v
}

func (r *running) registerWeb(t *testing.T, name string) {
	t.Helper()
	if _, err := r.service.RegisterHost(t.Context(), "eva", adminapi.RegisterHost{Intent: intended(""), Name: name, Rings: []string{"sso"}}); err != nil {
		t.Fatal(err)
	}
}

// sealedUnder checks that all material of both ledgers is sealed under one key store
// key, and opens.
func (r *running) sealedUnder(t *testing.T, ksk keystore.KID) {
	t.Helper()
	k, ok := r.service.vault.ksk(ksk)
	if !ok {
		t.Fatalf("server %s does not have key store key %s", r.id.Server, ksk)
	}
	for _, replica := range []interface {
		Snapshot() (events.Head, map[string][]byte)
	}{r.keys.Replica(), r.hosts.Replica()} {
		_, values := replica.Snapshot()
		for key, value := range values {
			parsed, err := events.ParseKey(key)
			if err != nil || parsed.Kind != events.KeyMaterial {
				continue
			}
			m, err := events.DecodeMaterial(value)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := k.Open(placed(r.id.Store, m.Owner, parsed.KID, m), m.Record); err != nil {
				t.Errorf("%s at server %s: %v", key, r.id.Server, err)
			}
		}
	}
}

func (r *running) begin(t *testing.T) adminapi.RekeyBegun {
	t.Helper()
	begun, err := r.service.BeginRekey(t.Context(), "eva", adminapi.BeginRekey{Intent: intended("yearly")})
	if err != nil {
		t.Fatal(err)
	}
	return begun
}

func (w *realm) identity(server string) identity {
	w.t.Helper()
	id, err := loadIdentity(w.path(server))
	if err != nil {
		w.t.Fatal(err)
	}
	return id
}

// TestRekeyTakesEveryServerAlong replaces the key store key of a store with two servers
// of two regions, each with an unlock key of its own, while rings and hosts change.
func TestRekeyTakesEveryServerAlong(t *testing.T) {
	w := newRealm(t)
	first := w.start("ps-1")
	if err := w.join(first.invite(t, "ps-2")); err != nil {
		t.Fatal(err)
	}
	second := w.start("ps-2")
	first.createRing(t, "sso")
	for i := range 3 {
		first.registerWeb(t, fmt.Sprintf("web-%d", i))
	}
	before := w.identity("ps-1").KSK
	begun := first.begin(t)
	if begun.Phase == "none" || begun.Next == "" {
		t.Errorf("begun: %+v", begun)
	}
	first.createRing(t, "during")
	first.registerWeb(t, "web-9")
	for _, r := range []*running{first, second} {
		v := r.rekeyed(t)
		after, err := keystore.ParseKID(v.KSK)
		if err != nil || after == before || v.Left != 0 {
			t.Fatalf("ended: %+v, %v", v, err)
		}
		r.sealedUnder(t, after)
		await(t, "the server's own file", func() bool {
			id := w.identity(r.id.Server)
			return id.KSK == after && len(id.Former) == 0
		})
		if _, has := r.service.vault.ksk(before); has {
			t.Errorf("server %s keeps the former key store key in memory", r.id.Server)
		}
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
	}
	first, second = w.start("ps-1"), w.start("ps-2")
	third := first.invite(t, "ps-3")
	first.begin(t)
	first.rekeyed(t)
	if err := w.join(third); err != nil { // invited before the rekey, joined after it
		t.Fatal(err)
	}
	w.start("ps-3").createRing(t, "late")
	second.rekeyed(t)
}

// TestRekeyIsCarriedOnAfterACrashAtEveryStep ends the only server at each step of a
// rekey, and starts it again: it goes on by itself, and nothing is lost.
func TestRekeyIsCarriedOnAfterACrashAtEveryStep(t *testing.T) {
	steps := []string{
		"rekey save", "rekey saved", "rekey_turned keys", "rekey_begun hosts", "rekey_turned hosts",
		"material_rewrapped keys", "material_rewrapped hosts", "rekey_ended hosts", "rekey_ended keys",
	}
	w := newRealm(t)
	r := w.start("ps-1")
	r.createRing(t, "sso")
	r.registerWeb(t, "web-1")
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	for _, step := range steps {
		reached := make(chan struct{})
		var once sync.Once
		w.step = func(at string) {
			if at == step {
				once.Do(func() { close(reached) })
				runtime.Goexit() // what carries rekeys on is as dead as after kill -9
			}
		}
		r := w.start("ps-1")
		r.begin(t)
		select {
		case <-reached:
		case <-time.After(time.Minute):
			t.Fatalf("step %q is not reached: %+v\n%s", step, r.service.rekeyView(), r.log)
		}
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		w.step = nil
		r = w.start("ps-1")
		v := r.rekeyed(t)
		after, err := keystore.ParseKID(v.KSK)
		if err != nil {
			t.Fatal(err)
		}
		r.sealedUnder(t, after)
		if err := r.stop(); err != nil {
			t.Fatalf("after %q: %v", step, err)
		}
	}
}

// TestDestroyedUnlockKeyErasesWhatItOpened: with another unlock key next, a rekey leaves
// nothing that the former one opens but old copies; destroyed, it takes those along.
func TestDestroyedUnlockKeyErasesWhatItOpened(t *testing.T) {
	w := newRealm(t)
	r := w.start("ps-1")
	r.createRing(t, "sso")
	old := w.identity("ps-1")
	_, backup := r.keys.Replica().Snapshot() // what an old backup has
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	next := filepath.Join(w.dir, "next.key")
	if err := secretfile.Write(next, seal.GenerateFileKey()); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(w.path("ps-1"), configFile)
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	replace := func(from, to string) {
		t.Helper()
		if !strings.Contains(string(text), from) {
			t.Fatalf("no %q in\n%s", from, text)
		}
		text = []byte(strings.Replace(string(text), from, to, 1))
		if err := os.WriteFile(config, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	replace("  file: unlock.key\n", "  file: unlock.key\n  next:\n    file: "+next+"\n")
	r = w.start("ps-1")
	r.begin(t)
	after := r.rekeyed(t).KSK
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	replace("  file: unlock.key\n  next:\n    file: "+next+"\n", "  file: "+next+"\n")
	former, err := seal.FileKey(filepath.Join(w.path("ps-1"), unlockFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(w.path("ps-1"), unlockFile)); err != nil {
		t.Fatal(err)
	}
	r = w.start("ps-1")
	if r.service.rekeyView().KSK != after {
		t.Errorf("started with %+v", r.service.rekeyView())
	}
	present, err := seal.FileKey(next)
	if err != nil {
		t.Fatal(err)
	}
	slots, err := events.DecodeKSK(backup[events.KSKKey(old.KSK)])
	if err != nil {
		t.Fatal(err)
	}
	every := append(slots.Records(), old.Slots...)
	if _, err := seal.Unlock(old.KSK, every, present, "main"); !errors.Is(err, seal.ErrWrongKey) {
		t.Errorf("the present unlock key opens the old backup: %v", err)
	}
	// The test could fail: the destroyed key does open it.
	if _, err := seal.Unlock(old.KSK, every, former, "main"); err != nil {
		t.Errorf("the former unlock key does not open the old backup: %v", err)
	}
	// And nothing that lives opens with the destroyed key.
	id := w.identity("ps-1")
	live, err := kskValue(r.keys, id.KSK)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := seal.Unlock(id.KSK, append(live.Records(), id.Slots...), former, "main"); !errors.Is(err, seal.ErrWrongKey) {
		t.Errorf("the former unlock key opens the store: %v", err)
	}
}

func TestSlotsAreAddedAndRemoved(t *testing.T) {
	w := newRealm(t)
	r := w.start("ps-1")
	path := filepath.Join(w.dir, "second.key")
	if err := secretfile.Write(path, seal.GenerateFileKey()); err != nil {
		t.Fatal(err)
	}
	u, err := seal.FileKey(path)
	if err != nil {
		t.Fatal(err)
	}
	slots, err := r.service.UnlockSlots(t.Context())
	if err != nil || len(slots.Slots) != 1 || slots.Slots[0].Kind != "file" {
		t.Fatalf("slots = %+v, %v", slots, err)
	}
	only, err := keystore.ParseKID(slots.Slots[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	remove := func(id keystore.KID) error {
		_, err := r.service.RemoveSlot(t.Context(), "eva", id, adminapi.RemoveSlot{Intent: intended("")})
		return err
	}
	if err := remove(only); !errors.Is(err, keystore.ErrRefused) {
		t.Errorf("the last slot was removed: %v", err)
	}
	req, err := NewSlotRequest(u, 0)
	if err != nil {
		t.Fatal(err)
	}
	req.Intent, req.Region, req.Label = intended("the safe"), "eu", "safe"
	added, err := r.service.AddSlot(t.Context(), "eva", req)
	if err != nil || added.Slot.Region != "eu" || added.Slot.Label != "safe" || added.Slot.Kind != "file" {
		t.Fatalf("added = %+v, %v", added, err)
	}
	again, err := r.service.AddSlot(t.Context(), "eva", req)
	if err != nil || again.N != added.N || again.Slot.ID != added.Slot.ID {
		t.Errorf("the same request again = %+v, %v", again, err)
	}
	value, err := kskValue(r.keys, w.identity("ps-1").KSK)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := seal.Unlock(value.ID, value.Records(), u, "main"); err != nil {
		t.Errorf("the new slot does not open: %v", err)
	}
	if err := remove(only); err != nil {
		t.Errorf("remove = %v", err)
	}
	if err := remove(only); !errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("remove again = %v", err)
	}
	req.Intent, req.Region = intended(""), "mars"
	if _, err := r.service.AddSlot(t.Context(), "eva", req); !errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("a slot of a region without servers: %v", err)
	}
	req.Region, req.Replaces = "", only.String()
	if _, err := r.service.AddSlot(t.Context(), "eva", req); !errors.Is(err, keystore.ErrInvalid) {
		t.Errorf("a slot that replaces none: %v", err)
	}
	// The ledger of hosts follows.
	await(t, "the ledger of hosts has the same slots", func() bool {
		hosts, err := kskValue(r.hosts, value.ID)
		keys, fault := kskValue(r.keys, value.ID)
		return err == nil && fault == nil && sameSlots(keys, hosts) && len(hosts.Slots) == 1
	})
	// The server whose unlock key opened the removed slot keeps a copy, and starts by it.
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	w.start("ps-1").createRing(t, "after")
}

// TestRekeyWaitsForAServerThatIsAway: nothing is sealed anew while a server that counts
// has not taken the next key store key; a second rekey is refused meanwhile; and an
// excluded server comes back to whatever has become of the store.
func TestRekeyWaitsForAServerThatIsAway(t *testing.T) {
	w := newRealm(t)
	first := w.start("ps-1")
	if err := w.join(first.invite(t, "ps-2")); err != nil {
		t.Fatal(err)
	}
	second := w.start("ps-2")
	first.createRing(t, "sso")
	second.awaitRing(t, "sso")
	if err := second.stop(); err != nil {
		t.Fatal(err)
	}
	before := first.begin(t)
	await(t, "the rekey waits for ps-2 alone", func() bool {
		v := first.service.rekeyView()
		return slices.Equal(v.Waits, []string{"ps-2"}) && len(v.Slots) == 0
	})
	if _, err := first.service.BeginRekey(t.Context(), "eve", adminapi.BeginRekey{Intent: intended("mine")}); !errors.Is(err, keystore.ErrRefused) {
		t.Errorf("a second rekey at once: %v", err)
	}
	if again, err := first.service.BeginRekey(t.Context(), "eva", adminapi.BeginRekey{Intent: adminapi.Intent{Request: requestOf(t, first, before.N)}}); err != nil || again.N != before.N {
		t.Errorf("the same request again: %+v, %v", again, err)
	}
	alarmed := func(text string) bool {
		return slices.ContainsFunc(first.service.alarms(), func(a adminapi.Alarm) bool { return a.Kind == "rekey" && strings.Contains(a.Text, text) })
	}
	if !alarmed("waits for servers ps-2") {
		t.Errorf("alarms: %+v", first.service.alarms())
	}
	first.createRing(t, "during") // under the key store key that ps-2 has
	if k := kskOf(first.keys); k.Sealing.String() != before.KSK || k.Former != (keystore.KID{}) {
		t.Errorf("it has gone on: %+v", k)
	}
	exclude := func() {
		t.Helper()
		if _, err := first.service.ExcludeServer(t.Context(), "eva", "ps-2", adminapi.LeaveOut{Intent: intended("away"), Force: true}); err != nil {
			t.Fatal(err)
		}
	}
	exclude()
	v := first.rekeyed(t)
	if v.Phase != "erasing" || !slices.Equal(v.Excluded, []string{"ps-2"}) || !alarmed("ps-2 still hold the former") {
		t.Errorf("ended: %+v, alarms %+v", v, first.service.alarms())
	}
	first.begin(t) // a second one, while it is away
	v = first.rekeyPhase(t, "erasing")
	after, err := keystore.ParseKID(v.KSK)
	if err != nil {
		t.Fatal(err)
	}
	second = w.start("ps-2")
	await(t, "ps-2 has taken it", func() bool {
		return first.service.rekeyView().Phase == "none" && second.service.rekeyView().Phase == "none"
	})
	second.awaitRing(t, "during")
	second.sealedUnder(t, after)
	if faults := second.source.unfed(); len(faults) > 0 {
		t.Errorf("ps-2 does not feed: %v", faults)
	}
	await(t, "ps-2 counts again", func() bool {
		m, counts := events.Member{}, false
		first.keys.Replica().Read(func(state *events.State) { m, counts = state.Member("ps-2") })
		return counts && m.Counts()
	})
	second.createRing(t, "after")
	if err := second.stop(); err != nil {
		t.Fatal(err)
	}
	w.start("ps-2").sealedUnder(t, after)
}

func requestOf(t *testing.T, r *running, n keystore.N) string {
	t.Helper()
	rec, err := r.keys.Replica().Record(n)
	if err != nil {
		t.Fatal(err)
	}
	e, err := events.Decode(rec)
	if err != nil {
		t.Fatal(err)
	}
	return e.Request
}

// TestRekeyLeavesNoUnlockSlotBehind: a slot of the ledger that no server opens, such as
// that of a passphrase in a safe, is neither lost nor in the way unseen.
func TestRekeyLeavesNoUnlockSlotBehind(t *testing.T) {
	w := newRealm(t)
	r := w.start("ps-1")
	safe := func() seal.UnlockKey {
		path := filepath.Join(w.dir, ulid.Make().String())
		if err := secretfile.Write(path, seal.GenerateFileKey()); err != nil {
			t.Fatal(err)
		}
		u, err := seal.FileKey(path)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	add := func(u seal.UnlockKey, replaces string) adminapi.SlotAdded {
		t.Helper()
		req, err := NewSlotRequest(u, 0)
		if err != nil {
			t.Fatal(err)
		}
		req.Intent, req.Replaces = intended(""), replaces
		added, err := r.service.AddSlot(t.Context(), "eva", req)
		if err != nil {
			t.Fatal(err)
		}
		return added
	}
	one, two := safe(), safe()
	kept, dropped := add(one, ""), add(two, "")
	r.begin(t)
	await(t, "the rekey waits for both slots", func() bool { return len(r.service.rekeyView().Slots) == 2 })
	add(one, kept.Slot.ID)
	id, err := keystore.ParseKID(dropped.Slot.ID)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.service.RemoveSlot(t.Context(), "eva", id, adminapi.RemoveSlot{Intent: intended("not needed")}); err != nil {
		t.Fatal(err)
	}
	v := r.rekeyed(t)
	ksk, err := keystore.ParseKID(v.KSK)
	if err != nil {
		t.Fatal(err)
	}
	value, err := kskValue(r.keys, ksk)
	if err != nil || len(value.Slots) != 2 || len(value.Envelopes) != 0 {
		t.Fatalf("slots after it: %d, %v", len(value.Slots), err)
	}
	if _, err := seal.Unlock(ksk, value.Records(), one, "main"); err != nil {
		t.Errorf("the slot that was carried over: %v", err)
	}
	if _, err := seal.Unlock(ksk, value.Records(), two, "main"); !errors.Is(err, seal.ErrWrongKey) {
		t.Errorf("the slot that was removed: %v", err)
	}
}
