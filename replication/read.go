package replication

import (
	"fmt"
	"maps"
	"slices"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
)

// ReadReplica opens a replica's file to be read: what it is of, it says itself, and whoever
// trusts that compares its pin. Nothing of the file is changed, and nothing may feed it.
func ReadReplica(path string) (*Replica, error) {
	f, err := readFile(path)
	if err != nil {
		return nil, err
	}
	r, err := readReplica(f, Pin{})
	if err != nil {
		f.close()
		return nil, err
	}
	return r, nil
}

// Check reports what is wrong with the contents: every event is judged again, its
// signature included, and every value that lives by its hash.
func (r *Replica) Check() error {
	to := r.applied.load()
	s := events.NewState()
	for rec, err := range r.Records(1, to) {
		if err == nil {
			_, err = s.Apply(rec)
		}
		if err != nil {
			return r.damaged(err)
		}
	}
	if first, err := r.Record(1); to > 0 && (err != nil || first.Hash() != r.pin.Genesis) {
		return r.damaged(fmt.Errorf("event 1 is not the genesis %s", r.pin.Genesis))
	}
	for _, key := range s.Live() {
		want, _ := s.Expect(key)
		value, there := r.Value(key)
		if !there {
			return r.damaged(fmt.Errorf("the value of %s is missing", key))
		}
		if events.HashOf(value) != want {
			return r.damaged(fmt.Errorf("the value of %s is not the one that its event put", key))
		}
	}
	return nil
}

func (r *Replica) damaged(err error) error {
	return fmt.Errorf("replica %s: %w: %w", r.Path(), errDamaged, err)
}

// Has reports whether the replica holds this end of a history.
func (r *Replica) Has(h events.Head) bool {
	rec, err := r.Record(h.N)
	return err == nil && rec.Hash() == h.Hash
}

// Common returns the last event that two replicas of one ledger both have.
func Common(a, b *Replica) keystore.N {
	low, high := keystore.N(0), min(a.applied.load(), b.applied.load())
	for low < high { // whoever has an event has all before it, so there is one place where they part
		mid := (low + high + 1) / 2
		rec, err := a.Record(mid)
		if err == nil && b.Has(events.Head{N: mid, Hash: rec.Hash()}) {
			low = mid
		} else {
			high = mid - 1
		}
	}
	return low
}

// ImportReplica makes a replica's file from a history and its values, which the caller has
// verified, as those of a backup are. There must be no file at path.
func ImportReplica(path string, pin Pin, records []events.Record, values map[string][]byte) (err error) {
	f, err := openFile(path, pin)
	if err != nil {
		return err
	}
	defer func() {
		if closing := f.close(); err == nil {
			err = closing
		}
	}()
	change := fileChange{header: header{Format: fileFormat, Pin: pin}, first: 1, puts: maps.Clone(values)}
	for some := range slices.Chunk(records, stageRecords) {
		change.records = some
		change.header.Applied = change.first + keystore.N(len(some)) - 1
		change.header.Boundary = true
		if err := f.write(change); err != nil {
			return err
		}
		change.first, change.puts = change.header.Applied+1, nil
	}
	return nil
}
