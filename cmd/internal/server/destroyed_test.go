package server

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/agentfeed/cookie"
	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

// These tests look for destroyed keys everywhere that they ever were.

// kids are those of the ring as it stands.
func (r *running) kids(t *testing.T) []keystore.KID {
	t.Helper()
	ring, err := r.service.ring(devRing)
	if err != nil {
		t.Fatal(err)
	}
	kids := make([]keystore.KID, len(ring.Keys))
	for i, k := range ring.Keys {
		kids[i] = k.KID
	}
	return kids
}

// gone fails for each key whose material is anywhere still: in the bucket, the replica,
// what the server has opened, or what agents hold.
func (r *running) gone(t *testing.T, kids []keystore.KID, agents ...*agentfeed.Client) {
	t.Helper()
	js, nc, err := r.bus.JetStream("test")
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	kv, err := js.KeyValue(t.Context(), events.BucketName(events.Keys, r.id.Store, r.id.Epoch))
	if err != nil {
		t.Fatal(err)
	}
	for _, kid := range kids {
		if _, err := kv.Get(t.Context(), events.MaterialKey(kid)); !errors.Is(err, jetstream.ErrKeyNotFound) {
			t.Errorf("key %s in the bucket: %v, want it not found", kid, err)
		}
		if _, ok := r.keys.Replica().Value(events.MaterialKey(kid)); ok {
			t.Errorf("key %s is in the replica", kid)
		}
		await(t, "the vault to forget a destroyed key", func() bool { return !r.source.vault.has(kid) })
		for i, agent := range agents {
			if set := agent.Ring(devRing).Snapshot(); set != nil {
				if _, ok := set.Key(kid); ok {
					t.Errorf("agent %d has key %s", i, kid)
				}
			}
		}
	}
}

// has reports whether a key's material is opened.
func (v *vault) has(kid keystore.KID) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	_, ok := v.opened[kid]
	return ok
}

// neverBare watches that an agent always has a key to seal with, until stop is called.
func neverBare(t *testing.T, agent *agentfeed.Client) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() {
		for ctx.Err() == nil {
			set := agent.Ring(devRing).Snapshot()
			if set == nil {
				t.Error("an agent is without the ring")
				return
			}
			if _, ok := set.Sealing(); !ok {
				t.Error("an agent has no key to seal with")
				return
			}
			time.Sleep(time.Millisecond)
		}
	})
	return func() { cancel(); watching.Wait() }
}

// TestEmergencyReachesEverybody: every connected agent refuses what destroyed keys
// sealed, is never without a key, and the incident is open until all have confirmed.
func TestEmergencyReachesEverybody(t *testing.T) {
	r := start(t, filepath.Join(t.TempDir(), "dev"))
	agents := []*agentfeed.Client{r.agent(t, "web-1", devRing), r.agent(t, "web-2", devRing)}
	var codecs []*cookie.Codec
	for _, agent := range agents {
		version(t, agent, devRing, 1)
		codec, err := cookie.New(cookie.Config{Ring: agent.Ring(devRing), Name: "session"})
		if err != nil {
			t.Fatal(err)
		}
		codecs = append(codecs, codec)
		defer neverBare(t, agent)()
	}
	token, err := codecs[0].Seal(nil, []byte("alice"))
	if err != nil {
		t.Fatal(err)
	}
	ticket, err := r.service.vault.open(r.keys.Replica(), ringOwner(devRing), r.kids(t)[3])
	if err != nil || ticket.KID() != r.kids(t)[3] {
		t.Fatal(err)
	}
	before := r.kids(t)
	asked := time.Now()
	done, err := r.service.Rollover(t.Context(), "alice", devRing, adminapi.Rollover{
		Intent: intent(), Emergency: true, With: []string{"static", "ticket"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, agent := range agents {
		version(t, agent, devRing, done.Version)
		if _, err := codecs[i].Open(nil, token); err == nil {
			t.Errorf("agent %d opens what a destroyed key sealed", i)
		}
	}
	t.Logf("all agents refuse destroyed keys %v after the request", time.Since(asked))
	fresh, err := codecs[0].Seal(nil, []byte("alice"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := codecs[1].Open(nil, fresh); err != nil {
		t.Errorf("a session sealed after the emergency = %v, want it to open elsewhere", err)
	}
	r.gone(t, before, agents...)
	await(t, "the incident to be closed", func() bool {
		ring, err := r.service.ring(devRing)
		return err == nil && ring.Incident.N == 0
	})
	status, err := r.service.Status(t.Context())
	if err != nil || len(status.Alarms) != 0 || status.Rings[0].Incident != nil {
		t.Errorf("status = %+v, %v; want no alarm and no incident", status, err)
	}
	if v, err := r.service.Verify(t.Context()); err != nil || !v.OK {
		t.Errorf("Verify = %+v, %v, want OK", v, err)
	}
}

// TestOpenIncidentSaysForWhomItWaits: a server that has not confirmed keeps it open.
func TestOpenIncidentSaysForWhomItWaits(t *testing.T) {
	inVirtualTime(t, nil, func(t *testing.T, v *virtual) {
		v.silent(t)
		time.Sleep(3 * time.Hour)
		req := adminapi.Rollover{Intent: intent(), Emergency: true}
		done, err := v.service.Rollover(t.Context(), "alice", devRing, req)
		if err != nil {
			t.Fatal(err)
		}
		again, err := v.service.Rollover(t.Context(), "alice", devRing, req)
		if err != nil || again.N != done.N {
			t.Errorf("the retried request = event %d, %v; want event %d", again.N, err, done.N)
		}
		time.Sleep(time.Hour)
		status, err := v.service.Status(t.Context())
		if err != nil || status.Rings[0].Incident == nil || !slices.Equal(status.Rings[0].Incident.Servers, []string{"ps-2"}) {
			t.Fatalf("status = %+v, %v; want an incident that waits for ps-2", status.Rings[0], err)
		}
		if text := v.alarm(t, "incident-open"); text == "" {
			t.Error("no alarm says that an incident is open")
		}
		v.server(t, events.ServerChange{Type: events.TypeServerExcluded, ID: "ps-2", Cause: events.ByAdministrator})
		v.settle()
		if got := v.types(t, done.N); !slices.Equal(got, []string{"incident_closed"}) {
			t.Errorf("events = %v, want the incident closed", got)
		}
	})
}

// TestDeletedRingIsNowhere: its keys are destroyed, agents lose it, and a ring of its name
// that is made anew reaches them.
func TestDeletedRingIsNowhere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dev")
	r := start(t, dir)
	agent := r.agent(t, "web-1", devRing)
	version(t, agent, devRing, 1)
	before := r.kids(t)
	if _, err := r.service.DeleteRing(t.Context(), "alice", devRing, adminapi.DeleteRing{Intent: intent()}); !errors.As(err, new(*keystore.GrantedError)) {
		t.Fatalf("DeleteRing = %v, want a GrantedError", err)
	}
	req := adminapi.DeleteRing{Intent: intent(), Force: true}
	done, err := r.service.DeleteRing(t.Context(), "alice", devRing, req)
	if err != nil || len(done.Destroyed) != 4 {
		t.Fatalf("DeleteRing = %+v, %v; want four keys destroyed", done, err)
	}
	await(t, "the agent to lose the ring", func() bool { return agent.Ring(devRing).Snapshot() == nil })
	r.gone(t, before, agent)
	again, err := r.service.DeleteRing(t.Context(), "alice", devRing, req)
	if err != nil || again.ID != done.ID {
		t.Errorf("the retried deletion = %+v, %v; want event %s", again, err, done.ID)
	}
	use, err := r.service.Key(t.Context(), before[0])
	if err != nil || len(use.Uses) != 1 || use.Uses[0].Destroyed == nil || use.Uses[0].Destroyed.N != done.N || !use.Uses[0].Deleted {
		t.Errorf("Key = %+v, %v; want it destroyed by event %d with its ring", use, err, done.N)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r = start(t, dir)
	if rings, err := r.service.Rings(t.Context()); err != nil || len(rings.Rings) != 0 {
		t.Errorf("after a restart there are rings %+v, %v; want none: the first start is over", rings, err)
	}
	made, err := r.service.CreateRing(t.Context(), "alice", adminapi.CreateRing{Intent: intent(), Name: devRing})
	if err != nil || made.Ring.Version != 3 {
		t.Fatalf("CreateRing = %+v, %v; want version 3", made, err)
	}
	r.gone(t, before)
}

// TestUndoReachesAgents: what both keys sealed opens everywhere before and after.
func TestUndoReachesAgents(t *testing.T) {
	r := start(t, filepath.Join(t.TempDir(), "dev"))
	agent := r.agent(t, "web-1", devRing)
	defer neverBare(t, agent)()
	codec, err := cookie.New(cookie.Config{Ring: agent.Ring(devRing), Name: "session"})
	if err != nil {
		t.Fatal(err)
	}
	var tokens [][]byte
	seal := func() {
		t.Helper()
		token, err := codec.Seal(nil, []byte("alice"))
		if err != nil {
			t.Fatal(err)
		}
		tokens = append(tokens, token)
		for i, token := range tokens {
			if _, err := codec.Open(nil, token); err != nil {
				t.Errorf("session %d of %d = %v, want it to open", i+1, len(tokens), err)
			}
		}
	}
	first := r.kids(t)[0]
	seal()
	for _, req := range []adminapi.Rollover{{Intent: intent()}, {Intent: intent(), Undo: true}} {
		done, err := r.service.Rollover(t.Context(), "alice", devRing, req)
		if err != nil {
			t.Fatal(err)
		}
		version(t, agent, devRing, done.Version)
		seal()
	}
	if sealing, _ := agent.Ring(devRing).Snapshot().Sealing(); sealing.KID != first {
		t.Errorf("after the undo %s seals, want %s", sealing.KID, first)
	}
}
