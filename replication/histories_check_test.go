package replication_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/replication"
)

// This file is what must hold of a history.

// check looks at the history with what became of the ring in the end.
func (h *history) check(t *testing.T) {
	t.Helper()
	made, was := h.log(t)
	h.checkRollovers(t, made)
	h.checkReads(t, was)
	if result := porcupine.CheckOperationsTimeout(ringModel, h.operations(made), time.Hour); result != porcupine.Ok {
		t.Errorf("seed %d: no order explains the history: %v", h.seed, result)
		for _, entry := range h.tries {
			t.Log(entry)
		}
	}
}

// log reads the ring's history: what each request has made, and what the ring ever was.
func (h *history) log(t *testing.T) (made map[string]shown, was map[shown]bool) {
	t.Helper()
	made, was = map[string]shown{}, map[shown]bool{}
	var version keystore.Version
	n := h.realm.nodes[0]
	for rec, err := range n.Replica().Records(1, headOf(n).N) {
		if err != nil {
			t.Fatal(err)
		}
		ev, err := events.Decode(rec)
		if err != nil {
			t.Fatal(err)
		}
		if !ev.Type.OfRing() {
			continue
		}
		c, err := events.DecodeRingChange(ev.Type, ev.Payload)
		if err != nil || c.Ring != h.ring {
			continue
		}
		if version++; c.Version != version {
			t.Errorf("event %d makes version %d, want %d", ev.N, c.Version, version)
		}
		was[shown{ev.N, c.Version}] = true
		if before, twice := made[ev.Request]; twice {
			t.Errorf("request %s has made events %d and %d", ev.Request, before.n, ev.N)
		}
		made[ev.Request] = shown{ev.N, c.Version}
	}
	return made, was
}

// checkRollovers: what was acknowledged is there as it was acknowledged, and what all
// servers called unavailable is not there.
func (h *history) checkRollovers(t *testing.T, made map[string]shown) {
	t.Helper()
	possible, tried := map[string]bool{}, map[string]int{}
	for _, entry := range h.tries {
		if entry.request == "" {
			continue
		}
		tried[entry.request]++
		switch {
		case entry.err == nil:
			h.acknowledged++
			possible[entry.request] = true
			if made[entry.request] != entry.got {
				t.Errorf("request %s was acknowledged as %+v; it is %+v", entry.request, entry.got, made[entry.request])
			}
		case errors.Is(entry.err, events.ErrUnknown):
			h.unknown++
			possible[entry.request] = true
		case !errors.Is(entry.err, events.ErrUnavailable):
			t.Errorf("request %s: %v", entry.request, entry.err)
		}
	}
	for request, count := range tried {
		if _, there := made[request]; there && !possible[request] {
			t.Errorf("request %s is there; all servers said that it is not", request)
		}
		if count > 1 {
			h.retried++
		}
	}
}

// checkReads is what holds of all reads, stale or not.
func (h *history) checkReads(t *testing.T, was map[shown]bool) {
	t.Helper()
	type life struct{ server, life int }
	newest := map[life]try{}
	for _, entry := range h.tries { // in the order of their answers
		if entry.request != "" {
			continue
		}
		if entry.fresh {
			h.fresh++
		} else {
			h.stale++
		}
		if !was[entry.got] {
			t.Errorf("ps-%d shows %+v, which never was", entry.server+1, entry.got)
		}
		at := life{entry.server, entry.life}
		if before := newest[at]; before.answer < entry.call && entry.got.n < before.got.n {
			t.Errorf("ps-%d shows event %d after event %d", entry.server+1, entry.got.n, before.got.n)
		} else if entry.got.n >= before.got.n {
			newest[at] = entry
		}
		for _, named := range h.tries {
			if h.named(named, entry) && entry.got.n < named.got.n {
				t.Errorf("ps-%d shows event %d; it was named as one that has event %d", entry.server+1, entry.got.n, named.got.n)
			}
		}
	}
}

// named reports whether an acknowledgement, before a read, named its server.
func (h *history) named(ack, read try) bool {
	return ack.request != "" && ack.err == nil && ack.answer < read.call && slices.Contains(ack.heldBy, fmt.Sprintf("ps-%d", read.server+1))
}

// ringModel is a ring that is rolled over and read. A rollover that has been done before
// changes nothing: the versions are dense, so it can only have been done by a try of the
// same request.
var ringModel = porcupine.Model{
	Init: func() any { return shown{} },
	Step: func(state, input, output any) (bool, any) {
		now, request, got := state.(shown), input.(string), output.(shown)
		switch {
		case request == "":
			return got == now, now
		case got.n <= now.n:
			return true, now
		}
		return got.version == now.version+1, got
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%q -> %+v", input, output) },
}

// operations is the history as porcupine takes it. What has no answer may take effect at
// any time later, or never; a fresh read may show what was newest a beacon's age before.
func (h *history) operations(made map[string]shown) []porcupine.Operation {
	end := h.stamp()
	created := made[""]
	ops := []porcupine.Operation{{ClientId: 0, Input: "created", Output: created, Call: -2, Return: -1}}
	for i, entry := range h.tries {
		op := porcupine.Operation{ClientId: i + 1, Input: entry.request, Output: entry.got, Call: entry.call, Return: entry.answer}
		switch {
		case entry.request == "" && !entry.fresh:
			continue
		case entry.request == "":
			op.Call -= int64(replication.DefaultFreshLimit)
		case entry.err != nil:
			there := false
			if op.Output, there = made[entry.request]; !there || errors.Is(entry.err, events.ErrUnavailable) {
				continue
			}
			op.Return = end
		}
		ops = append(ops, op)
	}
	return ops
}
