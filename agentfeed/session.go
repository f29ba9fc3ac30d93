package agentfeed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"time"

	"github.com/keytide/keytide/agentfeed/internal/wire"
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
	errStale  = errors.New("the server is itself not up to date")
	errBye    = errors.New("the server is shutting down")
)

// A session is one attempt to be fed by one server.
type session struct {
	follower *follower
	client   *Client
	base     string // the server's URL
	outcome  outcome

	nonce    wire.Nonce
	sent     time.Time // when the request was
	watchdog *time.Timer
	hello    wire.Hello
	channel  *wire.Channel
	first    time.Time // when the first message opened
	issued   time.Time // what the server's clock said then
	patience time.Duration
}

// run asks, and reads the stream until it ends. It always returns an error.
func (s *session) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.watchdog = time.AfterFunc(headTimeout, func() { cancel(errSilent) })
	defer s.watchdog.Stop()
	err := s.ask(ctx)
	if s.outcome.delivered {
		s.outcome.lived = time.Since(s.first)
	}
	if errors.Is(context.Cause(ctx), errSilent) {
		return fmt.Errorf("%s: %w", s.base, errSilent)
	}
	return err
}

// ask sends the request; once more, if the server says by how much the clock is off.
func (s *session) ask(ctx context.Context) error {
	for attempt := 0; ; attempt++ {
		response, err := s.request(ctx)
		if err != nil {
			return err
		}
		err = s.read(response)
		response.Body.Close()
		var p *ProblemError
		if attempt > 0 || !errors.As(err, &p) || p.Name != wire.ClockSkew || p.now == nil || s.channel != nil {
			return err
		}
		s.outcome.refused = false
		s.follower.offset = time.Until(*p.now)
		s.client.log.Warn("this machine's clock is off; using the policy server's", "off_by", -s.follower.offset.Round(time.Second))
		s.watchdog.Reset(headTimeout)
	}
}

func (s *session) request(ctx context.Context) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base+feedTarget, nil)
	if err != nil {
		return nil, err
	}
	s.nonce = wire.NewNonce()
	s.sent = time.Now()
	a := wire.Authorization{Host: s.client.host.Host, KID: s.client.host.KID, Nonce: s.nonce,
		Time: s.sent.Add(s.follower.offset).Unix(), Applied: s.client.applied()}
	if err := a.Sign(s.client.host.Secret, http.MethodGet, feedTarget); err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", a.String())
	request.Header.Set("Accept", "text/event-stream")
	request.Header.Set("Keytide-Feed-Accept", "1")
	request.Header.Set("User-Agent", "keytide-agentfeed")
	return s.follower.http.Do(request)
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

func (s *session) read(response *http.Response) error {
	if response.StatusCode != http.StatusOK {
		return s.problem(response)
	}
	if media, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type")); media != "text/event-stream" {
		return fmt.Errorf("%s: answered %.60q instead of a stream", s.base, media)
	}
	s.watchdog.Reset(helloTimeout)
	events := wire.NewReader(response.Body)
	for {
		e, err := events.Next()
		if err != nil {
			return fmt.Errorf("%s: %w", s.base, err)
		}
		if e.Retry > 0 {
			s.outcome.retry = min(e.Retry, maxBackoff)
		}
		if err := s.event(e); err != nil {
			if p := (*ProblemError)(nil); errors.As(err, &p) {
				return err
			}
			return fmt.Errorf("%s: %w", s.base, err)
		}
	}
}

// problem reads an answer that is no stream.
func (s *session) problem(response *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(response.Body, maxProblem))
	if err != nil {
		return fmt.Errorf("%s: %w", s.base, err)
	}
	var p wire.Problem
	if media, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type")); media == "application/problem+json" {
		if json.Unmarshal(body, &p) != nil {
			p = wire.Problem{}
		}
	}
	e := problemError(s.base, response.StatusCode, p)
	if seconds, err := strconv.ParseUint(response.Header.Get("Retry-After"), 10, 31); err == nil {
		s.outcome.asked = min(time.Duration(seconds)*time.Second, maxAsked)
	}
	s.outcome.refused = e.Refused()
	return e
}

// event takes in one event. Those that are not known are ignored.
func (s *session) event(e wire.Event) error {
	switch e.Name {
	case wire.EventHello:
		return s.greet(e)
	case wire.EventRing, wire.EventBeat:
		return s.sealed(e)
	case wire.EventBye:
		return s.leave(e)
	case wire.EventProblem:
		var p wire.Problem
		if json.Unmarshal(e.Data, &p) != nil {
			return errors.New("a problem that cannot be read")
		}
		err := problemError(s.base, p.Status, p)
		s.outcome.refused = err.Refused()
		return err
	}
	return nil
}

func (s *session) greet(e wire.Event) error {
	if s.channel != nil {
		return errors.New("a second hello")
	}
	if json.Unmarshal(e.Data, &s.hello) != nil || s.hello.Proto < 1 {
		return errors.New("a hello that cannot be read")
	}
	server, err := wire.ParseNonce(s.hello.SN)
	if err != nil {
		return fmt.Errorf("hello: server nonce: %w", err)
	}
	s.hello.Server = printable(s.hello.Server)
	s.channel, err = wire.NewChannel(s.client.host.Secret, s.client.host.Host, s.nonce, server)
	s.watchdog.Reset(sealedTimeout)
	return err
}

// sealed opens a ring or a heartbeat and hands it over.
func (s *session) sealed(e wire.Event) error {
	if s.channel == nil {
		return fmt.Errorf("%s before hello", e.Name)
	}
	var envelope wire.Envelope
	if json.Unmarshal(e.Data, &envelope) != nil {
		return fmt.Errorf("%s: its envelope cannot be read", e.Name)
	}
	if e.Name == wire.EventBeat {
		return s.beat(envelope)
	}
	var state wire.State
	if err := s.channel.Open(e.Name, envelope, &state); err != nil {
		return err
	}
	first := s.issued.IsZero()
	if first {
		s.issued = state.IssuedAt
	}
	asOf := s.local(state.AsOf)
	if err := s.client.apply(envelope.V, &state, asOf, Status{Server: s.hello.Server, URL: s.base}); err != nil {
		return err
	}
	if first {
		s.first = time.Now()
		s.outcome.delivered = true
		// A stale server is left later by some agents than by others.
		s.patience = between(0, maxBackoff, s.follower.random)
		s.follower.lost = ""
		s.client.log.Info("feed connected", "server", s.hello.Server, "url", s.base, "position", envelope.V)
	}
	return s.alive()
}

func (s *session) beat(envelope wire.Envelope) error {
	var beat wire.Beat
	if err := s.channel.Open(wire.EventBeat, envelope, &beat); err != nil {
		return err
	}
	if s.issued.IsZero() {
		return errors.New("a heartbeat before the state")
	}
	if err := s.client.beat(envelope.V, s.local(beat.AsOf)); err != nil {
		return err
	}
	return s.alive()
}

// local gives the instant on this machine's monotonic clock before which the
// server's clock cannot have said asOf: see "Age" in SPEC.md, section 4.
func (s *session) local(asOf time.Time) time.Time {
	const year = 365 * 24 * time.Hour
	return s.sent.Add(min(max(asOf.Sub(s.issued), -year), year))
}

// alive lets the stream go on, unless the server has long had no proof itself and
// there are others to ask.
func (s *session) alive() error {
	heartbeat := time.Duration(min(max(s.hello.Heartbeat, 0.1), 60) * float64(time.Second))
	s.watchdog.Reset(heartbeat * 5 / 2)
	if s.client.overdue(s.patience) {
		return errStale
	}
	return nil
}

// overdue reports whether the rings have been stale for longer than patience, and
// there is another server.
func (c *Client) overdue(patience time.Duration) bool {
	servers, _ := c.known()
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(servers) > 1 && time.Since(c.proof) > c.staleAfter+patience
}

func (s *session) leave(e wire.Event) error {
	var bye wire.Bye
	if json.Unmarshal(e.Data, &bye) != nil {
		return errors.New("a bye that cannot be read")
	}
	var wait [2]time.Duration
	for i, ms := range bye.ReconnectMS {
		wait[i] = time.Duration(min(ms, 60_000)) * time.Millisecond
	}
	s.outcome.bye = &wait
	return errBye
}
