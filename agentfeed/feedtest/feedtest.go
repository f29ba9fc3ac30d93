// Package feedtest runs a policy server's feed for the tests of applications that
// use the SDK: the real hub, over real TLS on 127.0.0.1, with rings that roll over
// when the test says so.
//
//	server := feedtest.NewServer(t, "sso")
//	client, err := agentfeed.New(server.Config())
//	…
//	server.Rollover("sso")
//
// And it fails as servers and networks do, for tests of what an application does
// then:
//
//	server.Stop()         // gone, as in a crash: the agent goes on with what it has
//	server.Start()        // back, at the same address
//	server.Drain()        // agents are told to go elsewhere
//	server.Freeze(true)   // cut off from its core: it answers, and proves nothing new
//	server.Limits(2*time.Second, 5*time.Second) // and agents say soon that they are stale, expired
//	server.Skew(10*time.Minute) // its clock is off; agents do with that
//	server.Buffer(true)   // a proxy in front holds streams back: agents poll, after 10 s
//	server.Revoke("test") // the host is refused
//
// client.Status() tells what the agent makes of each, at once or within seconds;
// wait for it, as in
//
//	for client.Status().State != agentfeed.StateStale {
//		time.Sleep(10 * time.Millisecond)
//	}
//
// It keeps nothing on disk and needs no store. It is no policy server: rings follow
// no rules of time, and nothing confirms anything. The methods of a Server are for
// the test's goroutine.
package feedtest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/agentfeed/hub"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/secretfile"
	"github.com/keytide/keytide/keystore/ticket"
)

// heartbeat is short, so that tests see a dead stream soon.
const heartbeat = time.Second

// patience bounds what a test waits for when a server stops.
const patience = 30 * time.Second

// A Server feeds agents until the test ends.
type Server struct {
	tb      testing.TB
	store   *store
	address string
	cert    tls.Certificate
	ca      []byte // PEM
	logger  *slog.Logger

	conditions
	hub  *hub.Hub // of the run that began last
	http *http.Server
	done chan struct{} // closed when http has ended
}

// NewServer starts a server with these rings. It is stopped when the test ends.
func NewServer(tb testing.TB, rings ...keystore.RingName) *Server {
	tb.Helper()
	return NewLoggedServer(tb, nil, rings...)
}

// NewLoggedServer is NewServer with a logger for the hub; nil logs nothing.
func NewLoggedServer(tb testing.TB, logger *slog.Logger, rings ...keystore.RingName) *Server {
	tb.Helper()
	s := &Server{tb: tb, store: newStore(), address: "127.0.0.1:0", logger: logger}
	s.cert, s.ca = certificate(tb)
	for _, name := range rings {
		if _, err := keystore.ParseRingName(string(name)); err != nil {
			tb.Fatal(err)
		}
		s.store.create(name)
		s.store.rollTicketKey(name)
	}
	s.Start()
	tb.Cleanup(s.Stop)
	return s
}

// URL is the server's base URL.
func (s *Server) URL() string { return "https://" + s.address }

// Config is an SDK configuration of the trusted host "test", which has all rings.
func (s *Server) Config() agentfeed.Config {
	h := s.Host("test")
	return agentfeed.Config{Servers: h.Servers, CA: h.CA, Host: h.Host, KID: h.KID, Secret: h.Secret}
}

// Host registers a trusted host for these rings, or for all when none is named, and
// returns its host file. Called again it returns the same secret.
func (s *Server) Host(name string, rings ...keystore.RingName) agentfeed.HostFile {
	secret := s.store.register(name, rings, newMaterial())
	return agentfeed.HostFile{Servers: []string{s.URL()}, CA: s.ca, Host: name, KID: secret.KID(), Secret: secret}
}

// Admit registers a trusted host that has all rings with a secret that the test
// chooses, so that one host file serves for several servers. A host that is
// registered already keeps its secret.
func (s *Server) Admit(name string, secret keystore.Material) { s.store.register(name, nil, secret) }

// WriteHostFile registers a trusted host as Host does, and writes its host file
// into a directory of the test's.
func (s *Server) WriteHostFile(name string, rings ...keystore.RingName) (path string) {
	s.tb.Helper()
	content, err := s.Host(name, rings...).Encode()
	if err != nil {
		s.tb.Fatal(err)
	}
	path = filepath.Join(s.tb.TempDir(), name+".yaml")
	if err := secretfile.Write(path, content); err != nil {
		s.tb.Fatal(err)
	}
	return path
}

// Revoke revokes a trusted host.
func (s *Server) Revoke(name string) { s.store.revoke(name) }

// Rollover rolls a ring over: future becomes current, current becomes old, and
// there is a new future. It returns the keys as agents get them.
func (s *Server) Rollover(ring keystore.RingName) *keystore.KeySet {
	s.tb.Helper()
	set := s.store.rollover(ring)
	if set == nil {
		s.tb.Fatalf("feedtest: there is no ring %s", ring)
	}
	return set
}

// AllowTickets gives a registered host the right to session tickets of its rings:
// "none", as it begins, "open" or "seal".
func (s *Server) AllowTickets(host, right string) {
	s.tb.Helper()
	r, err := ticket.ParseRight(right)
	if err != nil {
		s.tb.Fatal(err)
	}
	if !s.store.allowTickets(host, r) {
		s.tb.Fatalf("feedtest: host %s is not registered", host)
	}
}

// RollTicketKey makes a new session ticket key for a ring. Tickets under former ones
// go on opening.
func (s *Server) RollTicketKey(ring keystore.RingName) { s.store.rollTicketKey(ring) }

// Agents counts connected agents, and those that have not been given the newest
// state.
func (s *Server) Agents() (connected, behind int) { return s.hub.Agents() }

// Drain tells all agents to go elsewhere, as a server does that shuts down.
func (s *Server) Drain() {
	s.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.hub.Close(ctx); err != nil {
		s.tb.Errorf("feedtest: draining: %v", err)
	}
}

// Stop cuts all agents off, as a crash does. The rings stay for a later Start.
func (s *Server) Stop() {
	s.tb.Helper()
	if s.http == nil {
		return
	}
	s.http.Close()
	<-s.done
	s.http = nil
	crashed, cancel := context.WithCancel(context.Background())
	cancel()
	s.hub.Close(crashed) // cuts the streams
	s.Drain()            // no connection is left: this only waits
}

// Start starts a server that was stopped again, at the same address.
func (s *Server) Start() {
	s.tb.Helper()
	if s.http != nil {
		return
	}
	h, err := hub.New(hub.Config{Source: s.store, Tickets: s.store.ticketKeys, Server: "feedtest", Heartbeat: heartbeat,
		StaleAfter: s.staleAfter, MaxStale: s.maxStale, ClockOffset: s.skew, Logger: s.logger})
	if err != nil {
		s.tb.Fatal(err)
	}
	listener, err := net.Listen("tcp", s.address)
	if err != nil {
		s.tb.Fatal(err)
	}
	s.address = listener.Addr().String()
	s.store.serve(s.URL())
	s.hub, s.done = h, make(chan struct{})
	s.http = &http.Server{Handler: s.proxied(h), ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: 10 * time.Second,
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{s.cert}, MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1", "h2"}}}
	go func(server *http.Server, done chan struct{}) {
		defer close(done)
		server.ServeTLS(listener, "", "") // always ends with ErrServerClosed
	}(s.http, s.done)
}

// certificate makes a certificate for 127.0.0.1 that is its own CA.
func certificate(tb testing.TB) (tls.Certificate, []byte) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "feedtest"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}
