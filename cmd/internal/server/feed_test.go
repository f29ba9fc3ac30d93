package server

import (
	"encoding/base64"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

// agent registers a host and connects an agent of it.
func (r *running) agent(t *testing.T, name string, rings ...string) *agentfeed.Client {
	t.Helper()
	return r.agentThat(t, func(*agentfeed.Config) {}, name, rings...)
}

// agentThat is agent, with an edited configuration.
func (r *running) agentThat(t *testing.T, edit func(*agentfeed.Config), name string, rings ...string) *agentfeed.Client {
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
	config := agentfeed.Config{Servers: done.Servers, CA: []byte(done.CA), Host: name, Secret: secret}
	edit(&config)
	client, err := agentfeed.New(config)
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

// TestRevokedHostIsCutOff: its stream ends within a second, nothing of its secret
// stays, and others are not disturbed. It holds after a restart too.
func TestRevokedHostIsCutOff(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dev")
	r := start(t, dir)
	gone, stays := r.agent(t, "gone", devRing), r.agent(t, "stays", devRing)
	version(t, gone, devRing, 1)
	version(t, stays, devRing, 1)
	req := adminapi.RevokeHost{Intent: intent()}
	done, err := r.service.RevokeHost(t.Context(), "alice", "gone", req)
	if err != nil {
		t.Fatal(err)
	}
	asked := time.Now()
	r.connected(t, "gone", 0)
	t.Logf("cut off within %v of the answer", time.Since(asked))
	kid, err := keystore.ParseKID(done.Destroyed[0])
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := r.hosts.Replica().Value(events.MaterialKey(kid)); ok {
		t.Error("the ledger still has the secret")
	}
	again, err := r.service.RevokeHost(t.Context(), "alice", "gone", req)
	if err != nil || again.ID != done.ID {
		t.Errorf("the retried revocation = event %s, %v, want %s", again.ID, err, done.ID)
	}
	if _, err := r.service.RevokeHost(t.Context(), "alice", "stays", req); !errors.Is(err, keystore.ErrInvalid) {
		t.Errorf("RevokeHost of another host with a used request id = %v, want %v", err, keystore.ErrInvalid)
	}
	rolled, err := r.service.Rollover(t.Context(), "alice", devRing, adminapi.Rollover{Intent: intent()})
	if err != nil {
		t.Fatal(err)
	}
	version(t, stays, devRing, rolled.Version)
	if got := gone.Ring(devRing).Snapshot().Version; got != 1 {
		t.Errorf("the revoked host's agent is at version %d, want the one that it had, 1", got)
	}
	r.connected(t, "stays", 1)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r = start(t, dir)
	if h, ok := r.source.Host("gone"); !ok || !h.Revoked || len(h.Secrets) != 0 {
		t.Errorf("after a restart the source has %+v, %v, want the host revoked and without secrets", h, ok)
	}
}

// connected waits until a host has so many agents.
func (r *running) connected(t *testing.T, host string, want int) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		shown, err := r.service.Host(t.Context(), host)
		if err != nil {
			t.Fatal(err)
		}
		if shown.Agents == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("host %s has %d agents, want %d", host, shown.Agents, want)
		}
		<-tick.C
	}
}

// TestSourceLooksAtChangedHostsAlone: an event of one host does not make the source
// look at all the others.
func TestSourceLooksAtChangedHostsAlone(t *testing.T) {
	r := start(t, filepath.Join(t.TempDir(), "dev"))
	for _, name := range []string{"a", "b", "c"} {
		if _, err := r.service.RegisterHost(t.Context(), "alice", adminapi.RegisterHost{Intent: intent(), Name: name, Rings: []string{devRing}}); err != nil {
			t.Fatal(err)
		}
	}
	done, err := r.service.RevokeHost(t.Context(), "alice", "b", adminapi.RevokeHost{Intent: intent()})
	if err != nil {
		t.Fatal(err)
	}
	// A source of its own: the server's belongs to its goroutine.
	s := &source{keys: r.keys, hosts: r.hosts, vault: r.source.vault, log: slog.New(slog.DiscardHandler)}
	names := func(from keystore.N) (names []string, destroyed int) {
		hosts, kids := s.changedHosts(from, done.N)
		for _, h := range hosts {
			names = append(names, h.Name)
		}
		slices.Sort(names)
		return names, len(kids)
	}
	for from, want := range map[keystore.N][]string{0: {"a", "b", "c"}, 2: {"b", "c"}, done.N - 1: {"b"}, done.N: nil} {
		if got, _ := names(from); !slices.Equal(got, want) {
			t.Errorf("changed after event %d: %v, want %v", from, got, want)
		}
	}
	if _, destroyed := names(done.N - 1); destroyed != 1 {
		t.Errorf("%d secrets destroyed, want 1", destroyed)
	}
	s.unopened = map[string]bool{"a": true}
	if got, _ := names(done.N - 1); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("with a host that did not open: %v, want it too", got)
	}
}
