package console

import (
	"context"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

// An archive keeps what was read from the history, which costs a walk through the
// whole log, until a ring has changed. It walks for one page at a time, and to the
// end although the browser has given up: the next question finds the answer.
type archive struct {
	turn   chan struct{} // holds one token; whoever has taken it owns the field below
	byRing map[string]archived
}

type archived struct {
	at   keystore.N // the ring's last event
	past past
}

func newArchive() archive {
	a := archive{turn: make(chan struct{}, 1), byRing: make(map[string]archived)}
	a.turn <- struct{}{}
	return a
}

// past returns a ring's past. Callers must not change it.
func (a *archive) past(ctx context.Context, r Reader, ring adminapi.Ring) (past, error) {
	select {
	case <-a.turn:
		defer func() { a.turn <- struct{}{} }()
	case <-ctx.Done():
		return past{}, ctx.Err()
	}
	if kept, ok := a.byRing[ring.Name]; ok && kept.at == ring.LastEvent.N {
		return kept.past, nil
	}
	walk, cancel := context.WithTimeout(context.WithoutCancel(ctx), readLimit)
	defer cancel()
	history, err := r.History(walk, keystore.RingName(ring.Name), adminhttp.Span{})
	if err != nil {
		return past{}, err
	}
	kept := archived{at: ring.LastEvent.N, past: pastOf(ring, history.Events)}
	a.byRing[ring.Name] = kept
	return kept.past, nil
}
