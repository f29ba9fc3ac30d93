package server

import (
	"github.com/keytide/keytide/agentfeed/hub"
	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
)

// ticketKeys gives the hub a ring's session ticket keys, as the replica has them: the
// one that seals, the former ones, and the pending one, which opens already. Opened
// material is kept, so that a ticket costs no unwrapping.
func (s *source) ticketKeys(name keystore.RingName) (hub.TicketKeys, error) {
	var ring keystore.Ring
	var err error
	s.keys.Replica().Read(func(state *events.State) { ring, err = ringOf(state, name) })
	if err != nil {
		return hub.TicketKeys{}, err
	}
	keys := hub.TicketKeys{Keys: make(map[keystore.KID]keystore.Material), MaxAge: ring.Policy.MaxSession}
	for _, k := range ring.ByRole(keystore.SessionTicket) {
		m, err := s.vault.open(s.keys.Replica(), ringOwner(name), k.KID)
		if err != nil {
			return hub.TicketKeys{}, err
		}
		keys.Keys[k.KID] = m
		if !k.Pending && k.Retired == 0 {
			keys.Seals = k.KID
		}
	}
	return keys, nil
}
