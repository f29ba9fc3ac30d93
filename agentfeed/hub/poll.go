package hub

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/keytide/keytide/agentfeed/internal/wire"
)

// servePoll answers with the whole state once, or says that it is the one that the
// client has.
func (h *Hub) servePoll(w http.ResponseWriter, r *http.Request, g *grant) {
	state, _ := h.config.Source.Watch()
	if state == nil {
		h.refuse(w, r, g, *problem(wire.NoState))
		return
	}
	host, _ := h.config.Source.Host(g.host)
	if p := standing(host, g.kid); p != nil {
		h.refuse(w, r, g, *p)
		return
	}
	server := wire.NewNonce()
	channel, err := wire.NewChannel(g.secret, g.host, g.nonce, server)
	if err != nil {
		h.config.Logger.Error("sealing key of a poll", "host", g.host, "err", err)
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	tag := `"` + state.V + `"`
	w.Header().Set("ETag", tag)
	if !matches(r, tag) {
		sealed, err := channel.Seal(wire.EventRing, state.V, h.message(state.V, viewOf(state, host)))
		sealed.SN = server.String()
		h.answer(w, err, func() { writeJSON(w, http.StatusOK, "application/json", sealed) })
		return
	}
	sealed, err := channel.Seal(wire.EventBeat, state.V, wire.Beat{AsOf: h.config.Source.AsOf().UTC()})
	sealed.SN = server.String()
	proof, err2 := json.Marshal(sealed)
	if err == nil {
		err = err2
	}
	h.answer(w, err, func() {
		w.Header().Set("Keytide-Heartbeat", string(proof))
		w.WriteHeader(http.StatusNotModified)
	})
}

func (h *Hub) answer(w http.ResponseWriter, err error, write func()) {
	if err != nil {
		h.config.Logger.Error("sealing a poll", "err", err)
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	write()
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
