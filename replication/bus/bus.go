package bus

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
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
	srv  *server.Server
	lock *dirLock
	gate *gate // of a core; nil: there is no authentication
	done chan struct{}
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
	b := &Bus{lock: lock, done: make(chan struct{})}
	if cfg.Core != nil {
		b.gate = &gate{}
		b.gate.set(cfg.Core.Users)
	}
	srv, err := startServer(cfg, b.gate)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("bus: store directory %s: %w", cfg.StoreDir, err), lock.release())
	}
	b.srv = srv
	go func() {
		srv.WaitForShutdown()
		close(b.done)
	}()
	return b, nil
}

func startServer(cfg Config, gate *gate) (*server.Server, error) {
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
	if err := awaitReady(srv, log); err != nil {
		srv.Shutdown()
		srv.WaitForShutdown()
		return nil, err
	}
	return srv, nil
}

// awaitReady looks at the log between short waits: a server that failed to start
// says so only there.
func awaitReady(srv *server.Server, log *serverLog) error {
	for end := time.Now().Add(startLimit); ; {
		ready := srv.ReadyForConnections(startStep)
		if err := log.fatal(); err != nil {
			return err
		}
		if ready && srv.JetStreamEnabled() {
			return nil
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
	nc, err := nats.Connect("", nats.InProcessServer(b.srv), nats.Name(name),
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
func (b *Bus) ClientURL() string {
	if b.srv.Addr() == nil {
		return ""
	}
	return b.srv.ClientURL()
}

// RoutesAddr is where the server waits for the core's other servers; empty if it
// stands alone.
func (b *Bus) RoutesAddr() string {
	if addr := b.srv.ClusterAddr(); addr != nil {
		return addr.String()
	}
	return ""
}

// Done is closed when the server has stopped, by Close or by itself.
func (b *Bus) Done() <-chan struct{} { return b.done }

// Close stops the server, waits until it has, and gives the directory free. A
// second call does nothing.
func (b *Bus) Close() error {
	b.srv.Shutdown()
	<-b.done
	return b.lock.release()
}
