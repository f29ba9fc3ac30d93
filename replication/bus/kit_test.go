package bus_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/keytide/keytide/replication/bus"
	"github.com/keytide/keytide/replication/wan"
)

// patience is how long a test waits for what must happen.
const patience = 60 * time.Second

func within(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// An authority signs certificates for loopback.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{pool: x509.NewCertPool()}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test core CA"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert, a.key = sign(t, template, template, nil)
	a.pool.AddCert(a.cert)
	return a
}

func sign(t testing.TB, template, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if parentKey == nil {
		parentKey = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// issue makes a server's certificate.
func (a *authority) issue(t testing.TB) func() (*tls.Certificate, error) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	cert, key := sign(t, template, a.cert, a.key)
	pair := &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
	return func() (*tls.Certificate, error) { return pair, nil }
}

// A door forwards what comes to an address of its own to a server that may have
// another one after each restart.
type door struct {
	net.Listener
	mu     sync.Mutex // guards the fields below
	target string
	from   []int // local ports of the connections that it made
}

func newDoor(t testing.TB) *door {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &door{Listener: l}
	var open sync.WaitGroup
	t.Cleanup(func() { l.Close(); open.Wait() })
	open.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			open.Go(func() { d.forward(in) })
		}
	})
	return d
}

func (d *door) lead(target string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.target = target
}

func (d *door) forward(in net.Conn) {
	defer in.Close()
	d.mu.Lock()
	target := d.target
	d.mu.Unlock()
	out, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer out.Close()
	d.mu.Lock()
	d.from = append(d.from, out.LocalAddr().(*net.TCPAddr).Port)
	d.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { io.Copy(out, in); out.Close() })
	both.Go(func() { io.Copy(in, out); in.Close() })
	both.Wait()
}

// A core is one of several servers in this process. Each finds each other by a door
// of its own, at addresses that nobody else knows.
type core struct {
	t       testing.TB
	ca      *authority
	users   []bus.User
	servers []*bus.Bus
	doors   [][]*door // doors[i][j] leads from server i to server j; doors[i][i] clients to i
	configs []bus.Config
	seed    []byte // of the user who may do everything
	log     *lockedBuffer
	net     *wan.Net // between the servers' regions, r-1 and so on; nil: no link can be cut
}

func startCore(t testing.TB, size int) *core {
	t.Helper()
	return startCoreOver(t, size, nil)
}

// startCoreOver starts a core whose routes go over links of a net.
func startCoreOver(t testing.TB, size int, net *wan.Net) *core {
	t.Helper()
	seed, nkey := newUser(t)
	c := &core{t: t, net: net, log: &lockedBuffer{}, ca: newAuthority(t), seed: seed, users: []bus.User{{Nkey: nkey, Publish: []string{">"}, Subscribe: []string{">"}}}}
	for i := range size {
		c.doors = append(c.doors, nil)
		for range size {
			c.doors[i] = append(c.doors[i], newDoor(t))
		}
	}
	for i := range size {
		c.configs = append(c.configs, bus.Config{
			StoreDir: storeDir(t), ServerName: fmt.Sprintf("c-%d", i+1), MaxStore: 256 << 20, Listen: "127.0.0.1:0",
			Core:   &bus.Core{Cluster: "test", Routes: "127.0.0.1:0", Certificate: c.ca.issue(t), CAs: c.ca.pool, Users: c.users},
			Logger: slog.New(slog.NewTextHandler(c.log, nil)),
		})
		for j := range size {
			c.configs[i].Core.Peers = append(c.configs[i].Core.Peers, bus.Peer{
				Server: fmt.Sprintf("c-%d", j+1), Routes: c.doors[i][j].Addr().String(),
			})
		}
	}
	c.servers = make([]*bus.Bus, size)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(c.log)
		}
		for i := range size {
			c.stop(i)
		}
	})
	for i := range size {
		c.start(i)
	}
	return c
}

func (c *core) start(i int) {
	c.t.Helper()
	b, err := bus.Start(c.configs[i])
	if err != nil {
		c.t.Fatal(err)
	}
	c.servers[i] = b
	client, err := url.Parse(b.ClientURL())
	if err != nil {
		c.t.Fatal(err)
	}
	c.doors[i][i].lead(client.Host)
	for from := range c.doors {
		if from == i {
			continue
		}
		target := b.RoutesAddr()
		if c.net != nil {
			link, err := c.net.Link(region(from), region(i), target)
			if err != nil {
				c.t.Fatal(err)
			}
			target = link.Addr()
		}
		c.doors[from][i].lead(target)
	}
}

func region(i int) string { return fmt.Sprintf("r-%d", i+1) }

func (c *core) stop(i int) {
	if c.servers[i] == nil {
		return
	}
	if err := c.servers[i].Close(); err != nil {
		c.t.Error(err)
	}
	c.servers[i] = nil
}

// urls are the clients' addresses, that of server first in front.
func (c *core) urls(first int) []string {
	var urls []string
	for k := range c.doors {
		i := (first + k) % len(c.doors)
		urls = append(urls, "tls://"+c.doors[i][i].Addr().String())
	}
	return urls
}

func (c *core) dial(first int, change func(*bus.DialConfig)) *bus.Link {
	c.t.Helper()
	cfg := bus.DialConfig{
		Name: "test", URLs: c.urls(first), CAs: c.ca.pool, Credentials: bus.Credentials{Seed: c.seed},
	}
	if change != nil {
		change(&cfg)
	}
	l, err := bus.Dial(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(l.Close)
	return l
}

// bucket makes a stream of all servers, when they have elected who may.
func (c *core) bucket(l *bus.Link, name string) {
	c.t.Helper()
	cfg := jetstream.StreamConfig{Name: "KV_" + name, Subjects: []string{"$KV." + name + ".>"}, Replicas: len(c.doors)}
	eventually(c.t, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_, err := l.JetStream().CreateStream(ctx, cfg)
		return err
	})
}

func put(l *bus.Link, subject string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	_, err := l.JetStream().Publish(ctx, subject, []byte("value"))
	return err
}

// eventually waits until do succeeds.
func eventually(t testing.TB, do func() error) {
	t.Helper()
	ctx := within(t)
	for {
		err := do()
		if err == nil {
			return
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("after %v: %v", patience, err)
		}
	}
}

func newUser(t testing.TB) (seed []byte, nkey string) {
	t.Helper()
	seed, nkey, err := bus.NewSeed()
	if err != nil {
		t.Fatal(err)
	}
	return seed, nkey
}

type lockedBuffer struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// storeDir is a folder that goes when its server is done with it: one that stops
// may still drop a file or two for a moment.
func storeDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "keytide-store-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { eventually(t, func() error { return os.RemoveAll(dir) }) })
	return filepath.Join(dir, "bus")
}
