package wan

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// A Config says what a link joins. Target is required.
type Config struct {
	// Listen is the address of the link's near end: a numeric loopback host and a
	// port. If empty, 127.0.0.1 and any port.
	Listen string
	// Target is the address, HOST:PORT, to which connections go. Nothing needs to
	// listen there when the link is made.
	Target string
	// Latency is how long everything takes one way; a new connection takes three
	// times that until the target sees it, as TCP's opening does. If zero, none.
	Latency time.Duration
	// SeverEvery is how often all connections are reset, as by a proxy that ends what
	// has lasted. If zero, never.
	SeverEvery time.Duration
}

func (c Config) check() error {
	var faults []error
	if listen, err := netip.ParseAddrPort(c.Listen); err != nil || !listen.Addr().IsLoopback() {
		faults = append(faults, fmt.Errorf("listen address %q: want a loopback address and a port", c.Listen))
	}
	if _, _, err := net.SplitHostPort(c.Target); err != nil {
		faults = append(faults, fmt.Errorf("target: %w", err))
	}
	if c.Latency < 0 || c.SeverEvery < 0 {
		faults = append(faults, errors.New("latency and sever every must not be negative"))
	}
	return errors.Join(faults...)
}

// A Link is a TCP proxy that can be cut. All methods are safe for concurrent use.
type Link struct {
	cfg  Config
	port *port

	act    sync.Mutex // held by whoever changes the link's fault, until it has come into force
	stop   chan struct{}
	work   sync.WaitGroup // all goroutines of the link
	listen net.Listener   // nil while refusing; guarded by act

	mu      sync.Mutex // guards the fields below, and what pairs say it guards
	changed *sync.Cond // of any of them
	fault   Fault
	closed  bool
	pairs   map[*pair]struct{}
}

// Open makes a link that works.
func Open(cfg Config) (*Link, error) {
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("wan: %w", err)
	}
	port, err := keepPort(cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("wan: %w", err)
	}
	l := &Link{cfg: cfg, port: port, stop: make(chan struct{}), pairs: make(map[*pair]struct{})}
	l.changed = sync.NewCond(&l.mu)
	if err := l.accept(); err != nil {
		return nil, errors.Join(err, port.free())
	}
	if cfg.SeverEvery > 0 {
		l.work.Go(l.severing)
	}
	return l, nil
}

// Addr is the address of the link's near end; it stays the same for the link's life.
func (l *Link) Addr() string { return l.port.address }

// Connections returns how many connections the link has, held ones too.
func (l *Link) Connections() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.pairs)
}

// Cut puts a fault in the place of the one before. When it returns, no byte
// moves any more in a held direction, and after a Reset no connection is left. The error is
// Heal's, where the fault that ends had the link refuse connections.
func (l *Link) Cut(f Fault) error { return l.set(f) }

// Heal ends every fault: what was held flows on, and connections are accepted. It
// returns an error if the link's address cannot be listened on again, and
// net.ErrClosed after Close.
func (l *Link) Heal() error { return l.set(0) }

func (l *Link) set(f Fault) error {
	l.act.Lock()
	defer l.act.Unlock()
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return fmt.Errorf("wan: link %s: %w", l.Addr(), net.ErrClosed)
	}
	l.fault = f
	if f&Reset != 0 {
		gone := l.resetAll() // at once with the fault: what was held must not flow on
		l.mu.Unlock()
		l.refuse()
		await(gone)
		return nil
	}
	l.changed.Broadcast()
	l.quiet()
	l.mu.Unlock()
	return l.accept()
}

// quiet returns when nothing is being written in a held direction. The lock is held.
func (l *Link) quiet() {
	busy := func() (busy bool) {
		for p := range l.pairs {
			for _, w := range []*way{&p.forward, &p.back} {
				if w.writing && l.fault&w.held != 0 {
					w.to.SetWriteDeadline(time.Unix(1, 0)) // what it could not write, it writes after the hold
					busy = true
				}
			}
		}
		return busy
	}
	for busy() {
		l.changed.Wait()
	}
}

// Sever resets every connection that the link has now, held ones too. Whether new
// ones are accepted does not change.
func (l *Link) Sever() {
	l.mu.Lock()
	gone := l.resetAll()
	l.mu.Unlock()
	await(gone)
}

// resetAll resets every pair and returns what is closed when they are gone. The lock
// is held.
func (l *Link) resetAll() []<-chan struct{} {
	var gone []<-chan struct{}
	for p := range l.pairs {
		p.reset()
		gone = append(gone, p.gone)
	}
	return gone
}

func await(gone []<-chan struct{}) {
	for _, g := range gone {
		<-g
	}
}

// Close resets every connection and frees the address. It returns when every
// goroutine of the link has ended. A second call does nothing.
func (l *Link) Close() error {
	l.act.Lock()
	defer l.act.Unlock()
	l.mu.Lock()
	closed := l.closed
	l.closed = true
	l.changed.Broadcast()
	l.mu.Unlock()
	if closed {
		return nil
	}
	close(l.stop)
	l.refuse()
	l.Sever()
	l.work.Wait()
	return l.port.free()
}

// accept begins to accept connections, unless the link does. The caller holds act, or
// is the only one to know the link.
func (l *Link) accept() error {
	if l.listen != nil {
		return nil
	}
	listener, err := l.port.listen()
	if err != nil {
		return fmt.Errorf("wan: %w", err)
	}
	l.listen = listener
	l.work.Go(func() { l.accepting(listener) })
	return nil
}

// refuse ends what accept began. Connections that were not accepted yet are reset by
// the kernel. The caller holds act.
func (l *Link) refuse() {
	if l.listen != nil {
		l.listen.Close()
		l.listen = nil
	}
}

func (l *Link) accepting(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil: // no descriptor left, or the client is gone already
			select {
			case <-time.After(10 * time.Millisecond):
			case <-l.stop:
				return
			}
		default:
			l.admit(conn.(*net.TCPConn))
		}
	}
}

// admit takes a connection in, or resets it where the link was cut meanwhile.
func (l *Link) admit(client *net.TCPConn) {
	p := newPair(l, client)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || l.fault&Reset != 0 {
		p.reset()
		return
	}
	l.pairs[p] = struct{}{}
	l.work.Go(p.run) // the one who accepts is counted, so the count is not zero
}

func (l *Link) severing() {
	tick := time.NewTicker(l.cfg.SeverEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			l.Sever()
		case <-l.stop:
			return
		}
	}
}
