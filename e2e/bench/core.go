package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/replication/bus"
	"github.com/keytide/keytide/replication/wan"
)

var regions = []string{"eu", "us", "ap"}

// A core is NATS servers in this process, with real files, real fsync and real TLS,
// each in a region of its own. Every connection between regions goes over a link of
// the net, which can be slow or cut.
type core struct {
	dir     string
	net     *wan.Net
	servers []*bus.Bus
	clients []string // addresses for clients, by server
	seed    []byte   // of the one user, who may do anything
	pool    *x509.CertPool
	links   []*bus.Link
	shared  *wan.Link // by dialVia
}

// newCore starts a core of so many servers, 1 or 3.
func newCore(servers int, latency time.Duration) (_ *core, err error) {
	c := &core{net: wan.NewNet(latency), servers: make([]*bus.Bus, servers)}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	if c.dir, err = os.MkdirTemp("", "keytide-bench-"); err != nil {
		return nil, err
	}
	cert, err := c.certificate()
	if err != nil {
		return nil, err
	}
	var nkey string
	if c.seed, nkey, err = bus.NewSeed(); err != nil {
		return nil, err
	}
	var routes []string
	for range servers {
		client, clientErr := freeAddress()
		route, err := freeAddress()
		if err := errors.Join(clientErr, err); err != nil {
			return nil, err
		}
		c.clients, routes = append(c.clients, client), append(routes, route)
	}
	var starting errgroup.Group
	for i := range servers {
		peers := make([]bus.Peer, servers)
		for j := range peers {
			peers[j] = bus.Peer{Server: "core-" + regions[j], Routes: routes[j]}
			if i != j {
				link, err := c.net.Link(regions[i], regions[j], routes[j])
				if err != nil {
					return nil, err
				}
				peers[j].Routes = link.Addr()
			}
		}
		starting.Go(func() (err error) {
			c.servers[i], err = bus.Start(bus.Config{
				StoreDir: filepath.Join(c.dir, regions[i]), ServerName: "core-" + regions[i], Listen: c.clients[i],
				Core: &bus.Core{
					Cluster: "bench", Peers: peers, Routes: routes[i], Certificate: cert, CAs: c.pool,
					Users: []bus.User{{Nkey: nkey, Publish: []string{">"}, Subscribe: []string{">"}}},
				},
			})
			return err
		})
	}
	return c, starting.Wait()
}

// certificate makes what every server shows: one certificate for loopback.
func (c *core) certificate() (func() (*tls.Certificate, error), error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "keytide bench"}, NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	c.pool = x509.NewCertPool()
	c.pool.AddCert(parsed)
	pair := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	return func() (*tls.Certificate, error) { return pair, nil }, nil
}

// dial connects a client of a region to the servers of the named regions, in that order;
// to all, its own region's first, if none is named.
func (c *core) dial(from string, to ...string) (*bus.Link, error) {
	if len(to) == 0 {
		to = append(to, from)
		for _, region := range regions[:len(c.servers)] {
			if region != from {
				to = append(to, region)
			}
		}
	}
	var urls []string
	for i, region := range regions[:len(c.servers)] {
		for _, wanted := range to {
			if wanted != region {
				continue
			}
			link, err := c.net.Link(from, region, c.clients[i])
			if err != nil {
				return nil, err
			}
			if url := "tls://" + link.Addr(); region == to[0] {
				urls = append([]string{url}, urls...)
			} else {
				urls = append(urls, url)
			}
		}
	}
	return c.dialURLs(from, urls)
}

// dialVia connects a client to the first server through a link that all clients of the
// region share.
func (c *core) dialVia(region string) (*bus.Link, error) {
	if c.shared == nil {
		link, err := c.net.Link(region, regions[0], c.clients[0])
		if err != nil {
			return nil, err
		}
		c.shared = link
	}
	return c.dialURLs(region, []string{"tls://" + c.shared.Addr()})
}

func (c *core) dialURLs(from string, urls []string) (*bus.Link, error) {
	link, err := bus.Dial(bus.DialConfig{Name: "bench " + from, URLs: urls, CAs: c.pool, Credentials: bus.Credentials{Seed: c.seed}})
	if err == nil {
		c.links = append(c.links, link)
	}
	return link, err
}

// lead has the server of a region lead a bucket's stream: which one does is chance
// otherwise, and writes from another region than the leader's take longer.
func (c *core) lead(ctx context.Context, link *bus.Link, bucket, region string) error {
	if len(c.servers) == 1 {
		return nil
	}
	want := "core-" + region
	return settle(ctx, func(ctx context.Context) error {
		stream, err := link.JetStream().Stream(ctx, events.StreamName(bucket))
		if err != nil {
			return err
		}
		if leader := stream.CachedInfo().Cluster.Leader; leader != want {
			msg, err := link.JetStream().Conn().RequestWithContext(ctx, "$JS.API.STREAM.LEADER.STEPDOWN."+events.StreamName(bucket),
				[]byte(`{"placement":{"preferred":"`+want+`"}}`))
			if err != nil {
				return err
			}
			return fmt.Errorf("%s leads; stepping down: %s", leader, msg.Data)
		}
		return nil
	})
}

// settle tries until what a core that has just elected its leaders refuses works.
func settle(ctx context.Context, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		once, done := context.WithTimeout(ctx, 3*time.Second)
		err := try(once)
		done()
		if err == nil {
			return nil
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("the core does not settle: %w", err)
		}
	}
}

func (c *core) close() {
	for _, link := range c.links {
		link.Close()
	}
	for _, server := range c.servers {
		if server != nil {
			server.Close()
		}
	}
	c.net.Close()
	os.RemoveAll(c.dir)
}
