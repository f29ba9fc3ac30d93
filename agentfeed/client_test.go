package agentfeed_test

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/agentfeed/feedtest"
	"github.com/keytide/keytide/keystore"
)

func TestClientFollowsRollovers(t *testing.T) {
	server := feedtest.NewServer(t, "sso", "intranet")
	client := newClient(t, agentfeed.Config{HostFile: server.WriteHostFile("test")})
	if err := client.WaitReady(within(t)); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		want := server.Rollover("sso")
		got := reach(t, client, want)
		if diff := cmp.Diff(kids(want), kids(got)); diff != "" {
			t.Errorf("keys (-want +got):\n%s", diff)
		}
		for i := range got.Keys {
			if got.Keys[i].Material.KID() != want.Keys[i].KID {
				t.Errorf("key %s has other bytes", want.Keys[i].KID)
			}
		}
	}
	if sets := client.Snapshot(); len(sets) != 2 || sets[0].Ring != "intranet" || sets[1].Ring != "sso" {
		t.Errorf("Snapshot = %v, want intranet and sso", sets)
	}
	status := client.Status()
	if status.State != agentfeed.StateFresh || status.Server != "feedtest" || status.URL != server.URL() || status.Err != nil {
		t.Errorf("Status = %+v, want fresh from feedtest", status)
	}
}

func TestClientKeepsASetThatDidNotChange(t *testing.T) {
	server := feedtest.NewServer(t, "sso", "intranet")
	client := ready(t, server.Config())
	before := client.Ring("intranet").Snapshot()
	reach(t, client, server.Rollover("sso"))
	if client.Ring("intranet").Snapshot() != before {
		t.Error("a ring that did not change was replaced")
	}
}

func TestClientGetsItsHostsRingsOnly(t *testing.T) {
	server := feedtest.NewServer(t, "sso", "intranet")
	h := server.Host("web-1", "sso", "nosuch")
	client := ready(t, agentfeed.Config{Servers: h.Servers, CA: h.CA, Host: h.Host, Secret: h.Secret})
	if client.Ring("sso").Snapshot() == nil || client.Ring("intranet").Snapshot() != nil || len(client.Snapshot()) != 1 {
		t.Errorf("Snapshot = %v, want sso only", client.Snapshot())
	}
}

func TestClientGoesOnWithItsLastKeys(t *testing.T) {
	server := feedtest.NewServer(t, "sso")
	client := ready(t, server.Config())
	last := client.Ring("sso").Snapshot()
	server.Stop()
	until(t, "the client notices", func() bool { return client.Status().Err != nil })
	if client.Ring("sso").Snapshot() != last {
		t.Error("the keys are gone with the server")
	}
	server.Start()
	reach(t, client, server.Rollover("sso"))
}

func TestClientComesBackAfterADrain(t *testing.T) {
	server := feedtest.NewServer(t, "sso")
	client := ready(t, server.Config())
	server.Drain()
	until(t, "the client notices", func() bool { return client.Status().Err != nil })
	server.Stop()
	server.Start()
	reach(t, client, server.Rollover("sso"))
}

func TestClientIsRefused(t *testing.T) {
	server := feedtest.NewServer(t, "sso")
	other := server.Host("other")
	revoked := server.Config()
	revoked.Host, revoked.Secret, revoked.KID = "gone", server.Host("gone").Secret, keystore.KID{}
	server.Revoke("gone")
	wrong := server.Config()
	wrong.Secret, wrong.KID = other.Secret, keystore.KID{}
	unknown := server.Config()
	unknown.Host = "nobody"
	for name, c := range map[string]struct {
		config agentfeed.Config
		want   string
	}{
		"wrong secret": {wrong, "bad-mac"}, "unknown host": {unknown, "bad-mac"}, "revoked": {revoked, "host-revoked"},
	} {
		client := newClient(t, c.config)
		err := client.WaitReady(within(t))
		if problemOf(err) != c.want {
			t.Errorf("%s: WaitReady = %v, want %s", name, err, c.want)
		}
		if status := client.Status(); status.State != agentfeed.StateWaiting || problemOf(status.Err) != c.want {
			t.Errorf("%s: Status = %+v, want waiting for %s", name, status, c.want)
		}
	}
}

func TestClientRevokedWhileItIsFed(t *testing.T) {
	server := feedtest.NewServer(t, "sso")
	client := ready(t, server.Config())
	server.Revoke("test")
	until(t, "the client is told", func() bool { return problemOf(client.Status().Err) == "host-revoked" })
	if client.Ring("sso").Snapshot() == nil {
		t.Error("an unsealed problem took the keys")
	}
}

func TestClientTrustsItsCAOnly(t *testing.T) {
	server, other := feedtest.NewServer(t, "sso"), feedtest.NewServer(t, "sso")
	config := server.Config()
	config.CA = other.Config().CA
	client := newClient(t, config)
	until(t, "the certificate is refused", func() bool {
		err := client.Status().Err
		return err != nil && strings.Contains(err.Error(), "certificate")
	})
}

func TestClientFindsTheServerThatLives(t *testing.T) {
	server := feedtest.NewServer(t, "sso")
	config := server.Config()
	config.Servers = append([]string{"https://127.0.0.1:1", "https://127.0.0.1:2"}, config.Servers...)
	client := ready(t, config)
	if got := client.Status().URL; got != server.URL() {
		t.Errorf("fed by %s, want %s", got, server.URL())
	}
}

func TestClientClosed(t *testing.T) {
	server := feedtest.NewServer(t, "sso")
	server.Stop()
	client := newClient(t, server.Config())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := client.WaitReady(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("WaitReady = %v, want canceled", err)
	}
	for range client.Updates(ctx) {
		t.Error("an update after the context's end")
	}
	client.Close()
	client.Close()
	if err := client.WaitReady(t.Context()); !errors.Is(err, agentfeed.ErrClosed) {
		t.Errorf("WaitReady = %v, want ErrClosed", err)
	}
	for range client.Ring("sso").Updates(t.Context()) {
		t.Error("an update of a ring that never was")
	}
}

func TestTwoHundredAgentsSeeEveryRollover(t *testing.T) {
	server := feedtest.NewServer(t, "sso")
	var clients []*agentfeed.Client
	for i := range 200 {
		h := server.Host(fmt.Sprintf("web-%d", i), "sso")
		clients = append(clients, newClient(t, agentfeed.Config{Servers: h.Servers, CA: h.CA, Host: h.Host, Secret: h.Secret}))
	}
	for _, c := range clients {
		if err := c.WaitReady(within(t)); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 {
		want := server.Rollover("sso")
		var wait sync.WaitGroup
		for _, c := range clients {
			wait.Go(func() {
				for set := range c.Ring("sso").Updates(within(t)) {
					if set != nil && set.Version >= want.Version {
						return
					}
				}
				t.Errorf("an agent did not reach version %d: %+v", want.Version, c.Status())
			})
		}
		wait.Wait()
	}
	until(t, "no agent is behind", func() bool { n, behind := server.Agents(); return n == 200 && behind == 0 })
}

func TestNoKeyBytesInLogs(t *testing.T) {
	var log logBuffer
	server := feedtest.NewLoggedServer(t, log.logger(), "sso")
	config := server.Config()
	config.Logger = log.logger()
	client := ready(t, config)
	reach(t, client, server.Rollover("sso"))
	bad := config
	bad.Host = "nobody"
	problem := newClient(t, bad).WaitReady(within(t))
	server.Stop()
	until(t, "the client notices", func() bool { return client.Status().Err != nil })
	text := log.String() + fmt.Sprintf("%+v %v %#v %v", client.Status(), problem, client.Snapshot(), config)
	for _, want := range []string{"feed connected", "ring applied", "feed request refused", "feed lost"} {
		if !strings.Contains(text, want) {
			t.Errorf("the log has no line %q:\n%s", want, log.String())
		}
	}
	for _, secret := range held(t, server, client) {
		for _, form := range []string{string(secret), hex.EncodeToString(secret), base64.StdEncoding.EncodeToString(secret)[:40],
			base64.RawURLEncoding.EncodeToString(secret), strings.Trim(fmt.Sprint(secret), "[]")} {
			if strings.Contains(text, form) {
				t.Fatal("key bytes in the log or in an error")
			}
		}
	}
}
