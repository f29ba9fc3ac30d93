package replication

import (
	"errors"

	"github.com/keytide/keytide/events"
)

// takeBeacon accepts a beacon by a member that rises. The stream takes a beacon
// only at the head's newest revision, and shows it after the head; so one that
// names less than, or other than, what is applied here comes from another history.
func (a *assembler) takeBeacon(v *verdict, e events.Entry) {
	if a.state.N() == 0 {
		return // nobody's signature can be told yet
	}
	b, err := openBeacon(a.state, e.Value)
	if err != nil {
		v.alarm(AlarmTampered, e.Key, "it is not a member's: %v", err)
		return
	}
	if !a.beacons.before(b) {
		return // late, or sent again
	}
	a.beacons = orderOf(b)
	v.end(AlarmTampered, e.Key)
	v.beacon = &b
	if a.forked {
		return
	}
	if have, ok := a.knownHash(b.N); ok && have != b.Hash {
		a.fork(v, "event %d of the core is not this replica's", b.N)
		return
	}
	// One from before the newest head that is known is an old one, met by a reader
	// that began anew before what it has applied.
	if b.N < a.applied && a.halt == nil && e.Revision > a.tip.revision {
		a.fork(v, "the core ends at event %d, this replica at event %d", b.N, a.applied)
		return
	}
	if b.N == a.applied {
		a.missValues(v)
	}
}

// missValues raises an alarm for state values that events put and that are not
// there. A reader may find one replaced already by a batch of which it has not
// seen the event; so the second beacon that misses it counts.
func (a *assembler) missValues(v *verdict) {
	for key := range a.outstanding {
		if a.missed[key] {
			v.alarm(AlarmValueDiffers, key, "it is missing")
		}
		a.missed[key] = true
	}
}

// takeServer accepts a server's own record if its counter rises, over restarts too,
// and what it has applied is this history as far as that is known here: what another
// history's server confirms is nothing.
func (a *assembler) takeServer(v *verdict, id string, e events.Entry) {
	if a.state.N() == 0 {
		return
	}
	rec, err := openServer(a.state, id, e.Value)
	if err != nil {
		if e.Revision > a.tip.revision { // an older one was judged before, by who was a member then
			a.refuseServer(v, id, e, err)
		}
		return
	}
	if rec.Counter <= a.servers[id] {
		return // late, or sent again
	}
	if !a.ofThisHistory(rec.Applied) {
		v.alarm(AlarmTampered, e.Key, "the server has applied an event %d that is not this history's", rec.Applied.N)
		return
	}
	a.servers[id] = rec.Counter
	v.end(AlarmTampered, e.Key)
	v.end(AlarmForgotten, e.Key)
	v.server = &rec
}

// refuseServer says what is wrong with a record. That of a server which has not
// learned yet that it is forgotten is passed by: it is on its way to end.
func (a *assembler) refuseServer(v *verdict, id string, e events.Entry, why error) {
	if !errors.Is(why, events.ErrForgotten) {
		v.alarm(AlarmTampered, e.Key, "it is not the server's own: %v", why)
		return
	}
	member, _ := a.state.Member(id)
	rec, err := events.DecodeServer(e.Value)
	switch {
	case err != nil || events.VerifyServer(e.Value, member.PublicKey) != nil:
		v.alarm(AlarmTampered, e.Key, "it is not the server's own, and that server is forgotten")
	case rec.Applied.N >= member.Forgotten:
		v.alarm(AlarmForgotten, e.Key, "server %s was forgotten by event %d, and still puts its record: end it, and its credentials", id, member.Forgotten)
	}
}

// forgetServer drops what is known of a server that an event makes forgotten: if it
// joins anew, its counter begins anew too.
func (a *assembler) forgetServer(v *verdict, ev events.Event) {
	c, err := events.DecodeServerChange(ev.Type, ev.Payload)
	if err != nil {
		return // the fold has read it
	}
	delete(a.servers, c.ID)
	v.gone = c.ID
}

// ofThisHistory reports whether a server can have applied this. A record stands in the
// stream behind every event that its server read there, so one of an event that has
// not come yet is of another history; unless events were passed by here, of which
// nothing can be said.
func (a *assembler) ofThisHistory(applied events.Head) bool {
	if applied.N == 0 || a.forked {
		return true
	}
	have, known := a.knownHash(applied.N)
	if !known {
		return a.halt != nil && applied.Epoch == a.pin.Epoch
	}
	return applied == events.Head{Epoch: a.pin.Epoch, N: applied.N, Hash: have}
}
