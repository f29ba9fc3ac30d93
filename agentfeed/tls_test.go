package agentfeed_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/agentfeed/feedtest"
	"github.com/keytide/keytide/keystore"
)

// ticketCertificate makes a certificate for 127.0.0.1 and the pool that trusts it.
func ticketCertificate(tb testing.TB) (tls.Certificate, *x509.CertPool) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}

// A ticketServer is an instance of an application behind a TLSListener.
type ticketServer struct {
	client  *agentfeed.Client
	address string
}

func serveTickets(t *testing.T, feed *feedtest.Server, cert tls.Certificate, version uint16) *ticketServer {
	t.Helper()
	client, err := agentfeed.New(feed.Config())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	if err := client.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) })}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		server.Serve(agentfeed.TLSListener(inner, &tls.Config{
			Certificates: []tls.Certificate{cert}, MinVersion: version, MaxVersion: version, NextProtos: []string{"h2", "http/1.1"},
		}, client.Ring("sso")))
	}()
	t.Cleanup(func() { server.Close(); <-ended })
	return &ticketServer{client, inner.Addr().String()}
}

func (s *ticketServer) follow(t *testing.T, set *keystore.KeySet) {
	t.Helper()
	for held := range s.client.Ring("sso").Updates(t.Context()) {
		if held != nil && held.Version >= set.Version {
			return
		}
	}
	t.Fatalf("no version %d", set.Version)
}

// A returning client keeps its session tickets.
type returning struct{ config *tls.Config }

func newReturning(roots *x509.CertPool) *returning {
	return &returning{&tls.Config{RootCAs: roots, ServerName: "127.0.0.1", ClientSessionCache: tls.NewLRUClientSessionCache(8)}}
}

// visit makes a request over a connection of its own and reports whether the
// connection was resumed.
func (c *returning) visit(t *testing.T, address string) bool {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: c.config, ForceAttemptHTTP2: true, DisableKeepAlives: true}}
	resp, err := client.Get("https://" + address + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body) // the ticket of TLS 1.3 comes with it
	if err != nil || string(body) != "HTTP/2.0" {
		t.Errorf("answer %q, %v; want HTTP/2.0", body, err)
	}
	return resp.TLS.DidResume
}

// TestTicketsAreSharedOverRollovers: a ticket of one instance resumes at another,
// before and after a rollover, and while only one of the two has heard of it; until
// its key is destroyed.
func TestTicketsAreSharedOverRollovers(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			feed := feedtest.NewServer(t, "sso")
			cert, roots := ticketCertificate(t)
			a, b := serveTickets(t, feed, cert, version), serveTickets(t, feed, cert, version)
			user, absent := newReturning(roots), newReturning(roots)
			if user.visit(t, a.address) || absent.visit(t, a.address) {
				t.Fatal("resumed without a ticket")
			}
			if !user.visit(t, b.address) {
				t.Error("a ticket of A did not resume at B")
			}
			b.client.Close() // B stays at the version before
			a.follow(t, feed.Rollover("sso"))
			if !user.visit(t, a.address) {
				t.Error("a ticket from before the rollover did not resume after it")
			}
			if !user.visit(t, b.address) {
				t.Error("a ticket of the new key did not resume at an agent that has it as its future key")
			}
			for range 70 { // more than any ring keeps old keys
				a.follow(t, feed.Rollover("sso"))
			}
			if absent.visit(t, a.address) {
				t.Error("a ticket resumed after its key had been destroyed")
			}
			if !absent.visit(t, a.address) {
				t.Error("the ticket that came instead did not resume")
			}
		})
	}
}

// TestSetTicketKeys sets the keys of hand-made sets on configs in use.
func TestSetTicketKeys(t *testing.T) {
	cert, roots := ticketCertificate(t)
	serve := func(set *keystore.KeySet) (*tls.Config, string) {
		config := &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}}
		if err := agentfeed.SetTicketKeys(config, set); err != nil {
			t.Fatal(err)
		}
		inner, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) })}
		ended := make(chan struct{})
		go func() { defer close(ended); server.Serve(tls.NewListener(inner, config)) }()
		t.Cleanup(func() { server.Close(); <-ended })
		return config, inner.Addr().String()
	}
	const dynamic, static = keystore.ModeDynamic, keystore.ModeStatic
	_, home := serve(ticketSet(t, "sso", dynamic, "a*!", "b", "s-"))
	for name, test := range map[string]struct {
		set          *keystore.KeySet
		opens, seals bool // there: tickets of home; here: tickets of there
	}{
		"the same":                    {ticketSet(t, "sso", dynamic, "a*!", "b", "s-"), true, true},
		"rolled over":                 {ticketSet(t, "sso", dynamic, "b*!", "c", "a", "s-"), true, true},
		"pending, not yet to seal":    {ticketSet(t, "sso", dynamic, "a*!?"), true, false},
		"in static mode":              {ticketSet(t, "sso", static, "s-!", "a*"), true, true},
		"when nothing seals any more": {ticketSet(t, "sso", dynamic, "a*"), true, false},
		"another ring":                {ticketSet(t, "web", dynamic, "a*!"), false, false},
		"as the static key":           {ticketSet(t, "sso", dynamic, "c*!", "a-"), false, false},
		"gone":                        {ticketSet(t, "sso", dynamic, "c*!"), false, false},
		"none":                        {nil, false, false},
	} {
		_, there := serve(test.set)
		out, back := newReturning(roots), newReturning(roots)
		out.visit(t, home)
		back.visit(t, there)
		if opens, seals := out.visit(t, there), back.visit(t, home); opens != test.opens || seals != test.seals {
			t.Errorf("%s: opens %v, seals %v; want %v, %v", name, opens, seals, test.opens, test.seals)
		}
	}
	config, there := serve(nil)
	user := newReturning(roots)
	user.visit(t, home)
	if err := agentfeed.SetTicketKeys(config, ticketSet(t, "sso", dynamic, "a*!")); err != nil {
		t.Fatal(err)
	}
	if !user.visit(t, there) {
		t.Error("keys set on a config in use do not count")
	}
	broken := ticketSet(t, "sso", dynamic, "a*!")
	broken.Keys[0].Material = keystore.Material{}
	if err := agentfeed.SetTicketKeys(config, broken); err == nil {
		t.Error("a key without bytes was taken")
	}
}

// ticketSet makes a set from words: the same word, the same key. Behind a word, "*"
// says that it is the current key, "-" the static one, "?" that it is pending, and "!"
// that it seals; others are old.
func ticketSet(tb testing.TB, ring keystore.RingName, mode keystore.Mode, words ...string) *keystore.KeySet {
	tb.Helper()
	set := &keystore.KeySet{Ring: ring, Epoch: 1, Version: 1, Mode: mode}
	for _, word := range words {
		sum := sha256.Sum256([]byte(strings.TrimRight(word, "*-?!")))
		m, err := keystore.NewMaterial(sum[:])
		if err != nil {
			tb.Fatal(err)
		}
		k := keystore.SetKey{KID: m.KID(), Role: keystore.Old, Material: m}
		k.Pending, k.Seals = strings.Contains(word, "?"), strings.Contains(word, "!")
		switch {
		case strings.Contains(word, "*"):
			k.Role = keystore.Current
		case strings.Contains(word, "-"):
			k.Role = keystore.Static
		}
		set.Keys = append(set.Keys, k)
	}
	return set
}
