package wire

import (
	"net/http"
	"time"
)

// ProblemPrefix begins the type of every problem.
const ProblemPrefix = "urn:keytide:problem:"

// A Problem is an RFC 9457 problem of the feed.
type Problem struct {
	Type      string     `json:"type"`
	Title     string     `json:"title"`
	Status    int        `json:"status"`
	Detail    string     `json:"detail,omitempty"`
	Now       *time.Time `json:"now,omitempty"`       // clock-skew: the server's time
	KIDs      []string   `json:"kids,omitempty"`      // secret-retired: the valid ones
	Supported []int      `json:"supported,omitempty"` // unsupported-version

	RetryAfter time.Duration `json:"-"` // header Retry-After, whole seconds; 0: none
}

// The names of problems.
const (
	AuthRequired       = "auth-required"
	BadMAC             = "bad-mac"
	ClockSkew          = "clock-skew"
	SecretRetired      = "secret-retired"
	HostRevoked        = "host-revoked"
	UnsupportedVersion = "unsupported-version"
	Replayed           = "replayed"
	TooManyStreams     = "too-many-streams"
	TooManyRequests    = "too-many-requests"
	NotCurrent         = "not-current"
	NoState            = "no-state"
	Draining           = "draining"
	TicketsRefused     = "tickets-refused"
	TooManyTickets     = "too-many-tickets"

	BadRequest          = "bad-request"
	BadToken            = "bad-token"
	RegistrationRefused = "registration-refused"
	HostExists          = "host-exists"
)

// problems is the one table of the feed's problems.
var problems = map[string]Problem{
	AuthRequired:        {Title: "authentication required", Status: http.StatusUnauthorized},
	BadMAC:              {Title: "authentication refused", Status: http.StatusUnauthorized, Detail: "no such host, secret or request"},
	ClockSkew:           {Title: "the agent's clock is off", Status: http.StatusUnauthorized, Detail: "ts is more than 300 s from the server's time"},
	SecretRetired:       {Title: "the shared secret is retired", Status: http.StatusUnauthorized, Detail: "use one of kids"},
	HostRevoked:         {Title: "the trusted host is revoked", Status: http.StatusForbidden},
	UnsupportedVersion:  {Title: "no common version of the feed", Status: http.StatusNotAcceptable},
	Replayed:            {Title: "the nonce was used before", Status: http.StatusConflict},
	TooManyStreams:      {Title: "too many streams of this host", Status: http.StatusTooManyRequests, RetryAfter: 10 * time.Second},
	TooManyRequests:     {Title: "too many requests", Status: http.StatusTooManyRequests, RetryAfter: 60 * time.Second},
	NotCurrent:          {Title: "the server is not up to date", Status: http.StatusServiceUnavailable, RetryAfter: 2 * time.Second},
	NoState:             {Title: "the server holds no state yet", Status: http.StatusServiceUnavailable, RetryAfter: time.Second},
	BadRequest:          {Title: "the request cannot be read", Status: http.StatusBadRequest},
	BadToken:            {Title: "registration refused", Status: http.StatusUnauthorized, Detail: "no such token or signature"},
	RegistrationRefused: {Title: "the token does not register this host", Status: http.StatusForbidden},
	HostExists:          {Title: "the host is registered already", Status: http.StatusConflict},

	TicketsRefused: {Title: "no right to session tickets of this ring", Status: http.StatusForbidden},
	TooManyTickets: {Title: "too many session tickets", Status: http.StatusTooManyRequests, RetryAfter: time.Second},
	Draining:       {Title: "the server is shutting down", Status: http.StatusServiceUnavailable, RetryAfter: 2 * time.Second},
}

// NewProblem gives the problem of that name.
func NewProblem(name string) Problem {
	p := problems[name]
	p.Type = ProblemPrefix + name
	return p
}
