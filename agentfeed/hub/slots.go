package hub

import (
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"github.com/keytide/keytide/agentfeed/internal/wire"
)

// shards is over how many locks the streams are spread, and in how many parts their
// heartbeats come.
const shards = 64

// slots holds all streams, and polls that wait, by their hosts.
type slots struct {
	seed   maphash.Seed
	shards [shards]shard
}

type shard struct {
	mu    sync.Mutex // guards hosts; taken before a stream's
	hosts map[string][]*stream
}

func newSlots() slots { return slots{seed: maphash.MakeSeed()} }

func (s *slots) shard(host string) *shard {
	return &s.shards[maphash.String(s.seed, host)%shards]
}

// add puts a stream in unless its host has limit already.
func (s *slots) add(st *stream, limit int) bool {
	at := s.shard(st.grant.host)
	at.mu.Lock()
	defer at.mu.Unlock()
	if len(at.hosts[st.grant.host]) >= limit {
		return false
	}
	if at.hosts == nil {
		at.hosts = make(map[string][]*stream)
	}
	at.hosts[st.grant.host] = append(at.hosts[st.grant.host], st)
	return true
}

func (s *slots) remove(st *stream) {
	at := s.shard(st.grant.host)
	at.mu.Lock()
	defer at.mu.Unlock()
	left := at.hosts[st.grant.host]
	if i := slices.Index(left, st); i >= 0 {
		left = slices.Delete(left, i, i+1)
	}
	if len(left) == 0 {
		delete(at.hosts, st.grant.host)
		return
	}
	at.hosts[st.grant.host] = left
}

// of returns the streams of a host.
func (s *slots) of(host string) []*stream {
	at := s.shard(host)
	at.mu.Lock()
	defer at.mu.Unlock()
	return slices.Clone(at.hosts[host])
}

// all returns the streams of a shard.
func (sh *shard) all() []*stream {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	all := make([]*stream, 0, len(sh.hosts))
	for _, streams := range sh.hosts {
		all = append(all, streams...)
	}
	return all
}

// each calls f for every stream. Streams that come or go meanwhile may be missed.
func (s *slots) each(f func(*stream)) {
	for i := range s.shards {
		for _, st := range s.shards[i].all() {
			f(st)
		}
	}
}

// enter counts a stream in, unless the hub is closing or its host has too many.
func (h *Hub) enter(s *stream) *wire.Problem {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return problem(wire.Draining)
	}
	if !h.slots.add(s, h.config.MaxStreams) {
		return problem(wire.TooManyStreams)
	}
	h.agents.Add(1)
	h.serving.Add(1)
	if !h.dispatching {
		h.dispatching = true
		h.serving.Add(1)
		go h.dispatch()
	}
	return nil
}

// admitted is enter, after those streams of the host were counted out whose agents
// have hung up, if it has too many.
func (h *Hub) admitted(s *stream) *wire.Problem {
	p := h.enter(s)
	if p != nil && h.free(s.grant.host) {
		p = h.enter(s)
	}
	return p
}

// leave counts a stream out, once.
func (h *Hub) leave(s *stream) {
	h.slots.remove(s)
	h.agents.Add(-1)
	select {
	case h.wake <- struct{}{}:
	default:
	}
	h.serving.Done()
}

// free ends those streams of a host whose agents have hung up, and reports whether
// there were any.
func (h *Hub) free(host string) (some bool) {
	for _, s := range h.slots.of(host) {
		if s.gone() {
			s.end(errHungUp)
			some = true
		}
	}
	return some
}

// spread is the time over which all agents may come back: 2,000 a second, so that
// they do not all do so at once.
func (h *Hub) spread() time.Duration {
	return min(max(time.Duration(h.agents.Load())*time.Second/2000, 250*time.Millisecond), 20*time.Second)
}

// A Stream is one open stream.
type Stream struct {
	Host   string // the trusted host's name
	Behind bool   // it has not been given the newest state
}

// Streams lists the open streams, and the polls that wait, in no order.
func (h *Hub) Streams() []Stream {
	state, _ := h.config.Source.Watch()
	streams := make([]Stream, 0, h.agents.Load())
	h.slots.each(func(s *stream) {
		streams = append(streams, Stream{Host: s.grant.host, Behind: s.behind(state)})
	})
	return streams
}
