package server

import (
	"errors"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

// TestRolloverWaitsForAgents: with guard_agents a rollover waits until the host's agent
// has reported the version before; an output of the agent that fails holds it, too.
func TestRolloverWaitsForAgents(t *testing.T) {
	r := start(t, filepath.Join(t.TempDir(), "dev"))
	client := r.reporting(t, "web-1")
	guard := []string{"web-1"}
	if _, err := r.service.SetPolicy(t.Context(), "alice", devRing, adminapi.SetPolicy{Intent: intent(), Policy: adminapi.PolicyChange{GuardAgents: &guard}}); err != nil {
		t.Fatal(err)
	}
	r.heldBy(t, nil)
	client.SetFailures(agentfeed.Failure{Output: "web", Error: "exit status 1"})
	r.heldBy(t, []string{"host/web-1"})
	_, err := r.service.Rollover(t.Context(), "alice", devRing, adminapi.Rollover{Intent: intent()})
	var held *keystore.HeldError
	if !errors.As(err, &held) || !slices.Equal(held.Agents, guard) {
		t.Fatalf("Rollover = %v, want it held by the agents of web-1", err)
	}
	status, err := r.service.Status(t.Context())
	if err != nil || status.Servers[0].Agents != 1 || status.Servers[0].AgentsBehind != 1 {
		t.Errorf("Status = %+v, %v; want one agent, behind", status.Servers, err)
	}
	client.SetFailures()
	r.heldBy(t, nil)
	done, err := r.service.Rollover(t.Context(), "alice", devRing, adminapi.Rollover{Intent: intent()})
	if err != nil {
		t.Fatal(err)
	}
	version(t, client, devRing, done.Version)
	r.heldBy(t, nil) // it says so by itself
}

// reporting is an agent that reports at once.
func (r *running) reporting(t *testing.T, name string) *agentfeed.Client {
	t.Helper()
	return r.agentThat(t, func(c *agentfeed.Config) { c.ReportWithin = time.Millisecond }, name, devRing)
}

// heldBy waits until the ring's next rollover is held by these.
func (r *running) heldBy(t *testing.T, want []string) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		status, err := r.service.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got := status.Rings[0].HeldBy
		if slices.Equal(got, want) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("held by %v, want %v", got, want)
		}
		<-tick.C
	}
}
