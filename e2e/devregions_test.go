package e2e

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// TestDevRegions is what a newcomer does with keytide dev --regions 3: cut a region off,
// see that it says so and that its users are served all the same, roll over without it,
// join it again, and see it catch up.
func TestDevRegions(t *testing.T) {
	s := &site{dir: filepath.Join(t.TempDir(), "dev"), output: new(transcript)}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(s.output)
		}
	})
	s.process = start(t, s.output, "keytide ready ", "keytide", "dev", "--regions", "3", "--dir", s.dir,
		"--listen", "127.0.0.1:0", "--feed-listen", "127.0.0.1:0")
	at := func(region string, args ...string) ([]byte, error) {
		return s.try(append([]string{"--client", filepath.Join(s.dir, region+".yaml")}, args...)...)
	}
	links := func(verb, region, want string) {
		t.Helper()
		out := s.keytide(t, "dev", verb, region, "--dir", s.dir)
		if row := strings.Fields(string(out[strings.Index(string(out), region):])); row[1] != want {
			t.Errorf("keytide dev %s %s prints %q, want its links %s", verb, region, out, want)
		}
	}
	awaitRegions(t, at, "fresh")
	s.keytide(t, "ring", "set", "sso", "--min-interval", "0s", "--reason", "rollovers in quick succession", "--yes")
	apps := map[string]string{}
	for _, region := range []string{"eu", "ap"} {
		file := filepath.Join(t.TempDir(), region+".yaml")
		if _, err := at(region, "host", "register", "web-"+region, "--ring", "sso", "--out", file, "--yes"); err != nil {
			t.Fatal(err)
		}
		apps[region] = startWebapp(t, s.output, file)
	}
	awaitRegions(t, at, "fresh")
	users := startCrowd(t, 4, apps["eu"], apps["ap"])
	awaitRequests(t, users, 100)
	current := map[string]uint64{}
	note := func() uint64 {
		ring := s.ring(t)
		current[ring.current()] = ring.Version
		return ring.Version
	}
	first := note()

	links("cut", "ap", "hold")
	eventually(t, "ap is stale", func() error { return regionIs(t, at, "ap", "stale") })
	eventually(t, "a rollover without ap", func() error { // elections may be under way
		_, err := at("eu", "rollover", "sso", "--reason", "without ap", "--yes")
		if out, shown := at("eu", "ring", "show", "sso", "-o", "json"); err != nil && shown == nil && decode[ringView](t, out).Version == first+1 {
			return nil
		}
		return err
	})
	awaitRequests(t, users, 200)
	if _, err := at("eu", "rollover", "sso", "--reason", "one too many", "--yes"); !refused(err) || !strings.Contains(err.Error(), "dev-ap") {
		t.Errorf("a second rollover in the cut: %v, want it refused, and dev-ap named", err)
	}

	links("heal", "ap", "whole")
	awaitRegions(t, at, "fresh")
	if got := note(); got != first+1 {
		t.Errorf("version %d after one rollover, before it %d", got, first)
	}
	eventually(t, "a rollover at ap", func() error {
		_, err := at("ap", "rollover", "sso", "--reason", "ap is back", "--yes")
		return err
	})
	if got := note(); got != first+2 {
		t.Errorf("version %d after two rollovers, before them %d", got, first)
	}
	awaitVersion(t, first+2, apps["eu"], apps["ap"])
	awaitRequests(t, users, 100)
	users.end()
	users.check(t, current)
	awaitRegions(t, at, "fresh")
	var head string
	for _, region := range coreRegions {
		out, err := at(region, "audit", "verify", "-o", "json")
		must(t, err)
		audit := decode[struct {
			OK   bool   `json:"ok"`
			Head string `json:"head"`
		}](t, out)
		if !audit.OK || audit.Head == "" || head != "" && audit.Head != head {
			t.Errorf("%s: %s; another region's head: %s", region, out, head)
		}
		head = audit.Head
	}
	s.stop()
}

type regionCommand func(region string, args ...string) ([]byte, error)

// regionIs reports whether the development store's server of a region says that it is in
// a state, and why if that is not fresh.
func regionIs(t *testing.T, at regionCommand, region, want string) error {
	out, err := at(region, "status", "-o", "json")
	if err != nil {
		return err
	}
	for _, server := range decode[struct {
		Servers []struct {
			ID    string `json:"id"`
			State string `json:"state"`
			Why   string `json:"why"`
		} `json:"servers"`
	}](t, out).Servers {
		if server.ID != "dev-"+region {
			continue
		}
		if server.State != want || want != "fresh" && server.Why == "" {
			return fmt.Errorf("%s says that it is %s: %q", region, server.State, server.Why)
		}
		return nil
	}
	return errors.New(region + " is not in its own status")
}

// awaitRegions waits until every region is in a state, and at the same event as all.
func awaitRegions(t *testing.T, at regionCommand, want string) {
	t.Helper()
	eventually(t, "every region is "+want, func() error {
		var n uint64
		for i, region := range coreRegions {
			if err := regionIs(t, at, region, want); err != nil {
				return err
			}
			out, err := at(region, "status", "-o", "json")
			if err != nil {
				return err
			}
			status := decode[struct {
				N uint64 `json:"n"`
			}](t, out)
			if i > 0 && status.N != n {
				return fmt.Errorf("%s is at event %d, another region at %d", region, status.N, n)
			}
			n = status.N
		}
		return nil
	})
}
