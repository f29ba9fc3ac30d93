package hub

import (
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keytide/keytide/agentfeed/internal/wire"
)

// writeTimeout is how long an agent may take nothing before its stream is cut.
const writeTimeout = 10 * time.Second

// errHungUp ends a stream whose agent has closed the connection.
var errHungUp = errors.New("the agent has hung up")

// What a stream is due.
type due uint8

const (
	dueHello due = 1 << iota
	dueState     // it may have to be told of a newer state
	dueBeat
	dueBye
)

// A stream is one agent's, or a poll that waits. It holds no queue, only what the
// agent has been told and what it is due: whoever finds something due and the stream
// not busy makes it busy, and then writes until nothing is due.
type stream struct {
	hub     *Hub
	grant   *grant
	began   time.Time
	poll    bool // it only waits: until it is told that something has changed
	server  wire.Nonce
	channel *wire.Channel // of whoever has made it busy

	shown atomic.Pointer[string] // position of the newest state that told covers
	done  chan struct{}          // closed when the stream, or the wait, has ended

	mu    sync.Mutex // guards the fields below
	out   transport  // nil in a poll, and until attach
	busy  bool       // somebody writes, and looks again at due afterwards
	ended bool
	due   due
	turn  uint64 // of the round that told is from
	told  *view  // nil: nothing yet
}

// behind reports whether the stream has not been given the newest state.
func (s *stream) behind(newest *State) bool {
	shown := s.shown.Load()
	return newest != nil && (shown == nil || *shown != newest.V)
}

// offer shows the stream a round, and reports whether the caller has made it busy
// and must serve it. What changed for others only is no reason to wake an agent: its
// next heartbeat carries the new position.
func (s *stream) offer(r *round) bool {
	host, p := s.hub.hostOf(s.grant)
	var v *view
	if p == nil {
		v = r.view(host)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended || r.turn < s.turn:
		return false
	case s.busy:
		s.due |= dueState
		return false
	case p == nil && v.equal(s.told):
		s.turn, s.told = r.turn, v // told shares what is newest, so that the old can go
		s.shown.Store(&r.state.V)
		return false
	case s.poll:
		s.finish()
		return false
	}
	s.due |= dueState
	s.busy = true
	return true
}

// poke makes something due, and reports whether the caller has made the stream busy
// and must serve it.
func (s *stream) poke(what due) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false
	}
	if s.poll {
		if what&dueBye != 0 {
			s.finish()
		}
		return false
	}
	s.due |= what
	if s.busy {
		return false
	}
	s.busy = true
	return true
}

// take takes what is due, or makes the stream not busy.
func (s *stream) take() due {
	s.mu.Lock()
	defer s.mu.Unlock()
	what := s.due
	s.due = 0
	if what == 0 || s.ended {
		s.busy = false
		return 0
	}
	return what
}

// finish ends a wait. It needs mu.
func (s *stream) finish() {
	s.ended = true
	close(s.done)
}

// attach gives a stream its transport, unless the hub has ended it.
func (s *stream) attach(out transport) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		out.end(false)
		return false
	}
	s.out = out
	return true
}

// gone reports whether the agent has surely hung up.
func (s *stream) gone() bool {
	s.mu.Lock()
	out := s.out
	s.mu.Unlock()
	return out != nil && out.gone()
}

// end ends the stream, once: in order, or with an error at once.
func (s *stream) end(err error) {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return
	}
	s.finish()
	out := s.out
	s.mu.Unlock()
	if s.poll { // it counts itself out
		return
	}
	if out != nil {
		out.end(err == nil)
	}
	s.hub.leave(s)
	s.hub.config.Logger.Debug("agent disconnected", "host", s.grant.host, "err", err)
}

// serve writes what is due until nothing is. A caller that is not patient is not kept
// by an agent that takes nothing: a goroutine of the stream's own goes on then.
func (s *stream) serve(r *round, patient bool) {
	for what := s.take(); what != 0; what = s.take() {
		m, err := s.compose(r, what)
		if err != nil {
			s.end(err)
			return
		}
		r = nil // the next look is at the newest
		if !patient && !s.out.quick(len(m.frame)) {
			s.hub.serving.Add(1) // the stream's own keeps it above zero
			go func() {
				defer s.hub.serving.Done()
				if s.deliver(m) {
					s.serve(nil, true)
				}
			}()
			return
		}
		if !s.deliver(m) {
			return
		}
	}
}

// A message is what goes out in one write.
type message struct {
	frame []byte // the events, behind frameRoom bytes
	state *State // what the agent is at afterwards; nil: as before
	view  *view
	turn  uint64
	last  bool // the stream ends with it
}

// deliver writes a message, and reports whether the stream goes on.
func (s *stream) deliver(m message) bool {
	var err error
	if len(m.frame) > frameRoom {
		err = s.out.write(m.frame)
	}
	putFrame(m.frame)
	if err != nil || m.last {
		s.end(err)
		return false
	}
	if m.state != nil {
		s.mu.Lock()
		s.told, s.turn = m.view, m.turn
		s.mu.Unlock()
		s.shown.Store(&m.state.V)
	}
	return true
}

// compose makes the events that are due. A round that is nil, or older than what the
// agent has been told, gives way to a new one.
func (s *stream) compose(r *round, what due) (message, error) {
	if r == nil || r.turn < s.turn { // turn is the busy one's to read
		r, _ = s.hub.look()
		defer r.end()
	}
	m := message{frame: takeFrame()}
	var err error
	if what&dueHello != 0 {
		m.frame, err = wire.AppendEvent(m.frame, wire.Event{Name: wire.EventHello, Retry: s.hub.spread()}, wire.Hello{
			Proto: 1, SN: s.server.String(), Server: s.hub.config.Server, Heartbeat: s.hub.config.Heartbeat.Seconds()})
	}
	host, p := s.hub.hostOf(s.grant)
	switch {
	case err != nil:
	case p != nil:
		s.hub.config.Logger.Info("agent cut off", "host", s.grant.host, "problem", p.Title)
		m.last = true
		m.frame, err = wire.AppendEvent(m.frame, wire.Event{Name: wire.EventProblem}, p)
	case what&dueBye != 0:
		spread := s.hub.spread()
		m.last = true
		m.frame, err = wire.AppendEvent(m.frame, wire.Event{Name: wire.EventBye, Retry: spread},
			wire.Bye{Reason: "draining", ReconnectMS: [2]uint64{0, uint64(spread.Milliseconds())}})
	case r.state != nil:
		err = s.tell(&m, r, r.view(host), what)
	}
	return m, err
}

// tell appends the state, if it tells the agent something new, and the heartbeat
// that is due.
func (s *stream) tell(m *message, r *round, v *view, what due) error {
	m.state, m.view, m.turn = r.state, v, r.turn
	if !v.equal(s.told) { // told is the busy one's to read
		plain, err := r.ring(v)
		if err != nil {
			return err
		}
		m.frame = s.channel.AppendEvent(m.frame, wire.Event{Name: wire.EventRing, ID: r.state.V}, r.state.V, plain)
	}
	if what&dueBeat == 0 {
		return nil
	}
	plain, err := r.heartbeat()
	if err != nil {
		return err
	}
	m.frame = s.channel.AppendEvent(m.frame, wire.Event{Name: wire.EventBeat, Retry: s.hub.spread()}, r.state.V, plain)
	return nil
}

// serveStream lets an agent in. Over HTTP/1.1 it returns once the agent has the
// state; else when the stream has ended.
func (h *Hub) serveStream(w http.ResponseWriter, r *http.Request, g *grant) {
	if state, _ := h.config.Source.Watch(); state == nil {
		h.refuse(w, r, g, *problem(wire.NoState))
		return
	}
	g.host = strings.Clone(g.host) // else the stream keeps the request's whole header
	s := &stream{hub: h, grant: g, server: wire.NewNonce(),
		began: time.Now(), done: make(chan struct{}), busy: true, due: dueHello | dueState}
	var err error
	if s.channel, err = wire.NewChannel(g.secret, g.host, g.nonce, s.server); err != nil {
		h.broken(w, err)
		return
	}
	if p := h.admitted(s); p != nil {
		h.refuse(w, r, g, *p)
		return
	}
	h.config.Logger.Debug("agent connected", "host", g.host, "remote", r.RemoteAddr)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	if out := hijack(w, r); out != nil {
		if s.attach(out) {
			s.serve(nil, true)
		}
		return
	}
	out := &answer{w: w, control: http.NewResponseController(w)}
	defer out.close()
	if s.attach(out) {
		s.serve(nil, true)
	}
	select {
	case <-s.done:
	case <-r.Context().Done():
		s.end(r.Context().Err())
	}
}
