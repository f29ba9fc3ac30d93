package server

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/events"
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
	if !heldByAgents(err, guard) {
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

// TestGuardAgentsMustBeHosts: a policy names hosts that are there, and one that is
// revoked later holds nothing any more.
func TestGuardAgentsMustBeHosts(t *testing.T) {
	r := start(t, filepath.Join(t.TempDir(), "dev"))
	set := func(hosts ...string) error {
		_, err := r.service.SetPolicy(t.Context(), "alice", devRing, adminapi.SetPolicy{Intent: intent(), Policy: adminapi.PolicyChange{GuardAgents: &hosts}})
		return err
	}
	for _, name := range []string{"web-1", "web-2"} {
		if _, err := r.service.RegisterHost(t.Context(), "alice", adminapi.RegisterHost{Intent: intent(), Name: name, Rings: []string{devRing}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := set("web-1", "wbe-2"); !errors.Is(err, keystore.ErrInvalid) || !strings.Contains(err.Error(), `no host "wbe-2"`) {
		t.Errorf("a host that there is not: %v, want ErrInvalid", err)
	}
	_, err := r.service.CreateRing(t.Context(), "alice", adminapi.CreateRing{Intent: intent(), Name: "other", Policy: adminapi.PolicyChange{GuardAgents: &[]string{"wbe-2"}}})
	if !errors.Is(err, keystore.ErrInvalid) {
		t.Errorf("a new ring, with a host that there is not: %v, want ErrInvalid", err)
	}
	if err := set("web-1", "web-2"); err != nil {
		t.Fatal(err)
	}
	r.heldBy(t, []string{"host/web-1", "host/web-2"})
	for _, name := range []string{"web-1", "web-2"} {
		if _, err := r.service.RevokeHost(t.Context(), "alice", name, adminapi.RevokeHost{Intent: intent()}); err != nil {
			t.Fatal(err)
		}
	}
	r.heldBy(t, nil)
	if _, err := r.service.Rollover(t.Context(), "alice", devRing, adminapi.Rollover{Intent: intent()}); err != nil {
		t.Errorf("Rollover = %v, although both hosts are revoked", err)
	}
	if err := set("web-1"); !errors.Is(err, keystore.ErrInvalid) || !strings.Contains(err.Error(), "is revoked") {
		t.Errorf("a host that is revoked: %v, want ErrInvalid", err)
	}
	if err := set(); err != nil {
		t.Errorf("no host at all: %v", err)
	}
}

// TestMaxHoldEndsTheWaitForAgents: agents hold a slot for max_hold and no longer, and
// nobody is excluded for them; the next slot waits for them again.
func TestMaxHoldEndsTheWaitForAgents(t *testing.T) {
	inVirtualTime(t, nil, func(t *testing.T, v *virtual) {
		if _, err := v.service.RegisterHost(t.Context(), "alice", adminapi.RegisterHost{Intent: intent(), Name: "web-1", Rings: []string{devRing}}); err != nil {
			t.Fatal(err)
		}
		hold, guard := "6h", []string{"web-1"}
		if _, err := v.service.SetPolicy(t.Context(), "alice", devRing, adminapi.SetPolicy{Intent: intent(), Policy: adminapi.PolicyChange{MaxHold: &hold, GuardAgents: &guard}}); err != nil {
			t.Fatal(err)
		}
		happened := func(n keystore.N) []string {
			return slices.DeleteFunc(v.types(t, n), func(what string) bool { return what == "keys_destroyed" })
		}
		for range 2 {
			n := v.at()
			v.toSlot(t)
			time.Sleep(6*time.Hour - 30*time.Second)
			if got := happened(n); !slices.Equal(got, []string{"rollover_held"}) {
				t.Errorf("events before max_hold = %v, want the hold alone", got)
			}
			if _, err := v.service.Rollover(t.Context(), "alice", devRing, adminapi.Rollover{Intent: intent()}); !heldByAgents(err, guard) {
				t.Errorf("a rollover by hand while web-1 has said nothing: %v, want it held", err)
			}
			for range 3 {
				v.settle()
			}
			if got := happened(n); !slices.Equal(got, []string{"rollover_held", "rollover", "hold_ended"}) {
				t.Errorf("events after max_hold = %v, want the rollover and the hold's end", got)
			}
		}
		v.keys.Replica().Read(func(state *events.State) {
			for _, m := range state.Members() {
				if m.Excluded != 0 {
					t.Errorf("server %s is excluded, although agents alone held the slot", m.ID)
				}
			}
		})
	})
}

func heldByAgents(err error, hosts []string) bool {
	held, ok := errors.AsType[*keystore.HeldError](err)
	return ok && slices.Equal(held.Agents, hosts)
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
