package server

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/events/ledger"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/replication"
	"github.com/keytide/keytide/replication/bus"
)

// This file is a restore's work on the core.

// What a core has of a ledger, for a plan.
const (
	coreLost   = "lost"
	coreSealed = "sealed"
	coreWhole  = "whole"
)

// asMaker connects as a user who may do what nobody may otherwise, for as long as that takes.
// Its own server alone knows that user.
func (s *site) asMaker(access []string) (js jetstream.JetStream, done func() error, err error) {
	if s.cfg.core() == nil {
		js, nc, err := s.bus.JetStream("maker")
		if err != nil {
			return nil, nil, err
		}
		return js, func() error { nc.Close(); return nil }, nil
	}
	users, err := loadUsers(s.cfg.core().Users)
	if err != nil {
		return nil, nil, err
	}
	seed, nkey, err := bus.NewSeed()
	if err != nil {
		return nil, nil, err
	}
	granted := s.grants(users, nil)
	maker := bus.User{Nkey: nkey, Publish: access}
	if err := s.bus.SetUsers(append(granted[:len(granted):len(granted)], maker)); err != nil {
		return nil, nil, err
	}
	link, err := s.dial("maker", bus.Credentials{Seed: seed}, s.cfg.Bus.urls(s.id.Server)[:1])
	if err != nil {
		return nil, nil, errors.Join(err, s.bus.SetUsers(granted))
	}
	return link.JetStream(), func() error { link.Close(); return s.bus.SetUsers(granted) }, nil
}

// before are the epochs whose buckets may be there and are to be sealed.
func (r *Restore) before() (numbers []keystore.Epoch) {
	for number := max(r.Plan.Epoch, epochsAhead+1) - epochsAhead; number < r.Plan.Epoch; number++ {
		numbers = append(numbers, number)
	}
	return numbers
}

// lookAtCore says what the core has, and refuses a restore where it has all of it.
func (r *Restore) lookAtCore(ctx context.Context) error {
	var access []string
	for _, l := range r.ledgers {
		for _, number := range r.before() {
			access = append(access, ledger.SealAccess(events.BucketName(l.plan.Kind, r.id.Store, number))...)
		}
		access = append(access, ledger.CreateAccess(events.BucketName(l.plan.Kind, r.id.Store, r.Plan.Epoch))...)
	}
	js, done, err := r.asMaker(access)
	if err != nil {
		return err
	}
	r.js = js
	r.later(done)
	whole := 0
	for _, l := range r.ledgers {
		if err := r.lookAt(ctx, l); err != nil {
			return err
		}
		if l.plan.Core == coreWhole {
			whole++
		}
	}
	if err := r.refuseBegun(ctx); err != nil {
		return err
	}
	if whole == len(r.ledgers) {
		return &hinted{
			error: fmt.Errorf("%w: the core answers, and has all that the replicas have: up to event %d of the keys and %d of the hosts",
				keystore.ErrRefused, r.Plan.Ledgers[0].Head.N, r.Plan.Ledgers[1].Head.N),
			hint: "nothing is lost: start this server, and see what is wrong:  keytide status",
		}
	}
	return nil
}

// refuseBegun refuses an epoch of which both ledgers have begun: it only has to be found.
func (r *Restore) refuseBegun(ctx context.Context) error {
	for _, l := range r.ledgers {
		log, err := r.bucket(l, r.Plan.Epoch)
		if err == nil {
			_, err = log.Newest(ctx, events.HeadKey)
		}
		if errors.Is(err, events.ErrNoBucket) || errors.Is(err, events.ErrNoEntry) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return &hinted{
		error: fmt.Errorf("%w: epoch %d has begun: a restore is done", keystore.ErrRefused, r.Plan.Epoch),
		hint:  "start this server: it goes on with that epoch by itself, and keeps what its own replica has more.\nThen see that all do:  keytide status",
	}
}

func (r *Restore) bucket(l *restoring, number keystore.Epoch) (*ledger.Ledger, error) {
	return ledger.Bind(r.js, events.BucketName(l.plan.Kind, r.id.Store, number), nil)
}

// lookAt compares the newest bucket that there may be with the source. One that goes on from
// the source takes its place: nothing that the core still has is lost.
func (r *Restore) lookAt(ctx context.Context, l *restoring) error {
	log, err := r.bucket(l, r.Plan.Epoch-1)
	if err != nil {
		return err
	}
	l.plan.Core = coreLost
	var info ledger.Info
	err = r.await(ctx, "a majority of the core", func(ctx context.Context) (err error) {
		info, err = log.Info(ctx)
		if err == nil && info.Alone {
			err = fmt.Errorf("%w: a core server that is cut off answers", events.ErrUnavailable)
		}
		if errors.Is(err, events.ErrNoBucket) {
			err = nil
		}
		return err
	})
	if err != nil || info.Created.IsZero() {
		return err
	}
	file := filepath.Join(r.temp, fmt.Sprintf("core-%s-%d.db", l.plan.Kind, len(r.closers)))
	pin := l.source.Pin()
	pin.Epoch = r.Plan.Epoch - 1
	there, err := replication.OpenReplica(file, pin)
	if err != nil {
		return err
	}
	r.later(there.Close)
	err = replication.Build(ctx, log, there)
	switch {
	case errors.Is(err, events.ErrInterrupted), errors.Is(err, events.ErrUnavailable), ctx.Err() != nil:
		return err
	case err != nil:
		l.plan.Core = "not whole: " + err.Error()
	case !there.Has(l.plan.Head):
		head, _ := there.Snapshot()
		l.plan.Core = fmt.Sprintf("forked: it ends at event %d, and parts from the source after event %d", head.N, replication.Common(there, l.source))
	default:
		head, _ := there.Snapshot()
		l.plan.Core = coreWhole
		if info.Sealed {
			l.plan.Core = coreSealed
		}
		if head.N > l.plan.Head.N {
			l.source, l.plan.Head, l.plan.Source = there, head, "the core's own bucket"
		}
	}
	return nil
}

// Perform carries the plan out. It may die at any step, and be done again.
func (r *Restore) Perform(ctx context.Context, progress func(string)) ([]events.EpochID, error) {
	for _, l := range r.ledgers {
		if err := r.seal(ctx, l, progress); err != nil {
			return nil, err
		}
	}
	r.reach("sealed")
	buckets := make([]*ledger.Ledger, len(r.ledgers))
	for i, l := range r.ledgers {
		bucket := events.BucketName(l.plan.Kind, r.id.Store, r.Plan.Epoch)
		err := r.await(ctx, "a majority of the core", func(ctx context.Context) (err error) {
			buckets[i], err = r.create(ctx, bucket)
			return err
		})
		if err != nil {
			return nil, err
		}
		progress(fmt.Sprintf("bucket %s is there", bucket))
		r.reach("made " + l.plan.Kind.String())
	}
	var begun []events.EpochID
	for i, l := range r.ledgers {
		progress(fmt.Sprintf("%s: laying out %d events", l.plan.Kind, l.plan.Head.N))
		id, err := replication.Layout{
			Source: l.source, Epoch: r.Plan.Epoch, Server: r.id.Server, Key: r.key, Actor: r.cfg.Actor, Reason: r.cfg.Reason,
			Step: func(step string) { r.reach(step + " " + l.plan.Kind.String()) },
		}.Write(ctx, buckets[i])
		if errors.Is(err, replication.ErrBegun) {
			return nil, &hinted{
				error: fmt.Errorf("%w: %s: %w", keystore.ErrRefused, l.plan.Kind, err),
				hint: "another restore was first, or an earlier try was from another replica: two are never merged.\n" +
					"If that one is done, start this server, which goes on with it; what it lacks stays in this server's replica.\n" +
					"If it is not, finish it from the same replica.",
			}
		}
		if err != nil {
			return nil, err
		}
		begun = append(begun, id)
		progress(fmt.Sprintf("%s: epoch %d begins with event %d", l.plan.Kind, id.Number, l.plan.Head.N+1))
	}
	return begun, nil
}

func (r *Restore) create(ctx context.Context, bucket string) (*ledger.Ledger, error) {
	// A core that has the bucket, and no room for a second one, would say that alone.
	log, err := ledger.Open(ctx, r.js, bucket)
	if !errors.Is(err, events.ErrNoBucket) {
		return log, err
	}
	size := 1
	if core := r.site.cfg.core(); core != nil {
		size = len(core.Servers)
	}
	return ledger.Create(ctx, r.js, ledger.Config{Bucket: bucket, Replicas: size, MaxBytes: maxLedger})
}

// seal ends the buckets of earlier epochs, and takes in what the newest has got meanwhile.
func (r *Restore) seal(ctx context.Context, l *restoring, progress func(string)) error {
	for _, number := range r.before() {
		log, err := r.bucket(l, number)
		if err != nil {
			return err
		}
		err = r.await(ctx, "a majority of the core", func(ctx context.Context) error {
			err := log.Seal(ctx)
			if errors.Is(err, events.ErrNoBucket) {
				return nil
			}
			if err == nil {
				progress(fmt.Sprintf("bucket %s is sealed", log.Bucket()))
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return r.lookAt(ctx, l)
}
