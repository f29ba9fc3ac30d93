package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/keytide/keytide/replication/wan"
)

// A feeding is what an agent says of its keys: an application at /healthz, a sidecar
// by keytide-agent status.
type feeding struct {
	Version    uint64     `json:"version"` // of an application
	Rings      []ringView `json:"rings"`   // of a sidecar
	State      string     `json:"state"`
	Transport  string     `json:"transport"`
	Error      string     `json:"error"`
	CacheError string     `json:"cache_error"`
}

func (f feeding) holds(version uint64) bool {
	return f.Version == version || len(f.Rings) == 1 && f.Rings[0].Version == version
}

// An agent can be asked how it is fed.
type agent func() (feeding, error)

// application is the agent within a web application.
func application(url string) agent {
	return func() (f feeding, err error) {
		resp, err := http.Get(url + "healthz")
		if err != nil {
			return f, err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return f, err
		}
		return f, json.Unmarshal(body, &f)
	}
}

// sidecarOf is the keytide-agent that runs with a configuration.
func sidecarOf(config string) agent {
	return func() (f feeding, err error) {
		out, err := exec.Command(filepath.Join(binaries, "keytide-agent"), "status", "--config", config, "-o", "json").Output()
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() > 1 {
			err = nil // it runs, and is not fresh
		}
		if err != nil {
			return f, fmt.Errorf("keytide-agent status: %w", err)
		}
		return f, json.Unmarshal(out, &f)
	}
}

// A fleet is agents on their several ways to one policy server, by the names of the
// ways, and users who hop between those that are web applications.
type fleet struct {
	t       *testing.T
	site    *site
	agents  map[string]agent
	apps    []string // URLs
	users   *crowd
	current map[string]uint64 // version in which a key became current
}

// await waits until each of the agents is as the test wants it. It logs how long that
// took.
func (f *fleet) await(want string, is func(feeding) bool, names ...string) {
	f.t.Helper()
	began := time.Now()
	for _, name := range names {
		eventually(f.t, name+" agent is "+want, func() error {
			got, err := f.agents[name]()
			if err == nil && !is(got) {
				err = fmt.Errorf("it says %+v", got)
			}
			return err
		})
	}
	f.t.Logf("%v: %s after %v", names, want, time.Since(began).Round(10*time.Millisecond))
}

// all are the names of the agents but some.
func (f *fleet) all(but ...string) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(f.agents)), func(name string) bool { return slices.Contains(but, name) })
}

// rollover rolls over once the server is fresh, and waits until every agent but some
// has the ring, and says that it is fresh.
func (f *fleet) rollover(reason string, but ...string) {
	f.t.Helper()
	f.site.awaitFresh(f.t)
	f.site.keytide(f.t, "rollover", "sso", "--reason", reason, "--yes")
	ring := f.site.ring(f.t)
	f.current[ring.current()] = ring.Version
	f.follow(ring.Version, but...)
}

func (f *fleet) follow(version uint64, but ...string) {
	f.t.Helper()
	f.await(fmt.Sprintf("fresh, version %d", version), func(got feeding) bool { return got.State == "fresh" && got.holds(version) }, f.all(but...)...)
	if len(but) == 0 {
		f.users.newest.Store(version) // from now on nobody may seal with an older key
	}
	awaitRequests(f.t, f.users, 50)
}

func (s *site) awaitFresh(t *testing.T) {
	t.Helper()
	eventually(t, "the policy server is fresh", func() error {
		out, err := s.try("status", "-o", "json")
		if err != nil {
			return err
		}
		if servers := decode[statusView](t, out).Servers; len(servers) != 1 || servers[0].State != "fresh" {
			return fmt.Errorf("status: %s", out)
		}
		return nil
	})
}

// TestAgentsThroughFailures: agents on every kind of way to a policy server, through
// what fails there. Each has the newest ring again soon, says meanwhile that it is
// stale, and no user is refused.
//
// Heartbeats come each second instead of 15, and agents call themselves stale after 6 s
// instead of 60, so that it is over soon. The proxy that cuts does so every 20 s.
func TestAgentsThroughFailures(t *testing.T) {
	address := freeAddress(t)
	cut := openLink(t, wan.Config{Target: address, SeverEvery: 20 * time.Second})
	// The one way that agents are told of besides their own is the one that is cut.
	s := startServer(t, address, "heartbeat: 1s", "stale_after: 6s", "servers: [https://"+cut.Addr()+"]")
	far := openLink(t, wan.Config{Target: address, Latency: 40 * time.Millisecond})
	ca := readHostFile(t, s.host(t, "anybody")).CA
	way := func(address string) *front { return &front{url: "https://" + address, ca: []byte(ca)} }
	ways := map[string]*front{
		"direct": way(address), "far": way(far.Addr()), "cut": way(cut.Addr()),
		"proxied": startNginx(t, s, ca), "buffered": startNginx(t, s, ca, "proxy_ignore_headers X-Accel-Buffering;"),
	}
	ring := s.ring(t)
	f := &fleet{t: t, site: s, agents: map[string]agent{}, current: map[string]uint64{ring.current(): ring.Version}}
	for name, way := range ways {
		url := startWebapp(t, s.output, way.hostFile(t, s.host(t, name)), "--poll-interval", "2s")
		f.apps, f.agents[name] = append(f.apps, url), application(url)
	}
	f.agents["sidecar"] = sidecarOf(startSidecar(t, s.output, way(address).hostFile(t, s.host(t, "sidecar"))).config)
	f.users = startCrowd(t, 10, f.apps...)

	f.follow(ring.Version)
	f.await("polling", func(got feeding) bool { return got.Transport == "longpoll" }, "buffered")
	f.await("streaming", func(got feeding) bool { return got.Transport == "stream" }, f.all("buffered")...)
	f.rollover("fine weather")

	must(t, far.Cut(wan.Hold))
	f.rollover("while a link is held: its agent goes another way")
	must(t, far.Heal())

	must(t, s.cmd.Process.Signal(syscall.SIGSTOP)) // frozen: connections stay, and nothing comes
	f.await("stale", func(got feeding) bool { return got.State == "stale" }, f.all()...)
	awaitRequests(t, f.users, 50)
	must(t, s.cmd.Process.Signal(syscall.SIGCONT))
	f.rollover("after the server was frozen")

	s.stop()
	awaitRequests(t, f.users, 50)
	s.restart(t)
	f.rollover("after it was stopped")

	f.users.end()
	f.users.check(t, f.current)
}

func openLink(tb testing.TB, cfg wan.Config) *wan.Link {
	tb.Helper()
	link, err := wan.Open(cfg)
	must(tb, err)
	tb.Cleanup(func() { must(tb, link.Close()) })
	return link
}

func must(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}
