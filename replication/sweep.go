package replication

import (
	"bytes"
	"cmp"
	"errors"
	"slices"
	"strings"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/doctor"
)

// flawsMost bounds what one sweep tells: whoever writes to the bucket makes as many
// flaws as he likes.
const flawsMost = 256

// A Sweep compares what is stored of a ledger, entry by entry in the order of the
// stream, with a replica. It takes entries of the bucket, or messages as they lie in one
// core server's files, where older ones of a key may come before its newest. What it
// finds is a suspicion: the ledger goes on meanwhile, and Member.confirm tells.
type Sweep struct {
	replica *Replica
	upTo    keystore.N // events that must be there, if the whole ledger is swept
	highest keystore.N // event that was met
	seen    []uint64   // a bit for each event that was met as it must be
	wrong   map[string]events.Revision
	newest  map[string]sight // of values and the head
	count   int
}

type sight struct {
	revision events.Revision
	hash     events.Hash
	deleted  bool
}

// NewSweep begins a sweep. Begin it before what is stored is looked at.
func NewSweep(r *Replica) *Sweep {
	n, _ := r.Watch()
	return &Sweep{
		replica: r, upTo: n, seen: make([]uint64, n/64+1), wrong: make(map[string]events.Revision), newest: make(map[string]sight),
	}
}

// Count is how many entries were taken.
func (s *Sweep) Count() int { return s.count }

// Take takes the next entry. It keeps nothing of it.
func (s *Sweep) Take(e events.Entry) {
	key, err := events.ParseKey(e.Key)
	if err != nil {
		return
	}
	s.count++
	switch key.Kind {
	case events.KeyBeacon, events.KeyServer:
	case events.KeyLog:
		s.takeEvent(key.N, e)
	default:
		s.newest[e.Key] = sight{e.Revision, events.HashOf(e.Value), e.Deleted}
	}
}

func (s *Sweep) takeEvent(n keystore.N, e events.Entry) {
	if judgeEvent(s.replica, n, &e) != "" {
		if len(s.wrong) < flawsMost {
			s.wrong[e.Key] = e.Revision
		}
		s.mark(n, false)
		return
	}
	s.highest = max(s.highest, n)
	delete(s.wrong, e.Key)
	s.mark(n, true)
}

func (s *Sweep) mark(n keystore.N, seen bool) {
	word, bit := n/64, uint64(1)<<(n%64)
	switch {
	case n > s.upTo:
	case seen:
		s.seen[word] |= bit
	default:
		s.seen[word] &^= bit
	}
}

// Events lists the keys of events that are not there as they must be, among those up to
// the highest that is.
func (s *Sweep) Events() []string {
	keys := s.missing(min(s.highest, s.upTo))
	for key := range s.wrong {
		if !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

func (s *Sweep) missing(upTo keystore.N) (keys []string) {
	for n := keystore.N(1); n <= upTo && len(keys) < flawsMost; n++ {
		if s.seen[n/64]&(1<<(n%64)) == 0 {
			keys = append(keys, events.LogKey(n))
		}
	}
	return keys
}

// Suspects lists every key that is not as it must be, once all of the ledger was taken.
func (s *Sweep) Suspects() []string {
	keys := s.missing(s.upTo)
	for key := range s.wrong {
		keys = append(keys, key)
	}
	s.replica.Read(func(state *events.State) {
		for _, key := range state.Live() {
			if _, ok := s.newest[key]; !ok {
				keys = append(keys, key)
			}
		}
		for key, have := range s.newest {
			want, live := state.Expect(key)
			if key != events.HeadKey && (have.deleted == live || live && have.hash != want) {
				keys = append(keys, key)
			}
		}
	})
	keys = append(keys, events.HeadKey)
	slices.Sort(keys)
	keys = slices.Compact(keys)
	return keys[:min(len(keys), flawsMost)]
}

// judge says what is wrong with the newest entry of a key; nil: there is none. It
// returns "" where nothing is, or where the entry is newer or older than the replica.
func judge(r *Replica, name string, e *events.Entry) doctor.Fault {
	key, err := events.ParseKey(name)
	if err != nil {
		return ""
	}
	switch key.Kind {
	case events.KeyBeacon, events.KeyServer:
		return ""
	case events.KeyLog:
		return judgeEvent(r, key.N, e)
	case events.KeyHead:
		return judgeHead(r, e)
	}
	if e != nil && e.Revision != r.Revision(name) {
		return "" // the replica knows another: one of the two is on its way
	}
	var want events.Hash
	var live bool
	r.Read(func(s *events.State) { want, live = s.Expect(name) })
	switch {
	case e == nil && live:
		return doctor.Missing
	case e == nil, e.Deleted && !live:
		return ""
	case !live:
		return doctor.Foreign
	case e.Deleted, events.HashOf(e.Value) != want:
		return doctor.Overwritten
	}
	return ""
}

func judgeHead(r *Replica, e *events.Entry) doctor.Fault {
	var want events.Head
	r.Read(func(s *events.State) { want = s.Head() })
	switch {
	case e == nil && want.N > 0:
		return doctor.Missing
	case e == nil, e.Revision != r.Revision(events.HeadKey), bytes.Equal(e.Value, want.Encode()):
		return ""
	}
	return doctor.Overwritten
}

func judgeEvent(r *Replica, n keystore.N, e *events.Entry) doctor.Fault {
	rec, err := r.Record(n)
	switch {
	case err != nil && !errors.Is(err, keystore.ErrNotFound):
		return "" // the replica's own file does not read, which is another finding
	case err != nil && e == nil:
		return ""
	case err != nil: // the replica has no event n yet
		if !e.Deleted && signedByMember(r, e.Value) {
			return ""
		}
		return doctor.Forged
	case e == nil:
		return doctor.Missing
	case e.Deleted, !bytes.Equal(rec, e.Value):
		return doctor.Overwritten
	}
	return ""
}

// signedByMember reports whether an event is a member's, whatever it says: one that this
// program does not understand is nothing to be put right.
func signedByMember(r *Replica, rec events.Record) bool {
	ev, err := events.Decode(rec)
	if err != nil {
		return false
	}
	ok := false
	r.Read(func(s *events.State) {
		m, known := s.Member(ev.Server)
		ok = known && m.Forgotten == 0 && rec.Verify(m.PublicKey) == nil
	})
	return ok
}

// byOrder sorts flaws: events by their number, then values by their key.
func byOrder(a, b doctor.Flaw) int {
	return cmp.Or(order(a.Key)-order(b.Key), strings.Compare(a.Key, b.Key))
}

func order(key string) int {
	k, err := events.ParseKey(key)
	if err != nil || k.Kind != events.KeyLog {
		return int(^uint(0) >> 2)
	}
	return int(k.N)
}
