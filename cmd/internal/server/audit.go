package server

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/replication"
)

// This file answers from the whole log: history, replay and verification. All
// three read this server's own replica.

// History implements adminhttp.Reader.
func (s *service) History(ctx context.Context, name keystore.RingName, span adminhttp.Span) (adminapi.History, error) {
	if err := s.everWas(name); err != nil {
		return adminapi.History{}, err
	}
	answer := adminapi.History{Ring: string(name), Events: []adminapi.HistoryEvent{}}
	replica := s.keys.Replica()
	to, _ := replica.Watch()
	for rec, err := range replica.Records(1, to) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return adminapi.History{}, err
		}
		e, err := events.Decode(rec)
		if err != nil {
			return adminapi.History{}, err
		}
		if !within(e.At, span) {
			continue
		}
		if c, ok := ringChange(e); ok && c.Ring == name {
			answer.Events = append(answer.Events, historyView(e, c))
		}
	}
	return answer, nil
}

// everWas reports whether there is, or was, such a ring.
func (s *service) everWas(name keystore.RingName) (err error) {
	s.keys.Replica().Read(func(state *events.State) {
		if _, ok := state.AnyRing(name); !ok {
			_, err = ringOf(state, name)
		}
	})
	return err
}

func within(at time.Time, span adminhttp.Span) bool {
	return (span.Since.IsZero() || !at.Before(span.Since)) && (span.Until.IsZero() || at.Before(span.Until))
}

// ringChange returns the change that an event makes to a ring, if it makes one.
func ringChange(e events.Event) (keystore.Change, bool) {
	c, err := events.DecodeRingChange(e.Type, e.Payload)
	return c, err == nil
}

// Replay implements adminhttp.Reader. At a version, it is the ring as it stood
// last at that version; at a time, as the newest event up to that time left it.
func (s *service) Replay(ctx context.Context, name keystore.RingName, point adminhttp.Point) (adminapi.Ring, error) {
	if err := s.everWas(name); err != nil {
		return adminapi.Ring{}, err
	}
	var found keystore.Ring
	replica := s.keys.Replica()
	to, _ := replica.Watch()
	state := events.NewState()
	for rec, err := range replica.Records(1, to) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return adminapi.Ring{}, err
		}
		if err := state.Fold(rec); err != nil {
			return adminapi.Ring{}, err
		}
		ring, ok := state.AnyRing(name)
		if !ok || ring.Last.N != state.N() {
			continue
		}
		if point.Version != 0 && ring.Version > point.Version {
			break
		}
		if ring.Version == point.Version || point.Version == 0 && !ring.Last.At.After(point.At) {
			found = ring
		}
	}
	if err := state.VerifyNewest(); err != nil {
		return adminapi.Ring{}, err
	}
	if found.IsZero() || found.Deleted {
		return adminapi.Ring{}, noSuchPast(name, point)
	}
	return ringView(s.id.Epoch, found), nil
}

func noSuchPast(name keystore.RingName, point adminhttp.Point) error {
	what := fmt.Sprintf("version %d", point.Version)
	if point.Version == 0 {
		what = "state at " + point.At.UTC().Format(time.RFC3339)
	}
	return &hinted{
		error: fmt.Errorf("ring %s: %s: %w", name, what, keystore.ErrNotFound),
		hint:  "see what it has been through:  keytide history " + string(name),
	}
}

// Verify implements adminhttp.Reader.
func (s *service) Verify(ctx context.Context) (adminapi.Verification, error) {
	keys := verifyLedger(ctx, s.keys.Replica())
	hosts := verifyLedger(ctx, s.hosts.Replica())
	if err := ctx.Err(); err != nil {
		return adminapi.Verification{}, err
	}
	return adminapi.Verification{
		OK: keys.OK && hosts.OK, Events: keys.Events, Head: keys.Head, FirstBad: keys.FirstBad, Why: keys.Why,
		Hosts: &hosts,
	}, nil
}

// verifyLedger recomputes a replica's whole chain from the pinned genesis on: the
// form, place, hash and signature of every event, what it does to the state, and
// the hash of every value that lives.
func verifyLedger(ctx context.Context, r *replication.Replica) adminapi.LedgerVerification {
	state := events.NewState()
	to, _ := r.Watch()
	bad := func(n keystore.N, err error) adminapi.LedgerVerification {
		return adminapi.LedgerVerification{Events: state.N(), Head: state.Hash().String(), FirstBad: &n, Why: err.Error()}
	}
	for rec, err := range r.Records(1, to) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return bad(state.N()+1, err)
		}
		if state.N() == 0 && rec.Hash() != r.Pin().Genesis {
			return bad(1, fmt.Errorf("the genesis is %s; want %s", rec.Hash(), r.Pin().Genesis))
		}
		if _, err := state.Apply(rec); err != nil {
			return bad(state.N()+1, err)
		}
	}
	if state.N() != to {
		return bad(state.N()+1, fmt.Errorf("event %d is missing", state.N()+1))
	}
	if n, err := verifyValues(state, r); err != nil {
		return bad(n, err)
	}
	return adminapi.LedgerVerification{OK: true, Events: state.N(), Head: state.Hash().String()}
}

// verifyValues compares every live value with the hash that its event names. The
// replica goes on while this reads: a value that changed since is not a fault.
func verifyValues(state *events.State, r *replication.Replica) (keystore.N, error) {
	for _, key := range state.Live() {
		want, _ := state.Expect(key)
		value, ok := r.Value(key)
		if ok && events.HashOf(value) == want {
			continue
		}
		var later events.Hash
		var live bool
		r.Read(func(now *events.State) { later, live = now.Expect(key) })
		if live == ok && (!ok || events.HashOf(value) == later) && later != want {
			continue
		}
		if !live && !ok {
			continue
		}
		return putter(r, key, state.N()), fmt.Errorf("the value of %s is not the one that its event put", key)
	}
	return 0, nil
}

// putter returns the newest event up to n that put a key.
func putter(r *replication.Replica, key string, n keystore.N) keystore.N {
	found := n
	for rec, err := range r.Records(1, n) {
		if err != nil {
			break
		}
		if !bytes.Contains(rec, []byte(key)) {
			continue
		}
		e, err := events.Decode(rec)
		if err != nil {
			break
		}
		for _, effect := range e.Effects {
			if effect.Key == key && !effect.Deleted {
				found = e.N
			}
		}
	}
	return found
}
