package server

import (
	"encoding/base64"
	"path/filepath"
	"testing"
	"time"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

// agent registers a host and connects an agent of it.
func (r *running) agent(t *testing.T, name string, rings ...string) *agentfeed.Client {
	t.Helper()
	done, err := r.service.RegisterHost(t.Context(), "alice", adminapi.RegisterHost{Intent: intent(), Name: name, Rings: rings})
	if err != nil {
		t.Fatal(err)
	}
	bytes, err := base64.RawURLEncoding.DecodeString(string(done.Secret))
	if err != nil {
		t.Fatal(err)
	}
	secret, err := keystore.NewMaterial(bytes)
	if err != nil {
		t.Fatal(err)
	}
	client, err := agentfeed.New(agentfeed.Config{Servers: done.Servers, CA: []byte(done.CA), Host: name, Secret: secret})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	if err := client.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	return client
}

// version waits until the agent's ring is at a version.
func version(t *testing.T, client *agentfeed.Client, ring keystore.RingName, want keystore.Version) *keystore.KeySet {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		set := client.Ring(ring).Snapshot()
		if set != nil && set.Version >= want {
			return set
		}
		if time.Now().After(deadline) {
			t.Fatalf("the agent has not got version %d of ring %s", want, ring)
		}
		<-tick.C
	}
}

// reached waits until the one agent that is connected has been given event n: the
// hub notes it a moment after the agent has read it.
func (r *running) reached(t *testing.T, n keystore.N) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		reach, err := r.service.Reach(t.Context(), devRing, n)
		if err == nil && reach.Connected == 1 && len(reach.Lacking) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("Reach = %+v, %v, want one agent that lacks nothing", reach, err)
		}
		<-tick.C
	}
}

// TestRolloverReachesAgents goes the whole way: from the admin API's operation to
// what an agent seals with.
func TestRolloverReachesAgents(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dev")
	r := start(t, dir)
	client := r.agent(t, "web-1", devRing)
	before := version(t, client, devRing, 1)
	if len(before.Keys) != 3 {
		t.Errorf("the agent has %d keys, want current, future and static", len(before.Keys))
	}
	r.reached(t, 2)
	rolled, err := r.service.Rollover(t.Context(), "alice", devRing, adminapi.Rollover{Intent: intent()})
	if err != nil {
		t.Fatal(err)
	}
	after := version(t, client, devRing, rolled.Version)
	r.reached(t, rolled.N)
	sealing, ok := after.Sealing()
	future := before.Keys[1]
	if !ok || sealing.KID != future.KID || future.Role != keystore.Future {
		t.Errorf("after the rollover the agent seals with %v, want what was the future key, %v", sealing.KID, future.KID)
	}
	hosts, err := r.service.Hosts(t.Context())
	if err != nil || len(hosts.Hosts) != 1 || hosts.Hosts[0].Agents != 1 {
		t.Errorf("Hosts = %+v, %v, want web-1 with one agent", hosts, err)
	}
	if reach, err := r.service.Reach(t.Context(), devRing, rolled.N+1); err != nil || len(reach.Lacking) != 1 || reach.Lacking[0] != "web-1" {
		t.Errorf("Reach of an event to come = %+v, %v, want web-1 to lack it", reach, err)
	}
	status, err := r.service.Status(t.Context())
	if err != nil || status.Servers[0].Agents != 1 {
		t.Errorf("Status = %+v, %v, want one agent", status, err)
	}
	// A stop sends agents away; it does not wait for them until its deadline.
	if err := r.stop(); err != nil {
		t.Errorf("stop with an agent connected = %v, want nil", err)
	}
}

// TestRingsAreGrantedAlone: an agent gets the rings that its host was registered
// for, and no other.
func TestRingsAreGrantedAlone(t *testing.T) {
	r := start(t, filepath.Join(t.TempDir(), "dev"))
	if _, err := r.service.CreateRing(t.Context(), "alice", adminapi.CreateRing{Intent: intent(), Name: "web"}); err != nil {
		t.Fatal(err)
	}
	one, both := r.agent(t, "one", "web"), r.agent(t, "both", "web", devRing)
	version(t, one, "web", 1)
	version(t, both, "web", 1)
	version(t, both, devRing, 1)
	if one.Ring(devRing).Snapshot() != nil {
		t.Error("an agent got a ring that its host was not granted")
	}
}
