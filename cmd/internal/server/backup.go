package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/replication"
	"github.com/keytide/keytide/replication/backup"
)

// This file hands out the whole of both ledgers: as a backup, and as lines to read.
// Both come from this server's own replica, and hold one moment of each ledger.

// Backup implements adminhttp.Reader.
func (s *service) Backup(ctx context.Context, bases adminhttp.Bases, w io.Writer) error {
	var parts []backup.Source
	for _, m := range []*replication.Member{s.keys, s.hosts} {
		part, err := backedUp(ctx, m.Replica(), bases[m.Replica().Pin().Kind])
		if err != nil {
			return err
		}
		parts = append(parts, part)
	}
	return backup.Write(w, parts...)
}

// backedUp makes a ledger's share of a backup: the events after base, and those of the
// values they put that live.
func backedUp(ctx context.Context, r *replication.Replica, base events.Head) (backup.Source, error) {
	pin := r.Pin()
	head, values := r.Snapshot()
	part := backup.Source{Part: backup.Part{
		Kind: pin.Kind, Store: pin.Store, Epoch: pin.Epoch, Genesis: pin.Genesis, Head: head, Made: now(),
	}}
	if base.N > 0 {
		rec, err := r.Record(base.N)
		if err != nil || rec.Hash() != base.Hash {
			return backup.Source{}, &hinted{
				error: fmt.Errorf("%w: %s: event %d here is not the one that the backup before ends with", keystore.ErrInvalid, pin.Kind, base.N),
				hint:  "that backup is of another key store, or of an epoch before a restore: make a whole one, without --since",
			}
		}
		part.Base = events.Head{Epoch: pin.Epoch, N: base.N, Hash: base.Hash}
		if values, err = putAfter(ctx, r, base.N, head.N, values); err != nil {
			return backup.Source{}, err
		}
	}
	part.Values = values
	part.Records = func(yield func(events.Record, error) bool) {
		for rec, err := range r.Records(base.N+1, head.N) {
			if err == nil {
				err = ctx.Err()
			}
			if !yield(rec, err) {
				return
			}
		}
	}
	return part, nil
}

// putAfter picks the values that events after base put.
func putAfter(ctx context.Context, r *replication.Replica, base, to keystore.N, all map[string][]byte) (map[string][]byte, error) {
	picked := make(map[string][]byte)
	for e, err := range decoded(ctx, r, base+1, to) {
		if err != nil {
			return nil, err
		}
		for _, effect := range e.event.Effects {
			if value, live := all[effect.Key]; live {
				picked[effect.Key] = value
			}
		}
	}
	return picked, nil
}

// Export implements adminhttp.Reader.
func (s *service) Export(ctx context.Context, span adminhttp.Span, w io.Writer) error {
	lines := json.NewEncoder(w)
	for _, m := range []*replication.Member{s.keys, s.hosts} {
		r := m.Replica()
		to, _ := r.Watch()
		for e, err := range decoded(ctx, r, 1, to) {
			if err != nil {
				return err
			}
			if !within(e.event.At, span) {
				continue
			}
			if err := lines.Encode(auditEvent(r.Pin(), e)); err != nil {
				return err
			}
		}
	}
	return nil
}

// A readEvent is an event with the hash of its bytes.
type readEvent struct {
	event events.Event
	hash  events.Hash
}

// decoded yields a replica's events from from to to.
func decoded(ctx context.Context, r *replication.Replica, from, to keystore.N) func(yield func(readEvent, error) bool) {
	return func(yield func(readEvent, error) bool) {
		for rec, err := range r.Records(from, to) {
			if err == nil {
				err = ctx.Err()
			}
			var e events.Event
			if err == nil {
				e, err = events.Decode(rec)
			}
			if !yield(readEvent{event: e, hash: rec.Hash()}, err) || err != nil {
				return
			}
		}
	}
}

func auditEvent(pin replication.Pin, read readEvent) adminapi.AuditEvent {
	e := read.event
	view := adminapi.AuditEvent{
		Ledger: pin.Kind.String(), Epoch: uint64(pin.Epoch), N: e.N, ID: e.ID.String(), Type: e.Type.String(), At: e.At.UTC(),
		Server: e.Server, Actor: e.Actor, Request: e.Request, Reason: e.Reason,
		Hash: read.hash.String(), Prev: e.Prev.String(),
	}
	if c, ok := ringChange(e); ok {
		view.Subject, view.Change = string(c.Ring), c
	} else if subject, change, ok := hostsSubject(e); ok {
		view.Subject, view.Change = subject, change
	} else if g, err := events.DecodeGenesis(e.Payload); err == nil && e.Type == events.TypeGenesis {
		view.Subject, view.Change = g.Store, g
	}
	return view
}
