package agentfeed

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"time"

	"github.com/keytide/keytide/agentfeed/internal/wire"
)

// learn keeps in mind how a stream ended: whether streams get through.
func (s *session) learn(err error) {
	marked := false
	switch {
	case !s.connected.Load(): // it was the server that died, or it is far away
		s.server.short = 0
	case errors.Is(err, errSilent) && s.channel == nil:
		marked = s.server.held(time.Now())
	case s.beats >= 2:
		s.server.short = 0
	case errors.Is(err, errCut), errors.Is(err, errSilent), swallowed(err):
		marked = s.server.died(time.Now())
	}
	if s.outcome.marked = marked; marked {
		s.client.log.Warn("streams do not get through; polling instead", "url", s.server.url, "err", err)
	}
}

func (s *session) read(response *http.Response) error {
	if response.StatusCode != http.StatusOK {
		return s.problem(response)
	}
	if media, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type")); media != "text/event-stream" {
		return fmt.Errorf("%s: answered %.60q instead of a stream", s.server.url, media)
	}
	s.watchdog.Reset(helloTimeout)
	events := wire.NewReader(response.Body)
	for {
		e, err := events.Next()
		if err != nil {
			return fmt.Errorf("%s: %w: %w", s.server.url, errCut, err)
		}
		if e.Retry > 0 {
			s.outcome.retry = min(e.Retry, maxBackoff)
		}
		if err := s.event(e); err != nil {
			if p := (*ProblemError)(nil); errors.As(err, &p) {
				return err
			}
			return fmt.Errorf("%s: %w", s.server.url, err)
		}
	}
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
		err := problemError(s.server.url, p.Status, p)
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
	s.channel, err = wire.NewChannel(s.secret, s.client.host.Host, s.nonce, server)
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
	if s.issued.IsZero() {
		s.issued = state.IssuedAt
	}
	asOf := s.local(state.AsOf)
	if err := s.client.apply(envelope.V, &state, asOf, &Status{Server: s.hello.Server, URL: s.server.url, Transport: TransportStream}); err != nil {
		return err
	}
	s.delivered(TransportStream, envelope.V)
	s.alive()
	s.renew(state.Secret, true)
	return nil
}

func (s *session) beat(envelope wire.Envelope) error {
	var beat wire.Beat
	if err := s.channel.Open(wire.EventBeat, envelope, &beat); err != nil {
		return err
	}
	if s.issued.IsZero() {
		return errors.New("a heartbeat before the state")
	}
	if err := s.client.beat(envelope.V, s.local(beat.AsOf), nil); err != nil {
		return err
	}
	s.beats++
	s.alive()
	return nil
}

// alive lets the stream go on for 2.5 heartbeats.
func (s *session) alive() {
	heartbeat := time.Duration(min(max(s.hello.Heartbeat, 0.1), 60) * float64(time.Second))
	s.watchdog.Reset(heartbeat * 5 / 2)
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
