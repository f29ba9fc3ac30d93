package hub

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keytide/keytide/agentfeed/internal/wire"
	"github.com/keytide/keytide/keystore"
)

// A view is what one host is told of a state. It is immutable; hosts with the same
// rights share one.
type view struct {
	rings   []*keystore.KeySet
	servers []string
	regions []string
	ca      []byte
	offer   *Secret // of one host, whose view is then its own; nil: none
}

func (v *view) equal(o *view) bool {
	return v == o || v != nil && o != nil &&
		slices.Equal(v.rings, o.rings) && slices.Equal(v.servers, o.servers) && slices.Equal(v.regions, o.regions) && bytes.Equal(v.ca, o.ca) &&
		(v.offer == o.offer || v.offer != nil && o.offer != nil && v.offer.KID == o.offer.KID)
}

// A round is one look at the newest state. All streams that it finds due share what
// it has made.
type round struct {
	hub   *Hub
	state *State // nil: there is none yet
	// turn grows with each new state that the hub has seen: a stream that has been
	// told of a later one must not be told of this.
	turn uint64

	mu    sync.Mutex // guards the fields below
	views map[string]*view
	plain map[*view][]byte // the contents of ring events, which hold key bytes
	beat  []byte           // the content of heartbeats
}

// look begins a round, and returns what Source.Watch does.
func (h *Hub) look() (*round, <-chan struct{}) {
	h.looking.Lock()
	defer h.looking.Unlock()
	state, changed := h.config.Source.Watch()
	if state != h.seen {
		h.seen = state
		h.turn++
	}
	return &round{hub: h, state: state, turn: h.turn}, changed
}

// view is what the host is told of the round's state.
func (r *round) view(host Host) *view {
	v := r.shared(host)
	if host.Offer == nil {
		return v
	}
	own := *v
	own.offer = host.Offer
	return &own
}

// shared is the part of a host's view that hosts with the same rights share.
func (r *round) shared(host Host) *view {
	names := host.Rings
	if !slices.IsSorted(names) {
		names = slices.Sorted(slices.Values(names))
	}
	key := ""
	if len(names) == 1 {
		key = string(names[0])
	} else {
		var b strings.Builder
		for _, name := range names {
			b.WriteString(string(name))
			b.WriteByte(0)
		}
		key = b.String()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if v := r.views[key]; v != nil {
		return v
	}
	v := &view{servers: r.state.Servers, regions: r.state.Regions, ca: r.state.CA}
	for i, name := range names {
		if set := r.state.Rings[name]; set != nil && (i == 0 || names[i-1] != name) {
			v.rings = append(v.rings, set)
		}
	}
	if r.views == nil {
		r.views = make(map[string]*view)
	}
	r.views[key] = v
	return v
}

// ring is the content of a ring event, the same for all who have this view. It is
// wiped by end.
func (r *round) ring(v *view) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if plain := r.plain[v]; plain != nil {
		return plain, nil
	}
	plain, err := json.Marshal(r.hub.message(r.state.V, v))
	if err != nil {
		return nil, err
	}
	if r.plain == nil {
		r.plain = make(map[*view][]byte)
	}
	r.plain[v] = plain
	return plain, nil
}

// heartbeat is the content of a heartbeat.
func (r *round) heartbeat() ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var err error
	if r.beat == nil {
		r.beat, err = json.Marshal(wire.Beat{AsOf: r.hub.asOf()})
	}
	return r.beat, err
}

// end wipes what the round has made. Nobody may be using it any more.
func (r *round) end() {
	for _, plain := range r.plain {
		clear(plain)
	}
	r.plain = nil
}

// message is the sealed content of a ring event.
func (h *Hub) message(position string, v *view) wire.State {
	m := wire.State{
		V: position, AsOf: h.asOf(),
		StaleAfter: int64(h.config.StaleAfter / time.Second), MaxStale: int64(h.config.MaxStale / time.Second),
		Servers: v.servers, Regions: v.regions, CA: string(v.ca),
		Rings: make([]wire.Ring, 0, len(v.rings)),
	}
	if v.offer != nil {
		m.Secret = &wire.NewSecret{KID: v.offer.KID, K: wire.Bytes{Material: v.offer.Material}, Within: h.within()}
	}
	m.IssuedAt = h.now() // taken last: not before AsOf
	for _, set := range v.rings {
		m.Rings = append(m.Rings, wire.RingOf(set))
	}
	return m
}
