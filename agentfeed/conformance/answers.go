package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/keytide/keytide/agentfeed/internal/wire"
)

// These are the checks of sections 3 to 6: answers that are sealed.

// valid returns an error unless the state is one that an agent takes.
func valid(v string, s *wire.State) error {
	if _, err := wire.ParsePosition(v); err != nil {
		return err
	}
	switch {
	case s.V != v:
		return fmt.Errorf("a state at %q in an envelope at %q", s.V, v)
	case s.IssuedAt.IsZero() || s.AsOf.IsZero() || s.AsOf.After(s.IssuedAt):
		return fmt.Errorf("issued_at %v, as_of %v", s.IssuedAt, s.AsOf)
	case s.StaleAfter < 1 || s.MaxStale < 0:
		return fmt.Errorf("stale_after %d, max_stale %d", s.StaleAfter, s.MaxStale)
	case len(s.Rings) == 0:
		return errors.New("the host has no ring: nothing can be checked of its keys")
	}
	last := ""
	for _, ring := range s.Rings {
		if _, err := ring.KeySet(); err != nil {
			return err
		}
		if string(ring.Name) <= last {
			return fmt.Errorf("ring %s comes after %s", ring.Name, last)
		}
		last = string(ring.Name)
		for i, k := range ring.Keys {
			if k.Seals && i != 0 {
				return fmt.Errorf("ring %s: the key that seals is not the first", ring.Name)
			}
		}
	}
	return nil
}

// unseal opens what a poll brought.
func (p *probe) unseal(event string, text []byte, nonce wire.Nonce, message any) (wire.Envelope, error) {
	var e wire.Envelope
	if json.Unmarshal(text, &e) != nil {
		return e, errors.New("the envelope is no JSON")
	}
	server, err := wire.ParseNonce(e.SN)
	if err != nil {
		return e, fmt.Errorf("sn: %w", err)
	}
	channel, err := wire.NewChannel(p.host.Secret, p.host.Host, nonce, server)
	if err != nil {
		return e, err
	}
	return e, channel.Open(event, e, message)
}

// state polls once and checks all of the answer.
func (p *probe) state(ctx context.Context) (wire.Envelope, error) {
	q := question{auth: p.authorize(0), header: http.Header{"Accept": {"application/json"}}}
	a, err := p.ask(ctx, q)
	if err != nil {
		return wire.Envelope{}, err
	}
	if media := a.Header.Get("Content-Type"); a.StatusCode != http.StatusOK || media != "application/json" {
		return wire.Envelope{}, fmt.Errorf("status %d with %q: %.200q", a.StatusCode, media, a.body)
	}
	var s wire.State
	e, err := p.unseal(wire.EventRing, a.body, q.auth.Nonce, &s)
	if err != nil {
		return e, err
	}
	if tag := strings.TrimPrefix(a.Header.Get("ETag"), "W/"); tag != `"`+e.V+`"` {
		return e, fmt.Errorf("ETag %q, position %q", tag, e.V)
	}
	if s.ReceivedAt == nil || s.ReceivedAt.IsZero() {
		return e, errors.New("the state has no received_at")
	}
	return e, valid(e.V, &s)
}

func poll(ctx context.Context, p *probe) error {
	_, err := p.state(ctx)
	return err
}

// notModified asks with If-None-Match until the answer is a 304: the state may
// change between two polls.
func (p *probe) notModified(ctx context.Context, header http.Header) (answer, error) {
	header.Set("Accept", "application/json")
	for range 5 {
		held, err := p.state(ctx)
		if err != nil {
			return answer{}, err
		}
		header.Set("If-None-Match", `"`+held.V+`"`)
		q := question{auth: p.authorize(0), header: header}
		a, err := p.ask(ctx, q)
		if err != nil {
			return a, err
		}
		if a.StatusCode == http.StatusOK {
			continue
		}
		if a.StatusCode != http.StatusNotModified {
			return a, fmt.Errorf("status %d", a.StatusCode)
		}
		var beat wire.Beat
		if _, err := p.unseal(wire.EventBeat, []byte(a.Header.Get("Keytide-Heartbeat")), q.auth.Nonce, &beat); err != nil {
			return a, fmt.Errorf("Keytide-Heartbeat: %w", err)
		}
		if beat.AsOf.IsZero() || beat.ReceivedAt == nil || beat.ReceivedAt.IsZero() {
			return a, errors.New("Keytide-Heartbeat: as_of or received_at is missing")
		}
		return a, nil
	}
	return answer{}, errors.New("no 304 for the position that it had just sent")
}

func unchanged(ctx context.Context, p *probe) error {
	_, err := p.notModified(ctx, http.Header{})
	return err
}

func longPoll(ctx context.Context, p *probe) error {
	a, err := p.notModified(ctx, http.Header{"Prefer": {"wait=1"}})
	if err == nil && a.Header.Get("Preference-Applied") != "wait=1" {
		err = fmt.Errorf("Preference-Applied %q, want wait=1", a.Header.Get("Preference-Applied"))
	}
	return err
}

func stream(ctx context.Context, p *probe) error {
	q := question{auth: p.authorize(0), header: http.Header{"Accept": {"text/event-stream"}}}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(10*time.Second, func() { cancel(errors.New("it is silent: something may hold the stream back")) })
	defer silent.Stop()
	response, err := p.open(ctx, p.client, q)
	if err != nil {
		return errors.Join(err, context.Cause(ctx))
	}
	defer response.Body.Close()
	if media := response.Header.Get("Content-Type"); response.StatusCode != http.StatusOK || media != "text/event-stream" {
		return fmt.Errorf("status %d with %q", response.StatusCode, media)
	}
	if caching := response.Header.Get("Cache-Control"); !strings.Contains(caching, "no-store") {
		return fmt.Errorf("Cache-Control %q", caching)
	}
	err = p.follow(wire.NewReader(response.Body), q.auth.Nonce, silent)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// follow reads a stream up to its first heartbeat.
func (p *probe) follow(events *wire.Reader, nonce wire.Nonce, silent *time.Timer) error {
	e, err := events.Next()
	if err != nil {
		return err
	}
	var hello wire.Hello
	if json.Unmarshal(e.Data, &hello) != nil || e.Name != wire.EventHello || hello.Proto < 1 || hello.Server == "" || hello.Heartbeat <= 0 {
		return fmt.Errorf("the first event is %q: %.200q", e.Name, e.Data)
	}
	if e.Retry <= 0 {
		return errors.New("hello comes without retry")
	}
	server, err := wire.ParseNonce(hello.SN)
	if err != nil {
		return fmt.Errorf("hello: sn: %w", err)
	}
	channel, err := wire.NewChannel(p.host.Secret, p.host.Host, nonce, server)
	if err != nil {
		return err
	}
	interval := time.Duration(min(max(hello.Heartbeat, 0.1), 60) * float64(time.Second))
	for states := 0; ; {
		silent.Reset(max(interval*5/2, 10*time.Second))
		e, err := events.Next()
		if err != nil {
			return err
		}
		switch e.Name {
		case wire.EventRing:
			states++
			err = p.ring(channel, e)
		case wire.EventBeat:
			return p.beat(channel, e, states)
		case wire.EventBye, wire.EventProblem:
			return fmt.Errorf("it ended the stream: %s %.200q", e.Name, e.Data)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", e.Name, err)
		}
	}
}

func (p *probe) ring(channel *wire.Channel, e wire.Event) error {
	var envelope wire.Envelope
	if json.Unmarshal(e.Data, &envelope) != nil {
		return errors.New("the envelope is no JSON")
	}
	var s wire.State
	if err := channel.Open(wire.EventRing, envelope, &s); err != nil {
		return err
	}
	if e.ID != envelope.V {
		return fmt.Errorf("id %q, position %q", e.ID, envelope.V)
	}
	return valid(envelope.V, &s)
}

func (p *probe) beat(channel *wire.Channel, e wire.Event, states int) error {
	if states == 0 {
		return errors.New("a heartbeat before the state")
	}
	var envelope wire.Envelope
	if json.Unmarshal(e.Data, &envelope) != nil {
		return errors.New("the envelope is no JSON")
	}
	var beat wire.Beat
	if err := channel.Open(wire.EventBeat, envelope, &beat); err != nil {
		return err
	}
	if beat.AsOf.IsZero() {
		return errors.New("as_of is missing")
	}
	return nil
}

// freshNonces: a server nonce that comes twice would seal twice under one key.
func freshNonces(ctx context.Context, p *probe) error {
	seen := make(map[string]bool)
	for range 3 {
		e, err := p.state(ctx)
		if err != nil {
			return err
		}
		if seen[e.SN] {
			return errors.New("the same sn twice")
		}
		seen[e.SN] = true
	}
	return nil
}
