package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestServerWhoseClockIsOff: a policy server whose clock is ten minutes off, early or
// late, feeds agents that have keys already as well as those that start then.
func TestServerWhoseClockIsOff(t *testing.T) {
	s := startSite(t)
	s.keytide(t, "ring", "set", "sso", "--min-interval", "0s", "--reason", "rollovers in quick succession", "--yes")
	ring := s.ring(t)
	f := &fleet{t: t, site: s, agents: map[string]agent{}, current: map[string]uint64{ring.current(): ring.Version}}
	begin := func(name string) {
		url := startWebapp(t, s.output, s.host(t, name))
		f.apps, f.agents[name] = append(f.apps, url), application(url)
	}
	begin("before-1")
	begin("before-2")
	f.users = startCrowd(t, 5, f.apps...)
	right := s.command
	for _, offset := range []string{"10m", "-10m"} {
		s.stop()
		s.command = append(right[:len(right):len(right)], "--feed-clock-offset", offset)
		s.restart(t)
		f.follow(s.ring(t).Version)
		begin("at" + strings.ReplaceAll(offset, "-", "-minus-"))
		f.rollover("while the clock is off by " + offset)
	}
	f.users.end()
	f.users.check(t, f.current)
	if said := strings.Count(s.output.String(), "this machine's clock is off"); said < len(f.agents) {
		t.Errorf("agents said %d times that clocks differ, want each of %d to", said, len(f.agents))
	}
}

// TestAgentsStartWithoutAServer: with no policy server in reach, an agent starts from
// its cache, and a user's session goes on; without a cache, or with one that is not
// its own as it wrote it, it waits and says why.
func TestAgentsStartWithoutAServer(t *testing.T) {
	s := startSite(t)
	dir := t.TempDir()
	host, other := s.host(t, "web-1"), s.host(t, "web-2")
	cache := filepath.Join(dir, "cache")
	app := start(t, s.output, "webapp ready ", "webapp", "--host-file", host, "--listen", "127.0.0.1:0", "--cache", cache)
	first, session, err := post(http.DefaultClient, app.field("url")+"login", url.Values{"user": {"ann"}}, nil)
	if err != nil || !first.LoggedIn {
		t.Fatalf("login: %+v, %v", first, err)
	}
	sidecar := startSidecar(t, s.output, s.host(t, "sidecar"))
	sidecar.collect(t, 1)
	eventually(t, "there is a cache", func() error { _, err := os.Stat(cache); return err })
	for _, p := range []*process{app, sidecar.process} {
		p.stop()
	}
	s.kill()
	must(t, os.Remove(sidecar.file))

	app = start(t, s.output, "webapp ready ", "webapp", "--host-file", host, "--listen", "127.0.0.1:0", "--cache", cache)
	again, _, err := post(http.DefaultClient, app.field("url")+"count", url.Values{}, session)
	if err != nil || !again.LoggedIn || again.User != "ann" || again.Count != 1 || again.SealedBy != first.SealedBy {
		t.Errorf("from the cache the session is %+v, %v", again, err)
	}
	sidecar.restart(t)
	sidecar.collect(t, 1)
	for name, a := range map[string]agent{"application": application(app.field("url")), "sidecar": sidecarOf(sidecar.config)} {
		eventually(t, name+" says that its keys are the cache's", func() error { return says(a, "cached", "connection refused") })
	}

	content, err := os.ReadFile(cache)
	must(t, err)
	flipped := filepath.Join(dir, "flipped")
	content[len(content)/2] ^= 0x01
	write(t, flipped, string(content))
	for _, c := range []struct {
		name, want string
		flags      []string
	}{
		{"without a cache", "connection refused", []string{"--host-file", host}},
		{"with another host's cache", "which is not this host's", []string{"--host-file", other, "--cache", cache}},
		{"with a cache of which one bit was changed", "it is another host's, or was changed", []string{"--host-file", host, "--cache", flipped}},
	} {
		address := freeAddress(t)
		start(t, s.output, "", append([]string{"webapp", "--listen", address}, c.flags...)...)
		eventually(t, "an application "+c.name+" waits and says why", func() error {
			return says(application("http://"+address+"/"), "waiting", c.want)
		})
		if view, _, err := post(http.DefaultClient, "http://"+address+"/count", url.Values{}, session); err != nil || view.LoggedIn || view.Error != "no keys yet" {
			t.Errorf("%s it answers %+v, %v", c.name, view, err)
		}
	}
}

// says returns nil when an agent is in a state and gives a reason for it.
func says(a agent, state, why string) error {
	got, err := a()
	if err == nil && (got.State != state || !strings.Contains(got.Error+got.CacheError, why)) {
		err = fmt.Errorf("it says %+v, want %s because of %q", got, state, why)
	}
	return err
}
