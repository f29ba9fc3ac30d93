// Package hub is the policy server's end of the agent feed: it authenticates
// trusted hosts and delivers their rings to them, sealed for each.
//
// What agents get is always the whole newest state. There is no queue: a stream
// whose agent is slow skips the states between, never the latest, and one whose
// agent takes nothing for 10 s is cut. Nothing is read from a store for a request.
// An idle agent costs a socket and no goroutine.
//
// The package knows neither the ledger nor the bus: a Source gives it the state.
// The bytes are in agentfeed/SPEC.md, the reasons in DESIGN.md.
package hub

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keytide/keytide/agentfeed/internal/wire"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/ticket"
)

// A Source is what a hub delivers. All methods are safe for concurrent use and
// return at once, from memory.
type Source interface {
	// Watch returns the newest state, nil while there is none, and a channel that
	// is closed when it is no longer the newest. A change of a host is a new state
	// too; Host must by then give that host as it is in the state.
	Watch() (*State, <-chan struct{})
	// AsOf is when the source last knew that its state was current.
	AsOf() time.Time
	// Host returns the trusted host of that name. One that is revoked should still
	// be given, with its secrets, so that it can be told.
	Host(name string) (Host, bool)
}

// A State is all that there is to deliver. It is immutable, and so is what it
// points to; a ring that did not change keeps its pointer.
type State struct {
	V       string // the position "<keys epoch>.<keys n>-<hosts epoch>.<hosts n>"
	Rings   map[keystore.RingName]*keystore.KeySet
	Servers []string // base URLs of the feed, such as https://ps-1:7443
	Regions []string // of Servers, in their order; or none
	CA      []byte   // PEM certificates that agents shall trust; may be empty
}

// A Host is a trusted host and what it may have.
type Host struct {
	Name    string
	Rings   []keystore.RingName
	Secrets []Secret
	Revoked bool
	Tickets ticket.Right // to session tickets of its rings

	// Offer is the secret that the host's agents shall keep and then use; nil: none.
	Offer *Secret
}

// A Secret is a shared secret of a host.
type Secret struct {
	KID      keystore.KID
	Material keystore.Material
	Retired  bool // no longer admits; who shows it is told which ones do
	// Until is when a retired secret stops to admit: an agent that this server has fed
	// meanwhile, cut off from the others, can still take the new one.
	Until time.Time
}

// Config says what a Hub delivers and how. Fields left zero get their default.
type Config struct {
	Source Source // required
	Server string // this policy server's id; required

	// Heartbeat is the time between two proofs of freshness on an idle stream. If
	// zero, 15 seconds. Longer makes agents notice a dead server later; beyond
	// 24 s a healthy agent may call itself stale between two.
	Heartbeat time.Duration

	// StaleAfter is how long an agent counts itself fresh without proof, in whole
	// seconds. If zero, 60 seconds.
	StaleAfter time.Duration

	// MaxStale is how long an agent without proof may seal with the keys it has, in
	// whole seconds. If zero, for ever: agents go on when all servers are gone. When
	// it is over they open, but no longer seal. It must not be less than StaleAfter;
	// less than it takes to mend a store makes an outage one of the applications.
	MaxStale time.Duration

	// MaxStreams is how many streams, and polls that wait, one host may have at a
	// time. If zero, 100: a host's applications may each have their own. Too many let one host use up
	// the server's file descriptors.
	MaxStreams int

	// ClockOffset is added to this machine's clock. It is for tests of agents; a
	// server whose clock is off should have its clock set.
	ClockOffset time.Duration

	// Tickets gives the session ticket keys of a ring. If nil, the hub seals and opens
	// no session tickets.
	Tickets func(keystore.RingName) (TicketKeys, error)

	// Seen is told of each request that was admitted. It must return at once. If nil,
	// nobody is.
	Seen func(Sight)

	Logger *slog.Logger // if nil, nothing is logged
}

func (c *Config) fill() error {
	if c.Source == nil || c.Server == "" {
		return errors.New("hub: Source and Server are required")
	}
	if c.Heartbeat < 0 || c.StaleAfter < 0 || c.MaxStale < 0 || c.MaxStreams < 0 {
		return errors.New("hub: Heartbeat, StaleAfter, MaxStale and MaxStreams must not be negative")
	}
	if c.Heartbeat == 0 {
		c.Heartbeat = 15 * time.Second
	}
	if c.StaleAfter == 0 {
		c.StaleAfter = 60 * time.Second
	}
	if c.MaxStale > 0 && c.MaxStale < c.StaleAfter {
		return errors.New("hub: MaxStale must not be less than StaleAfter")
	}
	if c.MaxStreams == 0 {
		c.MaxStreams = 100
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// A Hub serves GET /v1/feed, POST /v1/feed/status, POST /v1/tickets/seal and open, GET /v1/feed/time and /healthz. It needs an
// http.Server without WriteTimeout: it sets a deadline for each write itself.
// Streams over HTTP/1.1 are taken out of that server's hands: Close ends them, and
// the server's own Close and Shutdown do not.
type Hub struct {
	config   Config
	dummy    keystore.Material // stands in for the secret of a host that is not known
	nonces   *nonces
	tickets  tickets
	failures *failures
	log      limitedLog
	slots    slots
	reports  reports
	agents   atomic.Int64 // in slots

	closing chan struct{}  // closed by Close
	wake    chan struct{}  // tells dispatch that a slot was left
	serving sync.WaitGroup // streams, polls that wait, and the goroutines that serve them

	mu          sync.Mutex // guards the fields below
	closed      bool
	dispatching bool // a goroutine runs dispatch

	looking sync.Mutex // guards the fields below
	seen    *State     // the newest that look has found
	turn    uint64     // of it
}

// New makes a Hub. It starts nothing.
func New(c Config) (*Hub, error) {
	if err := c.fill(); err != nil {
		return nil, err
	}
	dummy, err := randomMaterial()
	if err != nil {
		return nil, err
	}
	return &Hub{
		config:   c,
		dummy:    dummy,
		nonces:   newNonces(),
		failures: newFailures(),
		log:      limitedLog{out: c.Logger},
		slots:    newSlots(),
		closing:  make(chan struct{}),
		wake:     make(chan struct{}, 1),
	}, nil
}

// Close tells all agents to go to another server, and waits until their streams
// have ended. When ctx ends first it cuts those that are left and returns the error
// of ctx. Requests that come later are refused.
func (h *Hub) Close(ctx context.Context) error {
	h.mu.Lock()
	if !h.closed {
		h.closed = true
		close(h.closing)
	}
	h.mu.Unlock()
	done := make(chan struct{})
	go func() { // ends with the last stream: a write of one lasts 10 s at most
		h.serving.Wait()
		close(done)
	}()
	if ctx.Err() == nil {
		select {
		case <-done:
			return nil
		case <-ctx.Done():
		}
	}
	h.slots.each(func(s *stream) { s.end(ctx.Err()) })
	return ctx.Err()
}

func (h *Hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store, no-transform")
	http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout)) // of an answer that is given at once
	switch {
	case r.URL.Path == "/v1/feed" && r.Method == http.MethodGet:
		h.serveFeed(w, r)
	case (r.URL.Path == wire.SealTickets || r.URL.Path == wire.OpenTickets) && r.Method == http.MethodPost:
		h.serveTickets(w, r)
	case r.URL.Path == wire.ReportTarget && r.Method == http.MethodPost:
		h.serveReport(w, r)
	case r.URL.Path == "/v1/feed/time" && isRead(r):
		writeJSON(w, http.StatusOK, "application/json", map[string]any{"now": h.now(), "versions": []int{1}})
	case r.URL.Path == "/healthz" && isRead(r):
		w.Write([]byte("ok\n"))
	case r.URL.Path == wire.ReportTarget:
		w.Header().Set("Allow", "POST")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
	case r.URL.Path == "/v1/feed", r.URL.Path == "/v1/feed/time", r.URL.Path == "/healthz":
		w.Header().Set("Allow", "GET")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
	default:
		http.NotFound(w, r)
	}
}

func isRead(r *http.Request) bool {
	return r.Method == http.MethodGet || r.Method == http.MethodHead
}

// now is the time as the feed writes it.
func (h *Hub) now() time.Time {
	return time.Now().Add(h.config.ClockOffset).UTC().Round(time.Millisecond)
}

// asOf is when the source last knew that its state was current, never later than
// now, by the same clock.
func (h *Hub) asOf() time.Time {
	asOf := h.config.Source.AsOf().Add(h.config.ClockOffset).UTC()
	if now := h.now(); asOf.After(now) {
		return now
	}
	return asOf
}

// serveFeed admits a request and streams to it or answers it once.
func (h *Hub) serveFeed(w http.ResponseWriter, r *http.Request) {
	received := h.now()
	g, problem := h.admit(r)
	if problem != nil {
		h.turnAway(w, r, g, *problem)
		return
	}
	prove(r)
	h.see(g)
	if accepts(r, "text/event-stream") {
		h.serveStream(w, r, g)
		return
	}
	h.servePoll(w, r, g, received)
}

// turnAway refuses a request that was not admitted.
func (h *Hub) turnAway(w http.ResponseWriter, r *http.Request, g *grant, p wire.Problem) {
	if strange(p) && h.failures.note(addressOf(r), time.Now()) {
		p = *problem(wire.TooManyRequests)
		w.Header().Set("Connection", "close")
	}
	h.refuse(w, r, g, p)
}

// refuse answers with a problem, and logs it when a person may want to know.
func (h *Hub) refuse(w http.ResponseWriter, r *http.Request, g *grant, p wire.Problem) {
	h.log.refused(r, g, p)
	writeProblem(w, p)
}

func writeJSON(w http.ResponseWriter, status int, contentType string, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	w.Write(append(body, '\n'))
}
