package server

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/events/ledger"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/replication"
	"github.com/keytide/keytide/replication/wan"
)

// startThree runs a development store of three regions in this process.
func startThree(t *testing.T) *devStore {
	t.Helper()
	ready := make(chan Ready, 1)
	d := &devStore{dev: DevConfig{
		Dir: filepath.Join(t.TempDir(), "three"), Regions: 3, Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelError})),
		Ready: func(r Ready) { ready <- r },
	}}
	var err error
	if d.admin, err = freePorts(3); err == nil {
		d.feed, err = freePorts(3)
	}
	if err == nil {
		err = d.ensure(t.Context())
	}
	if err == nil {
		d.links, err = newRegionLinks(devRegions, devLatency)
	}
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- d.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("stop: %v", err)
		}
		if err := d.links.net.Close(); err != nil {
			t.Error(err)
		}
	})
	select {
	case <-ready:
	case <-time.After(patience):
		t.Fatalf("not ready after %v", patience)
	}
	return d
}

// of is the policy server of a region.
func (d *devStore) of(region string) *site {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sites[slices.IndexFunc(d.sites, func(s *site) bool { return s.id.Region == region })]
}

// self is what a policy server shows of itself.
func (s *site) self(t *testing.T) adminapi.Server {
	t.Helper()
	status, err := s.service.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return status.Servers[0]
}

func (s *site) wantNoFork(t *testing.T) {
	t.Helper()
	status, err := s.service.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range status.Alarms {
		if a.Kind == string(replication.AlarmForked) {
			t.Errorf("%s shows the alarm %+v", s.id.Server, a)
		}
	}
}

// wantState reports an error unless a server shows this state of itself.
func wantState(t *testing.T, s *site, want string) error {
	t.Helper()
	if v := s.self(t); v.State != want {
		return fmt.Errorf("%s is %s, want %s: %s", v.ID, v.State, want, v.Why)
	}
	return nil
}

// A moved log is a ledger at a core server, and then at another.
type moved struct {
	mu  sync.Mutex // guards log
	log *ledger.Ledger
}

func (m *moved) now() *ledger.Ledger {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.log
}

func (m *moved) to(log *ledger.Ledger) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.log = log
}

func (m *moved) Append(ctx context.Context, b events.Batch) (events.Revision, error) {
	return m.now().Append(ctx, b)
}
func (m *moved) PutBeacon(ctx context.Context, value []byte, head events.Revision) error {
	return m.now().PutBeacon(ctx, value, head)
}
func (m *moved) PutRecord(ctx context.Context, server string, value []byte) error {
	return m.now().PutRecord(ctx, server, value)
}
func (m *moved) PutBack(ctx context.Context, p events.Put) error {
	return m.now().PutBack(ctx, p)
}
func (m *moved) Follow(ctx context.Context, from events.Revision, each func(events.Entry) error) error {
	return m.now().Follow(ctx, from, each)
}
func (m *moved) Info(ctx context.Context) (ledger.Info, error) { return m.now().Info(ctx) }
func (m *moved) Newest(ctx context.Context, key string) (events.Entry, error) {
	return m.now().Newest(ctx, key)
}

// A watcher follows the ledger of keys as a replica does, and is no member.
type watcher struct {
	*replication.Member
	at    *moved
	log   *lockedBuffer
	leave func() // closes its connection to where it began
}

// reaches reports an error until the watcher has what a server has.
func (w *watcher) reaches(s *site) error {
	want, _ := s.keys.Replica().Watch()
	if have, _ := w.Replica().Watch(); have < want {
		return fmt.Errorf("the watcher is at event %d, want %d: %+v", have, want, w.Alarms())
	}
	return nil
}

// watch follows at a core server that a site reaches at this URL.
func (s *site) watch(t *testing.T, url string) *watcher {
	t.Helper()
	w := &watcher{at: &moved{}, log: &lockedBuffer{}}
	w.leave = s.goTo(t, w.at, url)
	replica, err := replication.OpenReplica(filepath.Join(t.TempDir(), "watcher.db"), s.keys.Replica().Pin())
	if err != nil {
		t.Fatal(err)
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	w.Member, err = replication.New(replication.MemberConfig{
		Log: w.at, Replica: replica, Logger: slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Identity: replication.Identity{Server: "watcher", Region: s.id.Region, Key: key},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the watcher: %v", err)
		}
		replica.Close()
	})
	return w
}

// goTo has a log be at another core server, and returns what closes the connection.
func (s *site) goTo(t *testing.T, m *moved, url string) (end func()) {
	t.Helper()
	link, err := s.dial("watcher", s.credentials, []string{url})
	if err != nil {
		t.Fatal(err)
	}
	end = sync.OnceFunc(link.Close)
	t.Cleanup(end)
	at, err := ledger.Bind(link.JetStream(), events.BucketName(events.Keys, s.id.Store, s.id.Epoch), nil)
	if err != nil {
		t.Fatal(err)
	}
	m.to(at)
	return end
}

// leaderOf is the region whose core server leads the ledger of keys.
func (d *devStore) leaderOf(t *testing.T) (region string) {
	t.Helper()
	eventually(t, func() error {
		s := d.of("eu")
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		stream, err := s.links[0].JetStream().Stream(ctx, events.StreamName(events.BucketName(events.Keys, s.id.Store, s.id.Epoch)))
		if err == nil {
			region = strings.TrimPrefix(stream.CachedInfo().Cluster.Leader, "dev-")
		}
		return err
	})
	return region
}

// oldEnd is what a replica says of a core server that leads no more, does not know it, and
// knows of less than the replica.
const oldEnd = "a core server that is cut off ends at revision"

// TestIsolatedLeader: the leader of the core is cut off, half-open, with the policy server
// beside it. That one is stale, says so, and feeds what it has; the others go on once they
// have elected another leader. One that has read what came then, and asks the old leader,
// is told of an end that is behind its own: nobody calls that a fork. A core server that is
// cut off leaves by itself, so it may have gone before it could be asked.
func TestIsolatedLeader(t *testing.T) {
	t.Parallel()
	d := startThree(t)
	t.Logf("an old leader answered with its old end: %v", d.isolateLeader(t))
}

// isolateLeader reports whether an old leader answered with its old end.
func (d *devStore) isolateLeader(t *testing.T) (answered bool) {
	for _, region := range devRegions {
		eventually(t, func() error { return wantState(t, d.of(region), "fresh") })
	}
	leader := d.leaderOf(t)
	other := devRegions[(slices.Index(devRegions, leader)+1)%3]
	beside, far := d.of(leader), d.of(other)
	watching := far.watch(t, "tls://"+d.links.clients[[2]string{other, other}])
	eventually(t, func() error { return watching.reaches(far) })

	if err := d.links.net.Cut(leader, wan.Hold); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { return wantState(t, beside, "stale") })
	if why := beside.self(t).Why; !strings.Contains(why, "the newest beacon is") {
		t.Errorf("why = %q", why)
	}
	fed, _ := beside.source.Watch()
	request := rollover("isolated/" + ulid.Make().String())
	eventually(t, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_, err := far.service.Rollover(ctx, "eva", devRing, request)
		return err
	})
	eventually(t, func() error { return watching.reaches(far) })
	// By no link: the old leader is reached although it is cut off.
	far.goTo(t, watching.at, "tls://"+d.links.clients[[2]string{leader, leader}])
	watching.leave()
	for end := time.Now().Add(10 * time.Second); !answered && time.Now().Before(end); <-time.After(50 * time.Millisecond) {
		answered = strings.Contains(watching.log.String(), oldEnd)
		if f := watching.Freshness(); f.State == events.Forked {
			t.Fatalf("the one that asks the old leader is %v: %s", f.State, f.Why)
		}
	}
	eventually(t, func() error { return wantState(t, far, "fresh") })
	if state, _ := beside.source.Watch(); beside.self(t).State != "stale" || state.Rings[devRing].Version != fed.Rings[devRing].Version {
		t.Errorf("beside the old leader: %+v, feeds version %d; want stale and %d", beside.self(t), state.Rings[devRing].Version, fed.Rings[devRing].Version)
	}
	if err := d.links.net.Heal(leader); err != nil {
		t.Fatal(err)
	}
	for _, region := range devRegions {
		s := d.of(region)
		eventually(t, func() error {
			if n, want := s.self(t).N, far.self(t).N; n < want {
				return fmt.Errorf("%s is at event %d, want %d", region, n, want)
			}
			return wantState(t, s, "fresh")
		})
		s.wantNoFork(t)
	}
	eventually(t, func() error { return watching.reaches(far) })
	for _, a := range watching.Alarms() {
		if a.Kind == replication.AlarmForked {
			t.Errorf("the one that asked the old leader: %+v", a)
		}
	}
	return answered
}
