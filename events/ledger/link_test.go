package ledger_test

import (
	"net"
	"slices"
	"sync"

	"github.com/nats-io/nats.go"
)

// A link dials for one client and can go wrong: hold what is on its way, in either
// direction, let it go on later, or cut. What a client has written before it gave a
// held link up still arrives when the link is let go, as on a real network.
type link struct {
	mu      sync.Mutex
	changed *sync.Cond
	in, out bool // held
	down    bool // dials fail
	conns   []*linkConn
}

func newLink() *link {
	l := &link{}
	l.changed = sync.NewCond(&l.mu)
	return l
}

func (l *link) option() nats.Option { return nats.SetCustomDialer(l) }

// Dial implements nats.CustomDialer.
func (l *link) Dial(network, address string) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down {
		return nil, net.ErrClosed
	}
	conn, err := net.Dial(network, address)
	if err != nil {
		return nil, err
	}
	c := &linkConn{Conn: conn, link: l}
	l.conns = append(l.conns, c)
	return c, nil
}

func (l *link) hold(in, out bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.in, l.out = in, out
}

// letGo delivers what was held.
func (l *link) letGo() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.in, l.out = false, false
	for _, c := range l.conns {
		if len(c.queue) > 0 {
			c.Conn.Write(c.queue)
			c.queue = nil
		}
		if c.gone {
			c.Conn.Close()
		}
	}
	l.changed.Broadcast()
}

// cut closes every connection, drops what was held, and refuses new ones until
// mended.
func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down, l.in, l.out = true, false, false
	for _, c := range l.conns {
		c.queue, c.gone = nil, true
		c.Conn.Close()
	}
	l.conns = nil
	l.changed.Broadcast()
}

func (l *link) mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = false
}

type linkConn struct {
	net.Conn
	link  *link
	queue []byte // held on the way out; guarded by link.mu
	gone  bool   // the client has closed it; guarded by link.mu
}

func (c *linkConn) Write(b []byte) (int, error) {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	if c.gone {
		return 0, net.ErrClosed
	}
	if c.link.out {
		c.queue = append(c.queue, b...)
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (c *linkConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	for c.link.in && !c.gone {
		c.link.changed.Wait()
	}
	if c.gone {
		return 0, net.ErrClosed
	}
	return n, err
}

func (c *linkConn) Close() error {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	c.gone = true
	c.link.changed.Broadcast()
	if len(c.queue) > 0 {
		return nil // still on its way
	}
	c.link.conns = slices.DeleteFunc(c.link.conns, func(o *linkConn) bool { return o == c })
	return c.Conn.Close()
}
