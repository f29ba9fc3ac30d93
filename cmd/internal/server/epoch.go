package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/events/ledger"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/replication"
	"github.com/keytide/keytide/replication/bus"
)

// This file moves a server to a later epoch of its ledgers. A restore begins one, in buckets
// of its own; every server finds them, proves them from the genesis that it has pinned, and
// opens everything anew on replicas of them. The old replicas stay where they are.

const (
	// epochsAhead is how many later epochs a server looks for, and may read. One that
	// slept through more restores than that has to join anew.
	epochsAhead = 4
	seekAttempt = 5 * time.Second
	seekOften   = 2 * time.Second // while something is wrong with the epoch that is served
	seekRarely  = 30 * time.Second
)

// errMoved: the server's identity names a later epoch now, so everything is opened anew.
var errMoved = errors.New("moved to a later epoch")

// A setAside is the end of a replica of which a later epoch keeps less.
type setAside struct {
	Kind events.Kind    `json:"kind"`
	File string         `json:"file"` // in the server's directory
	Head events.Head    `json:"head"` // of the replica
	Kept keystore.N     `json:"kept"` // the last of its events that the later epoch has
	By   keystore.Epoch `json:"by"`   // that epoch
}

func (a setAside) why() string {
	return fmt.Sprintf("epoch %d keeps events 1 to %d of the %s; this server had %d, of which the last %d are now in %s alone: keep that file, look at what was lost, and move it away",
		a.By, a.Kept, a.Kind, a.Head.N, a.Head.N-a.Kept, a.File)
}

// tellSetAside raises what earlier moves set aside, for as long as its file is there.
func (s *site) tellSetAside() {
	for _, a := range s.id.SetAside {
		if _, err := os.Stat(filepath.Join(s.cfg.Dir, a.File)); err == nil {
			s.memberOf(a.Kind).Raise(replication.Alarm{Kind: replication.AlarmSetAside, Key: a.File, Why: a.why()})
		}
	}
}

func (s *site) memberOf(kind events.Kind) *replication.Member {
	if kind == events.Hosts {
		return s.hosts
	}
	return s.keys
}

// replicaFile is the name of the replica of a ledger in the identity's epoch.
func (id identity) replicaFile(kind events.Kind) string {
	name := map[events.Kind]string{events.Keys: keysFile, events.Hosts: hostsFile}[kind]
	if id.Epoch > 1 {
		name = fmt.Sprintf("%s.e%d%s", strings.TrimSuffix(name, ".db"), id.Epoch, ".db")
	}
	return name
}

// watchEpoch looks for a later epoch until ctx ends, or one has been moved to: then it
// returns errMoved.
func (s *site) watchEpoch(ctx context.Context) error {
	for {
		if err := s.seekEpoch(ctx); errors.Is(err, errMoved) {
			return err
		} else if err != nil && ctx.Err() == nil {
			s.log.Debug("looking for a later epoch", "err", err)
		}
		wait := seekOften
		if s.keys.Freshness().State == events.Fresh && s.hosts.Freshness().State == events.Fresh {
			wait = seekRarely
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
	}
}

// seekEpoch moves to the newest later epoch that has begun and proves itself. It returns
// errMoved when it has, and nil when there is none.
func (s *site) seekEpoch(ctx context.Context) error {
	for number := s.id.Epoch + epochsAhead; number > s.id.Epoch; number-- {
		there, err := s.hasEpoch(ctx, number)
		if err != nil {
			return err
		}
		if !there {
			continue
		}
		err = s.moveTo(ctx, number)
		if !errors.Is(err, replication.ErrNotBegun) {
			return err
		}
	}
	return nil
}

// hasEpoch reports whether the core has both buckets of an epoch.
func (s *site) hasEpoch(ctx context.Context, number keystore.Epoch) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, seekAttempt)
	defer cancel()
	for _, kind := range []events.Kind{events.Keys, events.Hosts} {
		log, err := s.bind(kind, number)
		if err == nil {
			_, err = log.Info(ctx)
		}
		if errors.Is(err, events.ErrNoBucket) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

func (s *site) bind(kind events.Kind, number keystore.Epoch) (*ledger.Ledger, error) {
	return ledger.Bind(s.js, events.BucketName(kind, s.id.Store, number), s.usable)
}

// moveTo builds replicas of an epoch beside the ones that are served, and, if both prove
// themselves, makes that epoch the server's. Until the identity is saved nothing has changed.
func (s *site) moveTo(ctx context.Context, number keystore.Epoch) error {
	next := s.id
	next.Epoch = number
	var asides []setAside
	for _, kind := range []events.Kind{events.Keys, events.Hosts} {
		aside, err := s.build(ctx, next, kind)
		if err != nil {
			return s.refuseEpoch(kind, number, err)
		}
		if aside != nil {
			asides = append(asides, *aside)
		}
	}
	s.reach("epoch built")
	err := s.disk.change(func(id *identity) {
		id.Epoch, id.SetAside = number, append(slices.Clip(id.SetAside), asides...)
	})
	if err != nil {
		return err
	}
	s.reach("epoch saved")
	s.log.Warn("a later epoch of the ledgers has begun, and proves itself", "epoch", uint64(number))
	return errMoved
}

// refuseEpoch raises an alarm if an epoch proved to be none of this store's.
func (s *site) refuseEpoch(kind events.Kind, number keystore.Epoch, err error) error {
	m := s.memberOf(kind)
	if m == nil || errors.Is(err, replication.ErrNotBegun) || errors.Is(err, events.ErrInterrupted) || errors.Is(err, events.ErrUnavailable) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	bucket := events.BucketName(kind, s.id.Store, number)
	m.Raise(replication.Alarm{Kind: replication.AlarmEpoch, Key: bucket, Why: fmt.Sprintf("bucket %s is not the next epoch of this ledger, and is not followed: %v", bucket, err)})
	return err
}

// build makes the replica of a ledger in next's epoch. It says what the one before has more.
func (s *site) build(ctx context.Context, next identity, kind events.Kind) (*setAside, error) {
	log, err := s.bind(kind, next.Epoch)
	if err != nil {
		return nil, err
	}
	genesis, hosts, err := next.pins()
	if err != nil {
		return nil, err
	}
	if kind == events.Hosts {
		genesis = hosts
	}
	path := filepath.Join(s.cfg.Dir, next.replicaFile(kind))
	candidate := path + ".candidate"
	if err := os.Remove(candidate); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	r, err := replication.OpenReplica(candidate, replication.Pin{Kind: kind, Store: next.Store, Epoch: next.Epoch, Genesis: genesis})
	if err != nil {
		return nil, err
	}
	old := s.replicas[kind]
	if err = replication.Build(ctx, log, r); err == nil {
		err = replication.CheckEpoch(r, old)
	}
	var aside *setAside
	if err == nil {
		aside = s.asideOf(kind, r, old)
	}
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, err
	}
	return aside, s.place(candidate, path)
}

// place gives a replica its name. A file that has it is of a server that moved, and was then
// put back to an earlier state: it is kept.
func (s *site) place(candidate, path string) error {
	if _, err := os.Stat(path); err == nil {
		kept := fmt.Sprintf("%s.%d", path, time.Now().UnixMilli())
		if err := os.Rename(path, kept); err != nil {
			return err
		}
		s.log.Warn("a replica of the later epoch was there already: it is kept", "file", kept)
	}
	return errors.Join(os.Rename(candidate, path), syncDir(s.cfg.Dir))
}

// asideOf says what old has that r has not; nil: nothing.
func (s *site) asideOf(kind events.Kind, r, old *replication.Replica) *setAside {
	if old == nil {
		return nil
	}
	head, _ := old.Snapshot()
	kept := replication.Common(r, old)
	if kept >= head.N {
		return nil
	}
	return &setAside{Kind: kind, File: s.id.replicaFile(kind), Head: head, Kept: kept, By: r.Pin().Epoch}
}

// A keptBus is an embedded server that outlasts a move to a later epoch: where it is part of
// a core, the others need it.
type keptBus struct {
	bus   *bus.Bus
	pair  *certificate
	taken bool // by the site that goes on with it, which closes it
}

// kept takes the bus out of what close closes, if the server moves on.
func (s *site) kept(err error) *keptBus {
	if !errors.Is(err, errMoved) || s == nil || s.bus == nil || s.cfg.shared != nil {
		return nil
	}
	s.keepBus = true
	return &keptBus{bus: s.bus, pair: s.corePair}
}

func (k *keptBus) close() error {
	if k == nil || k.taken {
		return nil
	}
	return k.bus.Close()
}
