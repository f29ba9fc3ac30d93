package ledger_test

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/events/ledger"
	"github.com/keytide/keytide/keystore"
)

var errEnough = errors.New("enough")

func kid(i uint64) keystore.KID {
	return keystore.KID(binary.BigEndian.AppendUint64(nil, 0xa0<<56|i))
}

func sortPuts(puts []ledger.Put) {
	slices.SortFunc(puts, func(a, b ledger.Put) int { return cmp.Compare(a.Key, b.Key) })
}

func TestCreateMakesTheBucketOnceAndExactlySo(t *testing.T) {
	js := connect(t, startServer(t, nil).ClientURL())
	l := create(t, js)
	for range 2 { // the same settings, then others
		if _, err := ledger.Create(within(t), js, ledger.Config{Bucket: bucket, MaxBytes: 64 << 20}); !errors.Is(err, events.ErrBucketExists) {
			t.Errorf("Create of a bucket that exists = %v, want one that is ErrBucketExists", err)
		}
	}
	stream, err := js.Stream(within(t), events.StreamName(bucket))
	if err != nil {
		t.Fatal(err)
	}
	got := stream.CachedInfo().Config
	switch {
	case got.AllowRollup, !got.DenyPurge, !got.DenyDelete, got.MaxMsgsPerSubject != 1, !got.AllowAtomicPublish, !got.AllowDirect,
		got.Storage != jetstream.FileStorage, got.MaxConsumers <= 1000, got.Discard != jetstream.DiscardNew, got.MaxBytes != 64<<20:
		t.Errorf("settings = %+v", got)
	}
	if _, err := ledger.Open(within(t), js, bucket); err != nil {
		t.Errorf("Open = %v", err)
	}
	info, err := l.Info(within(t))
	if err != nil || info.Created.IsZero() || info.Last != 0 || info.Replicas != 1 || info.MaxBytes != 64<<20 {
		t.Errorf("Info = %+v, %v", info, err)
	}
	if _, err := ledger.Create(within(t), js, ledger.Config{Bucket: "keys"}); !errors.Is(err, keystore.ErrInvalid) {
		t.Errorf("Create of a bucket of another name = %v, want one that is ErrInvalid", err)
	}
}

func TestOpenNeverCreatesAndNamesEachUnsafeSetting(t *testing.T) {
	js := connect(t, startServer(t, nil).ClientURL())
	if _, err := ledger.Open(within(t), js, bucket); !errors.Is(err, events.ErrNoBucket) {
		t.Errorf("Open of a missing bucket = %v, want one that is ErrNoBucket", err)
	}
	// What the usual KV call makes: roll-up allowed, no atomic batches.
	if _, err := js.CreateKeyValue(within(t), jetstream.KeyValueConfig{Bucket: bucket, TTL: time.Hour}); err != nil {
		t.Fatal(err)
	}
	_, err := ledger.Open(within(t), js, bucket)
	var unsafe *ledger.SettingsError
	if !errors.Is(err, events.ErrSettings) || !errors.As(err, &unsafe) {
		t.Fatalf("Open = %v, want a SettingsError", err)
	}
	for _, name := range []string{"allow_rollup is true", "deny_purge is false", "allow_atomic is false", "max_age is 1h"} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("error %q does not name %q", err, name)
		}
	}
}

// TestCreateOrUpdateIsNoticed: the usual KV call silently turns batches off.
func TestCreateOrUpdateIsNoticed(t *testing.T) {
	js := connect(t, startServer(t, nil).ClientURL())
	create(t, js)
	_, err := js.CreateOrUpdateKeyValue(within(t), jetstream.KeyValueConfig{Bucket: bucket})
	if _, open := ledger.Open(within(t), js, bucket); err == nil && !errors.Is(open, events.ErrSettings) {
		t.Errorf("Open after CreateOrUpdateKeyValue = %v, want one that is ErrSettings", open)
	}
}

func TestAppendStoresTheWholeBatchInOrder(t *testing.T) {
	js := connect(t, startServer(t, nil).ClientURL())
	l := create(t, js)
	w := newWriter(t)
	w.append(l, w.genesis())
	w.append(l, w.ring("sso"))
	got := contents(t, l)
	var keys []string
	for i, e := range got {
		keys = append(keys, e.Key)
		if e.Revision != w.heads[e.Key] {
			t.Errorf("%s is at revision %d, want %d", e.Key, e.Revision, w.heads[e.Key])
		}
		if e.Batch == "" || e.Stored.IsZero() || e.Pending != uint64(len(got)-1-i) {
			t.Errorf("entry %+v", e)
		}
	}
	want := "log.1 ksk.a0000000000000f1 material.a0000000000000f2 " +
		"log.2 material.a000000000000065 material.a000000000000066 material.a000000000000067 material.a000000000000068 ring.sso head"
	if strings.Join(keys, " ") != want {
		t.Errorf("keys = %v, want %v", keys, want)
	}
	if last := got[len(got)-1]; last.Place != 7 || string(last.Value) != string(w.state.Head().Encode()) {
		t.Errorf("the head = %+v", last)
	}
}

// TestBucketIsReadableByAnyKVClient also shows that a deletion is one to them.
func TestBucketIsReadableByAnyKVClient(t *testing.T) {
	js := connect(t, startServer(t, nil).ClientURL())
	l := create(t, js)
	w := newWriter(t)
	w.append(l, w.genesis())
	w.append(l, w.ring("sso"))
	for range 2 {
		w.append(l, w.rollover("sso"))
	}
	ring, _ := w.state.Ring("sso")
	old := ring.ByRole(keystore.Old)
	c, err := ring.Destroy([]keystore.KID{old[0].KID})
	if err != nil {
		t.Fatal(err)
	}
	w.append(l, w.change(c))
	kv, err := js.KeyValue(within(t), bucket)
	if err != nil {
		t.Fatal(err)
	}
	entry, err := kv.Get(within(t), "ring.sso")
	if err != nil || string(entry.Value()) != "state 4" {
		t.Errorf("Get(ring.sso) = %v, %v", entry, err)
	}
	gone := events.MaterialKey(old[0].KID)
	if _, err := kv.Get(within(t), gone); !errors.Is(err, jetstream.ErrKeyNotFound) {
		t.Errorf("Get of a destroyed key = %v, want ErrKeyNotFound", err)
	}
	e, err := l.Newest(within(t), gone)
	if err != nil || !e.Deleted || len(e.Value) != 0 || e.Revision != w.heads[gone] {
		t.Errorf("Newest = %+v, %v", e, err)
	}
	if _, err := l.Newest(within(t), "log.99"); !errors.Is(err, events.ErrNoEntry) {
		t.Errorf("Newest of a key that never was = %v, want one that is ErrNoEntry", err)
	}
}

// TestConflictStoresNothing walks every expectation of a batch.
func TestConflictStoresNothing(t *testing.T) {
	js := connect(t, startServer(t, nil).ClientURL())
	l := create(t, js)
	w := newWriter(t)
	w.append(l, w.genesis())
	w.append(l, w.ring("sso"))
	good := w.rollover("sso")
	other := w.void("first")
	for name, change := range map[string]func(b *ledger.Batch){
		"an event that is there": func(b *ledger.Batch) { *b = w.redo(t, 2) },
		"another head":           func(b *ledger.Batch) { b.HeadRevision-- },
		"no head":                func(b *ledger.Batch) { b.HeadRevision = 0 },
		"another ring state":     func(b *ledger.Batch) { b.Puts[len(b.Puts)-1].Expect-- },
		"material that is there": func(b *ledger.Batch) { b.Puts[0].Expect = 1 },
	} {
		b := good
		b.Puts = slices.Clone(good.Puts)
		change(&b)
		before := contents(t, l)
		if _, err := l.Append(within(t), b); !errors.Is(err, events.ErrConflict) || errors.Is(err, events.ErrUnknown) {
			t.Errorf("%s: Append = %v, want one that is ErrConflict", name, err)
		}
		if after := contents(t, l); len(after) != len(before) || after[len(after)-1].Revision != before[len(before)-1].Revision {
			t.Errorf("%s: a refused batch left something behind", name)
		}
	}
	w.append(l, other)
	if _, err := l.Append(within(t), good); !errors.Is(err, events.ErrConflict) {
		t.Errorf("a batch that came second: Append = %v, want one that is ErrConflict", err)
	}
}

// redo is a batch for an n that is taken.
func (w *writer) redo(t *testing.T, n keystore.N) ledger.Batch {
	again := newWriter(t)
	for again.state.N() < n-1 {
		again.stored(again.genesis(), 4)
	}
	b := again.void("again")
	b.HeadRevision = w.heads[events.HeadKey]
	return b
}

func TestAppendChecksTheBatchBeforeItSends(t *testing.T) {
	js := connect(t, startServer(t, nil).ClientURL())
	l := create(t, js)
	w := newWriter(t)
	for name, change := range map[string]func(b *ledger.Batch){
		"another n":        func(b *ledger.Batch) { b.N = 2 },
		"another head":     func(b *ledger.Batch) { b.Head.N = 2 },
		"another hash":     func(b *ledger.Batch) { b.Head.Hash[0] ^= 1 },
		"a put too few":    func(b *ledger.Batch) { b.Puts = b.Puts[:1] },
		"another value":    func(b *ledger.Batch) { b.Puts[0].Value = []byte("changed") },
		"a value deleted":  func(b *ledger.Batch) { b.Puts[0].Delete = true },
		"puts out of turn": func(b *ledger.Batch) { slices.Reverse(b.Puts) },
		"no record":        func(b *ledger.Batch) { b.Record = nil },
	} {
		b := w.genesis()
		change(&b)
		_, err := l.Append(within(t), b)
		if !errors.Is(err, keystore.ErrInvalid) && !errors.Is(err, events.ErrMalformed) {
			t.Errorf("%s: Append = %v, want one that is ErrInvalid", name, err)
		}
	}
	if got := contents(t, l); len(got) != 0 {
		t.Errorf("%d entries were stored", len(got))
	}
}

func TestBeaconProvesTheHead(t *testing.T) {
	js := connect(t, startServer(t, nil).ClientURL())
	l := create(t, js)
	w := newWriter(t)
	head := w.append(l, w.genesis())
	for range 3 {
		if err := l.PutBeacon(within(t), []byte("beacon"), head); err != nil {
			t.Fatal(err)
		}
	}
	w.append(l, w.void("next"))
	if err := l.PutBeacon(within(t), []byte("late"), head); !errors.Is(err, events.ErrConflict) {
		t.Errorf("PutBeacon on a head that moved = %v, want one that is ErrConflict", err)
	}
	if err := l.PutRecord(within(t), "ps-1", []byte("record")); err != nil {
		t.Fatal(err)
	}
	if err := l.PutRecord(within(t), "PS 1", []byte("record")); !errors.Is(err, keystore.ErrInvalid) {
		t.Errorf("PutRecord of a strange server = %v, want one that is ErrInvalid", err)
	}
	for _, e := range contents(t, l) {
		if alone := e.Batch == ""; alone != (e.Key == events.BeaconKey || e.Key == events.ServerKey("ps-1")) {
			t.Errorf("%s: came alone: %v", e.Key, alone)
		}
	}
}

// TestFullBucketRefusesWhole: a bucket at its limit stores nothing of a batch and
// keeps what it has.
func TestFullBucketRefusesWhole(t *testing.T) {
	js := connect(t, startServer(t, nil).ClientURL())
	l, err := ledger.Create(within(t), js, ledger.Config{Bucket: bucket, MaxBytes: 32 << 10})
	if err != nil {
		t.Fatal(err)
	}
	w := newWriter(t)
	w.append(l, w.genesis())
	for {
		b := w.ring(keystore.RingName("ring-" + kid(uint64(w.state.N())).String()))
		rev, err := l.Append(within(t), b)
		if err == nil {
			w.stored(b, rev)
			continue
		}
		if !errors.Is(err, events.ErrUnavailable) || !strings.Contains(err.Error(), "maximum bytes") {
			t.Fatalf("Append to a full bucket = %v, want one that is ErrUnavailable and says why", err)
		}
		break
	}
	got := contents(t, l)
	if last := got[len(got)-1]; last.Key != events.HeadKey || last.Revision != w.heads[events.HeadKey] {
		t.Errorf("the newest entry is %s at revision %d, want the head at %d", last.Key, last.Revision, w.heads[events.HeadKey])
	}
}

func TestSealedBucketIsUnavailable(t *testing.T) {
	js := connect(t, startServer(t, nil).ClientURL())
	l := create(t, js)
	w := newWriter(t)
	w.append(l, w.genesis())
	stream, err := js.Stream(within(t), events.StreamName(bucket))
	if err != nil {
		t.Fatal(err)
	}
	cfg := stream.CachedInfo().Config
	cfg.Sealed = true
	if _, err := js.UpdateStream(within(t), cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(within(t), w.void("late")); !errors.Is(err, events.ErrUnavailable) {
		t.Errorf("Append to a sealed bucket = %v, want one that is ErrUnavailable", err)
	}
	if info, err := l.Info(within(t)); err != nil || !info.Sealed {
		t.Errorf("Info = %+v, %v, want it sealed", info, err)
	}
}

func TestEndedContextSendsNothing(t *testing.T) {
	js := connect(t, startServer(t, nil).ClientURL())
	l := create(t, js)
	w := newWriter(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := l.Append(ctx, w.genesis()); !errors.Is(err, events.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("Append = %v, want one that is ErrUnavailable and Canceled", err)
	}
	if err := l.PutRecord(ctx, "ps-1", nil); !errors.Is(err, events.ErrUnavailable) {
		t.Errorf("PutRecord = %v, want one that is ErrUnavailable", err)
	}
}
