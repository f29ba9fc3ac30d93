package agentfeed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/keytide/keytide/agentfeed/internal/wire"
)

const (
	pollInterval = 30 * time.Second // the default of Config.PollInterval
	// pollRetry bounds the wait after polls that had worked: a server that dies ends
	// all long polls at once, and has no stream on which to say how many they are.
	pollRetry = 5 * time.Second
)

// polls asks again and again, until one fails or it is time to try a stream.
func (s *session) polls(ctx context.Context) error {
	s.outcome.retry = pollRetry
	for {
		transport := s.server.transport(time.Now())
		if transport == TransportStream {
			s.outcome.again = true
			return errProbe
		}
		var wait time.Duration
		if transport == TransportLongPoll && s.outcome.delivered { // the first one tells at once whether it gets through
			wait = s.server.longest()
		}
		before := s.client.applied()
		waited, err := s.poll(ctx, wait, &Status{URL: s.server.url, Transport: transport})
		if err != nil {
			s.missed(err, wait)
			return err
		}
		after := s.client.applied()
		s.delivered(transport, after)
		if wait > 0 {
			s.server.answered(waited)
		}
		long := transport == TransportLongPoll && (waited || wait == 0)
		if err := s.pause(ctx, long, after != before || wait == 0); err != nil {
			return err
		}
	}
}

// missed learns from a poll that failed.
func (s *session) missed(err error, wait time.Duration) {
	if wait > 0 && s.connected.Load() && (errors.Is(err, errCut) || swallowed(err)) {
		s.server.cut(time.Since(s.sent))
	}
}

// swallowed reports whether something between here and the server lost an answer: a
// proxy that gave up waiting, or a connection that broke, over which net/http has
// then sent the request a second time.
func swallowed(err error) bool {
	var p *ProblemError
	return errors.As(err, &p) && (p.Status == http.StatusGatewayTimeout || p.Status == http.StatusRequestTimeout || p.Name == wire.Replayed)
}

// pause waits until the next poll is due. A long poll follows the last at once, but
// never in a tight loop, whatever the server does.
func (s *session) pause(ctx context.Context, long, changed bool) error {
	next := s.client.config.PollInterval
	if next == 0 {
		next = pollInterval
	}
	next = between(next*4/5, next*6/5, s.follower.random)
	if long {
		next = between(50*time.Millisecond, 250*time.Millisecond, s.follower.random)
		if took := time.Since(s.sent); !changed && took < time.Second {
			next += time.Second - took
		}
	}
	s.watchdog.Stop()
	select {
	case <-time.After(next):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// poll asks once; the server may wait that long for a change, and waited says
// whether it was ready to. What comes is taken over; from is nil when the server is
// not to be called the one that feeds.
func (s *session) poll(ctx context.Context, wait time.Duration, from *Status) (waited bool, err error) {
	s.head = wait + headTimeout
	s.watchdog.Reset(s.head)
	err = s.ask(ctx, func(h http.Header) {
		h.Set("Accept", "application/json")
		if held := s.client.applied(); held != "" {
			h.Set("If-None-Match", `"`+held+`"`)
		}
		if wait > 0 {
			h.Set("Prefer", "wait="+strconv.Itoa(int(wait/time.Second)))
		}
	}, func(response *http.Response) error {
		waited = response.Header.Get("Preference-Applied") != ""
		return s.reply(response, from)
	})
	return waited, err
}

// reply reads the answer to a poll.
func (s *session) reply(response *http.Response, from *Status) error {
	switch response.StatusCode {
	case http.StatusOK:
		body, err := io.ReadAll(io.LimitReader(response.Body, wire.MaxEvent+1))
		if err != nil || len(body) > wire.MaxEvent {
			return fmt.Errorf("%s: %w: %w", s.server.url, errCut, errors.Join(err, io.ErrUnexpectedEOF))
		}
		var state wire.State
		envelope, err := s.unseal(wire.EventRing, body, &state)
		if err != nil {
			return fmt.Errorf("%s: %w", s.server.url, err)
		}
		if s.issued = state.IssuedAt; state.ReceivedAt != nil {
			s.issued = *state.ReceivedAt
		}
		from.named(envelope.Server)
		s.asOf = s.local(state.AsOf)
		if err := s.client.apply(envelope.V, &state, s.asOf, from); err != nil {
			return err
		}
		s.renew(state.Secret, false)
		return nil
	case http.StatusNotModified:
		var beat wire.Beat
		envelope, err := s.unseal(wire.EventBeat, []byte(response.Header.Get("Keytide-Heartbeat")), &beat)
		switch {
		case err != nil:
			return fmt.Errorf("%s: a 304 that proves nothing: %w", s.server.url, err)
		case beat.ReceivedAt == nil:
			return fmt.Errorf("%s: a 304 that does not say when it was asked for", s.server.url)
		}
		s.issued = *beat.ReceivedAt
		from.named(envelope.Server)
		s.asOf = s.local(beat.AsOf)
		return s.client.beat(envelope.V, s.asOf, from)
	}
	return s.problem(response)
}

// named notes the server's id, as it says itself.
func (from *Status) named(id string) {
	if from != nil {
		from.Server = printable(id)
	}
}

// unseal opens the one message of an answer.
func (s *session) unseal(event string, text []byte, message any) (wire.Envelope, error) {
	var envelope wire.Envelope
	if json.Unmarshal(text, &envelope) != nil {
		return envelope, fmt.Errorf("%s: its envelope cannot be read", event)
	}
	server, err := wire.ParseNonce(envelope.SN)
	if err != nil {
		return envelope, fmt.Errorf("%s: server nonce: %w", event, err)
	}
	s.channel, err = wire.NewChannel(s.secret, s.client.host.Host, s.nonce, server)
	if err != nil {
		return envelope, err
	}
	return envelope, s.channel.Open(event, envelope, message)
}
