package hub

import (
	"bytes"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/keytide/keytide/agentfeed/internal/wire"
	"github.com/keytide/keytide/keystore"
)

// writeTimeout is how long an agent may take nothing before its stream is cut.
const writeTimeout = 10 * time.Second

// A stream is one agent's, or a poll that waits, which has but grant and shown.
// Its handler's goroutine owns all but shown.
type stream struct {
	hub     *Hub
	grant   *grant
	channel *wire.Channel
	out     http.ResponseWriter
	control *http.ResponseController
	told    view
	shown   atomic.Pointer[string] // position of the newest state that told covers
}

// A view is what one host is told of a state.
type view struct {
	rings   []*keystore.KeySet
	servers []string
	ca      []byte
}

func viewOf(state *State, host Host) view {
	v := view{servers: state.Servers, ca: state.CA}
	names := slices.Clone(host.Rings)
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if set := state.Rings[name]; set != nil {
			v.rings = append(v.rings, set)
		}
	}
	return v
}

func (v view) equal(o view) bool {
	return slices.Equal(v.rings, o.rings) && slices.Equal(v.servers, o.servers) && bytes.Equal(v.ca, o.ca)
}

// message is the sealed content of a ring event.
func (h *Hub) message(position string, v view) wire.State {
	m := wire.State{
		V: position, AsOf: h.asOf(),
		StaleAfter: int64(h.config.StaleAfter / time.Second), MaxStale: int64(h.config.MaxStale / time.Second),
		Servers: v.servers, CA: string(v.ca),
		Rings: make([]wire.Ring, 0, len(v.rings)),
	}
	m.IssuedAt = h.now() // taken last: not before AsOf
	for _, set := range v.rings {
		m.Rings = append(m.Rings, wire.RingOf(set))
	}
	return m
}

// enter counts a stream in, unless the hub is closing or its host has too many.
func (h *Hub) enter(s *stream) *wire.Problem {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return problem(wire.Draining)
	}
	if h.perHost[s.grant.host] >= h.config.MaxStreams {
		return problem(wire.TooManyStreams)
	}
	h.perHost[s.grant.host]++
	h.streams[s] = struct{}{}
	h.serving.Add(1)
	return nil
}

func (h *Hub) leave(s *stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.streams, s)
	if h.perHost[s.grant.host]--; h.perHost[s.grant.host] == 0 {
		delete(h.perHost, s.grant.host)
	}
	h.serving.Done()
}

// spread is the time over which all agents may come back: 2,000 a second, so that
// they do not all do so at once.
func (h *Hub) spread() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return min(max(time.Duration(len(h.streams))*time.Second/2000, 250*time.Millisecond), 5*time.Second)
}

func (h *Hub) serveStream(w http.ResponseWriter, r *http.Request, g *grant) {
	if state, _ := h.config.Source.Watch(); state == nil {
		h.refuse(w, r, g, *problem(wire.NoState))
		return
	}
	server := wire.NewNonce()
	channel, err := wire.NewChannel(g.secret, g.host, g.nonce, server)
	if err != nil {
		h.config.Logger.Error("sealing key of a stream", "host", g.host, "err", err)
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	s := &stream{hub: h, grant: g, channel: channel, out: w, control: http.NewResponseController(w)}
	if p := h.enter(s); p != nil {
		h.refuse(w, r, g, *p)
		return
	}
	defer h.leave(s)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	h.config.Logger.Debug("agent connected", "host", g.host, "remote", r.RemoteAddr)
	err = s.write(wire.Event{Name: wire.EventHello, Retry: h.spread()}, wire.Hello{
		Proto: 1, SN: server.String(), Server: h.config.Server, Heartbeat: h.config.Heartbeat.Seconds()})
	if err == nil {
		err = s.run(r)
	}
	h.config.Logger.Debug("agent disconnected", "host", g.host, "remote", r.RemoteAddr, "err", err)
}

// run keeps the agent at the newest state until the stream breaks or ends.
func (s *stream) run(r *http.Request) error {
	period := s.hub.config.Heartbeat
	// Each stream has a phase of its own, so that thousands do not tick at once.
	beat := time.NewTimer(period/2 + rand.N(period/2+1))
	defer beat.Stop()
	for {
		state, changed := s.hub.config.Source.Watch()
		host, p := s.hub.hostOf(s.grant)
		if p != nil {
			s.hub.config.Logger.Info("agent cut off", "host", s.grant.host, "problem", p.Title)
			return s.write(wire.Event{Name: wire.EventProblem}, p)
		}
		if err := s.tell(state, host); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-beat.C:
			beat.Reset(period)
			if err := s.beat(); err != nil {
				return err
			}
		case <-r.Context().Done():
			return r.Context().Err()
		case <-s.hub.closing:
			spread := s.hub.spread()
			return s.write(wire.Event{Name: wire.EventBye, Retry: spread},
				wire.Bye{Reason: "draining", ReconnectMS: [2]uint64{0, uint64(spread.Milliseconds())}})
		}
	}
}

// tell brings the agent to state. What changed for others only is no reason to
// wake this agent: its next heartbeat carries the new position.
func (s *stream) tell(state *State, host Host) error {
	if state == nil {
		return nil
	}
	v := viewOf(state, host)
	if s.shown.Load() == nil || !v.equal(s.told) {
		sealed, err := s.channel.Seal(wire.EventRing, state.V, s.hub.message(state.V, v))
		if err != nil {
			return err
		}
		if err := s.write(wire.Event{Name: wire.EventRing, ID: state.V}, sealed); err != nil {
			return err
		}
		s.told = v
	}
	s.shown.Store(&state.V)
	return nil
}

func (s *stream) beat() error {
	shown := s.shown.Load()
	if shown == nil {
		return nil
	}
	position := *shown
	sealed, err := s.channel.Seal(wire.EventBeat, position, wire.Beat{AsOf: s.hub.asOf()})
	if err != nil {
		return err
	}
	return s.write(wire.Event{Name: wire.EventBeat, Retry: s.hub.spread()}, sealed)
}

// write sends one event at once. The deadline is taken away again afterwards: over
// HTTP/2 it would end the idle stream.
func (s *stream) write(e wire.Event, v any) error {
	message, err := wire.AppendEvent(nil, e, v)
	if err != nil {
		return err
	}
	if err := s.control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	if _, err := s.out.Write(message); err != nil {
		return err
	}
	if err := s.control.Flush(); err != nil {
		return err
	}
	return s.control.SetWriteDeadline(time.Time{})
}
