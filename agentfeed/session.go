package agentfeed

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"

	"github.com/keytide/keytide/agentfeed/internal/wire"
	"github.com/keytide/keytide/keystore"
)

const (
	feedTarget    = "/v1/feed"
	headTimeout   = 10 * time.Second // until the head of the response
	helloTimeout  = 5 * time.Second  // from there until hello
	sealedTimeout = 10 * time.Second // from there until a message that opens
	maxProblem    = 64 << 10         // bytes
)

var (
	errSilent = errors.New("the server is silent")
	errBye    = errors.New("the server is shutting down")
	errMoved  = errors.New("another server knows of a later time that the rings were current")
	errProbe  = errors.New("it is time to see whether a stream gets through")
	errRenew  = errors.New("a new shared secret is in use")
	errCut    = errors.New("the answer was cut off")
)

// A session is one attempt to be fed by one server, by a stream or by polls.
type session struct {
	follower *follower
	client   *Client
	http     *http.Client
	server   *server
	outcome  outcome

	secret    keystore.Material // of the last request
	end       context.CancelCauseFunc
	nonce     wire.Nonce
	sent      time.Time   // when the last request was
	connected atomic.Bool // it had a connection
	watchdog  *time.Timer
	head      time.Duration // within which the head of an answer must come
	hello     wire.Hello
	channel   *wire.Channel
	first     time.Time // when the first message opened
	issued    time.Time // what the server's clock said at, or after, sent
	beats     int       // heartbeats that came
	asOf      time.Time // in the answer to a poll: what it proved, on this machine's clock
}

// run is fed until that ends. It always returns an error.
func (s *session) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	// A stale server is left later by some agents than by others.
	patience := between(0, maxBackoff, s.follower.random)
	scouting := s.scout(ctx, cancel, patience)
	defer func() { <-scouting }()
	defer cancel(nil)
	s.end = cancel
	s.client.keys.prepare()
	s.head, s.watchdog = headTimeout, time.AfterFunc(headTimeout, func() { cancel(errSilent) })
	defer s.watchdog.Stop()
	streams := s.server.transport(time.Now()) == TransportStream
	var err error
	if streams {
		err = s.ask(ctx, func(h http.Header) { h.Set("Accept", "text/event-stream") }, s.read)
	} else {
		err = s.polls(ctx)
	}
	if s.outcome.delivered {
		s.outcome.lived = time.Since(s.first)
	}
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errSilent):
		err = fmt.Errorf("%s: %w", s.server.url, errSilent)
	case errors.Is(cause, errMoved), errors.Is(cause, errHome):
		return cause
	case errors.Is(cause, errRenew):
		s.outcome.again = true
		return errRenew
	}
	if refusesSecret(err) && s.client.keys.refused(s.client.kidOf(s.secret)) {
		s.outcome.again = true
	}
	if streams {
		s.learn(err)
	}
	return err
}

// ask sends a request and has the answer read; once more, if the server says by how
// much the clock is off.
func (s *session) ask(ctx context.Context, edit func(http.Header), read func(*http.Response) error) error {
	for attempt := 0; ; attempt++ {
		s.channel = nil
		response, err := s.request(ctx, edit)
		if err != nil && s.connected.Load() {
			return fmt.Errorf("%w: %w", errCut, err)
		}
		if err != nil {
			return err
		}
		err = read(response)
		response.Body.Close()
		var p *ProblemError
		if attempt > 0 || !errors.As(err, &p) || p.Name != wire.ClockSkew || p.now == nil || s.channel != nil {
			return err
		}
		s.outcome.refused = false
		s.server.offset = time.Until(*p.now)
		s.client.log.Warn("this machine's clock is off; using the policy server's", "url", s.server.url, "off_by", -s.server.offset.Round(time.Second))
		s.watchdog.Reset(s.head)
	}
}

func (s *session) request(ctx context.Context, edit func(http.Header)) (*http.Response, error) {
	s.connected.Store(false)
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { s.connected.Store(true) }})
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.server.url+feedTarget, nil)
	if err != nil {
		return nil, err
	}
	s.nonce = wire.NewNonce()
	s.sent = time.Now()
	s.secret = s.client.keys.inUse()
	a := wire.Authorization{Host: s.client.host.Host, KID: s.client.kidOf(s.secret), Nonce: s.nonce,
		Time: s.sent.Add(s.server.offset).Unix(), Applied: s.client.applied()}
	a.Instance, a.Keeps = s.client.keys.identity()
	if err := a.Sign(s.secret, http.MethodGet, feedTarget); err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", a.String())
	request.Header.Set("Keytide-Feed-Accept", "1")
	request.Header.Set("User-Agent", "keytide-agentfeed")
	edit(request.Header)
	return s.http.Do(request)
}

// kidOf is the id of a secret, which a configuration may give the first one itself.
func (c *Client) kidOf(secret keystore.Material) keystore.KID {
	if kid := secret.KID(); kid != c.host.Secret.KID() {
		return kid
	}
	return c.host.KID
}

// renew keeps a new secret that the server has offered, and has a stream taken up
// anew with it, after a while that spreads the agents of many hosts.
func (s *session) renew(offered *wire.NewSecret, stream bool) {
	if offered == nil || offered.K.IsZero() || offered.K.KID() != offered.KID {
		return
	}
	renewed, err := s.client.keys.take(offered.K.Material, s.secret)
	if err != nil {
		return // it is logged, and the next request says that none can be kept
	}
	if renewed && stream {
		within := time.Duration(min(max(offered.Within, 1), 3600)) * time.Second
		time.AfterFunc(between(0, within, s.follower.random), func() { s.end(errRenew) })
	}
}

// applied is the position held, "" when there is none.
func (c *Client) applied() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ready {
		return ""
	}
	return c.position.String()
}

// delivered notes the first message that opened.
func (s *session) delivered(transport Transport, position string) {
	if s.outcome.delivered {
		return
	}
	s.first = time.Now()
	s.outcome.delivered = true
	s.follower.lost = ""
	s.client.log.Info("feed connected", "server", s.hello.Server, "url", s.server.url, "transport", transport, "position", position)
}

// local gives the instant on this machine's monotonic clock before which the
// server's clock cannot have said asOf: see "Age" in SPEC.md, section 4.
func (s *session) local(asOf time.Time) time.Time {
	const year = 365 * 24 * time.Hour
	return s.sent.Add(min(max(asOf.Sub(s.issued), -year), year))
}

// problem reads an answer that brings no message.
func (s *session) problem(response *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(response.Body, maxProblem))
	if err != nil {
		return fmt.Errorf("%s: %w", s.server.url, err)
	}
	e, wait := readProblem(s.server.url, response, body)
	if wait > 0 {
		s.outcome.asked = wait
	}
	s.outcome.refused = e.Refused()
	return e
}
