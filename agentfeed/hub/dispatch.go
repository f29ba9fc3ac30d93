package hub

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// restFactor bounds what looking through all streams for each of many changes costs:
// after a pass that took d, the next begins restFactor × d later, and finds the newest
// state. So a change after a quiet time is delivered at once, and a mass change of
// hosts takes a fifth of one CPU.
const restFactor = 4

// maxRest bounds the rest after a pass on a machine that was busy.
const maxRest = 200 * time.Millisecond

// dispatch delivers new states and heartbeats as long as there are streams. One
// goroutine does it for all of them.
func (h *Hub) dispatch() {
	defer h.serving.Done()
	d := dispatcher{hub: h, closing: h.closing, pending: true, beat: max(h.config.Heartbeat/shards, time.Microsecond)}
	d.nextBeat = time.Now().Add(d.beat)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for h.inUse() {
		now := time.Now()
		if d.pending && !now.Before(d.nextPass) {
			d.pass()
		}
		if !now.Before(d.nextBeat) {
			d.tick(now)
		}
		next := d.nextBeat
		if d.pending && d.nextPass.Before(next) {
			next = d.nextPass
		}
		timer.Reset(time.Until(next))
		select {
		case <-d.changed:
			d.pending, d.changed = true, nil
		case <-timer.C:
		case <-d.closing:
			d.closing = nil
			d.dismiss()
		case <-h.wake:
		}
	}
}

// inUse reports whether there are streams; if not, dispatch has to return.
func (h *Hub) inUse() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.agents.Load() == 0 {
		h.dispatching = false
	}
	return h.dispatching
}

// A dispatcher is the state of dispatch.
type dispatcher struct {
	hub     *Hub
	changed <-chan struct{} // of the state that the last pass delivered
	closing <-chan struct{} // nil once all were told to go

	pending  bool      // there is a newer state
	nextPass time.Time // not before

	beat     time.Duration // from one shard's heartbeats to the next shard's
	nextBeat time.Time
	shard    int // whose heartbeats are next
}

// pass tells all streams of the newest state whom it concerns.
func (d *dispatcher) pass() {
	start := time.Now()
	var r *round
	r, d.changed = d.hub.look()
	defer r.end()
	d.pending = false
	if r.state == nil {
		return
	}
	var dueNow []*stream
	d.hub.slots.each(func(s *stream) {
		if s.offer(r) {
			dueNow = append(dueNow, s)
		}
	})
	d.nextPass = start.Add(min((1+restFactor)*time.Since(start), maxRest))
	d.run(dueNow, r)
}

// tick gives the heartbeats that are due by now, a shard's at a time: thousands of
// agents must not tick at once. The first comes half a period after the state at the
// earliest: agents take two heartbeats for the sign that streams last. Streams whose agents have hung up end here.
func (d *dispatcher) tick(now time.Time) {
	r, _ := d.hub.look()
	defer r.end()
	var dueNow []*stream
	for n := 0; n < shards && !now.Before(d.nextBeat); n++ {
		for _, s := range d.hub.slots.shards[d.shard].all() {
			switch {
			case s.gone():
				s.end(errHungUp)
			case now.Sub(s.began) >= d.hub.config.Heartbeat/2 && s.poke(dueBeat):
				dueNow = append(dueNow, s)
			}
		}
		d.shard = (d.shard + 1) % shards
		d.nextBeat = d.nextBeat.Add(d.beat)
	}
	if d.nextBeat.Before(now) { // the process stood still
		d.nextBeat = now.Add(d.beat)
	}
	d.run(dueNow, r)
}

// dismiss tells all agents to go.
func (d *dispatcher) dismiss() {
	r, _ := d.hub.look()
	defer r.end()
	var dueNow []*stream
	d.hub.slots.each(func(s *stream) {
		if s.poke(dueBye) {
			dueNow = append(dueNow, s)
		}
	})
	d.run(dueNow, r)
}

// run serves streams that were made busy, on all processors, and returns when each
// has been written to or has got a goroutine of its own.
func (d *dispatcher) run(dueNow []*stream, r *round) {
	var next atomic.Int64
	work := func() {
		for i := next.Add(1); i <= int64(len(dueNow)); i = next.Add(1) {
			dueNow[i-1].serve(r, false)
		}
	}
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(dueNow)/16) {
		workers.Go(work)
	}
	work()
	workers.Wait()
}
