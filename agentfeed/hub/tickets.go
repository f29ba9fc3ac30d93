package hub

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keytide/keytide/agentfeed/internal/wire"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/ticket"
)

const (
	// ticketRate and ticketBurst are how many tickets a second one host may have sealed
	// and opened here, and how many at once. A ticket costs some 3 µs of one core.
	ticketRate  = 2000
	ticketBurst = 4000
)

// TicketKeys are the session ticket keys of a ring. They never leave the server.
type TicketKeys struct {
	Seals  keystore.KID // the one that seals; the others open
	Keys   map[keystore.KID]keystore.Material
	MaxAge time.Duration // the longest that a ticket may live
}

// TicketCounts is how many tickets there were since the start.
type TicketCounts struct{ Sealed, Opened, Refused uint64 }

// tickets is what a hub remembers for the requests about session tickets.
type tickets struct {
	sealed, opened, refused atomic.Uint64

	mu    sync.Mutex // guards spent
	spent map[string]spent
}

// A spent is how many tickets a host may still ask for, as of a time.
type spent struct {
	left float64
	at   time.Time
}

// TicketCounts counts session tickets: sealed, opened, and those that did not open.
func (h *Hub) TicketCounts() TicketCounts {
	return TicketCounts{h.tickets.sealed.Load(), h.tickets.opened.Load(), h.tickets.refused.Load()}
}

// take lets a host have n tickets, if it has not had too many.
func (t *tickets) take(host string, n int, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.spent == nil {
		t.spent = make(map[string]spent)
	}
	s, ok := t.spent[host]
	if !ok {
		s = spent{left: ticketBurst, at: now}
	}
	s.left = min(ticketBurst, s.left+ticketRate*max(0, now.Sub(s.at).Seconds()))
	s.at = now
	if s.left < float64(n) {
		t.spent[host] = s
		return false
	}
	s.left -= float64(n)
	t.spent[host] = s
	return true
}

// serveTickets seals or opens session tickets for a host that has the right to.
func (h *Hub) serveTickets(w http.ResponseWriter, r *http.Request) {
	g := &grant{replayable: true}
	if p := h.admitAs(r, g); p != nil {
		h.turnAway(w, r, g, *p)
		return
	}
	prove(r)
	answer, p := h.ticketsFor(w, r, g)
	if p != nil {
		h.refuse(w, r, g, *p)
		return
	}
	server := wire.NewNonce()
	channel, err := wire.NewChannel(g.secret, g.host, g.nonce, server)
	if err != nil {
		h.broken(w, err)
		return
	}
	sealed, err := channel.Seal(wire.EventTickets, "", answer)
	if err != nil {
		h.broken(w, err)
		return
	}
	sealed.SN, sealed.Server = server.String(), h.config.Server
	writeJSON(w, http.StatusOK, "application/json", sealed)
}

// ticketsFor reads the request, which is sealed as its answer is, and does it.
func (h *Hub) ticketsFor(w http.ResponseWriter, r *http.Request, g *grant) (wire.Tickets, *wire.Problem) {
	host, ok := h.config.Source.Host(g.host)
	if !ok || h.config.Tickets == nil {
		return wire.Tickets{}, problem(wire.TicketsRefused)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, wire.MaxTicketBody))
	if err != nil {
		return wire.Tickets{}, badRequest("its body cannot be read, or is too long")
	}
	if r.URL.Path == wire.SealTickets {
		var ask wire.Sealing
		if err := openBody(g, wire.EventSeal, body, &ask); err != nil {
			return wire.Tickets{}, badRequest(err.Error())
		}
		return h.sealTickets(host, ask)
	}
	var ask wire.Opening
	if err := openBody(g, wire.EventOpen, body, &ask); err != nil {
		return wire.Tickets{}, badRequest(err.Error())
	}
	return h.openTickets(host, ask)
}

// openBody opens the one message of a request. Its channel has no server nonce.
func openBody(g *grant, event string, body []byte, message any) error {
	var e wire.Envelope
	if json.Unmarshal(body, &e) != nil {
		return errors.New("its body is no envelope")
	}
	channel, err := wire.NewChannel(g.secret, g.host, g.nonce, wire.Nonce{})
	if err != nil {
		return err
	}
	return channel.Open(event, e, message)
}

// ticketKeys gives the keys of a ring for n tickets of a host, or says why not. A
// ring that the host has not, or that is not there, is the same.
func (h *Hub) ticketKeys(host Host, ring string, n int, right ticket.Right) (TicketKeys, *wire.Problem) {
	name := keystore.RingName(ring)
	if host.Tickets < right || !slices.Contains(host.Rings, name) {
		return TicketKeys{}, problem(wire.TicketsRefused)
	}
	if n == 0 || n > wire.MaxTickets {
		return TicketKeys{}, badRequest("want 1 to 64 tickets")
	}
	if !h.tickets.take(host.Name, n, time.Now()) {
		return TicketKeys{}, problem(wire.TooManyTickets)
	}
	keys, err := h.config.Tickets(name)
	if err != nil {
		h.config.Logger.Error("session ticket keys do not open", "ring", ring, "err", err)
		return TicketKeys{}, problem(wire.NoState)
	}
	return keys, nil
}

func (h *Hub) sealTickets(host Host, ask wire.Sealing) (wire.Tickets, *wire.Problem) {
	keys, p := h.ticketKeys(host, ask.Ring, len(ask.Payloads), ticket.MaySeal)
	if p != nil {
		return wire.Tickets{}, p
	}
	age := keys.MaxAge
	if ask.MaxAge < 0 || ask.MaxAge > int64(age/time.Second) {
		return wire.Tickets{}, badRequest("max_age is beyond the ring's max_session")
	}
	if ask.MaxAge > 0 {
		age = time.Duration(ask.MaxAge) * time.Second
	}
	issued := h.now().Truncate(time.Second)
	var answer wire.Tickets
	for _, payload := range ask.Payloads {
		text, err := ticket.Seal(keys.Keys[keys.Seals], keystore.RingName(ask.Ring), ticket.Ticket{
			Host: host.Name, Issued: issued, MaxAge: age, Payload: payload,
		})
		if err != nil {
			return wire.Tickets{}, badRequest(err.Error())
		}
		answer.Sealed = append(answer.Sealed, text)
	}
	h.tickets.sealed.Add(uint64(len(answer.Sealed)))
	return answer, nil
}

func (h *Hub) openTickets(host Host, ask wire.Opening) (wire.Tickets, *wire.Problem) {
	keys, p := h.ticketKeys(host, ask.Ring, len(ask.Tickets), ticket.MayOpen)
	if p != nil {
		return wire.Tickets{}, p
	}
	held := func(kid keystore.KID) (keystore.Material, bool) { m, ok := keys.Keys[kid]; return m, ok }
	var answer wire.Tickets
	for _, text := range ask.Tickets {
		t, err := ticket.Open(text, keystore.RingName(ask.Ring), h.now(), held)
		one := wire.Opened{Host: t.Host, Issued: t.Issued, Payload: t.Payload}
		switch {
		case errors.Is(err, ticket.ErrExpired):
			one = wire.Opened{Error: "expired"}
		case err != nil:
			one = wire.Opened{Error: "invalid"}
		default:
			one.Expires = t.Expires()
			h.tickets.opened.Add(1)
		}
		if err != nil {
			h.tickets.refused.Add(1)
		}
		answer.Opened = append(answer.Opened, one)
	}
	return answer, nil
}
