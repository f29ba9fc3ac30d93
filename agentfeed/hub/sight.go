package hub

import (
	"net/netip"

	"github.com/keytide/keytide/keystore"
)

// A Sight is a request that was admitted, or a stream that is open: an agent that has
// proved a secret of its host.
type Sight struct {
	Host     string
	Instance [8]byte      // the copy of the secret, as the agent says; zero: it says none
	KID      keystore.KID // of the secret
	Keeps    bool         // it can keep a new one
	From     netip.Addr   // zero: not known
}

func (g *grant) sight() Sight {
	return Sight{Host: g.host, Instance: g.instance, KID: g.kid, Keeps: g.keeps, From: g.from}
}

func (h *Hub) see(g *grant) {
	if h.config.Seen != nil {
		h.config.Seen(g.sight())
	}
}

// Sights lists the streams that are open, and polls that wait, in no order.
func (h *Hub) Sights() []Sight {
	sights := make([]Sight, 0, h.agents.Load())
	h.slots.each(func(s *stream) { sights = append(sights, s.grant.sight()) })
	return sights
}

// within is the time over which agents that have kept a new secret come back with it:
// a hundred a second of all that are here, so that a rollover of all secrets is no
// storm.
func (h *Hub) within() int64 { return min(1+h.agents.Load()/100, 60) }
