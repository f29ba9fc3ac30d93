package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// agentsPerSource is how many connections have one source address: the kernel has
// some 28,000 ports for each.
const agentsPerSource = 20_000

// connectPatience bounds how long an agent tries to be served.
const connectPatience = 2 * time.Minute

// A fleet is many agents of one server in this process, of a real feed or of a bare
// server of TLS. What an agent finds wrong ends the measurement.
type fleet struct {
	address string
	tls     *tls.Config
	hosts   []*hostFile // nil: the server is a bare one, which sends bareSize bytes
	size    int
	seen    checked

	mu      sync.Mutex // guards the fields below
	conns   []net.Conn
	err     error         // the first that an agent found
	want    uint64        // version, or message, that is waited for
	since   time.Time     // when it was asked for
	missing int           // agents that have not got it
	arrived []float64     // ms, of those who have
	all     chan struct{} // closed when none is missing, or there is an error

	running sync.WaitGroup
	ending  atomic.Bool
	retries atomic.Int64

	asked    func(version uint64) time.Time // in a flood: when that version was
	receipts []float64                      // ms, in a flood; guarded by mu
}

// connect makes agents connect, all at once, and returns how long it took until each
// was served.
func (f *fleet) connect(ctx context.Context, agents int) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, connectPatience)
	defer cancel()
	began := time.Now()
	var connecting sync.WaitGroup
	for i := range agents {
		connecting.Go(func() {
			if err := f.join(ctx, i); err != nil {
				f.fail(fmt.Errorf("agent %d: %w", i, err))
			}
		})
	}
	connecting.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Since(began), f.err
}

// join connects one agent; it tries again as an agent does whom a full queue refuses.
func (f *fleet) join(ctx context.Context, i int) error {
	for {
		conn, next, err := f.open(ctx, i)
		if err == nil {
			f.mu.Lock()
			f.conns = append(f.conns, conn)
			f.mu.Unlock()
			f.running.Go(func() { f.follow(next) })
			return nil
		}
		f.retries.Add(1)
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

// follow reads events until the connection ends.
func (f *fleet) follow(next func() (uint64, error)) {
	for last := uint64(0); ; {
		got, err := next()
		if err != nil {
			if !f.ending.Load() {
				f.fail(err)
			}
			return
		}
		if got != last { // else it was a heartbeat
			last = got
			f.note(got, time.Now())
		}
	}
}

func (f *fleet) dial(ctx context.Context, i, buffer int) (*tls.Conn, error) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(1+i/agentsPerSource))}}
	if buffer > 0 {
		dialer.Control = func(_, _ string, raw syscall.RawConn) error {
			return raw.Control(func(fd uintptr) { syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, buffer) })
		}
	}
	conn, err := dialer.DialContext(ctx, "tcp", f.address)
	if err != nil {
		return nil, err
	}
	secure := tls.Client(conn, f.tls)
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return secure, nil
}

// open connects an agent; next waits for its next event and returns the version that
// it has then.
func (f *fleet) open(ctx context.Context, i int) (net.Conn, func() (uint64, error), error) {
	conn, err := f.dial(ctx, i, 0)
	if err != nil {
		return nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { conn.NetConn().Close() })
	if f.hosts == nil {
		next := bareMessages(conn, f.size)
		_, err := next() // as the feed's first state
		if !stop() {
			err = ctx.Err()
		}
		if err != nil {
			conn.Close()
			return nil, nil, fmt.Errorf("no first message: %w", err)
		}
		return conn, next, nil
	}
	opened, err := dialFeed(conn, f.hosts[i%len(f.hosts)], &f.seen)
	if !stop() {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, nil, fmt.Errorf("not served: %w", err)
	}
	return conn, func() (uint64, error) {
		err := opened.next()
		return opened.version, err
	}, nil
}

// bareMessages counts messages of size bytes.
func bareMessages(conn net.Conn, size int) func() (uint64, error) {
	buffer, n := make([]byte, size), uint64(0)
	return func() (uint64, error) {
		n++
		_, err := io.ReadFull(conn, buffer)
		return n, err
	}
}

// stuck connects agents that read until they have their ring and then nothing more,
// with small buffers.
func (f *fleet) stuck(ctx context.Context, agents int) error {
	for i := range agents {
		conn, err := f.dial(ctx, i, 4096)
		if err != nil {
			return err
		}
		if _, err := dialFeed(conn, f.hosts[i%len(f.hosts)], &f.seen); err != nil {
			return err
		}
		f.mu.Lock()
		f.conns = append(f.conns, conn)
		f.mu.Unlock()
	}
	return nil
}

func (f *fleet) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
		if f.all != nil {
			close(f.all)
			f.all = nil
		}
	}
}

// note notes that one agent has a version.
func (f *fleet) note(version uint64, at time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.asked != nil {
		if began := f.asked(version); !began.IsZero() {
			f.receipts = append(f.receipts, millis(at.Sub(began)))
		}
	}
	if version != f.want || f.all == nil {
		return
	}
	f.arrived = append(f.arrived, millis(at.Sub(f.since)))
	if f.missing--; f.missing == 0 {
		close(f.all)
		f.all = nil
	}
}

// measure has version sent, and returns how many milliseconds later each agent had
// it, sorted.
func (f *fleet) measure(ctx context.Context, agents int, version uint64, send func() error) ([]float64, error) {
	all := make(chan struct{})
	f.mu.Lock()
	if f.err != nil {
		defer f.mu.Unlock()
		return nil, f.err
	}
	f.want, f.missing, f.arrived, f.all, f.since = version, agents, make([]float64, 0, agents), all, time.Now()
	f.mu.Unlock()
	if err := send(); err != nil {
		return nil, err
	}
	select {
	case <-all:
	case <-time.After(connectPatience):
		return nil, fmt.Errorf("not every agent has version %d after %v", version, connectPatience)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	slices.Sort(f.arrived)
	return f.arrived, f.err
}

// hangUp ends all agents at once and waits for them.
func (f *fleet) hangUp() {
	f.ending.Store(true)
	f.mu.Lock()
	for _, conn := range f.conns {
		if secure, ok := conn.(*tls.Conn); ok {
			conn = secure.NetConn()
		}
		conn.Close()
	}
	f.conns = nil
	f.mu.Unlock()
	f.running.Wait()
	f.ending.Store(false)
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func trusting(ca string) (*tls.Config, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(ca)) {
		return nil, fmt.Errorf("no certificate in the CA")
	}
	return &tls.Config{RootCAs: roots, ServerName: "localhost", MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}}, nil
}
