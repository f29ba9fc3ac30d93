package server

import (
	"encoding/base64"
	"fmt"
	"testing"
	"time"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

// TestRevokedHostIsCutByEveryServer: a host with an agent at each of three servers is
// revoked at one. All cut it off, no replica has its secret any more, and its agents are
// refused wherever they come back; another host's stay.
func TestRevokedHostIsCutByEveryServer(t *testing.T) {
	dir, _ := coreOf(t, 3)
	var all []*running
	for _, id := range []string{"eu-1", "us-1", "ap-1"} {
		all = append(all, launch(t, dir+"/"+id, nil))
	}
	for _, r := range all {
		r.awaitReady(t).awaitState(t, events.Fresh)
	}
	all[0].createRing(t, "sso")
	agents := make(map[string][]*agentfeed.Client)
	for _, name := range []string{"gone", "stays"} {
		done, err := all[0].service.RegisterHost(t.Context(), "alice", adminapi.RegisterHost{Intent: intent(), Name: name, Rings: []string{"sso"}})
		if err != nil {
			t.Fatal(err)
		}
		raw, err := base64.RawURLEncoding.DecodeString(string(done.Secret))
		if err != nil {
			t.Fatal(err)
		}
		secret, err := keystore.NewMaterial(raw)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range all {
			eventually(t, func() error { _, err := r.service.Host(t.Context(), name); return err })
			client, err := agentfeed.New(agentfeed.Config{Servers: []string{r.ready.Feed}, CA: []byte(done.CA), Host: name, Secret: secret})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { client.Close() })
			agents[name] = append(agents[name], client)
		}
	}
	fed := func(name string, want int) error {
		n := 0
		for _, r := range all {
			for _, s := range r.hub.Streams() {
				if s.Host == name {
					n++
				}
			}
		}
		if n != want {
			return fmt.Errorf("host %s has %d streams, want %d", name, n, want)
		}
		return nil
	}
	eventually(t, func() error { return fed("gone", 3) })
	eventually(t, func() error { return fed("stays", 3) })

	done, err := all[1].service.RevokeHost(t.Context(), "alice", "gone", adminapi.RevokeHost{Intent: intent()})
	if err != nil {
		t.Fatal(err)
	}
	asked := time.Now()
	eventually(t, func() error { return fed("gone", 0) })
	t.Logf("cut off by all three within %v of the answer", time.Since(asked))
	kid, err := keystore.ParseKID(done.Destroyed[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		if h, ok := r.source.Host("gone"); !ok || !h.Revoked {
			t.Errorf("%s would still let the host in: %+v, %v", r.id.Server, h, ok)
		}
		if _, ok := r.hosts.Replica().Value(events.MaterialKey(kid)); ok {
			t.Errorf("the replica of %s still has the secret", r.id.Server)
		}
	}
	for _, client := range agents["gone"] {
		eventually(t, func() error {
			if s := client.Status(); s.Server != "" || s.Err == nil {
				return fmt.Errorf("a revoked agent is still fed by %s", s.Server)
			}
			return nil
		})
	}
	if err := fed("stays", 3); err != nil {
		t.Error(err)
	}
}
