package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/events/ledger"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/secretfile"
	"github.com/keytide/keytide/replication"
)

// foundingFile is in the directory of a core's first server until it has founded the
// ledgers. A bucket is only ever made where it is.
const foundingFile = "founding.json"

const foundingFormat = 1

// A founding is how a core's ledgers begin.
type founding struct {
	Format  int              `json:"format"`
	Ledgers []ledgerFounding `json:"ledgers"`
}

type ledgerFounding struct {
	Kind    events.Kind    `json:"kind"`
	Bucket  string         `json:"bucket"`
	Batches []events.Batch `json:"batches"`
}

func (l ledgerFounding) founding() replication.Founding {
	return replication.Founding{Batches: l.Batches}
}

func (f founding) save(dir string) error {
	text, err := json.Marshal(f)
	if err != nil {
		return err
	}
	return secretfile.Replace(filepath.Join(dir, foundingFile), append(text, '\n'))
}

// loadFounding reads the file of a founding that is still to be done; ok is false if
// there is none.
func loadFounding(id identity, dir string) (f founding, ok bool, err error) {
	text, err := secretfile.Read(filepath.Join(dir, foundingFile))
	if errors.Is(err, fs.ErrNotExist) {
		return founding{}, false, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &f)
	}
	if err == nil {
		err = f.check(id)
	}
	if err != nil {
		return founding{}, false, fmt.Errorf("%s in %s: %w", foundingFile, dir, err)
	}
	return f, true, nil
}

// check reports whether the founding is that of the store's ledgers.
func (f founding) check(id identity) error {
	if f.Format != foundingFormat {
		return fmt.Errorf("%w: format %d; this program reads %d", keystore.ErrInvalid, f.Format, foundingFormat)
	}
	keys, hosts, err := id.pins()
	if err != nil {
		return err
	}
	for i, want := range []struct {
		kind events.Kind
		pin  events.Hash
	}{{events.Keys, keys}, {events.Hosts, hosts}} {
		if len(f.Ledgers) != 2 || f.Ledgers[i].Kind != want.kind {
			return fmt.Errorf("%w: want a ledger of keys and one of hosts", keystore.ErrInvalid)
		}
		l := f.Ledgers[i]
		if err := l.founding().Check(); err != nil {
			return err
		}
		if l.Bucket != events.BucketName(want.kind, id.Store, id.Epoch) || l.founding().Genesis().Hash() != want.pin {
			return fmt.Errorf("%w: the ledger of %s is not this store's", keystore.ErrInvalid, want.kind)
		}
	}
	return nil
}

// foundCore founds the ledgers of a core, if that is still to be done and falls to
// this server. It may die at any step, and is then done again at the next start: what
// is there stays. The file goes last.
func (s *site) foundCore(ctx context.Context, ledgers ...*openedLedger) error {
	f, ok, err := loadFounding(s.id, s.cfg.Dir)
	if err != nil || !ok {
		return err
	}
	if s.cfg.core() == nil {
		return fmt.Errorf("%w: %s in %s founds a core, but the configuration has no bus.core", keystore.ErrInvalid, foundingFile, s.cfg.Dir)
	}
	// A replica with events is of ledgers that were founded: were they missing now,
	// they would have been lost, and must not be made anew.
	if ledgers[0].empty() && ledgers[1].empty() {
		if err := s.found(ctx, f); err != nil {
			return fmt.Errorf("founding the core: %w", err)
		}
		s.reach("founded")
	}
	if err := os.Remove(filepath.Join(s.cfg.Dir, foundingFile)); err != nil {
		return err
	}
	s.log.Info("the core is founded")
	return syncDir(s.cfg.Dir)
}

// found makes the buckets and writes what they begin with. Who may make buckets is a
// user of this server's own, for as long as that takes.
func (s *site) found(ctx context.Context, f founding) error {
	var access []string
	for _, l := range f.Ledgers {
		access = append(access, ledger.CreateAccess(l.Bucket)...)
	}
	js, done, err := s.asMaker(access)
	if err != nil {
		return err
	}
	for _, l := range f.Ledgers {
		err := s.await(ctx, "the core, to found the ledger of "+l.Kind.String(), func(ctx context.Context) error {
			return s.foundLedger(ctx, js, l)
		})
		if err != nil {
			return errors.Join(err, done())
		}
	}
	return done()
}

// foundLedger makes the bucket, unless it is there, and writes what is not there yet.
func (s *site) foundLedger(ctx context.Context, js jetstream.JetStream, l ledgerFounding) error {
	// A core that has the bucket, and no room for a second one, would say that alone.
	log, err := ledger.Open(ctx, js, l.Bucket)
	if errors.Is(err, events.ErrNoBucket) {
		log, err = ledger.Create(ctx, js, ledger.Config{
			Bucket: l.Bucket, Replicas: len(s.cfg.core().Servers), MaxBytes: maxLedger,
		})
	}
	if err != nil {
		return err
	}
	s.reach("made " + l.Kind.String())
	err = l.founding().Write(ctx, log)
	if err == nil {
		s.reach("written " + l.Kind.String())
	}
	return err
}
