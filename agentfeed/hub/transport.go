package hub

import (
	"crypto/tls"
	"net"
	"net/http"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// A transport is the way to one agent. write is called by one goroutine at a time,
// the others at any time.
type transport interface {
	// write sends the events of a frame, which begin at frameRoom, at once. It may
	// change the frame. After writeTimeout in which the agent took nothing it fails.
	write(frame []byte) error
	// quick reports whether a write of so many bytes surely does not block.
	quick(size int) bool
	// gone reports whether the agent has surely hung up.
	gone() bool
	// end ends the answer in order, or cuts it, and what is unsent goes.
	end(orderly bool)
}

// frameRoom is what a frame keeps free for the length of a chunk.
const frameRoom = 10

var frames = sync.Pool{New: func() any { return new([]byte) }}

func takeFrame() []byte {
	frame := *frames.Get().(*[]byte)
	if cap(frame) < frameRoom {
		frame = make([]byte, 0, 2048)
	}
	return frame[:frameRoom]
}

func putFrame(frame []byte) {
	if cap(frame) <= 64<<10 {
		frames.Put(&frame)
	}
}

// An answer is written through net/http, whose goroutines wait as long as it lasts:
// over HTTP/2, and where something stands before the hub that cannot be hijacked.
type answer struct {
	control *http.ResponseController

	mu   sync.Mutex // guards the fields below; held while w is written
	w    http.ResponseWriter
	over bool
}

// write takes the deadline away again afterwards: over HTTP/2 it would end the idle
// stream.
func (a *answer) write(frame []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.over {
		return net.ErrClosed
	}
	if err := a.control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	if _, err := a.w.Write(frame[frameRoom:]); err != nil {
		return err
	}
	if err := a.control.Flush(); err != nil {
		return err
	}
	return a.control.SetWriteDeadline(time.Time{})
}

func (a *answer) quick(int) bool { return false }
func (a *answer) gone() bool     { return false } // net/http says so by the request's context
func (a *answer) end(bool)       {}               // the handler's return does

// close is called by the handler before it returns: from then on w is not its own.
func (a *answer) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.over = true
}

// A tunnel is a connection that was taken from net/http, which then keeps nothing for
// it: no goroutine, no buffers.
type tunnel struct {
	conn    net.Conn
	socket  net.Conn // below TLS
	raw     syscall.RawConn
	chunked bool
	head    []byte // of the answer, until it is sent with the first frame
}

// hijack takes the connection of a request, nil if that cannot be done.
func hijack(w http.ResponseWriter, r *http.Request) *tunnel {
	conn, _, err := http.NewResponseController(w).Hijack() // the buffers go: there is nothing to read
	if err != nil {
		return nil
	}
	conn.SetDeadline(time.Time{})
	t := &tunnel{conn: conn, socket: socketOf(conn), chunked: r.ProtoAtLeast(1, 1)}
	if s, ok := t.socket.(syscall.Conn); ok {
		t.raw, _ = s.SyscallConn()
	}
	header := w.Header().Clone()
	header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	header.Set("Connection", "close")
	t.head = []byte("HTTP/1.0 200 OK\r\n")
	if t.chunked {
		t.head = []byte("HTTP/1.1 200 OK\r\n")
		header.Set("Transfer-Encoding", "chunked")
	}
	for name, values := range header {
		for _, value := range values {
			t.head = append(t.head, name+": "+value+"\r\n"...)
		}
	}
	t.head = append(t.head, "\r\n"...)
	return t
}

// socketOf is the connection below TLS and the door.
func socketOf(conn net.Conn) net.Conn {
	for {
		switch c := conn.(type) {
		case *tls.Conn:
			conn = c.NetConn()
		case *visitor:
			conn = c.Conn
		default:
			return conn
		}
	}
}

func (t *tunnel) write(frame []byte) error {
	out := frame[frameRoom:]
	if t.chunked {
		var room [frameRoom]byte
		length := append(strconv.AppendInt(room[:0], int64(len(out)), 16), "\r\n"...)
		copy(frame[frameRoom-len(length):], length)
		out = append(frame[frameRoom-len(length):], "\r\n"...)
	}
	if t.head != nil {
		out, t.head = append(t.head, out...), nil
	}
	t.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err := t.conn.Write(out)
	return err
}

// quick: what finds nothing of earlier writes under way, and fits the socket's buffer,
// does not block.
func (t *tunnel) quick(size int) bool {
	return t.raw != nil && size <= socketBuffer/2 && unsent(t.raw) == 0
}

func (t *tunnel) gone() bool { return t.raw != nil && hungUp(t.raw) }

func (t *tunnel) end(orderly bool) {
	if !orderly {
		if tcp, ok := t.socket.(*net.TCPConn); ok {
			tcp.SetLinger(0) // what is unsent must not stay in the kernel
		}
		t.socket.Close()
		return
	}
	if t.chunked && t.head == nil {
		t.conn.SetWriteDeadline(time.Now().Add(time.Second))
		t.conn.Write([]byte("0\r\n\r\n"))
	}
	t.conn.Close()
}
