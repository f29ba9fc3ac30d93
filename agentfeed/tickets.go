package agentfeed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/keytide/keytide/agentfeed/internal/wire"
	"github.com/keytide/keytide/keystore"
)

// MaxTickets is the most session tickets that one call may be about.
const MaxTickets = wire.MaxTickets

const ticketTimeout = 10 * time.Second // of one request to one server

var (
	// ErrTicket: not a session ticket of the ring, or one that was changed.
	ErrTicket = errors.New("agentfeed: not a valid session ticket")
	// ErrTicketExpired: a good session ticket whose age is over.
	ErrTicketExpired = errors.New("agentfeed: the session ticket has expired")
)

// A Ticket is what a session ticket holds.
type Ticket struct {
	Payload []byte
	Host    string    // the trusted host that had it sealed, by the policy server's word
	Issued  time.Time // by the policy server's clock
	Expires time.Time
	Err     error // ErrTicket or ErrTicketExpired; nil: all of the above is good
}

// SealTickets has a policy server seal payloads under the ring's session ticket key,
// which no agent has: one ticket for each, in their order, at most MaxTickets. The
// tickets are good for maxAge, at most the ring's max_session, and if that is 0, for
// as long.
//
// Unlike sealing a cookie this asks a server each time, one after the other until one
// answers. The host needs the right to seal tickets. The error is a *ProblemError if a
// server refused it.
func (r *Ring) SealTickets(ctx context.Context, maxAge time.Duration, payloads ...[]byte) ([]string, error) {
	if maxAge < 0 || maxAge > 0 && maxAge < time.Second {
		return nil, fmt.Errorf("agentfeed: tickets of %v: want 0, or a second or more", maxAge)
	}
	var answer wire.Tickets
	ask := wire.Sealing{Ring: string(r.name), MaxAge: int64(maxAge / time.Second), Payloads: payloads}
	err := r.client.askTickets(ctx, wire.SealTickets, wire.EventSeal, ask, &answer)
	if err == nil && len(answer.Sealed) != len(payloads) {
		err = fmt.Errorf("agentfeed: %d tickets for %d payloads", len(answer.Sealed), len(payloads))
	}
	return answer.Sealed, err
}

// OpenTickets has a policy server open session tickets of the ring, at most
// MaxTickets, and gives what each holds, in their order. The host needs the right to
// open tickets. The error is as for SealTickets.
func (r *Ring) OpenTickets(ctx context.Context, tickets ...string) ([]Ticket, error) {
	var answer wire.Tickets
	ask := wire.Opening{Ring: string(r.name), Tickets: tickets}
	err := r.client.askTickets(ctx, wire.OpenTickets, wire.EventOpen, ask, &answer)
	if err != nil {
		return nil, err
	}
	if len(answer.Opened) != len(tickets) {
		return nil, fmt.Errorf("agentfeed: %d answers for %d tickets", len(answer.Opened), len(tickets))
	}
	opened := make([]Ticket, len(tickets))
	for i, o := range answer.Opened {
		switch o.Error {
		case "":
			opened[i] = Ticket{Payload: o.Payload, Host: o.Host, Issued: o.Issued, Expires: o.Expires}
		case "expired":
			opened[i] = Ticket{Err: ErrTicketExpired}
		default:
			opened[i] = Ticket{Err: ErrTicket}
		}
	}
	return opened, nil
}

// askTickets asks the server that feeds, then the others, until one answers for good.
func (c *Client) askTickets(ctx context.Context, target, event string, ask any, answer *wire.Tickets) error {
	servers, ca := c.known()
	if at := c.Status().URL; at != "" {
		servers = append([]string{at}, servers...)
	}
	client := c.ticketClient(ca)
	var last error
	tried := make(map[string]bool)
	for _, url := range servers {
		if tried[url] {
			continue
		}
		tried[url] = true
		call := post{client: c, http: client, url: url, target: target, limit: ticketTimeout, most: 2 * wire.MaxTicketBody}
		text, err := call.do(ctx, func(secret keystore.Material, nonce wire.Nonce) ([]byte, error) {
			return sealAsk(secret, c.host.Host, nonce, event, ask)
		})
		if err == nil {
			err = call.unseal(text, answer)
		}
		var p *ProblemError
		if err == nil || ctx.Err() != nil || errors.As(err, &p) && p.Status < http.StatusInternalServerError && p.Status != http.StatusTooManyRequests {
			return err
		}
		last = err
	}
	return last
}

// A ticketHTTP is what requests about tickets go through.
type ticketHTTP struct {
	mu   sync.Mutex // guards the fields below
	http *http.Client
	ca   string // the bundle that it trusts besides the host file's
}

func (t *ticketHTTP) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.http != nil {
		t.http.CloseIdleConnections()
	}
}

// ticketClient makes the HTTP client anew when the CA bundle has changed.
func (c *Client) ticketClient(ca string) *http.Client {
	c.tickets.mu.Lock()
	defer c.tickets.mu.Unlock()
	if c.tickets.http == nil || c.tickets.ca != ca {
		if c.tickets.http != nil {
			c.tickets.http.CloseIdleConnections()
		}
		c.tickets.http, c.tickets.ca = c.httpClient(ca), ca
	}
	return c.tickets.http
}

// unseal opens the answer, which only the server that has the secret can have made,
// for this request alone.
func (p *post) unseal(text []byte, answer *wire.Tickets) error {
	var e wire.Envelope
	if json.Unmarshal(text, &e) != nil {
		return fmt.Errorf("%s: its envelope cannot be read", p.url)
	}
	server, err := wire.ParseNonce(e.SN)
	if err != nil {
		return fmt.Errorf("%s: server nonce: %w", p.url, err)
	}
	channel, err := wire.NewChannel(p.secret, p.client.host.Host, p.nonce, server)
	if err != nil {
		return err
	}
	return channel.Open(wire.EventTickets, e, answer)
}

func sealAsk(secret keystore.Material, host string, nonce wire.Nonce, event string, ask any) ([]byte, error) {
	channel, err := wire.NewChannel(secret, host, nonce, wire.Nonce{})
	if err != nil {
		return nil, err
	}
	e, err := channel.Seal(event, "", ask)
	if err != nil {
		return nil, err
	}
	return json.Marshal(e)
}
