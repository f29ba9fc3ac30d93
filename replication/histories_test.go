package replication_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/replication"
)

var (
	histories   = flag.Int("histories", 15, "TestHistoriesAreLinearizable: how many histories")
	historySeed = flag.Uint64("histories.seed", 0, "TestHistoriesAreLinearizable: the seed of the first, each next one is one more; 0: drawn")
)

// TestHistoriesAreLinearizable has five policy servers of five regions roll one ring over
// at once, while they are cut off, paused and killed, and lose messages and answers at
// random, and has porcupine look for an order of what their clients saw. A thousand
// histories:
//
//	go test ./replication -run TestHistoriesAreLinearizable -histories 1000 -timeout 1h
//
// Linearizable are:
//
//   - Rollovers, at whichever servers. Each takes effect at one moment between its first
//     call and its acknowledgement, once: it makes the version after the one before it. A
//     request that is asked for again, anywhere, gets the same n and version. One whose
//     outcome is unknown takes effect at one moment after its call, or never; one that all
//     servers that were asked called unavailable, never.
//   - A read at a server, of a rollover whose acknowledgement has named that server: it
//     shows this one or a later one, whatever happened to the server since.
//   - A read at a server that says that it is fresh, within the limit of the beacons' age:
//     it shows what was the newest at some moment from then on until its answer. It need
//     not show the very newest: servers that an acknowledgement does not name hear of the
//     rollover on their own, and are fresh by a beacon from before it meanwhile.
//
// A read at a server that is stale is not linearizable. It shows a version that there was
// and, between two starts of the server, no older one than its last read: what was shown
// may be newer than what was on the disk at a kill.
func TestHistoriesAreLinearizable(t *testing.T) {
	const perCore = 15
	first := *historySeed
	if first == 0 {
		first = rand.Uint64()
	}
	t.Logf("seeds %d to %d", first, first+uint64(*histories)-1)
	var all tally
	for done := 0; done < *histories; done += perCore {
		bubble(t, func(t *testing.T, c *core) {
			r := newRealm(t, c)
			for i := range min(perCore, *histories-done) {
				h := r.history(t, first+uint64(done+i))
				h.check(t)
				all.add(h.tally)
				if t.Failed() {
					t.Fatalf("seed %d", h.seed)
				}
			}
		})
		if t.Failed() {
			return
		}
	}
	t.Logf("%d histories: %+v", *histories, all)
	if *histories >= 10 && (all.unknown == 0 || all.kills == 0 || all.retried == 0 || all.stale == 0 || all.fresh == 0) {
		t.Error("something that is to be tested has not come up")
	}
}

// A tally counts what came up in histories.
type tally struct{ acknowledged, retried, unknown, fresh, stale, cuts, pauses, kills int }

func (t *tally) add(o tally) {
	t.acknowledged += o.acknowledged
	t.retried += o.retried
	t.unknown += o.unknown
	t.fresh += o.fresh
	t.stale += o.stale
	t.cuts += o.cuts
	t.pauses += o.pauses
	t.kills += o.kills
}

// A realm is five policy servers on one core.
type realm struct {
	c      *core
	guests []guest

	mu    sync.Mutex // guards nodes
	nodes []*node    // nil: it is dead
	lives []int      // how often each has started
}

func newRealm(t *testing.T, c *core) *realm {
	t.Helper()
	r := &realm{c: c, nodes: make([]*node, 5), lives: make([]int, 5), guests: make([]guest, 5)}
	r.start(0)
	r.nodes[0].awaitReady()
	for i, region := range []string{"us", "ap", "sa", "af"} {
		r.guests[i+1] = newGuest(t, fmt.Sprintf("ps-%d", i+2), region)
		r.nodes[0].admit(r.guests[i+1])
		r.start(i + 1)
	}
	r.awaitEven(t)
	return r
}

func (r *realm) start(i int) {
	r.c.tb.Helper()
	n := r.c.run(fmt.Sprintf("ps-%d.db", i+1), func(cfg *replication.MemberConfig) {
		if i > 0 {
			r.guests[i].as(cfg)
		}
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.nodes[i] = n
	r.lives[i]++
}

// kill ends a server without a word: nothing that it has to say goes out any more.
func (r *realm) kill(i int) {
	r.mu.Lock()
	n := r.nodes[i]
	r.nodes[i] = nil
	r.mu.Unlock()
	n.link.setCut(true)
	n.stop()
}

func (r *realm) node(i int) (n *node, life int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.nodes[i], r.lives[i]
}

// awaitEven waits until all servers are fresh and have the same events.
func (r *realm) awaitEven(t *testing.T) {
	t.Helper()
	for _, n := range r.nodes {
		n.awaitState(events.Fresh)
	}
	await(t, "even", func() bool {
		for _, n := range r.nodes {
			if headOf(n) != headOf(r.nodes[0]) {
				return false
			}
		}
		return true
	})
}

// shown is what a ring was: the event that changed it last, and its version.
type shown struct {
	n       keystore.N
	version keystore.Version
}

// A try is one request of a client to a server, with its answer.
type try struct {
	server  int
	life    int    // of the server
	request string // empty: a read
	call    int64
	answer  int64
	got     shown
	err     error
	fresh   bool
	heldBy  []string
}

func (e try) String() string {
	what, begun := "read", time.Unix(0, e.call).UTC().Format("05.000")
	if e.request != "" {
		what = e.request
	}
	return fmt.Sprintf("%s to %s: %s at ps-%d, fresh %t: %+v, held by %v, %v",
		begun, time.Unix(0, e.answer).UTC().Format("05.000"), what, e.server+1, e.fresh, e.got, e.heldBy, e.err)
}

// A history is what the clients of the servers saw of one ring.
type history struct {
	realm *realm
	seed  uint64
	ring  keystore.RingName
	tally

	mu    sync.Mutex // guards the fields below
	last  int64
	tries []try
}

// stamp is the time, never the same twice.
func (h *history) stamp() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last = max(h.last+1, time.Now().UnixNano())
	return h.last
}

func (r *realm) history(t *testing.T, seed uint64) *history {
	t.Helper()
	h := &history{realm: r, seed: seed, ring: keystore.RingName(fmt.Sprintf("ring-%d", seed))}
	dice := rand.New(rand.NewPCG(seed, 0))
	r.nodes[0].commit(replication.CreateRing(t, h.ring))
	r.awaitEven(t)
	for i, n := range r.nodes {
		faulty(n.link, rand.New(rand.NewPCG(seed, uint64(100+i))))
	}
	var clients sync.WaitGroup
	ended := make(chan struct{})
	for i := range r.nodes {
		own := rand.New(rand.NewPCG(seed, uint64(1+i)))
		clients.Go(func() { h.client(t, i, own) })
	}
	go func() {
		clients.Wait()
		close(ended)
	}()
	h.disturb(dice, ended)
	for i, n := range r.nodes {
		if n == nil {
			r.start(i)
		}
		r.nodes[i].link.setCut(false)
		r.nodes[i].link.thaw()
		r.nodes[i].link.setAppend(nil)
	}
	r.awaitEven(t)
	return h
}

// disturb cuts, pauses and kills until the clients have done.
func (h *history) disturb(dice *rand.Rand, ended <-chan struct{}) {
	r := h.realm
	for {
		select {
		case <-ended:
			return
		case <-time.After(time.Duration(dice.IntN(1500)) * time.Millisecond):
		}
		i := dice.IntN(len(r.nodes))
		n, _ := r.node(i)
		switch k := dice.IntN(8); {
		case n == nil:
			r.start(i)
			n, _ = r.node(i)
			faulty(n.link, rand.New(rand.NewPCG(dice.Uint64(), 0)))
		case k < 2:
			n.link.setCut(true)
			h.cuts++
		case k < 4:
			n.link.thaw() // one that is frozen already
			n.link.freeze()
			h.pauses++
		case k < 5:
			r.kill(i)
			h.kills++
		default:
			n.link.setCut(false)
			n.link.thaw()
		}
	}
}

// client asks mostly its own server, and for what got no answer others as well.
func (h *history) client(t *testing.T, home int, dice *rand.Rand) {
	for k := range 8 {
		<-time.After(time.Duration(dice.IntN(1000)) * time.Millisecond)
		if dice.IntN(2) == 0 {
			h.read(home)
			continue
		}
		request := fmt.Sprintf("%s/%d/%d", h.ring, home, k)
		server := home
		for range 4 {
			if h.roll(t, server, request, time.Duration(1+dice.IntN(6))*time.Second) {
				break
			}
			server = dice.IntN(len(h.realm.nodes))
		}
		if dice.IntN(4) == 0 { // whoever has lost the answer asks again
			h.roll(t, dice.IntN(len(h.realm.nodes)), request, 2*time.Second)
		}
		h.read(dice.IntN(len(h.realm.nodes)))
	}
}

// roll reports whether the rollover was acknowledged.
func (h *history) roll(t *testing.T, server int, request string, limit time.Duration) bool {
	n, life := h.realm.node(server)
	if n == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	entry := try{server: server, life: life, request: request, call: h.stamp()}
	receipt, err := n.Commit(ctx, replication.Roll(t, h.ring, request))
	entry.err, entry.heldBy = err, receipt.HeldBy
	if err == nil {
		c, err := events.DecodeRingChange(receipt.Event.Type, receipt.Event.Payload)
		if err != nil {
			t.Error(err)
		}
		entry.got = shown{receipt.N, c.Version}
	}
	h.note(entry)
	return err == nil
}

func (h *history) read(server int) {
	n, life := h.realm.node(server)
	if n == nil {
		return
	}
	entry := try{server: server, life: life, call: h.stamp()}
	entry.fresh = n.Freshness().State == events.Fresh
	n.Replica().Read(func(s *events.State) {
		ring, _ := s.Ring(h.ring)
		entry.got = shown{ring.Last.N, ring.Version}
	})
	h.note(entry)
}

func (h *history) note(entry try) {
	entry.answer = h.stamp()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tries = append(h.tries, entry)
}
