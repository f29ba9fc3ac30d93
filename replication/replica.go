package replication

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
)

// A Pin says which ledger a replica is of. Genesis is what is trusted: the hash of
// the ledger's first event. It comes from the server's configuration, or from
// whoever founded the ledger.
type Pin struct {
	Kind    events.Kind    `json:"kind"`
	Store   string         `json:"store"`
	Epoch   keystore.Epoch `json:"epoch"`
	Genesis events.Hash    `json:"genesis"`
}

// A PinError reports a replica of another ledger.
type PinError struct {
	Path       string
	Want, Have Pin
}

func (e *PinError) Error() string {
	return fmt.Sprintf("replica %s: it is of the ledger %v %q, epoch %d, genesis %s; want %v %q, epoch %d, genesis %s", e.Path,
		e.Have.Kind, e.Have.Store, e.Have.Epoch, e.Have.Genesis, e.Want.Kind, e.Want.Store, e.Want.Epoch, e.Want.Genesis)
}

// Hint says what to do about it.
func (e *PinError) Hint() string {
	return "check the store's name, epoch and genesis in the configuration; never delete a replica that may be the last one"
}

// A Replica is a policy server's verified copy of a ledger: a file that holds all
// events and the values that live, and the fold of them in memory. Reads never
// touch the network. Server records and beacons are not in it.
//
// A change is shown first and fsynced beside: Watch tells the one, Durable the
// other. All methods are safe for concurrent use; one Member feeds it.
type Replica struct {
	file *file
	pin  Pin

	mu        sync.RWMutex // guards the fields below
	state     *events.State
	values    map[string][]byte
	revisions map[string]events.Revision
	marks     map[string]time.Time
	tailFrom  keystore.N      // of tail
	tail      []events.Record // shown, perhaps not in the file yet
	onDisk    events.Head     // what the replica would start again with

	applied, durable cell[keystore.N]

	// Owned by the one who feeds it.
	header  header
	last    keystore.N        // newest record in the file
	ahead   map[string][]byte // values of events that are in the file and not shown
	scratch *events.State     // the fold of every record in the file, for the assembler
	alarms  []Alarm           // as they stood when the file was opened
}

// OpenReplica opens the replica at path, or makes an empty one with mode 0600. A
// zero pin.Genesis takes the file's own, and is refused for a new file. A replica
// of another ledger gives a *PinError; a damaged file an error that names it.
func OpenReplica(path string, pin Pin) (*Replica, error) {
	f, err := openFile(path, pin)
	if err != nil {
		return nil, err
	}
	r, err := readReplica(f, pin)
	if err != nil {
		f.close()
		return nil, err
	}
	return r, nil
}

func readReplica(f *file, pin Pin) (*Replica, error) {
	c, err := f.load()
	if err != nil {
		return nil, err
	}
	if pin == (Pin{}) {
		pin = c.header.Pin
	}
	if pin.Genesis.IsZero() {
		pin.Genesis = c.header.Pin.Genesis
	}
	if c.header.Pin != pin {
		return nil, &PinError{Path: f.path, Want: pin, Have: c.header.Pin}
	}
	r := &Replica{
		file: f, pin: pin, state: events.NewState(), values: c.values, revisions: c.revisions, marks: c.marks,
		header: c.header, last: c.last, ahead: make(map[string][]byte), alarms: c.alarms,
	}
	if err := r.fold(c); err != nil {
		return nil, fmt.Errorf("replica %s: the file is damaged (%w): move it away; the replica is made anew from the core", f.path, err)
	}
	r.onDisk = r.state.Head()
	r.applied.raise(r.state.N())
	r.durable.raise(r.state.N())
	return r, nil
}

// fold makes the two states from the log: the one to show, and the one after it.
func (r *Replica) fold(c fileContents) error {
	if c.header.Applied > c.last {
		return fmt.Errorf("%w: event %d was applied, but the log ends at %d", errDamaged, c.header.Applied, c.last)
	}
	if err := foldInto(r.state, r.file.records(1, c.header.Applied)); err != nil {
		return err
	}
	if r.state.N() > 0 {
		if err := r.checkGenesis(); err != nil {
			return err
		}
	}
	r.scratch = r.state.Clone()
	return foldInto(r.scratch, r.file.records(c.header.Applied+1, c.last))
}

func foldInto(s *events.State, records iter.Seq2[events.Record, error]) error {
	before := s.N()
	for rec, err := range records {
		if err != nil {
			return err
		}
		if err := s.Fold(rec); err != nil {
			return fmt.Errorf("%w: %w", errDamaged, err)
		}
	}
	if s.N() == before {
		return nil
	}
	return s.VerifyNewest()
}

func (r *Replica) checkGenesis() error {
	first, err := r.file.someRecords(1, 1)
	if err != nil {
		return err
	}
	if first[0].Hash() != r.pin.Genesis {
		return fmt.Errorf("%w: event 1 is not the pinned genesis", errDamaged)
	}
	return nil
}

// Pin says which ledger the replica is of.
func (r *Replica) Pin() Pin { return r.pin }

// Path is the replica's file.
func (r *Replica) Path() string { return r.file.path }

// Close closes the file. Nobody may feed or read the replica any more.
func (r *Replica) Close() error { return r.file.close() }

// Read calls fn with the state as it is shown. fn must be short, and must neither
// keep nor change the state.
func (r *Replica) Read(fn func(*events.State)) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	fn(r.state)
}

// Watch returns the n of the state that is shown, and a channel that is closed
// when it has risen.
func (r *Replica) Watch() (keystore.N, <-chan struct{}) { return r.applied.watch() }

// Durable returns the n up to which the replica would start again after a crash,
// and a channel that is closed when it has risen.
func (r *Replica) Durable() (keystore.N, <-chan struct{}) { return r.durable.watch() }

// Record returns the record of an event that is shown. The error wraps
// keystore.ErrNotFound if there is none.
func (r *Replica) Record(n keystore.N) (events.Record, error) {
	for rec, err := range r.Records(n, n) {
		return rec, err
	}
	return nil, fmt.Errorf("event %d: %w", n, keystore.ErrNotFound)
}

// Records yields the records of the shown events from to to, both included, in
// order; to is cut to the newest.
func (r *Replica) Records(from, to keystore.N) iter.Seq2[events.Record, error] {
	return func(yield func(events.Record, error) bool) {
		r.mu.RLock()
		to = min(to, r.state.N())
		from = max(from, 1)
		var tail []events.Record
		filed := to
		if len(r.tail) > 0 && to >= r.tailFrom {
			filed = r.tailFrom - 1
			tail = r.tail[max(from, r.tailFrom)-r.tailFrom : to-filed]
		}
		r.mu.RUnlock()
		for rec, err := range r.file.records(from, filed) {
			if !yield(rec, err) {
				return
			}
		}
		for _, rec := range tail {
			if !yield(slices.Clone(rec), nil) {
				return
			}
		}
	}
}

// Value returns the value of a ring, host, material or ksk key. The caller must
// not change it.
func (r *Replica) Value(key string) ([]byte, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	value, ok := r.values[key]
	return value, ok
}

// Snapshot returns where the state that is shown ends, and every value that lives
// there. The caller must not change the values.
func (r *Replica) Snapshot() (events.Head, map[string][]byte) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.state.Head(), maps.Clone(r.values)
}

// Revision returns the newest revision of a key, whoever wrote it; 0 if it was
// never written.
func (r *Replica) Revision(key string) events.Revision {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.revisions[key]
}

// Mark returns the time that was noted under name, zero if none was.
func (r *Replica) Mark(name string) time.Time {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.marks[name]
}

// SetMark notes a time under name, with fsync: small things that have to outlast a
// restart and concern this server alone.
func (r *Replica) SetMark(name string, at time.Time) error {
	if err := r.file.setMark(name, at); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.marks[name] = at
	return nil
}

func (r *Replica) noteRevision(key string, rev events.Revision) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.revisions[key] = rev
}

// hashAt returns the hash of an event that is in the replica.
func (r *Replica) hashAt(n keystore.N) (events.Hash, bool) {
	if n == 0 || n > max(r.last, r.state.N()) {
		return events.Hash{}, false
	}
	r.mu.RLock()
	inTail := len(r.tail) > 0 && n >= r.tailFrom && n < r.tailFrom+keystore.N(len(r.tail))
	var rec events.Record
	if inTail {
		rec = r.tail[n-r.tailFrom]
	}
	r.mu.RUnlock()
	if inTail {
		return rec.Hash(), true
	}
	some, err := r.file.someRecords(n, n)
	if err != nil {
		return events.Hash{}, false
	}
	return some[0].Hash(), true
}

func (r *Replica) newAssembler() *assembler {
	return newAssembler(origin{
		pin: r.pin, state: r.scratch, hashAt: r.hashAt, held: r.Value, keys: slices.Collect(maps.Keys(r.values)),
		applied: r.header.Applied, position: r.header.Cursor, boundary: r.header.Boundary,
		head: r.Revision(events.HeadKey),
	})
}

// show makes a part visible: it folds its records, takes its values, and wakes
// who watches. It does not touch the disk but to read what was staged before.
func (r *Replica) show(p *part) error {
	staged := p.first > r.state.N()+1
	next := r.state
	if staged {
		// A long way: fold aside, so that readers go on reading.
		next = r.state.Clone()
		if err := foldInto(next, r.file.records(next.N()+1, p.first-1)); err != nil {
			return err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rec := range p.records {
		if err := next.Fold(rec); err != nil {
			return err
		}
	}
	r.state = next
	r.tailFrom, r.tail = p.first, p.records
	maps.Copy(r.values, r.ahead)
	maps.Copy(r.values, p.puts)
	for key := range p.deletes {
		delete(r.values, key)
	}
	clear(r.ahead)
	r.applied.raise(next.N())
	return nil
}

// write commits a part to the file. When it returns nil the part is on the disk.
func (r *Replica) write(p *part) error {
	h := r.header
	h.Cursor, h.Boundary = p.cursor, p.boundary
	if p.show {
		h.Applied = r.state.N()
	}
	err := r.file.write(fileChange{
		header: h, first: p.first, records: p.records, puts: p.puts, deletes: slices.Collect(maps.Keys(p.deletes)), revisions: p.revisions,
	})
	if err != nil {
		return err
	}
	r.header = h
	r.last = max(r.last, p.first+keystore.N(len(p.records))-1)
	if !p.show {
		maps.Copy(r.ahead, p.puts)
		return nil
	}
	r.mu.Lock()
	r.tail = nil
	r.onDisk = r.state.Head()
	r.mu.Unlock()
	r.durable.raise(h.Applied)
	return nil
}

// noteCreated pins the stream's creation time at the first contact.
func (r *Replica) noteCreated(at time.Time) error {
	h := r.header
	h.Created = at
	if err := r.file.write(fileChange{header: h}); err != nil {
		return err
	}
	r.header = h
	return nil
}

func (r *Replica) durableHead() events.Head {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.onDisk
}
