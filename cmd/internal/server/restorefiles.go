package server

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/replication"
	"github.com/keytide/keytide/replication/backup"
)

// This file opens what a restore reads: replicas, directories that have them, and backups.

const backupSuffix = ".ktb"

// own opens the replicas of this server's own directory, those that have events.
func (r *Restore) own() ([]*replication.Replica, error) {
	if r.owned != nil {
		return r.owned, nil
	}
	r.owned = []*replication.Replica{}
	for _, kind := range []events.Kind{events.Keys, events.Hosts} {
		path := filepath.Join(r.site.cfg.Dir, r.id.replicaFile(kind))
		x, err := r.openReplicaFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			// It may be the reason for the restore; but nothing may be lost unseen.
			r.log.Warn("this server's own replica does not open, and is not compared", "err", err)
			continue
		}
		if n, _ := x.Watch(); n > 0 {
			r.owned = append(r.owned, x)
		}
	}
	return r.owned, nil
}

// openAll opens files and directories. Backups among them are one whole backup with its
// increments, in their order, or several whole ones.
func (r *Restore) openAll(paths []string) ([]*replication.Replica, error) {
	var opened []*replication.Replica
	var backups []string
	flush := func() error {
		if len(backups) == 0 {
			return nil
		}
		imported, err := r.importBackup(backups)
		opened, backups = append(opened, imported...), nil
		return err
	}
	for _, path := range paths {
		is, whole, err := isBackup(path)
		if err != nil {
			return nil, err
		}
		if is {
			if whole {
				if err := flush(); err != nil {
					return nil, err
				}
			}
			backups = append(backups, path)
			continue
		}
		if err := flush(); err != nil {
			return nil, err
		}
		some, err := r.openReplicas(path)
		if err != nil {
			return nil, err
		}
		opened = append(opened, some...)
	}
	return opened, flush()
}

// isBackup tells a backup from a replica by its first bytes.
func isBackup(path string) (is, whole bool, err error) {
	file, err := os.Open(path)
	if err != nil {
		return false, false, err
	}
	defer file.Close()
	start := make([]byte, len(backup.Magic))
	if _, err := io.ReadFull(file, start); err != nil || string(start) != backup.Magic {
		return false, false, nil
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return false, false, err
	}
	parts, err := backup.Parts(file)
	if err != nil {
		return true, false, fmt.Errorf("%w: %s: %w", keystore.ErrRefused, path, err)
	}
	return true, len(parts) > 0 && parts[0].Base.N == 0, nil
}

// openReplicas opens a replica's file, or both of a server's directory.
func (r *Restore) openReplicas(path string) ([]*replication.Replica, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		x, err := r.openReplicaFile(path)
		return []*replication.Replica{x}, err
	}
	var both []*replication.Replica
	for _, kind := range []events.Kind{events.Keys, events.Hosts} {
		file, err := newestReplica(path, kind)
		if err != nil {
			return nil, err
		}
		x, err := r.openReplicaFile(file)
		if err != nil {
			return nil, err
		}
		both = append(both, x)
	}
	return both, nil
}

// newestReplica finds the replica of the highest epoch in a directory.
func newestReplica(dir string, kind events.Kind) (string, error) {
	for number := keystore.Epoch(1 << 10); number > 0; number-- {
		path := filepath.Join(dir, identity{Epoch: number}.replicaFile(kind))
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("directory %s has no replica of the ledger of %s: %w", dir, kind, fs.ErrNotExist)
}

func (r *Restore) openReplicaFile(path string) (*replication.Replica, error) {
	x, err := replication.ReadReplica(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", keystore.ErrRefused, err)
	}
	r.later(x.Close)
	return x, nil
}

// importBackup makes replicas of a backup with its increments.
func (r *Restore) importBackup(paths []string) ([]*replication.Replica, error) {
	var readers []io.Reader
	for _, path := range paths {
		file, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		readers = append(readers, file)
	}
	records := make(map[events.Kind][]events.Record)
	ledgers, err := backup.Verify(func(kind events.Kind, rec events.Record) error {
		records[kind] = append(records[kind], rec)
		return nil
	}, readers...)
	if err != nil {
		return nil, fmt.Errorf("%w: backup %s: %w", keystore.ErrRefused, strings.Join(paths, ", "), err)
	}
	var imported []*replication.Replica
	for _, l := range ledgers {
		if l.Bad != 0 {
			return nil, fmt.Errorf("%w: backup %s: %s: event %d: %w", keystore.ErrRefused, strings.Join(paths, ", "), l.Part.Kind, l.Bad, l.Why)
		}
		pin := replication.Pin{Kind: l.Part.Kind, Store: l.Part.Store, Epoch: l.Part.Epoch, Genesis: l.Part.Genesis}
		file := filepath.Join(r.temp, fmt.Sprintf("%s-%d.db", pin.Kind, len(r.imported)))
		if err := replication.ImportReplica(file, pin, records[pin.Kind], l.Values); err != nil {
			return nil, err
		}
		x, err := r.openReplicaFile(file)
		if err != nil {
			return nil, err
		}
		r.imported[file] = paths[len(paths)-1]
		imported = append(imported, x)
	}
	return imported, nil
}

// nameOf is the file that a person named.
func (r *Restore) nameOf(x *replication.Replica) string {
	if name, ok := r.imported[x.Path()]; ok {
		return name
	}
	return x.Path()
}
