package hub

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/keytide/keytide/agentfeed/internal/wire"
	"github.com/keytide/keytide/keystore"
)

// Errors of a Registrar beside which every other means that the server cannot do it
// now, and the agent may try again.
var (
	ErrRegistrationRefused = errors.New("registration refused") // its text is shown to the agent
	ErrHostTaken           = errors.New("the host is registered already")
)

// A Registrar registers hosts by token. All methods are safe for concurrent use.
type Registrar interface {
	// Token returns the public key of a registration token, revoked ones included.
	Token(id keystore.KID) (public [ed25519.PublicKeySize]byte, ok bool)
	// Register registers a host, durably, and returns its secret: for a registration
	// that was made before the same one, whatever server made it.
	Register(ctx context.Context, r Registration) (Registered, error)
	// Fresh reports whether the server knows all tokens that there are.
	Fresh() bool
}

// A Registration is a request that the holder of a token has signed.
type Registration struct {
	Token keystore.KID
	Host  string
	ID    [32]byte // of the agent's own id for it
	From  netip.Addr
}

// Registered is what the agent gets.
type Registered struct {
	Secret  keystore.Material
	Rings   []keystore.RingName
	Servers []string
	Regions []string // of Servers, in their order; or none
	CA      []byte
}

// NewRegisterHandler serves POST /v1/register (agentfeed/SPEC.md, section 10).
func NewRegisterHandler(r Registrar, log *slog.Logger) http.Handler {
	h := &registerHandler{registrar: r, log: limitedLog{out: log}, out: log, strikes: strikes{count: make(map[netip.Prefix]int)}}
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic("hub: " + err.Error()) // crypto/rand does not fail
	}
	h.dummy = [ed25519.PublicKeySize]byte(public)
	return h
}

type registerHandler struct {
	registrar Registrar
	log       limitedLog
	out       *slog.Logger
	dummy     [ed25519.PublicKeySize]byte // stands in for the key of a token that is not known
	strikes   strikes
}

func (h *registerHandler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store, no-transform")
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", "POST")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	from := addressFrom(r)
	if h.strikes.out(from, time.Now()) {
		h.refuse(w, r, nil, *problem(wire.TooManyRequests))
		return
	}
	request, p := h.read(r)
	if p == nil {
		p = h.verify(request)
	}
	if p != nil {
		h.strikes.add(from)
		h.refuse(w, r, &grant{host: request.Host, kid: request.Token}, *p)
		return
	}
	given, err := h.registrar.Register(r.Context(), Registration{Token: request.Token, Host: request.Host, ID: request.ID(), From: from})
	if err != nil {
		h.refuse(w, r, &grant{host: request.Host, kid: request.Token}, *h.problemOf(err))
		return
	}
	answer, err := request.Answer(wire.Registered{
		Host: request.Host, KID: given.Secret.KID(), Secret: wire.Bytes{Material: given.Secret},
		Rings: given.Rings, Servers: given.Servers, Regions: given.Regions, CA: string(given.CA),
	})
	if err != nil {
		h.out.Error("sealing a registration", "host", request.Host, "err", err)
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	writeJSON(w, http.StatusOK, "application/json", answer)
}

func (h *registerHandler) read(r *http.Request) (wire.Register, *wire.Problem) {
	if media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); media != "application/json" {
		p := problem(wire.BadRequest)
		p.Detail = "want Content-Type: application/json"
		return wire.Register{}, p
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 2<<10))
	if err != nil {
		return wire.Register{}, problem(wire.BadRequest)
	}
	request, err := wire.ParseRegister(body)
	if err != nil {
		p := problem(wire.BadRequest)
		p.Detail = err.Error()
		return wire.Register{}, p
	}
	return request, nil
}

// verify checks the signature. A token that is not known takes the same path as a
// wrong signature, and gets the same answer.
func (h *registerHandler) verify(request wire.Register) *wire.Problem {
	public, known := h.registrar.Token(request.Token)
	if !known {
		public = h.dummy
	}
	if signed := request.Verify(public); signed && known {
		return nil
	}
	if !h.registrar.Fresh() {
		return problem(wire.NotCurrent)
	}
	return problem(wire.BadToken)
}

func (h *registerHandler) problemOf(err error) *wire.Problem {
	switch {
	case errors.Is(err, ErrHostTaken):
		p := problem(wire.HostExists)
		p.Detail = err.Error()
		return p
	case errors.Is(err, ErrRegistrationRefused):
		p := problem(wire.RegistrationRefused)
		p.Detail = strings.TrimPrefix(err.Error(), ErrRegistrationRefused.Error()+": ")
		return p
	}
	h.out.Warn("a registration could not be made now", "err", err)
	return problem(wire.NotCurrent)
}

func (h *registerHandler) refuse(w http.ResponseWriter, r *http.Request, g *grant, p wire.Problem) {
	h.log.refused(r, g, p)
	writeProblem(w, p)
}

// addressFrom is where a request comes from; the zero Addr if that cannot be said.
func addressFrom(r *http.Request) netip.Addr {
	at, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap()
}

const (
	strikeSpan   = time.Minute
	maxStrikes   = 30      // of one address in a span
	maxStrikers  = 1 << 14 // addresses that are told apart in a span; the others count together
	strikeBitsV6 = 64      // what one customer of a provider has at least
)

// strikes counts requests that nobody with a token made, by address. What a token's
// holder asks does not count: thousands of agents may sit behind one address.
type strikes struct {
	mu    sync.Mutex // guards the fields below
	since time.Time  // when the span began
	count map[netip.Prefix]int
}

func (s *strikes) key(from netip.Addr) netip.Prefix {
	bits := strikeBitsV6
	if from.Is4() {
		bits = 32
	}
	network, err := from.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	if _, known := s.count[network]; !known && len(s.count) >= maxStrikers {
		return netip.Prefix{}
	}
	return network
}

func (s *strikes) add(from netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count[s.key(from)]++
}

// out reports whether an address has had too many.
func (s *strikes) out(from netip.Addr, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.since) >= strikeSpan {
		s.since = now
		clear(s.count)
	}
	return s.count[s.key(from)] >= maxStrikes
}
