package server

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/keytide/keytide/replication/bus"
	"github.com/keytide/keytide/replication/wan"
)

// devRegions are the regions of keytide dev --regions 3, in the order in which their
// servers get their ports.
var devRegions = []string{"eu", "us", "ap"}

// A regionCore is where the core's server of one region listens, in this process.
type regionCore struct {
	region, server  string
	clients, routes string // 127.0.0.1:port
}

// regionLinks are the ways between the regions of a development store: everything
// that one region's servers say to another's passes a link of the net.
type regionLinks struct {
	net     *wan.Net
	cores   []regionCore
	clients map[[2]string]string // where from reaches to, by both names
	routes  map[[2]string]string
}

// newRegionLinks chooses ports for the core's servers and makes a link for each
// ordered pair of regions and each of the two ports.
func newRegionLinks(regions []string, latency time.Duration) (_ *regionLinks, err error) {
	l := &regionLinks{net: wan.NewNet(latency), clients: make(map[[2]string]string), routes: make(map[[2]string]string)}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.net.Close())
		}
	}()
	ports, err := freePorts(2 * len(regions))
	if err != nil {
		return nil, err
	}
	for i, name := range regions {
		l.cores = append(l.cores, regionCore{region: name, server: "dev-" + name, clients: ports[2*i], routes: ports[2*i+1]})
	}
	for _, from := range l.cores {
		for _, to := range l.cores {
			if err := l.join(from, to); err != nil {
				return nil, err
			}
		}
	}
	return l, nil
}

func (l *regionLinks) join(from, to regionCore) error {
	pair := [2]string{from.region, to.region}
	if from == to {
		l.clients[pair], l.routes[pair] = to.clients, to.routes
		return nil
	}
	for _, way := range []struct {
		near   map[[2]string]string
		target string
	}{{l.clients, to.clients}, {l.routes, to.routes}} {
		link, err := l.net.Link(from.region, to.region, way.target)
		if err != nil {
			return fmt.Errorf("link from %s to %s: %w", from.region, to.region, err)
		}
		way.near[pair] = link.Addr()
	}
	return nil
}

// peers are the core's servers as the one of a region finds them.
func (l *regionLinks) peers(region string) []bus.Peer {
	var peers []bus.Peer
	for _, c := range l.cores {
		peers = append(peers, bus.Peer{Server: c.server, Routes: l.routes[[2]string{region, c.region}]})
	}
	return peers
}

// urls are the core's servers as a policy server of a region finds them: its own
// region's first.
func (l *regionLinks) urls(region string) []string {
	urls := []string{"tls://" + l.clients[[2]string{region, region}]}
	for _, c := range l.cores {
		if c.region != region {
			urls = append(urls, "tls://"+l.clients[[2]string{region, c.region}])
		}
	}
	return urls
}

// freePorts returns addresses of this machine's loopback that were free a moment ago.
func freePorts(count int) ([]string, error) {
	var addresses []string
	for range count {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // at the end: so that each is another
		addresses = append(addresses, l.Addr().String())
	}
	return addresses, nil
}
