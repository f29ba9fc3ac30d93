package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A ringView is what keytide prints of a ring.
type ringView struct {
	Name    string    `json:"name"`
	Epoch   uint64    `json:"epoch"`
	Version uint64    `json:"version"`
	Mode    string    `json:"mode"`
	Keys    []keyView `json:"keys"`
}

type keyView struct {
	Role string `json:"role"`
	KID  string `json:"kid"`
	K    string `json:"k"` // only in files that a sidecar keeps
}

func (r ringView) current() string {
	for _, k := range r.Keys {
		if k.Role == "current" {
			return k.KID
		}
	}
	return ""
}

// A statusView is what keytide status prints.
type statusView struct {
	Store   string `json:"store"`
	Epoch   uint64 `json:"epoch"`
	N       uint64 `json:"n"`
	Servers []struct {
		ID           string `json:"id"`
		State        string `json:"state"`
		N            uint64 `json:"n"`
		Agents       int    `json:"agents"`
		AgentsBehind int    `json:"agents_behind"`
	} `json:"servers"`
}

func (s *site) ring(t *testing.T) ringView {
	t.Helper()
	return decode[ringView](t, s.keytide(t, "ring", "show", "sso", "-o", "json"))
}

func (s *site) awaitAgents(t *testing.T, want int) {
	t.Helper()
	eventually(t, "agents connected", func() error {
		out, err := s.try("status", "-o", "json")
		if err != nil {
			return err
		}
		for _, server := range decode[statusView](t, out).Servers {
			if server.Agents == want && server.AgentsBehind == 0 {
				return nil
			}
		}
		return fmt.Errorf("status: %s", out)
	})
}

// startWebapp starts an instance of the example application and returns its URL. more
// are flags for it.
func startWebapp(t *testing.T, output *transcript, hostFile string, more ...string) string {
	t.Helper()
	argv := append([]string{"webapp", "--host-file", hostFile, "--ring", "sso", "--listen", "127.0.0.1:0"}, more...)
	return start(t, output, "webapp ready ", argv...).field("url")
}

// A sidecar is a keytide-agent that keeps the ring in a file, and the test's way to
// know the key bytes.
type sidecar struct {
	*process
	config  string
	file    string
	secrets map[string][]byte // by kid
}

func startSidecar(t *testing.T, output *transcript, hostFile string) *sidecar {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "agent.yaml")
	s := &sidecar{config: config, file: filepath.Join(dir, "out", "ring.json"), secrets: map[string][]byte{}}
	if err := os.Mkdir(filepath.Dir(s.file), 0o700); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("host_file: %s\nstate_dir: %s\noutputs:\n  - name: web\n    files:\n      - {path: %s, format: json}\n",
		hostFile, filepath.Join(dir, "state"), s.file)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.process = start(t, output, "", "keytide-agent", "run", "--config", config)
	return s
}

func (s *sidecar) restart(t *testing.T) {
	t.Helper()
	s.process = start(t, s.output, "", "keytide-agent", "run", "--config", s.config)
}

// collect waits until the file has the ring at version, or newer, and learns its
// keys.
func (s *sidecar) collect(t *testing.T, version uint64) {
	t.Helper()
	eventually(t, "the sidecar's file", func() error {
		data, err := os.ReadFile(s.file)
		if err != nil {
			return err
		}
		var view struct {
			Rings []ringView `json:"rings"`
		}
		if err := json.Unmarshal(data, &view); err != nil {
			return err // a file that was written in part would never be valid
		}
		if len(view.Rings) != 1 || view.Rings[0].Version < version {
			return fmt.Errorf("the file is at another version than %d", version)
		}
		for _, k := range view.Rings[0].Keys {
			secret, err := base64.RawURLEncoding.DecodeString(k.K)
			if err != nil || len(secret) != 32 {
				t.Fatalf("key %s in the file has no bytes: %v", k.KID, err)
			}
			s.secrets[k.KID] = secret
		}
		return nil
	})
	info, err := os.Stat(s.file)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o600 {
		t.Errorf("the sidecar's file has mode %v", info.Mode())
	}
}

// TestContinuity is promises 1, 7 and 8 from outside: users hop between two
// instances of an application through 20 rollovers, and through the death of the
// only policy server in the middle. Nobody is refused, and no key byte is found in
// the bucket, in any file of the server, or in anything that a program wrote.
func TestContinuity(t *testing.T) {
	const rollovers = 20
	s := startSite(t)
	s.keytide(t, "ring", "set", "sso", "--min-interval", "0s", "--reason", "rollovers in quick succession", "--yes")
	hostFiles := []string{s.host(t, "web-1"), s.host(t, "web-2"), s.host(t, "agent-1")}
	first, second := startWebapp(t, s.output, hostFiles[0]), startWebapp(t, s.output, hostFiles[1])
	keys := startSidecar(t, s.output, hostFiles[2])
	keys.collect(t, 1)
	s.awaitAgents(t, 3)

	ring := s.ring(t)
	current := map[string]uint64{ring.current(): ring.Version}
	users := startCrowd(t, 40, first, second)
	users.newest.Store(ring.Version)
	var slowest time.Duration
	for i := range rollovers {
		if i == rollovers/2 {
			s.surviveKill(t, users)
		}
		began := time.Now()
		s.keytide(t, "rollover", "sso", "--wait", "--reason", fmt.Sprintf("rollover %d of %d", i+1, rollovers), "--yes")
		ring = s.ring(t)
		current[ring.current()] = ring.Version
		awaitVersion(t, ring.Version, first, second)
		slowest = max(slowest, time.Since(began))
		users.newest.Store(ring.Version) // every agent has it: from now on no new cookie may be sealed with an older key
		keys.collect(t, ring.Version)
		awaitRequests(t, users, 100)
	}
	t.Logf("from the command's start to every application sealing with the new key, and the test knowing it: at most %v", slowest)
	users.end()
	users.check(t, current)
	if len(current) != rollovers+1 || ring.Version != rollovers+1 {
		t.Errorf("%d current keys and version %d after %d rollovers", len(current), ring.Version, rollovers)
	}

	secrets := s.knownSecrets(t, keys, hostFiles)
	checkBucketHoldsNoSecret(t, s, secrets)
	s.stop()
	own := map[string]bool{"unlock.key": true, "admin.token": true}
	findSecrets(t, s.dir, s.output, secrets, func(path string) bool { return own[filepath.Base(path)] })
}

// awaitVersion waits until each application says that it has the ring at version.
func awaitVersion(t *testing.T, version uint64, applications ...string) {
	t.Helper()
	for _, url := range applications {
		eventually(t, "the application's ring", func() error {
			resp, err := http.Get(url + "healthz")
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				return err
			}
			if got := decode[ringView](t, body).Version; got < version {
				return fmt.Errorf("version %d, want %d", got, version)
			}
			return nil
		})
	}
}

// surviveKill kills the policy server, lets users go on without it, and starts it
// again.
func (s *site) surviveKill(t *testing.T, users *crowd) {
	t.Helper()
	before := s.ring(t)
	s.kill()
	awaitRequests(t, users, 500)
	s.restart(t)
	s.awaitAgents(t, 3)
	if after := s.ring(t); after.Version != before.Version || after.current() != before.current() {
		t.Errorf("after kill -9 the ring is at version %d with %s, before it was at %d with %s",
			after.Version, after.current(), before.Version, before.current())
	}
}

// awaitRequests lets users do so many requests more.
func awaitRequests(t *testing.T, users *crowd, more int) {
	t.Helper()
	want := users.served() + more
	eventually(t, "requests by users", func() error {
		if got := users.served(); got < want {
			return fmt.Errorf("%d of %d", got, want)
		}
		return nil
	})
}

// knownSecrets are all that the test knows the bytes of: the keys of every version,
// the hosts' shared secrets, the unlock key and the administrator's token.
func (s *site) knownSecrets(t *testing.T, keys *sidecar, hostFiles []string) [][]byte {
	t.Helper()
	var out [][]byte
	for _, secret := range keys.secrets {
		out = append(out, secret)
	}
	for _, file := range hostFiles {
		secret, err := base64.RawURLEncoding.DecodeString(readHostFile(t, file).Secret)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, secret)
	}
	for _, name := range []string{"unlock.key", "admin.token"} {
		secret, err := os.ReadFile(filepath.Join(s.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, []byte(strings.TrimSpace(string(secret))))
	}
	if len(out) < 20 {
		t.Fatalf("the test knows only %d secrets", len(out))
	}
	return out
}
