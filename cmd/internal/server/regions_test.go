package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/keytide/keytide/replication/bus"
	"github.com/keytide/keytide/replication/wan"
)

// coreCertificate is one that is its own CA, for servers and clients.
func coreCertificate(t *testing.T) (*tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool
}

// startRegions starts a core of three regions, and returns each region's client.
func startRegions(t *testing.T, links *regionLinks) map[string]jetstream.JetStream {
	t.Helper()
	cert, pool := coreCertificate(t)
	seed, nkey, err := bus.NewSeed()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	clients := make(map[string]jetstream.JetStream)
	servers := make(chan error, len(links.cores))
	for _, c := range links.cores {
		go func() { // none is ready before there are two
			b, err := bus.Start(bus.Config{
				StoreDir: filepath.Join(dir, c.region), ServerName: c.server, Listen: c.clients,
				Core: &bus.Core{
					Cluster: "dev", Peers: links.peers(c.region), Routes: c.routes, CAs: pool,
					Certificate: func() (*tls.Certificate, error) { return cert, nil },
					Users:       []bus.User{{Nkey: nkey, Publish: []string{">"}, Subscribe: []string{">"}}},
				},
			})
			if err == nil {
				t.Cleanup(func() { b.Close() })
			}
			servers <- err
		}()
	}
	for range links.cores {
		if err := <-servers; err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range links.cores {
		link, err := bus.Dial(bus.DialConfig{
			Name: c.region, URLs: links.urls(c.region), CAs: pool, Credentials: bus.Credentials{Seed: seed},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(link.Close)
		clients[c.region] = link.JetStream()
	}
	return clients
}

// TestRegionsAreJoinedByLinksAlone: a region that is cut off, in any way, has no part
// in what the others write, and cannot write; when it is healed it can.
func TestRegionsAreJoinedByLinksAlone(t *testing.T) {
	links, err := newRegionLinks(devRegions, 5*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := links.net.Close(); err != nil {
			t.Error(err)
		}
	})
	clients := startRegions(t, links)
	within := func(limit time.Duration, region, text string) error {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		_, err := clients[region].Publish(ctx, "k", []byte(text))
		return err
	}
	eventually := func(what string, do func() error) {
		t.Helper()
		began := time.Now()
		for err := do(); err != nil; err = do() {
			if time.Since(began) > time.Minute {
				t.Fatalf("%s: %v", what, err)
			}
		}
		t.Logf("%s: after %v", what, time.Since(began).Round(time.Millisecond))
	}
	eventually("a stream of three", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := clients["eu"].CreateStream(ctx, jetstream.StreamConfig{Name: "K", Subjects: []string{"k"}, Replicas: 3})
		return err
	})
	for _, fault := range []wan.Fault{wan.Reset, wan.Hold, wan.HoldForward, wan.HoldBack} {
		if err := links.net.Cut("ap", fault); err != nil {
			t.Fatal(err)
		}
		eventually(fmt.Sprintf("eu writes while ap is cut off by %v", fault), func() error { return within(time.Second, "eu", "x") })
		if err := within(500*time.Millisecond, "ap", "y"); err == nil {
			t.Errorf("ap writes although it is cut off by %v", fault)
		} else if errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if err := links.net.Heal("ap"); err != nil {
			t.Fatal(err)
		}
		eventually("ap writes after that", func() error { return within(time.Second, "ap", "z") })
	}
}
