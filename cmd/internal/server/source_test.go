package server

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/seal"
	"github.com/keytide/keytide/replication"
)

// TestFeedProvesNothingWithoutItsKeys: a ring whose newest key does not open here
// is not fed, and the server stops saying to agents that what they have is current,
// although its replica is.
func TestFeedProvesNothingWithoutItsKeys(t *testing.T) {
	r := start(t, filepath.Join(t.TempDir(), "dev"))
	before, _ := r.source.Watch()
	n := r.commitSealedElsewhere(t)
	await(t, "the source at the event", func() bool { return r.source.position().keys.N >= n })
	after, _ := r.source.Watch()
	if after.Rings[devRing] != before.Rings[devRing] {
		t.Errorf("the feed has ring %s at version %d; want the one that opened", devRing, after.Rings[devRing].Version)
	}
	proved := r.source.AsOf()
	await(t, "a newer proof of the replica", func() bool { return r.keys.Freshness().AsOf.Sub(proved) > 3*time.Second })
	if got := r.source.AsOf(); got != proved {
		t.Errorf("the feed proves to be current as of %v, %v after the key that did not open", got, got.Sub(proved))
	}
	status, err := r.service.Status(t.Context())
	if err != nil || len(status.Alarms) != 1 || status.Alarms[0].Kind != "material" {
		t.Errorf("status has the alarms %+v, %v; want one of kind material", status.Alarms, err)
	}
}

// commitSealedElsewhere rolls the first ring over to a future key that is sealed
// under a key store key that this server does not have.
func (r *running) commitSealedElsewhere(t *testing.T) keystore.N {
	t.Helper()
	made := seal.Generate()
	ksk := seal.NewKSK()
	elsewhere := newVault(r.id.Store, ksk)
	receipt, err := r.keys.Commit(t.Context(), func(state *events.State) (p replication.Proposal, err error) {
		ring, _ := state.Ring(devRing)
		change, err := ring.Rollover(keystore.Rollover{
			Trigger: keystore.Manual, Future: keystore.NewKey{KID: made.KID(), Created: now()}, Now: now(),
			Servers: []keystore.Confirmation{{Server: r.id.Server, Applied: state.N()}},
		})
		if err != nil {
			return p, err
		}
		value, err := elsewhere.seal(ksk.ID(), seal.Place{
			Owner: ringOwner(devRing), Generation: uint64(change.Version), Purpose: seal.PurposeDynamic, Created: change.Made[0].Created,
		}, made)
		if err != nil {
			return p, err
		}
		p.Puts = []events.Put{{Key: events.MaterialKey(made.KID()), Value: value}}
		p.Type, p.Payload, err = events.EncodeRingChange(change)
		return p, err
	})
	if err != nil {
		t.Fatal(err)
	}
	return receipt.N
}

func await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(30 * time.Second); !condition(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("%s: it did not come", what)
		}
	}
}
