package hub

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/keytide/keytide/agentfeed/internal/wire"
)

// maxWait is the longest that a poll may wait for a change: under what proxies
// commonly let an idle request be.
const maxWait = 25 * time.Second

// servePoll answers once: with the whole state, or that it is the one that the
// client has; this at once, or when the client prefers to wait and nothing changes
// for it in that time.
func (h *Hub) servePoll(w http.ResponseWriter, r *http.Request, g *grant, received time.Time) {
	state, changed := h.config.Source.Watch()
	if state == nil {
		h.refuse(w, r, g, *problem(wire.NoState))
		return
	}
	host, p := h.hostOf(g)
	if p != nil {
		h.refuse(w, r, g, *p)
		return
	}
	matching := matches(r, etag(state))
	if wait := preferredWait(r); wait > 0 {
		w.Header().Set("Preference-Applied", "wait="+strconv.Itoa(int(wait/time.Second)))
		if matching {
			l := longPoll{hub: h, grant: g, state: state, view: viewOf(state, host)}
			matching, p = l.wait(r, changed, wait)
			if p != nil {
				h.refuse(w, r, g, *p)
				return
			}
			state = l.state
			host, _ = h.config.Source.Host(g.host)
		}
	}
	h.answer(w, g, reply{state: state, view: viewOf(state, host), matching: matching, received: received})
}

func etag(state *State) string { return `"` + state.V + `"` }

// hostOf is the host of a grant as it stands now, or what is against it.
func (h *Hub) hostOf(g *grant) (Host, *wire.Problem) {
	host, ok := h.config.Source.Host(g.host)
	if !ok || len(host.Secrets) == 0 {
		host.Revoked = true // a host that is gone is told no more than that
	}
	return host, standing(host, g.kid)
}

// A longPoll is a poll that waits for a change. state and view are what it
// compares with, and afterwards the newest.
type longPoll struct {
	hub   *Hub
	grant *grant
	state *State
	view  view
}

// wait returns whether the host would still be told the same at the end of the
// wait, or a problem. What changes for other hosts only does not end it.
func (l *longPoll) wait(r *http.Request, changed <-chan struct{}, wait time.Duration) (bool, *wire.Problem) {
	s := &stream{hub: l.hub, grant: l.grant}
	s.shown.Store(&l.state.V)
	if p := l.hub.enter(s); p != nil {
		return false, p
	}
	defer l.hub.leave(s)
	over := time.NewTimer(wait)
	defer over.Stop()
	for {
		select {
		case <-changed:
		case <-over.C:
			return true, nil
		case <-r.Context().Done():
			return true, nil // nobody reads the answer
		case <-l.hub.closing:
			return false, problem(wire.Draining)
		}
		var state *State
		if state, changed = l.hub.config.Source.Watch(); state == nil {
			continue
		}
		host, p := l.hub.hostOf(l.grant)
		if p != nil {
			return false, p
		}
		l.state = state
		if !viewOf(state, host).equal(l.view) {
			return false, nil
		}
		s.shown.Store(&state.V)
	}
}

// A reply is what a poll is answered with.
type reply struct {
	state    *State
	view     view
	matching bool // the client has it
	received time.Time
}

// answer seals the reply: the whole state, or a heartbeat that proves that the one
// which the client has is current.
func (h *Hub) answer(w http.ResponseWriter, g *grant, a reply) {
	server := wire.NewNonce()
	channel, err := wire.NewChannel(g.secret, g.host, g.nonce, server)
	if err != nil {
		h.broken(w, err)
		return
	}
	event, message := wire.EventRing, any(nil)
	if a.matching {
		event, message = wire.EventBeat, wire.Beat{AsOf: h.asOf(), ReceivedAt: &a.received}
	} else {
		state := h.message(a.state.V, a.view)
		state.ReceivedAt = &a.received
		message = state
	}
	sealed, err := channel.Seal(event, a.state.V, message)
	if err != nil {
		h.broken(w, err)
		return
	}
	sealed.SN, sealed.Server = server.String(), h.config.Server
	w.Header().Set("ETag", etag(a.state))
	if !a.matching {
		writeJSON(w, http.StatusOK, "application/json", sealed)
		return
	}
	proof, err := json.Marshal(sealed)
	if err != nil {
		h.broken(w, err)
		return
	}
	w.Header().Set("Keytide-Heartbeat", string(proof))
	w.WriteHeader(http.StatusNotModified)
}

func (h *Hub) broken(w http.ResponseWriter, err error) {
	h.config.Logger.Error("sealing a poll", "err", err)
	http.Error(w, "internal error", http.StatusInternalServerError)
}

// matches reports whether If-None-Match names tag.
func matches(r *http.Request, tag string) bool {
	for _, header := range r.Header.Values("If-None-Match") {
		for candidate := range strings.SplitSeq(header, ",") {
			if strings.TrimSpace(candidate) == tag {
				return true
			}
		}
	}
	return false
}

// preferredWait is how long the client prefers to wait for a change (RFC 7240,
// section 4.3), at most maxWait; 0 = not at all.
func preferredWait(r *http.Request) time.Duration {
	for _, header := range r.Header.Values("Prefer") {
		for part := range strings.SplitSeq(header, ",") {
			preference, _, _ := strings.Cut(part, ";")
			name, value, _ := strings.Cut(preference, "=")
			if !strings.EqualFold(strings.TrimSpace(name), "wait") {
				continue
			}
			seconds, err := strconv.ParseUint(strings.Trim(strings.TrimSpace(value), `"`), 10, 31)
			if err != nil {
				return 0
			}
			return min(time.Duration(seconds)*time.Second, maxWait)
		}
	}
	return 0
}
