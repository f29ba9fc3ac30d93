package wan

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Bounds of what one direction of a connection has under way. When they are reached,
// the link reads no more and the sender's own buffers fill. 1,024 parcels of 32 KiB in
// 40 ms are 800 MB a second.
const (
	maxParcel  = 32 << 10
	maxParcels = 1024
)

// A pair is one connection through a link: to its client, and onwards to its target.
// It is in its link's set until its goroutines have ended.
type pair struct {
	link   *Link
	ended  <-chan struct{}
	gone   chan struct{} // closed when no goroutine is left
	dial   func() (*net.TCPConn, error)
	cancel context.CancelFunc // closes ended

	conns   []*net.TCPConn // guarded by link.mu
	forward way
	back    way
}

// A way is one direction of a pair.
type way struct {
	pair     *pair
	held     Fault // by which it is held
	opposite Fault // by which the other direction is held
	from, to *net.TCPConn
	queue    chan parcel
	writing  bool // guarded by link.mu
}

// A parcel is bytes, or the end of a direction, on the way.
type parcel struct {
	due  time.Time
	data []byte
	err  error // io.EOF after the last byte, or another where the sender was reset
}

func newPair(l *Link, client *net.TCPConn) *pair {
	ctx, cancel := context.WithCancel(context.Background())
	p := &pair{
		link: l, ended: ctx.Done(), cancel: cancel, gone: make(chan struct{}), conns: []*net.TCPConn{client},
		dial: func() (*net.TCPConn, error) {
			d := net.Dialer{Control: resetOnClose} // also when it ends in the middle
			conn, err := d.DialContext(ctx, "tcp", l.cfg.Target)
			if err != nil {
				return nil, err
			}
			return conn.(*net.TCPConn), nil
		},
	}
	p.forward = way{pair: p, held: HoldForward, opposite: HoldBack, from: client, queue: make(chan parcel, maxParcels)}
	p.back = way{pair: p, held: HoldBack, opposite: HoldForward, to: client, queue: make(chan parcel, maxParcels)}
	return p
}

// reset ends the pair with RST to both sides. link.mu is held.
func (p *pair) reset() {
	p.cancel()
	for _, c := range p.conns {
		c.SetLinger(0)
		c.Close()
	}
	p.conns = nil
	p.link.changed.Broadcast()
}

// run carries the connection until it ends.
func (p *pair) run() {
	defer p.finish()
	latency := p.link.cfg.Latency
	if !p.sleep(2 * latency) { // what the client sends before is sent when its connect returns
		return
	}
	var ways sync.WaitGroup
	defer ways.Wait()
	ways.Go(p.forward.read)
	if !p.sleep(latency) || !p.enter(nil, Hold) { // TCP's opening needs both directions
		return
	}
	target, err := p.dial()
	if err != nil || !p.join(target) {
		p.forward.bounce()
		return
	}
	ways.Go(p.forward.write)
	ways.Go(p.back.read)
	ways.Go(p.back.write)
}

// finish closes what is open still: both sides have then been told the end of the
// other's bytes.
func (p *pair) finish() {
	l := p.link
	l.mu.Lock()
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
	p.cancel()
	delete(l.pairs, p)
	l.changed.Broadcast()
	l.mu.Unlock()
	close(p.gone)
}

// join adds the connection to the target, unless the pair has ended.
func (p *pair) join(target *net.TCPConn) bool {
	p.link.mu.Lock()
	defer p.link.mu.Unlock()
	p.forward.to, p.back.from = target, target
	if p.conns == nil {
		p.conns = []*net.TCPConn{target}
		p.reset()
		return false
	}
	target.SetLinger(-1)
	p.conns = append(p.conns, target)
	return true
}

// resetOnClose has a socket that is closed send RST.
func resetOnClose(_, _ string, socket syscall.RawConn) error {
	var err error
	controlled := socket.Control(func(fd uintptr) {
		err = syscall.SetsockoptLinger(int(fd), syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
	})
	return errors.Join(controlled, err)
}

// enter waits until nothing of the fault holds the link, and reports whether the pair
// still lives. A way that will write marks itself; it must leave afterwards.
func (p *pair) enter(writer *way, fault Fault) bool {
	l := p.link
	l.mu.Lock()
	defer l.mu.Unlock()
	for p.conns != nil && l.fault&fault != 0 {
		l.changed.Wait()
	}
	if writer != nil && p.conns != nil {
		writer.to.SetWriteDeadline(time.Time{})
		writer.writing = true
	}
	return p.conns != nil
}

func (w *way) leave() {
	l := w.pair.link
	l.mu.Lock()
	defer l.mu.Unlock()
	w.writing = false
	if l.fault&w.held != 0 {
		l.changed.Broadcast()
	}
}

func (p *pair) sleep(d time.Duration) bool {
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-p.ended:
		}
	}
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// read puts what comes in under way, each parcel with its time of arrival: so what
// comes in meanwhile does not wait for it.
func (w *way) read() {
	buffer := make([]byte, maxParcel)
	for {
		n, err := w.from.Read(buffer)
		due := time.Now().Add(w.pair.link.cfg.Latency)
		if n > 0 && !w.push(parcel{due: due, data: bytes.Clone(buffer[:n])}) {
			return
		}
		if err != nil {
			w.push(parcel{due: due, err: err})
			return
		}
	}
}

func (w *way) push(p parcel) bool {
	select {
	case w.queue <- p:
		return true
	case <-w.pair.ended:
		return false
	}
}

// write delivers what is under way, when it is due and nothing holds it.
func (w *way) write() {
	for {
		var next parcel
		select {
		case next = <-w.queue:
		case <-w.pair.ended:
			return
		}
		if !w.pair.sleep(time.Until(next.due)) {
			return
		}
		switch {
		case next.err == nil:
			if !w.deliver(next.data) {
				w.bounce()
				return
			}
		case errors.Is(next.err, io.EOF):
			if w.pair.enter(w, w.held) {
				w.to.CloseWrite()
				w.leave()
			}
			return
		default:
			w.abort(w.held)
			return
		}
	}
}

// deliver reports whether the receiver's side took all of it.
func (w *way) deliver(data []byte) bool {
	for len(data) > 0 {
		if !w.pair.enter(w, w.held) {
			return true // nobody is left who could be told otherwise
		}
		n, err := w.to.Write(data)
		w.leave()
		data = data[n:]
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) { // which a hold interrupts a write with
			return false
		}
	}
	return true
}

// bounce takes the word that the receiver is gone back to the sender.
func (w *way) bounce() {
	if w.pair.sleep(w.pair.link.cfg.Latency) {
		w.abort(w.opposite)
	}
}

// abort resets the pair once nothing of the fault holds the link.
func (w *way) abort(fault Fault) {
	if w.pair.enter(nil, fault) {
		w.pair.link.mu.Lock()
		w.pair.reset()
		w.pair.link.mu.Unlock()
	}
}
