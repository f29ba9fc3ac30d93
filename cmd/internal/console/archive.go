package console

import (
	"context"
	"sync"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

// An archive keeps what was read from the history, which costs a walk through the
// whole log, until a ring has changed. It walks for one page at a time.
type archive struct {
	mu     sync.Mutex // guards the field below
	byRing map[string]archived
}

type archived struct {
	at   keystore.N // the ring's last event
	past past
}

// past returns a ring's past. Callers must not change it.
func (a *archive) past(ctx context.Context, r Reader, ring adminapi.Ring) (past, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if kept, ok := a.byRing[ring.Name]; ok && kept.at == ring.LastEvent.N {
		return kept.past, nil
	}
	history, err := r.History(ctx, keystore.RingName(ring.Name), adminhttp.Span{})
	if err != nil {
		return past{}, err
	}
	if a.byRing == nil {
		a.byRing = make(map[string]archived)
	}
	kept := archived{at: ring.LastEvent.N, past: pastOf(ring, history.Events)}
	a.byRing[ring.Name] = kept
	return kept.past, nil
}
