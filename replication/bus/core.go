package bus

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	// Half-open links are noticed after two missed pings, clients' and routes'.
	pingInterval = 2 * time.Second
	maxPings     = 2
	// tlsTimeout also bounds the wait for credentials; in seconds. The server's own
	// 2 s are short between continents.
	tlsTimeout = 5

	// nowhere is the address that a member tells the other members of itself, and
	// that they tell each other: a name that is always their own machine's, at which
	// the server looks for nobody but itself. So no member ever connects to an
	// address that it was not configured with, around a proxy or a load balancer.
	nowhere = "localhost:1"
)

// The accounts of a core: ledgers and their clients are in one, the servers' own
// talk in the other, which no client from outside enters.
const (
	keysAccount = "KEYS"
	sysAccount  = "SYS"
	accounts    = "accounts { KEYS { jetstream: enabled }, SYS {} }\nsystem_account: SYS\n"
)

// A Core makes the server one of the 1, 3 or 5 that hold the ledgers together. Its
// clients need TLS and an nkey; the other servers a certificate of the core's CA.
type Core struct {
	// Cluster is the core's name; the same in all servers.
	Cluster string
	// Peers are all servers of the core, this one included. The others connect to
	// it at its Routes address, and it to theirs. Servers may name each other
	// differently, as where a proxy stands between two.
	Peers []Peer
	// Routes is the address (host:port) at which this server waits for the others.
	// It may be empty in a core of one.
	Routes string
	// Certificate gives what this server shows to clients and to other servers. It
	// is asked for each connection, so it may change.
	Certificate func() (*tls.Certificate, error)
	// CAs sign the certificates of the core's servers, and nobody else's: whoever
	// has one may join.
	CAs *x509.CertPool
	// Users may connect; see SetUsers.
	Users []User
}

// A Peer is a server of a core.
type Peer struct {
	Server string // its ServerName
	Routes string // host:port at which this server finds it
}

// A SizeError refuses a core's size.
type SizeError struct{ Servers int }

func (e *SizeError) Error() string {
	return fmt.Sprintf("a core of %d servers: want 1, 3 or 5", e.Servers)
}

// Hint says why.
func (e *SizeError) Hint() string {
	switch e.Servers {
	case 2:
		return "two are worse than one: either one's loss, or any cut between them, stops all changes.\n" +
			"With two sites, put a third server, a witness, elsewhere."
	case 4:
		return "four bear the loss of one server, as three do, and each change waits for one more"
	}
	return "three bear the loss of one server, five of two; each further one makes every change slower"
}

// CheckSize reports whether a core may have so many servers. The error is a
// *SizeError.
func CheckSize(servers int) error {
	if slices.Contains([]int{1, 3, 5}, servers) {
		return nil
	}
	return &SizeError{servers}
}

func (c *Core) check(cfg Config) error {
	faults := []error{CheckSize(len(c.Peers))}
	if c.Cluster == "" {
		faults = append(faults, errors.New("core: the cluster has no name"))
	}
	if cfg.Listen == "" {
		faults = append(faults, errors.New("core: listen: is empty; its clients need an address"))
	}
	if c.Certificate == nil || c.CAs == nil {
		faults = append(faults, errors.New("core: certificate or CA is missing"))
	}
	if len(c.Peers) > 1 {
		if _, _, err := splitListen(c.Routes); err != nil {
			faults = append(faults, fmt.Errorf("core: routes: %w", err))
		}
	}
	own := 0
	for i, p := range c.Peers {
		if p.Server == cfg.ServerName {
			own++
		} else if _, _, err := net.SplitHostPort(p.Routes); err != nil {
			faults = append(faults, fmt.Errorf("core: server %s: routes: %w", p.Server, err))
		}
		if slices.ContainsFunc(c.Peers[:i], func(q Peer) bool { return q.Server == p.Server }) {
			faults = append(faults, fmt.Errorf("core: server %s stands there twice", p.Server))
		}
	}
	if own == 0 {
		faults = append(faults, fmt.Errorf("core: server %s itself is not among its servers", cfg.ServerName))
	}
	return errors.Join(faults...)
}

// options adds what makes the server a member of the core.
func (c *Core) options(cfg Config, opts *server.Options) error {
	if err := opts.ProcessConfigString(accounts); err != nil {
		return err
	}
	opts.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS13, GetCertificate: c.certificate}
	opts.TLSTimeout, opts.AuthTimeout = tlsTimeout, tlsTimeout
	opts.PingInterval, opts.MaxPingsOut = pingInterval, maxPings
	opts.AlwaysEnableNonce = true
	if len(c.Peers) == 1 {
		return nil
	}
	host, port, err := splitListen(c.Routes)
	if err != nil {
		return err
	}
	opts.Cluster = server.ClusterOpts{
		Name: c.Cluster, Host: host, Port: port, Advertise: nowhere, NoAdvertise: true,
		PingInterval: pingInterval, MaxPingsOut: maxPings, TLSTimeout: tlsTimeout, AuthTimeout: tlsTimeout,
		TLSConfig: c.routesTLS(),
	}
	for _, p := range c.Peers {
		if p.Server != cfg.ServerName {
			opts.Routes = append(opts.Routes, &url.URL{Scheme: "nats-route", Host: p.Routes})
		}
	}
	return nil
}

// routesTLS is how the servers of a core prove themselves to each other, either way.
func (c *Core) routesTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: c.CAs, RootCAs: c.CAs,
		GetCertificate: c.certificate,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return c.Certificate()
		},
	}
}

func (c *Core) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.Certificate() }
