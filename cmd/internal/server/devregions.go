package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/secretfile"
)

// devLatency is between the regions of a development store, one way.
const devLatency = 10 * time.Millisecond

// A devStore is a development store of several regions: a policy server in each, with
// its share of the core, all in this process.
type devStore struct {
	dev         DevConfig
	links       *regionLinks
	admin, feed []string // addresses, by region

	mu    sync.Mutex // guards the fields below
	ready []Ready
	sites []*site
}

// devRegionsRun serves a development store of several regions until ctx ends. It makes
// the store at the first start.
func devRegionsRun(ctx context.Context, dev DevConfig) (err error) {
	if dev.Regions != len(devRegions) {
		return fmt.Errorf("%w: --regions %d: want 1 or %d", keystore.ErrInvalid, dev.Regions, len(devRegions))
	}
	if dev.NATSListen != "" {
		return fmt.Errorf("%w: --nats-listen goes with one region alone", keystore.ErrInvalid)
	}
	d := &devStore{dev: dev}
	if d.admin, err = portsFrom(dev.Listen, len(devRegions)); err != nil {
		return fmt.Errorf("--listen: %w", err)
	}
	if d.feed, err = portsFrom(dev.FeedListen, len(devRegions)); err != nil {
		return fmt.Errorf("--feed-listen: %w", err)
	}
	if err := d.ensure(ctx); err != nil {
		return err
	}
	lock, err := lockStore(dev.Dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if d.links, err = newRegionLinks(devRegions, devLatency); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.links.net.Close()) }()
	return d.run(ctx)
}

// ensure makes the store unless it is there.
func (d *devStore) ensure(ctx context.Context) error {
	free, err := vacant(d.dev.Dir)
	if err != nil {
		return err
	}
	if !free {
		if _, err := loadIdentity(d.dir(0)); errors.Is(err, errNoStore) {
			return &hinted{
				error: fmt.Errorf("%w: directory %s holds no development store of several regions", keystore.ErrRefused, d.dev.Dir),
				hint:  "choose a directory that does not exist yet:  --dir DIR\nor serve a store of one region without --regions",
			}
		}
		return nil
	}
	making := CoreInitConfig{Dir: d.dev.Dir, Store: "main", dev: true}
	for i, region := range devRegions {
		m := CoreMember{Server: "dev-" + region, Region: region, Admin: d.admin[i], Feed: d.feed[i]}
		m.fill("127.0.0.1") // the bus has other addresses at each start
		making.Servers = append(making.Servers, m)
	}
	_, err = InitCore(ctx, making)
	return err
}

func (d *devStore) dir(i int) string { return filepath.Join(d.dev.Dir, "dev-"+devRegions[i]) }

// run serves all regions, and takes all down when one dies.
func (d *devStore) run(ctx context.Context) error {
	control, err := openControl(d.dev.Dir, d.links.net)
	if err != nil {
		return err
	}
	g, dead := errgroup.WithContext(context.WithoutCancel(ctx))
	serving, stop := context.WithCancel(dead)
	defer stop()
	defer context.AfterFunc(ctx, stop)()
	g.Go(func() error { return control.run(serving) })
	for i := range devRegions {
		g.Go(func() error { return d.serve(serving, i) })
	}
	return g.Wait()
}

func (d *devStore) serve(ctx context.Context, i int) error {
	cfg, err := d.config(i)
	if err != nil {
		return err
	}
	err = Run(ctx, cfg, Hooks{
		Logger: d.dev.Logger.With("region", devRegions[i]),
		Ready:  func(r Ready) { d.announce(ctx, r) },
		opened: d.opened,
	})
	if err != nil {
		return fmt.Errorf("region %s: %w", devRegions[i], err)
	}
	return nil
}

// config is a region's, with the others at the near ends of its links.
func (d *devStore) config(i int) (Config, error) {
	id, err := loadIdentity(d.dir(i))
	if err != nil {
		return Config{}, err
	}
	own, region := d.links.cores[i], devRegions[i]
	cfg := Config{
		Store: id.Store, Region: id.Region, Server: id.Server, Dir: d.dir(i), Unlock: Unlock{File: unlockFile},
		Admin: Admin{Listen: d.admin[i]}, Feed: Feed{Listen: d.feed[i]},
		Bus: &BusConfig{NkeyFile: nkeyFile, Core: &CoreConfig{
			Listen: own.clients, RoutesListen: own.routes, Cert: coreCert, Key: coreCertKey, CA: coreCAFile, Users: usersFile,
		}},
		dev: true, clockOffset: d.dev.FeedClock,
	}
	cfg.Genesis.Keys, cfg.Genesis.Hosts = id.Genesis.Keys, id.Genesis.Hosts
	for j, other := range d.links.cores {
		pair := [2]string{region, other.region}
		cfg.Bus.Core.Servers = append(cfg.Bus.Core.Servers, CoreServer{
			Server: other.server, Clients: d.links.clients[pair], Routes: d.links.routes[pair],
		})
		cfg.Feed.Servers = append(cfg.Feed.Servers, urlOf(d.feed[j], "127.0.0.1"))
	}
	cfg.fill()
	cfg.resolve(d.dir(i))
	return cfg, nil
}

func (d *devStore) opened(s *site) {
	d.mu.Lock()
	d.sites = append(d.sites, s)
	d.mu.Unlock()
}

// announce says that the store serves, once every region does.
func (d *devStore) announce(ctx context.Context, r Ready) {
	d.mu.Lock()
	d.ready = append(d.ready, r)
	all, sites := len(d.ready) == len(devRegions), d.sites
	d.mu.Unlock()
	if !all {
		return
	}
	err := sites[0].service.firstRing(ctx, foundingEvents(len(devRegions)))
	if err == nil {
		err = d.profiles()
	}
	if err != nil {
		d.dev.Logger.Error("the store serves, but it is not all there", "err", err)
	}
	if d.dev.Ready != nil {
		d.dev.Ready(Ready{
			Admin: urlOf(d.admin[0], "127.0.0.1"), Feed: urlOf(d.feed[0], "127.0.0.1"),
			Client: filepath.Join(d.dev.Dir, profileFile), Regions: devRegions,
		})
	}
}

// foundingEvents is how many events the ledger of keys begins with: the genesis, and of
// each other server its invitation and that it joined.
func foundingEvents(servers int) keystore.N { return keystore.N(2*servers - 1) }

// profiles writes a client profile that lists every region, and one for each.
func (d *devStore) profiles() error {
	var all []string
	var faults []error
	for i, region := range devRegions {
		url := urlOf(d.admin[i], "127.0.0.1")
		all = append(all, url)
		faults = append(faults, d.profile(region+".yaml", url))
	}
	return errors.Join(append(faults, d.profile(profileFile, all...))...)
}

func (d *devStore) profile(name string, urls ...string) error {
	text := fmt.Sprintf("# Client profile of keytide's commands.\nservers:\n  - %s\nca_file: %s/ca.pem\ntoken_file: %s/%s\n",
		strings.Join(urls, "\n  - "), adminDir, adminDir, tokenFile)
	return secretfile.Replace(filepath.Join(d.dev.Dir, name), []byte(text))
}

// portsFrom gives addresses with ports one after the other; port 0 takes free ones.
func portsFrom(first string, count int) ([]string, error) {
	host, port, err := net.SplitHostPort(first)
	if err != nil {
		return nil, err
	}
	if port == "0" {
		return freePorts(count)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || int(n)+count > 1<<16 {
		return nil, fmt.Errorf("%w: port %s: want a number, with %d more after it", keystore.ErrInvalid, port, count-1)
	}
	var addresses []string
	for i := range count {
		addresses = append(addresses, net.JoinHostPort(host, strconv.Itoa(int(n)+i)))
	}
	return addresses, nil
}

// lockStore keeps a second process off the directory. The kernel gives it free when
// this one ends.
func lockStore(dir string) (*os.File, error) {
	lock, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return nil, &hinted{
			error: fmt.Errorf("directory %s: another process is using it", dir),
			hint:  "stop it first, or give this one a directory of its own:  --dir DIR",
		}
	}
	return lock, nil
}
