package hub

import (
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
)

const (
	// socketBuffer is a feed socket's send buffer. With the kernel's own choice, an
	// agent that has stopped reading holds half a megabyte and more.
	socketBuffer = 16 << 10
	// maxHandshakes is how many handshakes are computed at a time: more take no less
	// time together, and twice the memory.
	maxHandshakes = 32
	// maxWaiting is how many connections may wait for this server before it accepts no
	// more: the others wait in the kernel, where they cost less.
	maxWaiting = 1024
	// defaultSilent is how many connections may be waited for that have not proved a
	// host yet. In a storm each agent is among them for a round trip or two.
	defaultSilent = 8192
)

// A Door is the listener of a feed that strangers can reach. It bounds what those cost
// who have not authenticated yet: handshakes are computed some at a time, and of too
// many connections that say nothing the one that has been silent for longest is cut.
// An agent that says what it has to is never among them.
type Door struct {
	net.Listener
	maxSilent  int
	handshakes chan struct{} // a place for each that is computed

	mu     sync.Mutex // guards the fields below
	room   *sync.Cond // fewer connections wait for us, or the door is closed
	ours   int        // connections that wait for us
	silent list.List  // of *visitor: those that we wait for, the longest first
	closed bool
}

// NewDoor makes the door of a listener. maxSilent is how many connections may be
// silent; if zero, 8,192. Each takes a file descriptor.
func NewDoor(inner net.Listener, maxSilent int) *Door {
	if maxSilent <= 0 {
		maxSilent = defaultSilent
	}
	d := &Door{Listener: inner, maxSilent: maxSilent, handshakes: make(chan struct{}, maxHandshakes)}
	d.room = sync.NewCond(&d.mu)
	return d
}

// Guard sets up the server of a hub to be served through the door, with ServeTLS.
func (d *Door) Guard(server *http.Server) {
	config := &tls.Config{}
	if server.TLSConfig != nil {
		config = server.TLSConfig.Clone()
	}
	inner := config.GetConfigForClient
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if v, ok := hello.Conn.(*visitor); ok {
			v.compute()
		}
		if inner == nil {
			return nil, nil
		}
		return inner(hello)
	}
	server.TLSConfig = config
	next := server.ConnContext
	server.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		if next != nil {
			ctx = next(ctx, conn)
		}
		if t, ok := conn.(*tls.Conn); ok {
			conn = t.NetConn()
		}
		if v, ok := conn.(*visitor); ok {
			ctx = context.WithValue(ctx, visitorKey{}, v)
		}
		return ctx
	}
}

type visitorKey struct{}

// prove notes that the connection of a request has authenticated.
func prove(r *http.Request) {
	if v, ok := r.Context().Value(visitorKey{}).(*visitor); ok && !v.proven.Swap(true) {
		v.depart()
	}
}

// Accept accepts a connection when few enough wait for this server.
func (d *Door) Accept() (net.Conn, error) {
	d.mu.Lock()
	for d.ours >= maxWaiting && !d.closed {
		d.room.Wait()
	}
	d.mu.Unlock()
	conn, err := d.Listener.Accept()
	for err != nil && (errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)) && d.makeRoom() {
		conn, err = d.Listener.Accept() // a silent connection's descriptor is free now
	}
	if err != nil {
		return nil, err
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		tune(tcp)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ours++
	return &visitor{Conn: conn, door: d}, nil
}

// makeRoom cuts the connection that has been silent for longest, if there is one.
func (d *Door) makeRoom() bool {
	d.mu.Lock()
	longest := d.silent.Front()
	d.mu.Unlock()
	if longest == nil {
		return false
	}
	longest.Value.(*visitor).cut()
	return true
}

// Close stops accepting.
func (d *Door) Close() error {
	d.mu.Lock()
	d.closed = true
	d.room.Broadcast()
	d.mu.Unlock()
	return d.Listener.Close()
}

// A visitor is a connection that came through the door. Until it has proved a host it
// either waits for us or we for it.
type visitor struct {
	net.Conn
	door   *Door
	proven atomic.Bool
	place  atomic.Bool // it holds one of the handshakes

	left  bool          // it is counted no more; guarded by the door's mu, as are those below
	waits int           // reads and writes under way: while there are any, we wait for it
	at    *list.Element // in the door's silent; nil: it waits for us
}

// compute waits until the handshake may go on. The place is given back at the next
// read, when the server's part is done.
func (v *visitor) compute() {
	v.door.handshakes <- struct{}{}
	v.place.Store(true)
}

func (v *visitor) computed() {
	if v.place.Swap(false) {
		<-v.door.handshakes
	}
}

func (v *visitor) Read(b []byte) (int, error) {
	if v.proven.Load() {
		return v.Conn.Read(b)
	}
	v.computed()
	v.listen()
	defer v.heard()
	return v.Conn.Read(b)
}

// Write waits for the visitor too: for one that takes nothing of what it is answered.
func (v *visitor) Write(b []byte) (int, error) {
	if v.proven.Load() {
		return v.Conn.Write(b)
	}
	v.listen()
	defer v.heard()
	return v.Conn.Write(b)
}

// listen notes that we wait for the visitor. If we wait for too many, the one that has
// been silent for longest has to go.
func (v *visitor) listen() {
	d := v.door
	d.mu.Lock()
	v.waits++
	if v.left || v.at != nil {
		d.mu.Unlock()
		return
	}
	d.ours--
	d.room.Signal()
	v.at = d.silent.PushBack(v)
	tooMany := d.silent.Len() > d.maxSilent
	d.mu.Unlock()
	if tooMany {
		d.makeRoom()
	}
}

func (v *visitor) heard() {
	d := v.door
	d.mu.Lock()
	defer d.mu.Unlock()
	if v.waits--; v.waits == 0 && !v.left {
		d.silent.Remove(v.at)
		v.at = nil
		d.ours++
	}
}

// depart stops counting the visitor.
func (v *visitor) depart() {
	d := v.door
	d.mu.Lock()
	defer d.mu.Unlock()
	if v.left {
		return
	}
	v.left = true
	if v.at != nil {
		d.silent.Remove(v.at)
		v.at = nil
		return
	}
	d.ours--
	d.room.Signal()
}

// cut closes the connection at once.
func (v *visitor) cut() {
	if tcp, ok := v.Conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	v.Close()
}

func (v *visitor) Close() error {
	v.computed()
	v.depart()
	return v.Conn.Close()
}
