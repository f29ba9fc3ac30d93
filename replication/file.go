package replication

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
)

const fileFormat = 1

// The buckets of the file, and what is in them.
var (
	bucketMeta      = []byte("meta")      // "header" → JSON of header
	bucketLog       = []byte("log")       // n, 8 bytes big-endian → record
	bucketValues    = []byte("values")    // KV key → value
	bucketRevisions = []byte("revisions") // KV key → revision, 8 bytes big-endian
	bucketMarks     = []byte("marks")     // name → RFC 3339 time
	bucketAlarms    = []byte("alarms")    // kind, space, key → JSON of Alarm

	keyHeader = []byte("header")
)

// A header is the file's word about itself.
type header struct {
	Format  int             `json:"format"`
	Pin     Pin             `json:"pin"`
	Created time.Time       `json:"created"` // of the stream; zero until it has been seen
	Cursor  events.Revision `json:"cursor"`  // everything up to here that matters is in the file
	Applied keystore.N      `json:"applied"` // the state to start from; records may go beyond it
	// Boundary: a head has come since the newest record, so that nothing but key
	// material may keep it from being applied.
	Boundary bool `json:"boundary"`
}

// A file is the replica on disk: a bbolt file of bytes. What they mean is the
// replica's affair. Only one process can have it open.
type file struct {
	db   *bolt.DB
	path string
}

// A fileChange is written in one transaction.
type fileChange struct {
	header    header
	first     keystore.N // of records
	records   []events.Record
	puts      map[string][]byte
	deletes   []string
	revisions map[string]events.Revision
}

// fileContents is what is read into memory at the start: all but the log.
type fileContents struct {
	header    header
	last      keystore.N // the newest record in the log
	values    map[string][]byte
	revisions map[string]events.Revision
	marks     map[string]time.Time
	alarms    []Alarm
}

// openFile opens the file at path, or makes it with mode 0600. A new file
// appears under its name only when it is whole.
func openFile(path string, pin Pin) (_ *file, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("replica %s: %w", path, err)
		}
	}()
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		if err := createFile(path, pin); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	case info.Mode().Perm()&0o077 != 0:
		return nil, fmt.Errorf("mode is %04o: others can read it; make it 0600", info.Mode().Perm())
	}
	db, err := openBolt(path, false)
	if err != nil {
		return nil, err
	}
	return &file{db: db, path: path}, nil
}

// readFile opens the file at path to be read alone: nothing of it is changed.
func readFile(path string) (*file, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, fmt.Errorf("replica %s: it is a directory", path)
	}
	db, err := openBolt(path, true)
	if err != nil {
		return nil, fmt.Errorf("replica %s: %w", path, err)
	}
	return &file{db: db, path: path}, nil
}

func createFile(path string, pin Pin) error {
	if pin.Genesis == (events.Hash{}) {
		return errors.New("a new replica needs the hash of the ledger's genesis event")
	}
	part := path + ".new"
	if err := os.Remove(part); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	db, err := openBolt(part, false)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range [][]byte{bucketMeta, bucketLog, bucketValues, bucketRevisions, bucketMarks, bucketAlarms} {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		return putHeader(tx, header{Format: fileFormat, Pin: pin})
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	if err := os.Rename(part, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func openBolt(path string, readOnly bool) (db *bolt.DB, err error) {
	err = guarded(func() error {
		// A timeout of nothing: a second opener gets its error at once.
		db, err = bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Nanosecond, FreelistType: bolt.FreelistMapType, ReadOnly: readOnly})
		return err
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, errors.New("another process has it open: stop that one first")
	}
	return db, err
}

// guarded turns what bbolt does on a damaged file, panics and faults in the
// mapped memory behind a truncated end, into an error.
func guarded(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", bolterrors.ErrInvalid, r)
		}
		if isDamage(err) {
			err = fmt.Errorf("the file is damaged (%w): move it away; the replica is made anew from the core", err)
		}
	}()
	return fn()
}

func isDamage(err error) bool {
	for _, damage := range []error{bolterrors.ErrInvalid, bolterrors.ErrChecksum, bolterrors.ErrVersionMismatch, errDamaged} {
		if errors.Is(err, damage) {
			return true
		}
	}
	return err != nil && err.Error() == "file size too small"
}

var errDamaged = errors.New("contents do not fit together")

// load reads all but the log. Whether that is dense shows when it is read.
func (f *file) load() (fileContents, error) {
	c := fileContents{
		values:    make(map[string][]byte),
		revisions: make(map[string]events.Revision),
		marks:     make(map[string]time.Time),
	}
	err := guarded(func() error {
		return f.db.View(func(tx *bolt.Tx) error { return c.read(tx) })
	})
	if err != nil {
		return fileContents{}, fmt.Errorf("replica %s: %w", f.path, err)
	}
	return c, nil
}

func (c *fileContents) read(tx *bolt.Tx) error {
	for _, name := range [][]byte{bucketMeta, bucketLog, bucketValues, bucketRevisions, bucketMarks, bucketAlarms} {
		if tx.Bucket(name) == nil {
			return fmt.Errorf("%w: no bucket %s", errDamaged, name)
		}
	}
	if err := json.Unmarshal(tx.Bucket(bucketMeta).Get(keyHeader), &c.header); err != nil {
		return fmt.Errorf("%w: header: %v", errDamaged, err)
	}
	if c.header.Format != fileFormat {
		return fmt.Errorf("format is %d; this program reads %d", c.header.Format, fileFormat)
	}
	if key, _ := tx.Bucket(bucketLog).Cursor().Last(); len(key) == 8 {
		c.last = keystore.N(binary.BigEndian.Uint64(key))
	}
	return errors.Join(
		tx.Bucket(bucketValues).ForEach(func(k, v []byte) error {
			c.values[string(k)] = append([]byte{}, v...)
			return nil
		}),
		tx.Bucket(bucketRevisions).ForEach(func(k, v []byte) error {
			if len(v) != 8 {
				return fmt.Errorf("%w: revision of %s", errDamaged, k)
			}
			c.revisions[string(k)] = events.Revision(binary.BigEndian.Uint64(v))
			return nil
		}),
		tx.Bucket(bucketMarks).ForEach(func(k, v []byte) error {
			at, err := time.Parse(time.RFC3339Nano, string(v))
			c.marks[string(k)] = at
			return err
		}),
		tx.Bucket(bucketAlarms).ForEach(func(_, v []byte) error {
			var alarm Alarm
			err := json.Unmarshal(v, &alarm)
			c.alarms = append(c.alarms, alarm)
			return err
		}),
	)
}

func putHeader(tx *bolt.Tx, h header) error {
	text, err := json.Marshal(h)
	if err != nil {
		return err
	}
	return tx.Bucket(bucketMeta).Put(keyHeader, text)
}

func bigEndian(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

// write commits a change; when it returns nil, the change is on the disk.
func (f *file) write(c fileChange) error {
	err := f.db.Update(func(tx *bolt.Tx) error {
		log := tx.Bucket(bucketLog)
		log.FillPercent = 1 // n only grows
		for i, rec := range c.records {
			if err := log.Put(bigEndian(uint64(c.first)+uint64(i)), rec); err != nil {
				return err
			}
		}
		values := tx.Bucket(bucketValues)
		for key, value := range c.puts {
			if err := values.Put([]byte(key), value); err != nil {
				return err
			}
		}
		for _, key := range c.deletes {
			if err := values.Delete([]byte(key)); err != nil {
				return err
			}
		}
		for key, rev := range c.revisions {
			if err := tx.Bucket(bucketRevisions).Put([]byte(key), bigEndian(uint64(rev))); err != nil {
				return err
			}
		}
		return putHeader(tx, c.header)
	})
	if err != nil {
		return fmt.Errorf("replica %s: %w", f.path, err)
	}
	return nil
}

func (f *file) setMark(name string, at time.Time) error {
	return f.update(bucketMarks, name, []byte(at.UTC().Format(time.RFC3339Nano)))
}

func (f *file) setAlarm(a Alarm) error {
	text, err := json.Marshal(a)
	if err != nil {
		return err
	}
	return f.update(bucketAlarms, string(a.Kind)+" "+a.Key, text)
}

func (f *file) clearAlarm(a Alarm) error {
	return f.update(bucketAlarms, string(a.Kind)+" "+a.Key, nil)
}

// update puts one value, or with nil deletes it.
func (f *file) update(bucket []byte, key string, value []byte) error {
	err := f.db.Update(func(tx *bolt.Tx) error {
		if value == nil {
			return tx.Bucket(bucket).Delete([]byte(key))
		}
		return tx.Bucket(bucket).Put([]byte(key), value)
	})
	if err != nil {
		return fmt.Errorf("replica %s: %w", f.path, err)
	}
	return nil
}

// recordsAtOnce is how many records one read transaction copies: a transaction
// that stays open keeps the writer from reusing pages.
const recordsAtOnce = 512

// records yields the records from to to, both included, in order.
func (f *file) records(from, to keystore.N) iter.Seq2[events.Record, error] {
	return func(yield func(events.Record, error) bool) {
		for from <= to {
			some, err := f.someRecords(from, min(to, from+recordsAtOnce-1))
			for _, rec := range some {
				if !yield(rec, nil) {
					return
				}
			}
			if err != nil {
				yield(nil, fmt.Errorf("replica %s: %w", f.path, err))
				return
			}
			from += keystore.N(len(some))
		}
	}
}

// someRecords copies the records from to to; fewer come with an error only.
func (f *file) someRecords(from, to keystore.N) (some []events.Record, err error) {
	err = guarded(func() error {
		return f.db.View(func(tx *bolt.Tx) error {
			cursor := tx.Bucket(bucketLog).Cursor()
			key, rec := cursor.Seek(bigEndian(uint64(from)))
			for n := from; n <= to; n++ {
				if len(key) != 8 || keystore.N(binary.BigEndian.Uint64(key)) != n {
					return fmt.Errorf("%w: no event %d", errDamaged, n)
				}
				some = append(some, append(events.Record{}, rec...))
				key, rec = cursor.Next()
			}
			return nil
		})
	})
	return some, err
}

func (f *file) close() error { return f.db.Close() }
