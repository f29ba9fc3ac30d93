package wire

import "time"

// Targets and events of the requests about session tickets.
const (
	SealTickets = "/v1/tickets/seal"
	OpenTickets = "/v1/tickets/open"

	EventSeal    = "tickets-seal"
	EventOpen    = "tickets-open"
	EventTickets = "tickets" // the answer to both

	// MaxTickets is the most tickets that one request may be about.
	MaxTickets = 64
	// MaxTicketBody is the most bytes that the body of such a request may have.
	MaxTicketBody = 512 << 10
)

// A Sealing asks for tickets: one for each payload.
type Sealing struct {
	Ring     string   `json:"ring"`
	MaxAge   int64    `json:"max_age,omitempty"` // seconds; 0: as long as the ring's sessions
	Payloads [][]byte `json:"payloads"`
}

// An Opening asks for the contents of tickets.
type Opening struct {
	Ring    string   `json:"ring"`
	Tickets []string `json:"tickets"`
}

// Tickets answers a Sealing (Sealed) or an Opening (Opened), in the order that was
// asked for.
type Tickets struct {
	Sealed []string `json:"sealed,omitempty"`
	Opened []Opened `json:"opened,omitempty"`
}

// Opened is what a ticket holds, or why there is nothing to tell.
type Opened struct {
	Host    string    `json:"host,omitempty"` // that had it sealed
	Issued  time.Time `json:"issued_at,omitzero"`
	Expires time.Time `json:"expires_at,omitzero"`
	Payload []byte    `json:"payload,omitempty"`
	Error   string    `json:"error,omitempty"` // "invalid" or "expired"
}
