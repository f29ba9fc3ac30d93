package hub

// A Stream is one open stream.
type Stream struct {
	Host   string // the trusted host's name
	Behind bool   // it has not been given the newest state
}

// Streams lists the open streams, in no order.
func (h *Hub) Streams() []Stream {
	state, _ := h.config.Source.Watch()
	h.mu.Lock()
	defer h.mu.Unlock()
	streams := make([]Stream, 0, len(h.streams))
	for s := range h.streams {
		v := s.shown.Load()
		streams = append(streams, Stream{Host: s.grant.host, Behind: state != nil && (v == nil || *v != state.V)})
	}
	return streams
}
