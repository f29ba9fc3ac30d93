package keystore_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keytide/keytide/keystore"
)

// TestGuardWaitsForAgents: a rollover waits for the hosts that the policy names, by the
// word of any server; what a server that is silent, stopped or excluded says of agents
// that lack something holds nothing, and what it said of those that confirmed stands.
func TestGuardWaitsForAgents(t *testing.T) {
	r := newRing(t, keystore.Policy{MaxSession: time.Hour, GuardAgents: keystore.AgentsText([]string{"web-2", "web-1", "web-2"})})
	if got := r.Policy.Agents(); !slices.Equal(got, []string{"web-1", "web-2"}) {
		t.Fatalf("Agents = %v", got)
	}
	has, lacks := r.Changed, r.Changed-1
	server := func(id string, agents map[string]keystore.N, edit ...func(*keystore.Confirmation)) keystore.Confirmation {
		c := keystore.Confirmation{Server: id, Region: "eu", Applied: r.Changed, Agents: agents}
		for _, f := range edit {
			f(&c)
		}
		return c
	}
	type agents = map[string]keystore.N
	silent := func(c *keystore.Confirmation) { c.Silent = true }
	stopped := func(c *keystore.Confirmation) { c.Stopped = true }
	excluded := func(c *keystore.Confirmation) { c.Excluded = true }
	forgotten := func(c *keystore.Confirmation) { c.Forgotten = true }
	revoked := func(c *keystore.Confirmation) { c.Revoked = []string{"web-1"} }
	both := server("ps-1", agents{"web-1": has, "web-2": has})
	for name, c := range map[string]struct {
		servers []keystore.Confirmation
		want    []string
	}{
		"nobody has reported":        {[]keystore.Confirmation{server("ps-1", nil)}, []string{"web-1", "web-2"}},
		"both have":                  {[]keystore.Confirmation{both}, nil},
		"each at another server":     {[]keystore.Confirmation{server("ps-1", agents{"web-1": has}), server("ps-2", agents{"web-2": has + 3})}, nil},
		"one lacks it":               {[]keystore.Confirmation{server("ps-1", agents{"web-1": has, "web-2": lacks})}, []string{"web-2"}},
		"one agent of two lacks it":  {[]keystore.Confirmation{both, server("ps-2", agents{"web-1": lacks})}, []string{"web-1"}},
		"its server is silent":       {[]keystore.Confirmation{both, server("ps-2", agents{"web-1": lacks}, silent)}, nil},
		"its server has stopped":     {[]keystore.Confirmation{both, server("ps-2", agents{"web-1": lacks}, stopped)}, nil},
		"its server is excluded":     {[]keystore.Confirmation{both, server("ps-2", agents{"web-1": lacks}, excluded)}, nil},
		"confirmed, then cut off":    {[]keystore.Confirmation{server("ps-1", nil), server("ps-2", agents{"web-1": has, "web-2": has}, silent)}, nil},
		"the word of a lost server":  {[]keystore.Confirmation{server("ps-1", nil), server("ps-2", agents{"web-1": has, "web-2": has}, forgotten)}, []string{"web-1", "web-2"}},
		"other hosts do not matter":  {[]keystore.Confirmation{both, server("ps-2", agents{"web-3": lacks})}, nil},
		"one is revoked":             {[]keystore.Confirmation{server("ps-1", agents{"web-2": has}, revoked)}, nil},
		"revoked, and lacks it":      {[]keystore.Confirmation{server("ps-1", agents{"web-2": lacks}, revoked), server("ps-2", agents{"web-1": lacks})}, []string{"web-2"}},
		"silent and lacking is none": {[]keystore.Confirmation{server("ps-1", agents{"web-2": has}), server("ps-2", agents{"web-1": lacks}, silent)}, []string{"web-1"}},
	} {
		if got := r.AgentsBehind(c.servers); !slices.Equal(got, c.want) {
			t.Errorf("%s: AgentsBehind = %v, want %v", name, got, c.want)
		}
		req := request(t, r, 10, start)
		req.Servers = c.servers
		_, err := r.Rollover(req)
		var held *keystore.HeldError
		if (err == nil) != (len(c.want) == 0) || err != nil && (!errors.As(err, &held) || !slices.Equal(held.Agents, c.want) || !strings.Contains(err.Error(), c.want[0])) {
			t.Errorf("%s: Rollover = %v, want it held by the agents of %v", name, err, c.want)
		}
		req.Force = true
		if _, err := r.Rollover(req); err != nil {
			t.Errorf("%s: a forced rollover: %v", name, err)
		}
	}
	for _, bad := range []string{"web-2 web-1", "web-1 web-1", " web-1", "WEB 1", strings.Repeat("h ", 40)} {
		p := keystore.DefaultPolicy()
		p.GuardAgents = bad
		if err := p.Check(nil); !errors.Is(err, keystore.ErrInvalid) {
			t.Errorf("guard_agents %q: error %v, want ErrInvalid", bad, err)
		}
	}
}
