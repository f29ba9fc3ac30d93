package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/agentfeed/cookie"
)

// A company is one of two key stores with an application of its own.
type company struct {
	*site
	ring *agentfeed.Ring
}

func startCompany(t *testing.T, name string) *company {
	t.Helper()
	c := &company{site: startSite(t)}
	file := filepath.Join(t.TempDir(), name+".yaml")
	c.keytide(t, "host", "register", name, "--ring", "sso", "--tickets", "seal", "--out", file)
	client, err := agentfeed.New(agentfeed.Config{HostFile: file})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	if err := client.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.ring = client.Ring("sso")
	return c
}

func (c *company) codec(t *testing.T, purpose cookie.Purpose) *cookie.Codec {
	t.Helper()
	codec, err := cookie.New(cookie.Config{Ring: c.ring, Name: "SHARED", Purpose: purpose})
	if err != nil {
		t.Fatal(err)
	}
	return codec
}

// settled waits until nothing of the ring is pending, and the application has it.
func (c *company) settled(t *testing.T, mode string) {
	t.Helper()
	eventually(t, "the ring settles in "+mode+" mode", func() error {
		out := c.keytide(t, "ring", "show", "sso", "-o", "json")
		ring := decode[ringView](t, out)
		set := c.ring.Snapshot()
		if strings.Contains(string(out), `"pending"`) || ring.Mode != mode || set == nil || uint64(set.Version) != ring.Version {
			return fmt.Errorf("ring: %s", out)
		}
		return nil
	})
}

// TestSeparateKeyStores is SiteMinder's third scenario: two key stores, both live,
// share a static and a session ticket key by one export and one import. A user crosses
// from each to the other with cookies of every purpose and with session tickets, over
// rollovers of both. Both commands are those of deploy/scenarios/separate-key-stores.
func TestSeparateKeyStores(t *testing.T) {
	a, b := startCompany(t, "a"), startCompany(t, "b")
	from := serverFingerprint(t, a.site)
	script, err := os.ReadFile("../deploy/scenarios/separate-key-stores/README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []*company{a, b} {
		c.keytide(t, "ring", "set", "sso", "--mode", "static", "--min-interval", "0s", "--reason", "shared")
		c.settled(t, "static")
	}
	strange, err := a.codec(t, cookie.Session).Seal(nil, []byte("amira"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.codec(t, cookie.Session).Open(nil, strange); err == nil {
		t.Fatal("a cookie crosses before anything is shared")
	}

	dir := t.TempDir()
	bundle, phrase := filepath.Join(dir, "sso.bundle"), filepath.Join(dir, "phrase")
	export := []string{"export", "--ring", "sso", "--what", "static,ticket", "--passphrase-file", phrase, "--out", bundle}
	take := []string{"import", bundle, "--passphrase-file", phrase, "--from", from}
	for _, command := range [][]string{export, take} {
		line := strings.NewReplacer(dir+"/", "", from, "FINGERPRINT").Replace("keytide " + strings.Join(command, " "))
		if !strings.Contains(string(script), line) {
			t.Errorf("the scenario's page does not have the command: %s", line)
		}
	}
	a.keytide(t, export...)
	b.keytide(t, take...)
	b.settled(t, "static")
	cross(t, a, b)
	for _, c := range []*company{a, b} {
		c.keytide(t, "rollover", "sso", "--yes")
		c.settled(t, "static")
	}
	cross(t, a, b)
	if _, err := b.codec(t, cookie.Session).Open(nil, strange); err != nil {
		t.Errorf("the user from before the import is still refused: %v", err)
	}
	out := b.keytide(t, take...)
	if !strings.Contains(string(out), "nothing to do") {
		t.Errorf("importing again: %s", out)
	}
}

// cross takes users from each company to the other and back.
func cross(t *testing.T, a, b *company) {
	t.Helper()
	for _, pair := range [][2]*company{{a, b}, {b, a}} {
		for _, purpose := range []cookie.Purpose{cookie.Session, cookie.Credentials, cookie.Tracking} {
			token, err := pair[0].codec(t, purpose).Seal(nil, []byte("amira"))
			if err != nil {
				t.Fatal(err)
			}
			if opened, err := pair[1].codec(t, purpose).Open(nil, token); err != nil || string(opened.Payload) != "amira" {
				t.Errorf("%v does not cross: %v", purpose, err)
			}
		}
		tickets, err := pair[0].ring.SealTickets(t.Context(), time.Hour, []byte("amira"))
		if err != nil {
			t.Fatal(err)
		}
		opened, err := pair[1].ring.OpenTickets(t.Context(), tickets...)
		if err == nil {
			err = opened[0].Err
		}
		if err != nil || string(opened[0].Payload) != "amira" {
			t.Errorf("a ticket does not cross: %v", errors.Join(err))
		}
	}
}

func serverFingerprint(t *testing.T, s *site) string {
	t.Helper()
	status := decode[struct {
		Servers []struct{ Fingerprint string }
	}](t, s.keytide(t, "status", "-o", "json"))
	if len(status.Servers) != 1 || len(status.Servers[0].Fingerprint) != 43 {
		t.Fatalf("status: %+v", status)
	}
	return status.Servers[0].Fingerprint
}
