package ledger_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/events/ledger"
)

// The ledger as porcupine sees it: a register that holds the head's hash. An append
// is a compare-and-swap from prev to hash; a read returns the hash.
type op struct {
	read       bool
	prev, hash events.Hash
}

type outcome struct {
	hash events.Hash // of a read
	err  error       // nil, ErrConflict, ErrUnavailable or ErrUnknown
}

var casModel = porcupine.Model{
	Init: func() any { return events.Hash{} },
	Step: func(state, input, output any) (bool, any) {
		now, in, out := state.(events.Hash), input.(op), output.(outcome)
		switch {
		case in.read:
			return out.hash == now, now
		case out.err == nil:
			return now == in.prev, in.hash
		case errors.Is(out.err, events.ErrConflict):
			return now != in.prev, now
		case errors.Is(out.err, events.ErrUnknown) && now == in.prev:
			return true, in.hash // it may not have been stored: then it is placed where it could not be
		}
		return true, now
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
}

// TestConcurrentAppendsAreLinearizable lets several writers, one of them over a
// link that is held now and then, append to one bucket by compare-and-swap.
func TestConcurrentAppendsAreLinearizable(t *testing.T) {
	url := startServer(t, nil).ClientURL()
	l := create(t, connect(t, url))
	w := newWriter(t)
	w.append(l, w.genesis())
	r := &recorder{begin: time.Now(), first: w.state.Hash()}
	wire := newLink()
	var writers sync.WaitGroup
	for i := range 5 {
		var own *ledger.Ledger
		var err error
		if i == 0 {
			own, err = ledger.Open(within(t), connect(t, url, wire.option()), bucket)
		} else {
			own, err = ledger.Open(within(t), connect(t, url), bucket)
		}
		if err != nil {
			t.Fatal(err)
		}
		writers.Go(func() { r.write(t, own, i, wire) })
	}
	writers.Wait()
	wire.letGo()
	r.closeUnknown()
	if result := porcupine.CheckOperationsTimeout(casModel, r.history(), patience); result != porcupine.Ok {
		t.Errorf("the history of %d operations is %v", len(r.ops), result)
	}
	if r.unknown == 0 || r.conflicts == 0 {
		t.Errorf("%d unknown ends and %d conflicts; the test wants some of each", r.unknown, r.conflicts)
	}
	checkEvents(t, l, 2)
}

type recorder struct {
	begin time.Time
	first events.Hash

	mu                 sync.Mutex
	ops                []porcupine.Operation
	unknown, conflicts int
}

// write reads the head and appends after it, 30 times. Writer 0's link is held for
// every fifth append.
func (r *recorder) write(t *testing.T, l *ledger.Ledger, client int, wire *link) {
	for i := range 30 {
		call := time.Since(r.begin).Nanoseconds()
		entry, err := l.Newest(within(t), events.HeadKey)
		if err != nil {
			t.Error(err)
			return
		}
		head, err := events.DecodeHead(entry.Value)
		if err != nil {
			t.Error(err)
			return
		}
		r.add(client, call, op{read: true}, outcome{hash: head.Hash})
		b := after(t, head, entry.Revision, fmt.Sprintf("writer %d, append %d", client, i))
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		if client == 0 && i%5 == 4 {
			cancel()
			ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
			wire.hold(i%2 == 0, true)
		}
		call = time.Since(r.begin).Nanoseconds()
		_, err = l.Append(ctx, b)
		cancel()
		r.add(client, call, op{prev: head.Hash, hash: b.Head.Hash}, outcome{err: err})
		if client == 0 {
			wire.letGo()
		}
	}
}

// after is a void event on a head.
func after(t *testing.T, head events.Head, revision ledger.Revision, mark string) ledger.Batch {
	w := newWriter(t)
	e := w.event(events.TypeVoid, events.VoidPayload(), nil)
	e.N, e.Prev, e.Reason = head.N+1, head.Hash, mark
	b := w.seal(e, nil)
	b.Head.Epoch, b.HeadRevision = head.Epoch, revision
	return b
}

func (r *recorder) add(client int, call int64, in op, out outcome) {
	now := time.Since(r.begin).Nanoseconds()
	r.mu.Lock()
	defer r.mu.Unlock()
	if errors.Is(out.err, events.ErrUnknown) {
		r.unknown++
		client = 100 + r.unknown // it goes on beside the writer's next operation
	}
	if errors.Is(out.err, events.ErrConflict) {
		r.conflicts++
	}
	r.ops = append(r.ops, porcupine.Operation{ClientId: client, Input: in, Call: call, Output: out, Return: now})
}

// closeUnknown lets writes whose end is unknown take effect at any time after.
func (r *recorder) closeUnknown() {
	end := time.Since(r.begin).Nanoseconds() + 1
	for i, o := range r.ops {
		if errors.Is(o.Output.(outcome).err, events.ErrUnknown) {
			r.ops[i].Return = end
		}
	}
}

// history begins with the genesis.
func (r *recorder) history() []porcupine.Operation {
	first := porcupine.Operation{ClientId: 99, Input: op{hash: r.first}, Call: -2, Output: outcome{}, Return: -1}
	return append([]porcupine.Operation{first}, r.ops...)
}
