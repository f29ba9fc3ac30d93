package agentfeed_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/agentfeed/feedtest"
	"github.com/keytide/keytide/keystore"
)

// cached runs a client until its cache file is written, and stops the server.
func cached(t *testing.T) (*feedtest.Server, agentfeed.Config, *keystore.KeySet) {
	t.Helper()
	server := feedtest.NewServer(t, "sso")
	config := server.Config()
	config.CacheFile = filepath.Join(t.TempDir(), "cache")
	first := ready(t, config)
	set := reach(t, first, server.Rollover("sso"))
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	server.Stop()
	return server, config, set
}

func spoil(t *testing.T, path string, change func([]byte)) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	change(content)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestRestartWithoutServerServesFromTheCache(t *testing.T) {
	server, config, want := cached(t)
	client := ready(t, config)
	got := client.Ring("sso").Snapshot()
	if diff := cmp.Diff(kids(want), kids(got)); diff != "" || got.Version != want.Version {
		t.Errorf("version %d, want %d; keys (-want +got):\n%s", got.Version, want.Version, diff)
	}
	if key, ok := got.Sealing(); !ok || key.Material.KID() != key.KID {
		t.Error("the cached ring cannot seal")
	}
	if s := client.Status(); s.State != agentfeed.StateCached || s.AsOf.IsZero() || s.Server != "" || s.CacheErr != nil {
		t.Errorf("Status = %+v, want cached", s)
	}
	server.Start()
	until(t, "the server is reached", func() bool { return client.Status().State == agentfeed.StateFresh })
	reach(t, client, server.Rollover("sso"))
}

func TestRestartWithoutServerAndCacheWaitsAndSaysWhy(t *testing.T) {
	server, config, _ := cached(t)
	config.CacheFile = ""
	client := newClient(t, config)
	until(t, "the client has tried", func() bool { return client.Status().Err != nil })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := client.WaitReady(ctx); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("WaitReady = %v, want why there is no server", err)
	}
	if s := client.Status(); s.State != agentfeed.StateWaiting || client.Ring("sso").Snapshot() != nil {
		t.Errorf("Status = %+v, want waiting, without keys", s)
	}
	server.Start()
	if err := client.WaitReady(within(t)); err != nil {
		t.Error(err)
	}
}

func TestCacheIsSealed(t *testing.T) {
	server, config, _ := cached(t)
	info, err := os.Stat(config.CacheFile)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
	content, err := os.ReadFile(config.CacheFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range held(t, server, ready(t, config)) {
		if bytes.Contains(content, secret) {
			t.Error("key bytes in the cache file")
		}
	}
	if bytes.Contains(content, []byte("sso")) || bytes.Contains(content, []byte("test")) {
		t.Error("names in the cache file")
	}
	files, err := os.ReadDir(filepath.Dir(config.CacheFile))
	if err != nil || len(files) != 1 {
		t.Errorf("%v, %v beside the cache file", files, err)
	}
}

func TestCacheThatIsRefused(t *testing.T) {
	server, good, _ := cached(t)
	other := server.Host("other")
	flip := func(at int) func(*testing.T, *agentfeed.Config) {
		return func(t *testing.T, c *agentfeed.Config) {
			spoil(t, c.CacheFile, func(b []byte) { b[(at+len(b))%len(b)] ^= 0x10 })
		}
	}
	for name, c := range map[string]struct {
		spoil func(*testing.T, *agentfeed.Config)
		want  string
		left  bool // the file is not overwritten
	}{
		"another host":   {spoil: func(t *testing.T, c *agentfeed.Config) { c.Host = "other" }, want: "another host's, or was changed"},
		"another secret": {spoil: func(t *testing.T, c *agentfeed.Config) { c.Host, c.Secret, c.KID = "other", other.Secret, other.KID }, want: "which is not this host's"},
		"format":         {spoil: flip(0), want: "no cache", left: true},
		"kid":            {spoil: flip(1), want: "which is not this host's"},
		"salt":           {spoil: flip(9), want: "changed"},
		"nonce":          {spoil: flip(25), want: "changed"},
		"ciphertext":     {spoil: flip(100), want: "changed"},
		"tag":            {spoil: flip(-1), want: "changed"},
		"others can read it": {spoil: func(t *testing.T, c *agentfeed.Config) {
			if err := os.Chmod(c.CacheFile, 0o644); err != nil {
				t.Fatal(err)
			}
		}, want: "others can read", left: true},
		"no cache at all": {spoil: func(t *testing.T, c *agentfeed.Config) {
			if err := os.WriteFile(c.CacheFile, []byte("servers:\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, want: "no cache", left: true},
	} {
		t.Run(name, func(t *testing.T) {
			content, err := os.ReadFile(good.CacheFile)
			if err != nil {
				t.Fatal(err)
			}
			config := good
			config.CacheFile = filepath.Join(t.TempDir(), "cache")
			if err := os.WriteFile(config.CacheFile, content, 0o600); err != nil {
				t.Fatal(err)
			}
			c.spoil(t, &config)
			before, _ := os.ReadFile(config.CacheFile)
			server.Stop()
			client := newClient(t, config)
			s := client.Status()
			if s.State != agentfeed.StateWaiting || !errors.Is(s.CacheErr, agentfeed.ErrCache) || !strings.Contains(s.CacheErr.Error(), c.want) {
				t.Errorf("Status = %+v, want waiting, and a cache refused because of %q", s, c.want)
			}
			if config.Host != "test" {
				return
			}
			server.Start()
			if err := client.WaitReady(within(t)); err != nil {
				t.Fatal(err)
			}
			if !c.left {
				until(t, "the cache is written anew", func() bool { return client.Status().CacheErr == nil })
			}
			client.Close()
			if after, _ := os.ReadFile(config.CacheFile); bytes.Equal(before, after) != c.left {
				t.Errorf("the file was overwritten: %v, want %v", !bytes.Equal(before, after), !c.left)
			}
		})
	}
}

func TestPreviousSecretOpensTheCache(t *testing.T) {
	server, config, want := cached(t)
	config.PreviousSecret, config.Secret = config.Secret, server.Host("other").Secret
	config.KID = config.Secret.KID()
	client := ready(t, config)
	if got := client.Ring("sso").Snapshot(); got.Version != want.Version {
		t.Errorf("version %d, want %d", got.Version, want.Version)
	}
	client.Close()
	config.PreviousSecret = keystore.Material{}
	if s := ready(t, config).Status(); s.State != agentfeed.StateCached || s.CacheErr != nil {
		t.Errorf("Status = %+v, want a cache that was sealed anew under the present secret", s)
	}
}

func TestServerBehindTheCacheIsRefused(t *testing.T) {
	_, config, want := cached(t)
	behind := feedtest.NewServer(t, "sso")
	behind.Admit(config.Host, config.Secret)
	config.Servers, config.CA = []string{behind.URL()}, behind.Config().CA
	client := ready(t, config)
	until(t, "the server is refused", func() bool {
		err := client.Status().Err
		return err != nil && strings.Contains(err.Error(), "behind")
	})
	if got := client.Ring("sso").Snapshot(); got.Version != want.Version {
		t.Errorf("version %d, want %d", got.Version, want.Version)
	}
}

func TestCacheThatCannotBeWritten(t *testing.T) {
	server := feedtest.NewServer(t, "sso")
	config := server.Config()
	config.CacheFile = filepath.Join(t.TempDir(), "missing", "cache")
	client := ready(t, config)
	until(t, "the client says so", func() bool { return errors.Is(client.Status().CacheErr, agentfeed.ErrCache) })
	reach(t, client, server.Rollover("sso"))
}
