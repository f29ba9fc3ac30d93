package hub

import (
	"crypto/rand"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keytide/keytide/agentfeed/internal/wire"
	"github.com/keytide/keytide/keystore"
)

// freshWithin is how old the source's proof may be for the hub to count itself up
// to date: a replica is fresh while its beacon is under 4 s old.
const freshWithin = 5 * time.Second

// A grant is a request that has been admitted: who asks, and under which secret
// its answers are sealed.
type grant struct {
	host   string // as the request says; proved once the request is admitted
	kid    keystore.KID
	secret keystore.Material
	nonce  wire.Nonce
	// replayable: the nonce may have been used before. What is answered tells whoever
	// repeats the request nothing, and changes nothing.
	replayable bool
	body       string // SHA-256 of a body that the MAC covers, in hexadecimal; empty: it covers none

	instance [8]byte    // the copy of the secret; zero: not said
	keeps    bool       // it can keep a new secret
	from     netip.Addr // where the request came from
}

func randomMaterial() (keystore.Material, error) {
	b := make([]byte, keystore.MaterialSize)
	rand.Read(b) // never fails: crypto/rand ends the program instead
	return keystore.NewMaterial(b)
}

// admit authenticates a request, or says why not. The grant names the host as
// soon as the header could be read, for the log.
func (h *Hub) admit(r *http.Request) (*grant, *wire.Problem) {
	g := new(grant)
	return g, h.admitAs(r, g)
}

// admitAs fills in g.
func (h *Hub) admitAs(r *http.Request, g *grant) *wire.Problem {
	select {
	case <-h.closing:
		return problem(wire.Draining)
	default:
	}
	if !speaks(r, 1) {
		p := problem(wire.UnsupportedVersion)
		p.Supported = []int{1}
		return p
	}
	var header string
	if values := r.Header.Values("Authorization"); len(values) == 1 {
		header = values[0]
	}
	a, err := wire.ParseAuthorization(header)
	if err != nil {
		p := problem(wire.AuthRequired)
		p.Detail = err.Error()
		return p
	}
	g.host, g.kid, g.nonce, g.keeps, g.from = a.Host, a.KID, a.Nonce, a.Keeps, addressFrom(r)
	if a.Instance != "" {
		g.instance, _ = wire.ParseInstance(a.Instance) // checked when the header was read
	}
	a.Body = g.body
	return h.authenticate(r, a, g)
}

// authenticate checks a header that could be read. Nothing that it answers before
// the MAC has been checked depends on whether the host exists.
func (h *Hub) authenticate(r *http.Request, a *wire.Authorization, g *grant) *wire.Problem {
	host, known := h.config.Source.Host(a.Host)
	i := -1
	if known {
		i = slices.IndexFunc(host.Secrets, func(s Secret) bool { return s.KID == a.KID })
	}
	g.secret = h.dummy
	if i >= 0 {
		g.secret = host.Secrets[i].Material
	}
	if proved := a.Verify(g.secret, r.Method, r.RequestURI); !proved || i < 0 {
		if !h.fresh() {
			return problem(wire.NotCurrent)
		}
		return problem(wire.BadMAC)
	}
	now := h.now()
	if skew := now.Sub(time.Unix(a.Time, 0)); skew.Abs() > wire.Window {
		p := problem(wire.ClockSkew)
		p.Now = &now
		return p
	}
	if !g.replayable {
		switch h.nonces.use(a.Host, a.Nonce, now) {
		case nonceUsed:
			return problem(wire.Replayed)
		case nonceFull:
			return problem(wire.TooManyRequests)
		}
	}
	return standing(host, a.KID)
}

// standing says what is against a host that has proved a secret with this id.
func standing(host Host, kid keystore.KID) *wire.Problem {
	if host.Revoked {
		return problem(wire.HostRevoked)
	}
	var valid []string
	for _, s := range host.Secrets {
		if s.Retired && (s.KID != kid || !time.Now().Before(s.Until)) {
			continue
		}
		if s.KID == kid {
			return nil
		}
		valid = append(valid, s.KID.String())
	}
	p := problem(wire.SecretRetired)
	p.KIDs = valid
	return p
}

func (h *Hub) fresh() bool {
	return time.Since(h.config.Source.AsOf()) < freshWithin
}

// speaks reports whether the client can do with this major version of the feed.
func speaks(r *http.Request, version int) bool {
	header := r.Header.Get("Keytide-Feed-Accept")
	if header == "" {
		return true
	}
	for v := range strings.SplitSeq(header, ",") {
		if strings.TrimSpace(v) == strconv.Itoa(version) {
			return true
		}
	}
	return false
}

// accepts reports whether the client asks for this media type by name.
func accepts(r *http.Request, media string) bool {
	for _, header := range r.Header.Values("Accept") {
		for part := range strings.SplitSeq(header, ",") {
			name, _, _ := strings.Cut(part, ";")
			if strings.EqualFold(strings.TrimSpace(name), media) {
				return true
			}
		}
	}
	return false
}
