package bus

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
)

// The times of a link. A server that does not answer is left for the next one after
// dialTimeout; a held link is noticed after two missed pings.
const (
	dialTimeout     = 2 * time.Second
	clientPing      = time.Second
	clientPingsOut  = 2
	reconnectWait   = 200 * time.Millisecond
	reconnectJitter = 50 * time.Millisecond
	logEvery        = 10 * time.Second
)

// Credentials prove a client. At most one kind is set; none is for a server that
// asks for none.
type Credentials struct {
	Seed      []byte // of an nkey
	CredsFile string // made by nsc; read at each connect
	User      string
	Password  string
}

// A DialConfig says how a Link connects.
type DialConfig struct {
	Name string // of the connection, for people
	// URLs are the servers' (tls://host:port, or nats://host:port), in the order in
	// which they are tried. No other is: what servers tell of each other is not
	// followed, around a proxy or a load balancer.
	URLs        []string
	CAs         *x509.CertPool // of the servers' certificates; if nil, the system's
	Credentials Credentials
	// Own is this process's own server, if it is among the URLs, and OwnAddress the
	// host:port there: it is then reached by loopback, whatever the address means to
	// others. A link that has left it goes back when it serves again.
	Own        *Bus
	OwnAddress string
	// Logger gets one line a change of the link's state. If nil, none.
	Logger *slog.Logger
}

// A Link is a connection that is kept up for as long as it is not closed. Its
// methods are safe for concurrent use.
type Link struct {
	nc  *nats.Conn
	js  jetstream.JetStream
	log *slog.Logger
	own string // address of this process's own server; empty: none

	connected atomic.Bool // as far as the client's library has told

	homing atomic.Bool // the next server to connect to is the own one
	stop   context.CancelFunc
	homed  sync.WaitGroup // what ends after stop

	mu     sync.Mutex    // guards the fields below
	fault  error         // why the link is of no use now; nil: it is
	logged time.Time     // when that was last said
	turned chan struct{} // closed and replaced when the fault comes or goes
}

// Dial begins to connect. It waits for at most one attempt at each server, and
// returns a link that goes on trying where none succeeded: a policy server starts
// while its core is unreachable. Fault says what stands in the way. The error is
// of a configuration that can never connect. The caller closes the link.
func Dial(cfg DialConfig) (*Link, error) {
	l := &Link{log: cfg.Logger, fault: errors.New("not connected yet"), turned: make(chan struct{})}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	l.log = l.log.With("link", cfg.Name)
	if cfg.Own != nil {
		l.own = cfg.OwnAddress
	}
	opts, err := cfg.options()
	if err != nil {
		return nil, fmt.Errorf("bus: connect %s: %w", cfg.Name, err)
	}
	opts = append(opts,
		nats.RetryOnFailedConnect(true),
		nats.ConnectHandler(l.judge), nats.ReconnectHandler(l.judge),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { l.broken(err) }),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { l.broken(err) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { l.refused(err) }))
	if cfg.Own != nil {
		opts = append(opts, nats.ReconnectToServer(l.next))
	}
	nc, err := nats.Connect(strings.Join(cfg.URLs, ","), opts...)
	if err != nil {
		return nil, fmt.Errorf("bus: connect %s: %w", cfg.Name, err)
	}
	l.nc = nc
	l.judge(nc)
	if l.js, err = jetstream.New(nc); err != nil {
		nc.Close()
		return nil, fmt.Errorf("bus: connect %s: %w", cfg.Name, err)
	}
	ctx, stop := context.WithCancel(context.Background())
	l.stop = stop
	if cfg.Own != nil {
		l.homed.Go(func() { l.goHome(ctx, cfg.Own) })
	}
	return l, nil
}

func (cfg DialConfig) options() ([]nats.Option, error) {
	opts := []nats.Option{
		nats.Name(cfg.Name), nats.DontRandomize(), nats.IgnoreDiscoveredServers(), nats.IgnoreAuthErrorAbort(),
		nats.ReconnectBufSize(-1), nats.MaxReconnects(-1), nats.Timeout(dialTimeout),
		nats.ReconnectWait(reconnectWait), nats.ReconnectJitter(reconnectJitter, reconnectJitter),
		nats.PingInterval(clientPing), nats.MaxPingsOutstanding(clientPingsOut),
	}
	if len(cfg.URLs) == 0 {
		return nil, errors.New("no server is named")
	}
	if strings.HasPrefix(cfg.URLs[0], "tls:") || cfg.CAs != nil {
		opts = append(opts, nats.Secure(&tls.Config{MinVersion: tls.VersionTLS12, RootCAs: cfg.CAs}))
	}
	if cfg.Own != nil {
		opts = append(opts, nats.SetCustomDialer(&ownDialer{address: cfg.OwnAddress, own: cfg.Own}))
	}
	auth, err := cfg.Credentials.options()
	return append(opts, auth...), err
}

func (c Credentials) options() ([]nats.Option, error) {
	switch {
	case len(c.Seed) > 0:
		public, err := PublicOf(c.Seed)
		if err != nil {
			return nil, err
		}
		sign := func(nonce []byte) ([]byte, error) {
			pair, err := nkeys.FromSeed(c.Seed)
			if err != nil {
				return nil, err
			}
			defer pair.Wipe()
			return pair.Sign(nonce)
		}
		return []nats.Option{nats.Nkey(public, sign), nats.CustomInboxPrefix(InboxPrefix(public))}, nil
	case c.CredsFile != "":
		return []nats.Option{nats.UserCredentials(c.CredsFile)}, nil
	case c.User != "":
		return []nats.Option{nats.UserInfo(c.User, c.Password)}, nil
	}
	return nil, nil
}

// An ownDialer reaches this process's own server by loopback.
type ownDialer struct {
	address string
	own     *Bus
}

// SkipHostLookup asks for names instead of addresses, so that they can be compared.
func (d *ownDialer) SkipHostLookup() bool { return true }

func (d *ownDialer) Dial(network, address string) (net.Conn, error) {
	if address == d.address {
		address = d.own.loopback()
	}
	return (&net.Dialer{Timeout: dialTimeout}).Dial(network, address)
}

// loopback is where this machine reaches the server.
func (b *Bus) loopback() string {
	if b.client == nil {
		return ""
	}
	if b.client.IP.IsUnspecified() {
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(b.client.Port))
	}
	return b.client.String()
}

// JetStream is that of the link's connection.
func (l *Link) JetStream() jetstream.JetStream { return l.js }

// Reconnect leaves the present server for the next one. A link that is connecting anyhow
// is left alone: the client's library would wait until it is connected, and break that
// connection, which may be the first after a cut.
func (l *Link) Reconnect() error {
	if !l.connected.Load() {
		return nil
	}
	return l.nc.ForceReconnect()
}

// Own reports whether the link is connected to this process's own server. That one can
// be reached whatever is cut off: that it answers says nothing of the core.
func (l *Link) Own() bool {
	u, err := url.Parse(l.nc.ConnectedUrl())
	return err == nil && l.isOwn(u)
}

// Server is the URL of the server that the link is connected to; empty: none.
func (l *Link) Server() string { return l.nc.ConnectedUrlRedacted() }

// Fault says why the link is of no use now; nil if it is. It is a *VersionError where
// the server is too old.
func (l *Link) Fault() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fault
}

// Turned returns a channel that is closed when the link comes to be of use, or ceases to.
func (l *Link) Turned() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.turned
}

// Close ends the link.
func (l *Link) Close() {
	l.stop()
	l.nc.Close()
	l.homed.Wait()
}

// judge decides whether the server that the link is connected to will do.
func (l *Link) judge(nc *nats.Conn) {
	version := nc.ConnectedServerVersion()
	if version == "" {
		if err := nc.LastError(); err != nil {
			l.broken(err)
		}
		return
	}
	l.connected.Store(true)
	var fault error
	if !newEnough(version) {
		fault = &VersionError{Server: nc.ConnectedUrlRedacted(), Version: version}
	}
	if l.set(fault) {
		if fault != nil {
			l.log.Error("the NATS server is too old", "err", fault)
		} else {
			l.log.Info("connected", "server", nc.ConnectedUrlRedacted(), "version", version)
		}
	}
}

func (l *Link) broken(err error) {
	l.connected.Store(false)
	if err == nil {
		err = errors.New("connection is closed")
	}
	if l.set(fmt.Errorf("not connected: %w", err)) {
		l.log.Warn("not connected", "err", err)
	}
}

// refused is for what the server reports without being asked: credentials that it
// does not take any more, a publish or a subscription that is not permitted.
func (l *Link) refused(err error) {
	switch {
	case errors.Is(err, nats.ErrPermissionViolation):
		l.log.Error("the NATS server does not permit this", "err", err)
	case slices.ContainsFunc(credentialFaults, func(e error) bool { return errors.Is(err, e) }):
		l.broken(err)
	default:
		l.log.Warn("connection", "err", err)
	}
}

var credentialFaults = []error{
	nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrAccountAuthExpired,
}

// set notes the fault, and reports whether it is to be logged: at once where the
// link was good or becomes so; another fault in place of one, as where each of
// several servers fails in a way of its own, from time to time.
func (l *Link) set(fault error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	turned := (l.fault == nil) != (fault == nil) || l.logged.IsZero()
	changed := fmt.Sprint(l.fault) != fmt.Sprint(fault)
	if (l.fault == nil) != (fault == nil) {
		close(l.turned)
		l.turned = make(chan struct{})
	}
	l.fault = fault
	if !turned && (!changed || time.Since(l.logged) < logEvery) {
		return false
	}
	l.logged = time.Now()
	return true
}
