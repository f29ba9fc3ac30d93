package cookie

import (
	"math/bits"
	"sync"
	"sync/atomic"
)

// ways is how many places in the cache a header may take.
const ways = 4

// A cache keeps subkeys by header, at most a fixed number of them. Readers do not
// lock. Only subkeys of tokens that opened come in, so a forger fills nothing.
type cache struct {
	table atomic.Pointer[table]

	mu     sync.Mutex // held by writers
	max    int        // most rows
	victim uint32     // which way is dropped next
}

// A table is rows of places; its length is a power of two.
type table []row

type row [ways]atomic.Pointer[subkey]

// newCache makes a cache of at least one row that grows to hold size subkeys.
func newCache(size int) *cache {
	rows := max(1, (size+ways-1)/ways)
	c := &cache{max: 1 << bits.Len(uint(rows-1))}
	first := make(table, min(4, c.max))
	c.table.Store(&first)
	return c
}

// row returns where subkeys of this header may be. Salts are random and come in only
// after they proved to be an agent's, so mixing them is enough.
func (t table) row(head *header) *row {
	h := (head[2] ^ bits.RotateLeft64(head[3], 31)) * 0x9e3779b97f4a7c15
	return &t[h>>32&uint64(len(t)-1)]
}

// find returns the subkey with this header, or nil. Its key opens in the codec's
// view, or did so an instant ago.
func (c *cache) find(head *header) *subkey {
	r := (*c.table.Load()).row(head)
	for i := range r {
		if s := r[i].Load(); s != nil && s.head == *head {
			return s
		}
	}
	return nil
}

// insert keeps s if current has its key: a key that has gone must not come back
// into memory by a token that was being opened meanwhile.
func (c *cache) insert(s *subkey, current *atomic.Pointer[view]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !current.Load().has(s.key) || c.find(&s.head) != nil {
		return
	}
	for !(*c.table.Load()).place(s) {
		if len(*c.table.Load()) == c.max {
			c.victim++
			(*c.table.Load()).row(&s.head)[c.victim%ways].Store(s)
			return
		}
		c.grow()
	}
}

func (t table) place(s *subkey) bool {
	r := t.row(&s.head)
	for i := range r {
		if r[i].Load() == nil {
			r[i].Store(s)
			return true
		}
	}
	return false
}

// grow doubles the table. Each row's subkeys go to two rows, so none is lost.
func (c *cache) grow() {
	old := *c.table.Load()
	bigger := make(table, 2*len(old))
	for i := range old {
		for j := range old[i] {
			if s := old[i][j].Load(); s != nil {
				bigger.place(s)
			}
		}
	}
	c.table.Store(&bigger)
}

// sweep drops the subkeys of keys that current has not. Whoever replaces the view
// calls it before anything else may.
func (c *cache) sweep(current *atomic.Pointer[view]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t, v := *c.table.Load(), current.Load()
	for i := range t {
		for j := range t[i] {
			if s := t[i][j].Load(); s != nil && !v.has(s.key) {
				t[i][j].Store(nil)
			}
		}
	}
}

// size counts the subkeys kept.
func (c *cache) size() (n int) {
	t := *c.table.Load()
	for i := range t {
		for j := range t[i] {
			if t[i][j].Load() != nil {
				n++
			}
		}
	}
	return n
}
