package replication_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/replication"
)

// Each way in which the fate of a write can be unknown, and what the caller is told.
func TestUnknownOutcomes(t *testing.T) {
	unknown := fmt.Errorf("%w: the reply was lost", events.ErrUnknown)
	once := func(n *node, fn func(context.Context, events.Batch) (events.Revision, error)) {
		var first sync.Once
		n.link.setAppend(func(ctx context.Context, b events.Batch) (rev events.Revision, err error) {
			rev, err = 0, unknown
			done := false
			first.Do(func() { rev, err = fn(ctx, b); done = true })
			if done {
				return rev, err
			}
			return n.link.Log.Append(ctx, b)
		})
	}
	for name, tc := range map[string]struct {
		fault func(n *node) func(context.Context, events.Batch) (events.Revision, error)
	}{
		"stored, reply lost": {func(n *node) func(context.Context, events.Batch) (events.Revision, error) {
			return func(ctx context.Context, b events.Batch) (events.Revision, error) {
				if _, err := n.link.Log.Append(ctx, b); err != nil {
					return 0, err
				}
				return 0, unknown
			}
		}},
		"not stored, reply lost": {func(*node) func(context.Context, events.Batch) (events.Revision, error) {
			return func(context.Context, events.Batch) (events.Revision, error) { return 0, unknown }
		}},
		"landed late": {func(n *node) func(context.Context, events.Batch) (events.Revision, error) {
			return func(_ context.Context, b events.Batch) (events.Revision, error) {
				time.AfterFunc(90*time.Millisecond, func() { n.link.Log.Append(context.Background(), b) })
				return 0, unknown
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, c *core) {
				n := c.run("replica.db")
				n.awaitReady()
				n.commit(replication.CreateRing(t, "sso"))
				once(n, tc.fault(n))
				got := n.commit(replication.Roll(t, "sso", ""))
				if got.N != 3 || ringVersion(n.Replica()) != 2 {
					t.Errorf("n = %d and version %d, want 3 and 2: once, however often it was sent", got.N, ringVersion(n.Replica()))
				}
				<-time.After(time.Second)
				if next := n.commit(replication.Roll(t, "sso", "")); next.N != 4 {
					t.Errorf("the next n = %d, want 4", next.N)
				}
			})
		})
	}
}

// A send whose fate is unknown may have been refused for another reason than an
// event at n. Then a void event settles it, and the command is decided anew.
func TestUnknownIsSettledByVoid(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		n := c.run("replica.db")
		n.awaitReady()
		n.commit(replication.CreateRing(t, "sso"))
		var late events.Batch
		first := true
		n.link.setAppend(func(ctx context.Context, b events.Batch) (events.Revision, error) {
			if first {
				first, late = false, b
				c.forge(events.HeadKey, []byte("forged")) // moves what the batch expects
				return 0, events.ErrUnknown
			}
			return n.link.Log.Append(ctx, b)
		})
		got := n.commit(replication.Roll(t, "sso", ""))
		if got.N != 4 || ringVersion(n.Replica()) != 2 {
			t.Errorf("n = %d and version %d, want 4 and 2", got.N, ringVersion(n.Replica()))
		}
		rec, err := n.Replica().Record(3)
		if err != nil {
			t.Fatal(err)
		}
		if ev, err := events.Decode(rec); err != nil || ev.Type != events.TypeVoid {
			t.Errorf("event 3 = %v, %v; want void", ev.Type, err)
		}
		if _, err := n.link.Log.Append(t.Context(), late); !errors.Is(err, events.ErrConflict) {
			t.Errorf("the late batch = %v, want events.ErrConflict", err)
		}
	})
}

func TestCallerThatGivesUpIsToldTheEvent(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		n := c.run("replica.db")
		n.awaitReady()
		n.commit(replication.CreateRing(t, "sso"))
		n.link.setCut(true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := n.Commit(ctx, replication.Roll(t, "sso", "req-1"))
		if !errors.Is(err, events.ErrUnknown) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Commit = %v, want events.ErrUnknown and the deadline", err)
		}
		n.link.setCut(false)
		n.awaitN(3) // the member goes on
		got := n.commit(replication.Roll(t, "sso", "req-1"))
		if got.N != 3 {
			t.Errorf("the same request again: n = %d, want 3", got.N)
		}
	})
}

func TestCallerThatGivesUpBeforeItIsSentWritesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		n := c.run("replica.db")
		n.awaitReady()
		ctx, cancel := context.WithCancel(t.Context())
		create := replication.CreateRing(t, "sso")
		_, err := n.Commit(ctx, func(s *events.State) (replication.Proposal, error) {
			cancel()
			return create(s)
		})
		if errors.Is(err, events.ErrUnknown) {
			// It was sent before the caller's end was seen: then it has to land.
			n.awaitN(2)
			return
		}
		if !errors.Is(err, events.ErrUnavailable) {
			t.Errorf("Commit = %v, want events.ErrUnavailable", err)
		}
	})
}

func TestRefusalsOfDecideComeBack(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		n := c.run("replica.db")
		n.awaitReady()
		if _, err := n.Commit(t.Context(), replication.Roll(t, "none", "")); !errors.Is(err, keystore.ErrNotFound) {
			t.Errorf("Commit = %v, want keystore.ErrNotFound", err)
		}
		bad := func(*events.State) (replication.Proposal, error) {
			return replication.Proposal{Type: events.TypeVoid, Payload: events.VoidPayload(), Puts: []events.Put{{Key: events.RingKey("x"), Value: []byte("x")}}}, nil
		}
		if _, err := n.Commit(t.Context(), bad); !errors.Is(err, keystore.ErrInvalid) {
			t.Errorf("Commit of what the fold refuses = %v, want keystore.ErrInvalid", err)
		}
		if got := n.commit(replication.CreateRing(t, "sso")); got.N != 2 {
			t.Errorf("n = %d, want 2", got.N)
		}
	})
}

// Several writers on one ledger, with faults: exactly one event at each n, and every
// caller is told the truth. A commit returns the n that it got; commits that return
// must be in the order of their n.
func TestConcurrentCommits(t *testing.T) {
	for range 12 {
		bubble(t, func(t *testing.T, c *core) { concurrentCommits(t, c, rand.Uint64()) })
	}
}

func concurrentCommits(t *testing.T, c *core, seed uint64) {
	const writers, each = 3, 5
	// Several boots of the one member there is; deaf, or the second would refuse.
	var nodes []*node
	for i := range writers {
		n := c.run(fmt.Sprintf("replica%d.db", i), func(cfg *replication.MemberConfig) {
			cfg.Seed = seed + uint64(i) + 1
			l := cfg.Log.(*link)
			l.deaf = true
			faulty(l, rand.New(rand.NewPCG(seed, uint64(i))))
		})
		nodes = append(nodes, n)
	}
	for _, n := range nodes {
		n.awaitReady()
	}
	var mu sync.Mutex
	var ops []porcupine.Operation
	var group sync.WaitGroup
	for i, n := range nodes {
		for j := range each {
			group.Go(func() {
				ring := keystore.RingName(fmt.Sprintf("r%d-%d", i, j))
				called := time.Now().UnixNano()
				got, err := n.Commit(t.Context(), replication.CreateRing(t, ring))
				if err != nil {
					t.Errorf("Commit of %s = %v", ring, err)
					return
				}
				rec, err := n.Replica().Record(got.N)
				if ev, _ := events.Decode(rec); err != nil || ev.ID != got.ID {
					t.Errorf("event %d = %s, want %s as acknowledged", got.N, ev.ID, got.ID)
				}
				mu.Lock()
				defer mu.Unlock()
				ops = append(ops, porcupine.Operation{
					ClientId: i*each + j, Input: ring, Call: called, Output: got.N, Return: time.Now().UnixNano(),
				})
			})
		}
	}
	group.Wait()
	model := porcupine.Model{
		Init: func() any { return keystore.N(1) },
		Step: func(state, _, output any) (bool, any) {
			return output.(keystore.N) > state.(keystore.N), output // voids may lie between
		},
	}
	if !porcupine.CheckOperations(model, ops) {
		t.Errorf("seed %d: the commits are in no order: %+v", seed, ops)
	}
	newest := keystore.N(0)
	for _, op := range ops {
		newest = max(newest, op.Output.(keystore.N))
	}
	nodes[0].awaitN(newest) // others' receipts say nothing of this one
	last := nodes[0].Replica()
	made := 0
	last.Read(func(s *events.State) { made = len(s.Rings()) })
	if made > writers*each || made < len(ops) {
		t.Errorf("seed %d: %d rings, %d acknowledged", seed, made, len(ops))
	}
}

// faulty makes a link lose replies, packets, and time.
func faulty(l *link, r *rand.Rand) {
	var mu sync.Mutex
	l.setAppend(func(ctx context.Context, b events.Batch) (events.Revision, error) {
		mu.Lock()
		dice, delay := r.IntN(10), time.Duration(r.IntN(200))*time.Millisecond
		mu.Unlock()
		switch dice {
		case 0:
			l.Log.Append(ctx, b)
			return 0, events.ErrUnknown
		case 1:
			return 0, events.ErrUnknown
		case 2:
			time.AfterFunc(delay, func() { l.Log.Append(context.Background(), b) })
			return 0, events.ErrUnknown
		}
		return l.Log.Append(ctx, b)
	})
}

// While the core chooses a leader it stores nothing and says so: a change waits for it,
// for as long as an election takes.
func TestChangeWaitsForALeader(t *testing.T) {
	bubble(t, func(t *testing.T, c *core) {
		n := c.run("replica.db")
		n.awaitReady()
		n.commit(replication.CreateRing(t, "sso"))
		refused := 0
		n.link.setAppend(func(ctx context.Context, b events.Batch) (events.Revision, error) {
			if refused++; refused <= 20 {
				return 0, fmt.Errorf("%w: no responders", events.ErrNoLeader)
			}
			return n.link.Log.Append(ctx, b)
		})
		if got := n.commit(replication.Roll(t, "sso", "")); got.N != 3 {
			t.Errorf("n = %d, want 3", got.N)
		}
		n.link.setAppend(func(context.Context, events.Batch) (events.Revision, error) {
			return 0, fmt.Errorf("%w: no responders", events.ErrNoLeader)
		})
		began := time.Now()
		_, err := n.Commit(t.Context(), replication.Roll(t, "sso", ""))
		if !errors.Is(err, events.ErrUnavailable) {
			t.Errorf("Commit = %v, want events.ErrUnavailable", err)
		}
		if took := time.Since(began); took < 5*time.Second || took > time.Minute {
			t.Errorf("gave up after %v, want about the 10 s of an election", took)
		}
	})
}
