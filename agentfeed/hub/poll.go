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
	now, p := h.lookFor(g)
	if p != nil {
		h.refuse(w, r, g, *p)
		return
	}
	matching := matches(r, etag(now.state))
	if wait := preferredWait(r); wait > 0 {
		w.Header().Set("Preference-Applied", "wait="+strconv.Itoa(int(wait/time.Second)))
		if matching {
			held := now.view
			if p = h.wait(w, r, g, now, wait); p == nil {
				now, p = h.lookFor(g)
			}
			if p != nil {
				h.refuse(w, r, g, *p)
				return
			}
			matching = now.view.equal(held)
		}
	}
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
	h.answer(w, g, reply{state: now.state, view: now.view, matching: matching, received: received})
}

// A sight is what there is to tell a host.
type sight struct {
	state *State
	view  *view
	turn  uint64
}

// lookFor looks at the newest state for the host of a grant.
func (h *Hub) lookFor(g *grant) (sight, *wire.Problem) {
	r, _ := h.look()
	if r.state == nil {
		return sight{}, problem(wire.NoState)
	}
	host, p := h.hostOf(g)
	if p != nil {
		return sight{}, p
	}
	return sight{state: r.state, view: r.view(host), turn: r.turn}, nil
}

func etag(state *State) string { return `"` + state.V + `"` }

// hostOf is the host of a grant as it stands now, or what is against it.
func (h *Hub) hostOf(g *grant) (Host, *wire.Problem) {
	host, ok := h.config.Source.Host(g.host)
	if !ok || len(host.Secrets) == 0 {
		host.Revoked = true // a host that is gone is told no more than that
	}
	if !g.keeps || host.Offer != nil && host.Offer.KID == g.kid {
		host.Offer = nil // it could not keep it, or has it
	}
	return host, standing(host, g.kid)
}

// wait waits until the host would be told something else than what is seen, or the
// time is over, or nobody reads the answer.
func (h *Hub) wait(w http.ResponseWriter, r *http.Request, g *grant, seen sight, wait time.Duration) *wire.Problem {
	s := &stream{hub: h, grant: g, poll: true, done: make(chan struct{}), told: seen.view, turn: seen.turn}
	s.shown.Store(&seen.state.V)
	http.NewResponseController(w).SetWriteDeadline(time.Time{}) // over HTTP/2 it would end the wait
	if p := h.admitted(s); p != nil {
		return p
	}
	defer h.leave(s)
	// It may have changed before the dispatcher knew of this poll.
	if now, _ := h.look(); now.state != nil && now.turn != seen.turn {
		s.offer(now)
	}
	over := time.NewTimer(wait)
	defer over.Stop()
	select {
	case <-s.done:
	case <-over.C:
	case <-r.Context().Done():
	}
	select {
	case <-h.closing:
		return problem(wire.Draining)
	default:
		return nil
	}
}

// A reply is what a poll is answered with.
type reply struct {
	state    *State
	view     *view
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
	h.config.Logger.Error("sealing an answer", "err", err)
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
