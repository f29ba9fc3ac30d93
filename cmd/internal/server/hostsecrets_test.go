package server

import (
	"bytes"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/keystore/host"
	"github.com/keytide/keytide/keystore/secretfile"
)

// kept starts an agent that keeps its secrets in a host file, and returns its path.
func (r *running) kept(t *testing.T, name string, edit func(*agentfeed.Config)) (string, *agentfeed.Client) {
	t.Helper()
	path := filepath.Join(t.TempDir(), name+".yaml")
	file, err := agentfeed.Register(t.Context(), r.registration(t, r.token(t, 1), name))
	if err != nil {
		t.Fatal(err)
	}
	content, err := file.Encode()
	if err == nil {
		err = secretfile.Write(path, content)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path, r.follow(t, path, edit)
}

func (r *running) follow(t *testing.T, path string, edit func(*agentfeed.Config)) *agentfeed.Client {
	t.Helper()
	config := agentfeed.Config{HostFile: path}
	if edit != nil {
		edit(&config)
	}
	client, err := agentfeed.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	version(t, client, devRing, 1)
	return client
}

func (r *running) trusted(t *testing.T, name string) (h host.Host) {
	t.Helper()
	r.hosts.Replica().Read(func(state *events.State) { h, _ = state.Host(name) })
	return h
}

func (r *running) roll(t *testing.T, names ...string) adminapi.HostsRolled {
	t.Helper()
	done, err := r.service.RollHosts(t.Context(), "admin", adminapi.RollHosts{Intent: intent(), Names: names})
	if err != nil {
		t.Fatal(err)
	}
	return done
}

// TestSharedSecretRollsOver rolls a host's secret over twice under its agents, of which
// two share a file, and starts one anew: nobody is refused, the former secrets are
// destroyed, and the file holds the newest two.
func TestSharedSecretRollsOver(t *testing.T) {
	r := start(t, filepath.Join(t.TempDir(), "d"))
	path, client := r.kept(t, "web-1", nil)
	r.follow(t, path, nil)
	first, err := agentfeed.ReadHostFile(path)
	if err != nil {
		t.Fatal(err)
	}
	await(t, "the agent to be marked as one that keeps", func() bool {
		h := r.trusted(t, "web-1")
		return len(h.Instances) == 1 && h.Instances[0].Keeps
	})
	for generation := uint64(2); generation <= 3; generation++ {
		before := r.trusted(t, "web-1").Secrets[0].KID
		if done := r.roll(t, "web-1"); done.Rolled != 1 || done.N == 0 || len(done.Skipped) != 0 {
			t.Fatalf("rolled = %+v", done)
		}
		if again := r.roll(t, "web-1"); again.Rolled != 0 || !strings.Contains(again.Skipped[0].Why, "has not ended") {
			t.Errorf("rolled again = %+v, want it left out", again)
		}
		await(t, "the former secret's end", func() bool {
			h := r.trusted(t, "web-1")
			return len(h.Secrets) == 1 && h.Generation == generation
		})
		if _, there := r.hosts.Replica().Value(events.MaterialKey(before)); there {
			t.Errorf("the material of secret %s is still there", before)
		}
		held, err := agentfeed.ReadHostFile(path)
		if err != nil || held.KID != r.trusted(t, "web-1").Secrets[0].KID || held.Previous.KID() != before {
			t.Fatalf("host file: kid %s, previous %s, %v", held.KID, held.Previous.KID(), err)
		}
	}
	if first.KID == r.trusted(t, "web-1").Secrets[0].KID {
		t.Error("the secret is still the first")
	}
	r.connected(t, "web-1", 2)
	if s := client.Status(); s.State != agentfeed.StateFresh || s.SecretErr != nil {
		t.Errorf("status = %+v", s)
	}
	shown, err := r.service.Host(t.Context(), "web-1")
	if err != nil || len(shown.Seen) != 1 || len(shown.Seen[0].Addresses) != 1 || shown.Clones != 0 || !shown.CanRoll {
		t.Errorf("host = %+v, %v; want one instance and no clone", shown, err)
	}
	if text := r.log.String(); strings.Contains(text, "bad-mac") {
		t.Errorf("an agent was refused:\n%s", text)
	}
}

// TestHostThatCannotKeepIsNotRolled has agents whose secrets would not last.
func TestHostThatCannotKeepIsNotRolled(t *testing.T) {
	r := start(t, filepath.Join(t.TempDir(), "d"))
	_, client := r.kept(t, "web-1", func(c *agentfeed.Config) { c.FixedSecret = true })
	await(t, "the mark", func() bool { return len(r.trusted(t, "web-1").Instances) == 1 })
	done := r.roll(t, "web-1")
	if done.Rolled != 0 || len(done.Skipped) != 1 || !strings.Contains(done.Skipped[0].Why, "cannot keep a new one") {
		t.Errorf("rolled = %+v, want the host left out", done)
	}
	if err := client.Status().SecretErr; err == nil {
		t.Error("the agent does not say that its secret is fixed")
	}
	r.kept(t, "web-2", func(c *agentfeed.Config) {
		c.SecretState = filepath.Join(filepath.Dir(c.HostFile), "nosuch", "state.yaml")
	})
	await(t, "the mark", func() bool { return len(r.trusted(t, "web-2").Instances) == 1 })
	if done := r.roll(t, "web-2"); done.Rolled != 0 {
		t.Errorf("rolled = %+v, want the host left out", done)
	}
}

// TestSecretStateBesideAReadOnlyHostFile keeps new secrets apart from the host file,
// over a restart of the agent; a host file of a later registration wins.
func TestSecretStateBesideAReadOnlyHostFile(t *testing.T) {
	r := start(t, filepath.Join(t.TempDir(), "d"))
	state := filepath.Join(t.TempDir(), "state.yaml")
	apart := func(c *agentfeed.Config) { c.SecretState = state }
	path, client := r.kept(t, "web-1", apart)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	await(t, "the mark", func() bool { h := r.trusted(t, "web-1"); return len(h.Instances) == 1 && h.Instances[0].Keeps })
	r.roll(t, "web-1")
	await(t, "the former secret's end", func() bool { h := r.trusted(t, "web-1"); return h.Generation == 2 && !h.Rolling() })
	client.Close()
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the host file has changed: %v", err)
	}
	r.follow(t, path, apart).Close()

	if _, err := r.service.RevokeHost(t.Context(), "admin", "web-1", adminapi.RevokeHost{Intent: intent()}); err != nil {
		t.Fatal(err)
	}
	again, err := r.service.RegisterHost(t.Context(), "admin", adminapi.RegisterHost{Intent: intent(), Name: "web-1", Rings: []string{devRing}})
	if err != nil {
		t.Fatal(err)
	}
	file, err := agentfeed.ReadHostFile(path)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := decodeSecret(again.Secret)
	if err != nil {
		t.Fatal(err)
	}
	file.Secret, file.KID = raw, raw.KID()
	content, err := file.Encode()
	if err == nil {
		err = secretfile.Replace(path, content)
	}
	if err != nil {
		t.Fatal(err)
	}
	r.follow(t, path, apart)
}

func TestSecretsRollOverByAge(t *testing.T) {
	r := start(t, filepath.Join(t.TempDir(), "d"))
	if _, err := r.service.SetSecretPolicy(t.Context(), "admin", adminapi.SetSecretPolicy{Intent: intent(), SecretEvery: "1h"}); err != nil {
		t.Fatal(err)
	}
	r.kept(t, "web-1", nil)
	await(t, "the mark", func() bool { h := r.trusted(t, "web-1"); return len(h.Instances) == 1 && h.Instances[0].Keeps })
	later := time.Now().Add(2 * time.Hour)
	if d := r.site.sights.due(later, 1<<62, true); len(d.roll) != 0 {
		t.Errorf("due = %+v for a host that does not allow it", d)
	}
	policy, err := r.service.SecretPolicy(t.Context())
	if err != nil || policy.SecretEvery != "1h" || policy.Hosts != 0 || policy.LastEvent == nil {
		t.Errorf("policy = %+v, %v", policy, err)
	}
	for _, bad := range []string{"", "1m", "0.5h", "100000d", "h", "-1h"} {
		if _, err := r.service.SetSecretPolicy(t.Context(), "admin", adminapi.SetSecretPolicy{Intent: intent(), SecretEvery: bad}); err == nil {
			t.Errorf("policy %q is taken", bad)
		}
	}
}

// TestEphemeralHostsEnd ends one that nobody has seen, and not one that is seen.
func TestEphemeralHostsEnd(t *testing.T) {
	r := start(t, filepath.Join(t.TempDir(), "d"))
	for _, name := range []string{"web-1", "web-2"} {
		if _, err := r.service.RegisterHost(t.Context(), "admin", adminapi.RegisterHost{
			Intent: intent(), Name: name, Rings: []string{devRing}, HostGrant: adminapi.HostGrant{Ephemeral: "1h"},
		}); err != nil {
			t.Fatal(err)
		}
	}
	r.site.sights.mu.Lock()
	later := time.Now().Add(90 * time.Minute)
	r.site.sights.seen["web-2"] = map[host.InstanceID]sighting{{1}: {at: later.Add(-time.Minute)}}
	r.site.sights.mu.Unlock()
	d := r.site.sights.due(later, 1<<62, true)
	if len(d.expire) != 1 || d.expire[0] != "web-1" {
		t.Fatalf("due = %+v, want web-1 alone", d)
	}
	if err := r.site.sights.each(t.Context(), []string{"web-1", "web-2"}, "test", func(h host.Host) (host.Change, error) {
		return h.Expire(r.site.sights.last(h.Name), later)
	}); err != nil {
		t.Fatal(err)
	}
	if one, two := r.trusted(t, "web-1"), r.trusted(t, "web-2"); !one.Expired || two.Revoked {
		t.Errorf("web-1 expired %v, web-2 %v; want the first alone", one.Expired, two.Expired)
	}
}

func decodeSecret(s adminapi.Secret) (keystore.Material, error) {
	raw, err := base64.RawURLEncoding.DecodeString(string(s))
	if err != nil {
		return keystore.Material{}, err
	}
	return keystore.NewMaterial(raw)
}
