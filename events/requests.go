package events

import (
	"maps"
	"slices"

	"github.com/keytide/keytide/keystore"
)

// MaxRequests is how many requests a State remembers. It bounds its memory: a
// request of MaxRequest bytes costs about 200 bytes, so all of them under 1 MB.
const MaxRequests = 4096

// requests remembers the newest MaxRequests request ids. Which they are depends on
// the log alone, so every server knows the same.
type requests struct {
	byID   map[string]keystore.N
	recent []string // a ring buffer
	next   int      // where the oldest one is, once recent is full
}

func (r *requests) find(id string) (keystore.N, bool) {
	n, ok := r.byID[id]
	return n, ok
}

// add remembers a request. Of two events with one request the first has answered
// it.
func (r *requests) add(id string, n keystore.N) {
	if _, known := r.byID[id]; known {
		return
	}
	if r.byID == nil {
		r.byID = map[string]keystore.N{}
	}
	r.byID[id] = n
	if len(r.recent) < MaxRequests {
		r.recent = append(r.recent, id)
		return
	}
	delete(r.byID, r.recent[r.next])
	r.recent[r.next] = id
	r.next = (r.next + 1) % MaxRequests
}

func (r *requests) clone() requests {
	return requests{byID: maps.Clone(r.byID), recent: slices.Clone(r.recent), next: r.next}
}
