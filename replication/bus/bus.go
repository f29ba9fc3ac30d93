package bus

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Defaults and limits of a Config.
const (
	DefaultMaxStore = 1 << 30 // bytes

	maxConsumers = 20_000           // a stream; the server's own default of 1,000 is one replicator a policy server too few
	maxMemory    = 64 << 20         // bytes for memory storage: only consumers' states use it
	startLimit   = 30 * time.Second // until the server must be ready; a million entries take 2 s after a kill
	startStep    = 100 * time.Millisecond
	lockName     = "keytide.lock"
)

// A Config says where the embedded server keeps its files, and who it is.
type Config struct {
	// StoreDir holds the server's files. It is made, with mode 0700, if it does
	// not exist. No two servers may share it: Start takes a lock.
	StoreDir string
	// ServerName is the server's name in NATS; stable over restarts.
	ServerName string
	// MaxStore bounds the store in bytes. If zero, DefaultMaxStore. When it is
	// full, writes are refused at once; without a bound below the disk's size
	// they would time out instead.
	MaxStore int64
	// Listen is the address (host:port) on which clients may connect; without
	// authentication, unless the server is a member of a core. If empty, the server
	// has no port at all.
	Listen string
	// Core makes the server a member of a core. If nil, it stands alone.
	Core *Core
	// Logger gets the server's own lines. If nil, they are dropped.
	Logger *slog.Logger
}

func (c Config) check() error {
	var faults []error
	if c.StoreDir == "" {
		faults = append(faults, errors.New("store directory: is empty"))
	}
	if c.ServerName == "" {
		faults = append(faults, errors.New("server name: is empty"))
	}
	if c.MaxStore < 0 {
		faults = append(faults, fmt.Errorf("max store: %d bytes is negative", c.MaxStore))
	}
	if c.Listen != "" {
		if _, _, err := splitListen(c.Listen); err != nil {
			faults = append(faults, err)
		}
	}
	if c.Core != nil {
		faults = append(faults, c.Core.check(c))
	}
	return errors.Join(faults...)
}

// A Bus is a running embedded NATS server. Its methods are safe for concurrent use.
type Bus struct {
	cfg       Config // with the ports that the server was given
	lock      *dirLock
	gate      *gate // of a core; nil: there is no authentication
	clientURL string
	client    *net.TCPAddr // nil: no port
	log       *slog.Logger

	done     chan struct{} // closed when the server has stopped for good
	stop     context.CancelFunc
	attended sync.WaitGroup // what ends after stop

	mu    sync.Mutex     // guards the fields below
	srv   *server.Server // nil while it is apart from the rest of its core, and when it has stopped
	ended bool           // done is closed
}

// Start locks the store directory and starts the server on it. It returns when the
// server itself is ready; whether a core of several has a quorum is another matter.
// A directory in use gives a *LockedError, a core's size that is none a *SizeError.
func Start(cfg Config) (*Bus, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("bus: %w", err)
	}
	if err := os.MkdirAll(cfg.StoreDir, 0o700); err != nil {
		return nil, fmt.Errorf("bus: store directory: %w", err)
	}
	lock, err := lockDir(filepath.Join(cfg.StoreDir, lockName))
	if err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	b := &Bus{cfg: cfg, lock: lock, log: cfg.Logger.With("part", "core"), done: make(chan struct{})}
	if cfg.Core != nil {
		b.gate = &gate{inner: rand.Text()}
		b.gate.set(cfg.Core.Users)
	}
	srv, err := startServer(context.Background(), cfg, b.gate)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("bus: store directory %s: %w", cfg.StoreDir, err), lock.release())
	}
	b.keepAddresses(srv)
	b.runs(srv)
	ctx, stop := context.WithCancel(context.Background())
	b.stop = stop
	if cfg.Core != nil && len(cfg.Core.Peers) > 1 {
		b.attended.Go(func() { b.attend(ctx) })
	}
	return b, nil
}

// keepAddresses has a server that comes back listen where it did before, whatever port
// it asked for.
func (b *Bus) keepAddresses(srv *server.Server) {
	addr, ok := srv.Addr().(*net.TCPAddr)
	if !ok {
		return
	}
	b.client, b.clientURL = addr, srv.ClientURL()
	b.cfg.Listen = withPort(b.cfg.Listen, addr)
	if routes := srv.ClusterAddr(); b.cfg.Core != nil && routes != nil {
		core := *b.cfg.Core
		core.Routes = withPort(core.Routes, routes)
		b.cfg.Core = &core
	}
}

func withPort(listen string, addr *net.TCPAddr) string {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return listen
	}
	return net.JoinHostPort(host, strconv.Itoa(addr.Port))
}

// runs notes which server runs, and notices when that one stops by itself.
func (b *Bus) runs(srv *server.Server) {
	b.mu.Lock()
	b.srv = srv
	b.mu.Unlock()
	go func() {
		srv.WaitForShutdown()
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.srv == srv {
			b.srv = nil
			b.end()
		}
	}()
}

// end says that the server has stopped for good. The caller holds mu.
func (b *Bus) end() {
	if !b.ended {
		b.ended = true
		close(b.done)
	}
}

// server is the one that runs; nil while this one is apart from the rest of its core.
func (b *Bus) server() *server.Server {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.srv
}

// startServer gives up when ctx ends: what may take long is the reading of a big store.
func startServer(ctx context.Context, cfg Config, gate *gate) (*server.Server, error) {
	opts, err := options(cfg)
	if err != nil {
		return nil, err
	}
	if gate != nil {
		opts.CustomClientAuthentication = gate
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, err
	}
	if gate != nil {
		gate.open(srv)
	}
	log := newServerLog(cfg.Logger)
	srv.SetLoggerV2(log, log.debug(), false, false)
	srv.Start()
	if err := awaitReady(ctx, srv, log); err != nil {
		srv.Shutdown()
		srv.WaitForShutdown()
		return nil, err
	}
	return srv, nil
}

// awaitReady looks at the log between short waits: a server that failed to start
// says so only there.
func awaitReady(ctx context.Context, srv *server.Server, log *serverLog) error {
	for end := time.Now().Add(startLimit); ; {
		ready := srv.ReadyForConnections(startStep)
		if err := log.fatal(); err != nil {
			return err
		}
		if ready && srv.JetStreamEnabled() {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(end) {
			return fmt.Errorf("not ready after %v", startLimit)
		}
	}
}

func options(cfg Config) (*server.Options, error) {
	opts := &server.Options{
		ServerName:             cfg.ServerName,
		JetStream:              true,
		StoreDir:               cfg.StoreDir,
		SyncAlways:             true,
		JetStreamMaxStore:      cfg.MaxStore,
		JetStreamMaxMemory:     maxMemory,
		JetStreamLimits:        server.JSLimitOpts{DefaultMaxConsumers: maxConsumers},
		DisableJetStreamBanner: true,
		NoSigs:                 true,
		NoLog:                  true,
		DontListen:             cfg.Listen == "",
	}
	if opts.JetStreamMaxStore == 0 {
		opts.JetStreamMaxStore = DefaultMaxStore
	}
	if cfg.Listen != "" {
		host, port, err := splitListen(cfg.Listen)
		if err != nil {
			return nil, err
		}
		opts.Host, opts.Port = host, port
	}
	if cfg.Core != nil {
		if err := cfg.Core.options(cfg, opts); err != nil {
			return nil, err
		}
	}
	return opts, nil
}

// splitListen reads host:port. Port 0 asks for any free port, for which the
// server's word is -1; its own 0 would be 4222.
func splitListen(listen string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(listen)
	if err != nil {
		return "", 0, fmt.Errorf("listen: %w", err)
	}
	if host == "" {
		return "", 0, fmt.Errorf("listen %q: names no host; say which address, for example 127.0.0.1:%s, or 0.0.0.0:%s for all", listen, text, text)
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("listen %q: port is not a number from 0 to 65535", listen)
	}
	if n == 0 {
		return host, server.RANDOM_PORT, nil
	}
	return host, int(n), nil
}

// Connect opens a connection in memory. It reconnects for as long as the bus
// runs, and buffers nothing while it is cut off: a write that was buffered could
// land after its author was told that it is lost. The caller closes it.
func (b *Bus) Connect(name string) (*nats.Conn, error) {
	srv := b.server()
	if srv == nil {
		return nil, fmt.Errorf("bus: connect %s: the server does not run", name)
	}
	nc, err := nats.Connect("", nats.InProcessServer(srv), nats.Name(name),
		nats.ReconnectBufSize(-1), nats.MaxReconnects(-1),
		nats.ReconnectWait(200*time.Millisecond), nats.ReconnectJitter(50*time.Millisecond, 50*time.Millisecond))
	if err != nil {
		return nil, fmt.Errorf("bus: connect %s: %w", name, err)
	}
	return nc, nil
}

// JetStream opens a connection in memory and JetStream on it. The caller closes
// the connection.
func (b *Bus) JetStream(name string) (jetstream.JetStream, *nats.Conn, error) {
	nc, err := b.Connect(name)
	if err != nil {
		return nil, nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, nil, fmt.Errorf("bus: connect %s: %w", name, err)
	}
	return js, nc, nil
}

// ClientURL is the address for NATS clients; empty if the bus has no port.
func (b *Bus) ClientURL() string { return b.clientURL }

// RoutesAddr is where the server waits for the core's other servers; empty if it
// stands alone.
func (b *Bus) RoutesAddr() string {
	if b.cfg.Core == nil || len(b.cfg.Core.Peers) == 1 {
		return ""
	}
	return b.cfg.Core.Routes
}

// Done is closed when the server has stopped for good, by Close or by itself.
func (b *Bus) Done() <-chan struct{} { return b.done }

// Close stops the server, waits until it has, and gives the directory free. A
// second call does nothing.
func (b *Bus) Close() error {
	b.stop()
	b.attended.Wait()
	if srv := b.server(); srv != nil {
		srv.Shutdown()
	} else {
		b.mu.Lock()
		b.end()
		b.mu.Unlock()
	}
	<-b.done
	return b.lock.release()
}
