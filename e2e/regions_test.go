package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keytide/keytide/replication/wan"
)

// A deployment is a core of three in the regions eu, us and ap, and an edge policy
// server in region sa that joined by invitation. What goes from one region to another
// goes through a link of net, 40 ms one way. Agents are fed by their own region's server
// alone, and administrators work at the server that they name.
type deployment struct {
	net   *wan.Net
	sites map[string]*site // by region
}

var (
	coreRegions = []string{"eu", "us", "ap"}
	allRegions  = []string{"eu", "us", "ap", "sa"}
)

// deploy makes a deployment whose servers all run and are fresh.
func deploy(t *testing.T) *deployment {
	t.Helper()
	d := &deployment{net: wan.NewNet(40 * time.Millisecond), sites: map[string]*site{}}
	t.Cleanup(func() { must(t, d.net.Close()) })
	// Each server has a loopback address of its own, so that all have the usual ports.
	subnet := fmt.Sprintf("127.%d.%d.", 1+rand.IntN(254), rand.IntN(256))
	dir := filepath.Join(t.TempDir(), "core")
	output := new(transcript)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(output)
		}
	})
	init := []string{"core", "init", "--dir", dir, "--store", "main"}
	for i, region := range allRegions {
		ip := subnet + fmt.Sprint(i+1)
		s := &site{dir: filepath.Join(dir, region+"-1"), admin: ip + ":7480", feed: ip + ":7443", nats: ip + ":7422", output: output}
		s.command = []string{"server", "--config", filepath.Join(s.dir, "keytide.yaml")}
		d.sites[region] = s
		if region != "sa" {
			// The links' near ends are at 127.0.0.1: the certificates must cover it.
			init = append(init, "--server", fmt.Sprintf("%s-1,region=%s,host=%s,clients=127.0.0.1:7422,listen=%s:7422,routes_listen=%s:7423,metrics=%s:7490",
				region, region, ip, ip, ip, ip))
		}
	}
	d.sites["eu"].keytide(t, init...)
	for _, region := range coreRegions {
		d.configureCore(t, region)
	}
	for _, region := range coreRegions {
		s := d.sites[region]
		s.process = start(t, output, "", append([]string{"keytide"}, s.command...)...)
	}
	d.awaitFresh(t, coreRegions...)
	d.join(t)
	d.awaitFresh(t, allRegions...)
	return d
}

// link is the address by which a region reaches another's port.
func (d *deployment) link(t *testing.T, from, to, target string) string {
	t.Helper()
	link, err := d.net.Link(from, to, target)
	must(t, err)
	return link.Addr()
}

// configureCore sends what a core server dials in other regions through links, and
// makes the profile of an administrator at its site.
func (d *deployment) configureCore(t *testing.T, region string) {
	t.Helper()
	s := d.sites[region]
	text, err := os.ReadFile(filepath.Join(s.dir, "keytide.yaml"))
	must(t, err)
	head, _, ok := strings.Cut(string(text), "    servers: # all of the core")
	if !ok {
		t.Fatalf("the configuration that core init made lists no core:\n%s", text)
	}
	head += "    servers:\n"
	for _, other := range coreRegions {
		clients, routes := d.sites[other].nats, strings.TrimSuffix(d.sites[other].nats, "7422")+"7423"
		if other != region {
			clients, routes = d.link(t, region, other, clients), d.link(t, region, other, routes)
		}
		head += fmt.Sprintf("      - {server: %s-1, clients: %q, routes: %q}\n", other, clients, routes)
	}
	before, rest, _ := strings.Cut(head, "  servers: # the feeds")
	_, after, ok := strings.Cut(rest, "metrics:\n")
	if !ok {
		t.Fatalf("the configuration that core init made lists no feeds:\n%s", text)
	}
	write(t, filepath.Join(s.dir, "keytide.yaml"), before+feedLines(s)+"metrics:\n"+after)
	write(t, filepath.Join(s.dir, "client.yaml"), fmt.Sprintf("servers:\n  - https://%s\nca_file: tls/ca.pem\ntoken_file: %s\n",
		s.admin, filepath.Join(filepath.Dir(s.dir), "admin", "admin.token")))
}

// feedLines lets agents know at once what they would know within a minute.
func feedLines(s *site) string {
	return fmt.Sprintf("  servers: [\"https://%s\"]\n  heartbeat: 1s\n  stale_after: 5s\n", s.feed)
}

// join makes the edge policy server, by invitation, and starts it.
func (d *deployment) join(t *testing.T) {
	t.Helper()
	s, invite := d.sites["sa"], filepath.Join(t.TempDir(), "sa-1.invite")
	d.sites["eu"].keytide(t, "server", "invite", "sa-1", "--region", "sa", "--out", invite, "--yes")
	s.keytide(t, "server", "join", "--invite", invite, "--dir", s.dir, "--listen", s.admin, "--feed-listen", s.feed)
	config := filepath.Join(s.dir, "keytide.yaml")
	text, err := os.ReadFile(config)
	must(t, err)
	head, rest, _ := strings.Cut(string(text), "metrics:\n")
	_, rest, ok := strings.Cut(rest, "bus:\n")
	_, ca, withCA := strings.Cut(rest, "  ca: ")
	if !ok || !withCA {
		t.Fatalf("the configuration that server join made has no bus:\n%s", text)
	}
	bus := "bus:\n  nkey_file: bus.seed\n  urls:\n"
	for _, region := range coreRegions {
		bus += fmt.Sprintf("    - \"tls://%s\"\n", d.link(t, "sa", region, d.sites[region].nats))
	}
	write(t, config, head+feedLines(s)+bus+"  ca: "+ca)
	s.restart(t)
}

// own is how a region's server sees itself.
func (d *deployment) own(t *testing.T, region string) (state, why string, n uint64, err error) {
	out, err := d.sites[region].try("status", "-o", "json")
	if err != nil {
		return "", "", 0, err
	}
	status := decode[struct {
		N       uint64 `json:"n"`
		Servers []struct {
			ID    string `json:"id"`
			State string `json:"state"`
			Why   string `json:"why"`
		} `json:"servers"`
	}](t, out)
	for _, server := range status.Servers {
		if server.ID == region+"-1" {
			return server.State, server.Why, status.N, nil
		}
	}
	return "", "", 0, fmt.Errorf("%s-1 is not in its own status: %s", region, out)
}

func (d *deployment) awaitState(t *testing.T, want string, regions ...string) {
	t.Helper()
	for _, region := range regions {
		eventually(t, region+" is "+want, func() error {
			state, why, _, err := d.own(t, region)
			if err == nil && (state != want || want != "fresh" && why == "") {
				err = fmt.Errorf("%s says that it is %s: %q", region, state, why)
			}
			return err
		})
	}
}

func (d *deployment) awaitFresh(t *testing.T, regions ...string) {
	t.Helper()
	d.awaitState(t, "fresh", regions...)
}

// awaitEven waits until every region's server is fresh and has the same events as all
// others, by their hash, in a history that each finds whole.
func (d *deployment) awaitEven(t *testing.T) {
	t.Helper()
	d.awaitFresh(t, allRegions...)
	type audit struct {
		OK     bool   `json:"ok"`
		Events uint64 `json:"events"`
		Head   string `json:"head"`
	}
	eventually(t, "all regions are even", func() error {
		var first audit
		for i, region := range allRegions {
			out, err := d.sites[region].try("audit", "verify", "-o", "json")
			if err != nil {
				return fmt.Errorf("audit verify at %s: %w", region, err)
			}
			got := decode[audit](t, out)
			if i == 0 {
				first = got
			}
			if !got.OK || got.Head == "" || got != first {
				return fmt.Errorf("%s has %+v, %s has %+v", region, got, allRegions[0], first)
			}
		}
		return nil
	})
}

// heldBy are the servers that hold up the next rollover, as a region's server sees it.
func (d *deployment) heldBy(t *testing.T, region string) ([]string, error) {
	out, err := d.sites[region].try("status", "-o", "json")
	if err != nil {
		return nil, err
	}
	status := decode[struct {
		Rings []struct {
			Name   string   `json:"name"`
			HeldBy []string `json:"held_by"`
		} `json:"rings"`
	}](t, out)
	for _, ring := range status.Rings {
		if ring.Name == "sso" {
			return ring.HeldBy, nil
		}
	}
	return nil, errors.New("there is no ring sso")
}

// awaitHeldBy waits until just these servers hold up the next rollover.
func (d *deployment) awaitHeldBy(t *testing.T, region string, want ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s names who holds up the next rollover", region), func() error {
		got, err := d.heldBy(t, region)
		if err == nil && fmt.Sprint(got) != fmt.Sprint(want) {
			err = fmt.Errorf("held by %v, want %v", got, want)
		}
		return err
	})
}
