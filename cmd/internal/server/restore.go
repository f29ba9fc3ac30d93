package server

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/replication"
)

// RestoreConfig is what keytide restore was asked for.
type RestoreConfig struct {
	Config   Config   // of a server that holds a part of the core, and does not run
	Replicas []string // files to restore from, or directories that have them
	Backups  []string // or a whole backup and its increments
	Others   []OtherReplica
	Actor    string
	Reason   string
	Logger   *slog.Logger

	step func(string) // tests die there
}

// An OtherReplica is what a restore is compared with.
type OtherReplica struct {
	Path   string // of a replica, a directory that has them, or a backup
	Name   string // for people; if empty, Path
	Server string // that it is of, if that is known
}

// A Restore is a restore that was looked into. Close gives everything back.
type Restore struct {
	Plan RestorePlan

	*site
	cfg      RestoreConfig
	temp     string
	key      ed25519.PrivateKey
	ledgers  []*restoring           // keys and hosts
	owned    []*replication.Replica // of this server's own directory; nil: not opened yet
	imported map[string]string      // the backup that a file was made of
	js       jetstream.JetStream
}

// A restoring is one ledger of a restore.
type restoring struct {
	plan   *RestoreLedger
	source *replication.Replica
}

// RestorePlan says what a restore would do.
type RestorePlan struct {
	Store    string          `json:"store"`
	Epoch    keystore.Epoch  `json:"epoch"`  // that begins
	Server   string          `json:"server"` // that signs
	Ledgers  []RestoreLedger `json:"ledgers"`
	Compared []Compared      `json:"compared"`
	Missing  []string        `json:"not_compared"` // servers of which no replica was given
	Lost     []LostEvent     `json:"lost"`
}

// RestoreLedger is what becomes of one ledger.
type RestoreLedger struct {
	Kind   events.Kind `json:"ledger"`
	Source string      `json:"source"` // file
	Head   events.Head `json:"head"`   // of the source
	Core   string      `json:"core"`   // what the core has: lost, sealed, whole, or why it counts as none
}

// Compared is a replica that the source was compared with.
type Compared struct {
	Kind   events.Kind `json:"ledger"`
	File   string      `json:"file"`
	Head   events.Head `json:"head"`
	Common keystore.N  `json:"common"` // the last event that both have
}

// LostEvent is an event that a replica has and the source has not.
type LostEvent struct {
	Kind   events.Kind `json:"ledger"`
	N      keystore.N  `json:"n"`
	ID     string      `json:"id"`
	Type   string      `json:"type"`
	At     string      `json:"at"`
	Server string      `json:"server"`
	Actor  string      `json:"actor,omitempty"`
	Reason string      `json:"reason,omitempty"`
	Hash   string      `json:"hash"`
	File   string      `json:"file"` // that has it
}

// PrepareRestore opens and checks everything that a restore needs, and changes nothing. It
// waits for a majority of the core.
func PrepareRestore(ctx context.Context, cfg RestoreConfig) (_ *Restore, err error) {
	r := &Restore{site: &site{cfg: cfg.Config, log: cfg.Logger}, cfg: cfg, imported: map[string]string{}}
	r.site.cfg.step = cfg.step
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	if r.id, err = loadIdentity(cfg.Config.Dir); err != nil {
		return nil, err
	}
	if err := r.id.fits(cfg.Config); err != nil {
		return nil, err
	}
	if cfg.Config.Bus != nil && cfg.Config.core() == nil {
		return nil, &hinted{
			error: fmt.Errorf("%w: server %s holds no part of the core", keystore.ErrRefused, r.id.Server),
			hint:  "copy its replicas (keys.db and hosts.db of its dir) to a server of the core, and restore from them there",
		}
	}
	if err := r.openBus(); err != nil {
		return nil, &hinted{error: err, hint: "a restore works on the server's directory: stop the server first"}
	}
	if r.temp, err = os.MkdirTemp(cfg.Config.Dir, ".restore-"); err != nil {
		return nil, err
	}
	r.later(func() error { return os.RemoveAll(r.temp) })
	if err := r.openSources(); err != nil {
		return nil, err
	}
	if err := r.openSigner(); err != nil {
		return nil, err
	}
	if err := r.lookAtCore(ctx); err != nil {
		return nil, err
	}
	return r, r.compare()
}

// Close gives back what PrepareRestore opened.
func (r *Restore) Close() error { return r.site.close() }

// openSources finds the replica that each ledger is restored from, and judges it.
func (r *Restore) openSources() error {
	found, err := r.openAll(append(append([]string{}, r.cfg.Replicas...), r.cfg.Backups...))
	if err != nil {
		return err
	}
	own, err := r.own()
	if err != nil {
		return err
	}
	newest := r.id.Epoch
	for _, kind := range []events.Kind{events.Keys, events.Hosts} {
		of := func(replicas []*replication.Replica) (found []*replication.Replica) {
			for _, x := range replicas {
				if x.Pin().Kind == kind {
					found = append(found, x)
				}
			}
			return found
		}
		sources := of(found)
		if len(sources) == 0 {
			sources = of(own)
		}
		if len(sources) != 1 {
			return &hinted{
				error: fmt.Errorf("%w: %d replicas of the ledger of %s to restore from; want one", keystore.ErrInvalid, len(sources), kind),
				hint:  "both ledgers are restored together: name keys.db and hosts.db, each with --from-replica, or a directory that has both",
			}
		}
		if err := r.judge(sources[0]); err != nil {
			return err
		}
		head, _ := sources[0].Snapshot()
		newest = max(newest, head.Epoch)
		r.Plan.Ledgers = append(r.Plan.Ledgers, RestoreLedger{Kind: kind, Source: sources[0].Path(), Head: head})
		r.ledgers = append(r.ledgers, &restoring{source: sources[0]})
	}
	for i, l := range r.ledgers {
		l.plan = &r.Plan.Ledgers[i]
	}
	r.Plan.Store, r.Plan.Server, r.Plan.Epoch = r.id.Store, r.id.Server, newest+1
	return nil
}

// judge refuses a replica that is not of this store, or not whole.
func (r *Restore) judge(x *replication.Replica) error {
	want, hosts, err := r.id.pins()
	if err != nil {
		return err
	}
	pin := x.Pin()
	if pin.Kind == events.Hosts {
		want = hosts
	}
	if pin.Store != r.id.Store || pin.Genesis != want {
		return &hinted{
			error: fmt.Errorf("%w: %s is of another key store: the ledger of %s of %q with genesis %s; this one's is %s",
				keystore.ErrRefused, x.Path(), pin.Kind, pin.Store, pin.Genesis, want),
			hint: "the genesis is in the server's configuration; a store is restored from its own replicas and backups alone",
		}
	}
	if n, _ := x.Watch(); n == 0 {
		return fmt.Errorf("%w: %s has no event", keystore.ErrInvalid, x.Path())
	}
	if err := x.Check(); err != nil {
		return &hinted{
			error: fmt.Errorf("%w: %w", keystore.ErrRefused, err),
			hint:  "nothing is restored from a file of which something is wrong: take another server's replica, or a backup",
		}
	}
	return nil
}

// openSigner opens the key store key and, with it, the key by which this server signs. It must
// be a member at the end of what is restored.
func (r *Restore) openSigner() error {
	unlock, err := r.site.cfg.unlockKeys()
	if err != nil {
		return fmt.Errorf("unlock key: %w", err)
	}
	slots := r.id.Slots
	if value, ok := r.ledgers[0].source.Value(events.KSKKey(r.id.KSK)); ok {
		ksk, err := events.DecodeKSK(value)
		if err != nil {
			return fmt.Errorf("the unlock slots of key store key %s: %w", r.id.KSK, err)
		}
		slots = append(slots[:len(slots):len(slots)], ksk.Records()...)
	}
	ksk, _, err := openKSK(r.id.KSK, slots, unlock, r.id.Store)
	if err != nil {
		return err
	}
	own, err := r.id.openKeys(ksk)
	if err != nil {
		return err
	}
	r.key = own.signing
	for _, l := range r.ledgers {
		var m events.Member
		l.source.Read(func(s *events.State) { m, _ = s.Member(r.id.Server) })
		if m.ID == "" || m.Forgotten != 0 || !m.PublicKey.Equal(r.key.Public()) {
			return &hinted{
				error: fmt.Errorf("%w: server %s is no member at event %d of %s", keystore.ErrRefused, r.id.Server, l.plan.Head.N, l.plan.Kind),
				hint:  "a member signs the beginning of an epoch: restore on another server of the core, or from a newer replica",
			}
		}
	}
	return nil
}

// compare finds what others have that the sources have not.
func (r *Restore) compare() error {
	var others []*replication.Replica
	for _, o := range r.cfg.Others {
		some, err := r.openAll([]string{o.Path})
		if err != nil {
			return fmt.Errorf("to compare with: %s: %w", cmp.Or(o.Name, o.Path), err)
		}
		for _, x := range some {
			if o.Name != "" {
				r.imported[x.Path()] = o.Name
			}
		}
		others = append(others, some...)
	}
	own, err := r.own()
	if err != nil {
		return err
	}
	seen := make(map[events.Hash]bool)
	r.Plan.Compared, r.Plan.Lost = []Compared{}, []LostEvent{}
	for _, x := range append(own, others...) {
		for _, l := range r.ledgers {
			if x.Pin().Kind != l.plan.Kind || x.Path() == l.plan.Source {
				continue
			}
			if err := r.compareWith(l, x, seen); err != nil {
				return err
			}
		}
	}
	r.notCompared()
	return nil
}

func (r *Restore) compareWith(l *restoring, x *replication.Replica, seen map[events.Hash]bool) error {
	if x.Pin().Genesis != l.source.Pin().Genesis {
		return fmt.Errorf("%w: to compare with: %s is of another key store", keystore.ErrRefused, x.Path())
	}
	head, _ := x.Snapshot()
	c := Compared{Kind: l.plan.Kind, File: r.nameOf(x), Head: head, Common: replication.Common(l.source, x)}
	r.Plan.Compared = append(r.Plan.Compared, c)
	for rec, err := range x.Records(c.Common+1, head.N) {
		if err != nil {
			return err
		}
		ev, err := events.Decode(rec)
		if err != nil {
			return err
		}
		if !seen[rec.Hash()] {
			seen[rec.Hash()] = true
			r.Plan.Lost = append(r.Plan.Lost, LostEvent{
				Kind: l.plan.Kind, N: ev.N, ID: ev.ID.String(), Type: ev.Type.String(), At: ev.At.UTC().Format("2006-01-02T15:04:05.000Z"),
				Server: ev.Server, Actor: ev.Actor, Reason: ev.Reason, Hash: rec.Hash().String(), File: r.nameOf(x),
			})
		}
	}
	return nil
}

// notCompared lists the members of which no replica was looked at.
func (r *Restore) notCompared() {
	r.Plan.Missing = []string{}
	r.ledgers[0].source.Read(func(s *events.State) {
		for _, m := range s.Members() {
			if m.Forgotten == 0 && m.ID != r.id.Server && !r.looked(m.ID) {
				r.Plan.Missing = append(r.Plan.Missing, m.ID)
			}
		}
	})
}

// looked reports whether a file of this server's was given: one that lies in a directory, or
// has a name, that is the server's.
func (r *Restore) looked(id string) bool {
	paths := append(append([]string{}, r.cfg.Replicas...), r.cfg.Backups...)
	for _, o := range r.cfg.Others {
		if o.Server == id {
			return true
		}
		paths = append(paths, o.Path)
	}
	for _, path := range paths {
		base := filepath.Base(path)
		if base == id || base == id+backupSuffix || filepath.Base(filepath.Dir(path)) == id {
			return true
		}
	}
	return false
}
