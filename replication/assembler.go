package replication

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
)

// What the assembler keeps before it hands a part over to be written, so that
// catching up with a long history takes bounded memory.
const (
	stageRecords = 512
	stageBytes   = 4 << 20
)

// An assembler puts a ledger together from the entries of its bucket, and tells
// what members wrote from everything else. It is pure: entries go in, in the order
// of the stream, and what has to be done comes out. Its rules:
//
//   - An event counts if it follows the one before (n, prev) and a member signed
//     it. It then says, by hash, what each value must be.
//   - A value counts if an event says so. Any other is an alarm and is not kept.
//   - Nothing is shown before its batch is whole: an entry on `head` has come after
//     the event, and no key material that the events name is outstanding. What the
//     head says proves nothing and is only compared; so a forged head neither shows
//     half a batch nor holds back a whole one.
//   - The newest revision of every key is kept, whoever wrote it: a writer has to
//     expect it, and the next batch that writes the key puts it right.
//
// The stream keeps one message a subject, so a late reader finds every event, but
// each value only at its newest revision. Values are therefore judged when they
// come, by what the newest event says of them.
type assembler struct {
	pin    Pin
	state  *events.State                        // the fold of all verified events
	hashAt func(keystore.N) (events.Hash, bool) // of events that were handed over

	position    events.Revision   // of the newest entry; a halt that ends goes back to what it passed by
	applied     keystore.N        // of the state that was handed over to be shown
	boundary    bool              // a head has come since the newest event
	outstanding map[string]bool   // live values that have not come
	missed      map[string]bool   // of those, what was missing at an earlier beacon already
	servers     map[string]uint64 // the counter of the newest accepted record, by id
	beacons     beaconOrder       // of the newest accepted beacon
	tip         tip               // what a beacon may say
	halt        *halt             // the event that cannot be applied
	passed      bool              // an event came before one that it follows: one was put back, or is missing
	sought      keystore.N        // the event for whose key material all was read anew
	forked      bool              // sticks: nothing is applied any more

	part part // verified, not handed over
}

// A part of the ledger that has been verified, to be written in one transaction.
type part struct {
	show      bool       // show the state up to the part's last record, then write
	first     keystore.N // of records
	records   []events.Record
	size      int
	puts      map[string][]byte
	deletes   map[string]bool
	revisions map[string]events.Revision
	cursor    events.Revision // whoever has the part may begin after it
	boundary  bool
}

// A tip is the end of the ledger as one entry on `head` left it.
type tip struct {
	n        keystore.N
	hash     events.Hash
	revision events.Revision // of the head, whoever wrote it
}

// A halt is the event at which assembling stopped.
type halt struct {
	n        keystore.N
	revision events.Revision
}

// A verdict is what follows from one entry.
type verdict struct {
	raise    []Alarm // without Since
	clear    []alarmID
	revision bool // the entry's key has a new revision that writers must expect
	reread   bool // entries were passed by: follow anew from the assembler's position
	part     *part
	beacon   *events.Beacon
	server   *events.ServerRecord
	gone     string // the server that the event makes forgotten; it may come anew, with another key
}

func (v *verdict) alarm(kind AlarmKind, key, format string, args ...any) {
	v.raise = append(v.raise, Alarm{Kind: kind, Key: key, Why: fmt.Sprintf(format, args...)})
}

func (v *verdict) end(kind AlarmKind, key string) { v.clear = append(v.clear, alarmID{kind, key}) }

// An origin is what an assembler starts from: a replica's contents.
type origin struct {
	pin      Pin
	state    *events.State // of every record there is
	hashAt   func(keystore.N) (events.Hash, bool)
	held     func(key string) ([]byte, bool)
	keys     []string // of all values that are held
	applied  keystore.N
	position events.Revision
	boundary bool
	head     events.Revision
}

func newAssembler(o origin) *assembler {
	a := &assembler{
		pin: o.pin, state: o.state, hashAt: o.hashAt, position: o.position, applied: o.applied, boundary: o.boundary,
		outstanding: make(map[string]bool), missed: make(map[string]bool), servers: make(map[string]uint64),
	}
	a.part = a.emptyPart()
	for _, key := range a.state.Live() {
		want, _ := a.state.Expect(key)
		if value, held := o.held(key); !held || events.HashOf(value) != want {
			a.outstanding[key] = true
		}
	}
	for _, key := range o.keys {
		if _, live := a.state.Expect(key); !live {
			a.part.deletes[key] = true // by an event that is in the log and was not shown
		}
	}
	if len(a.outstanding) > 0 {
		a.position = 0 // what is missing may stand anywhere: read all of it again
	}
	a.tip.revision = o.head
	if a.applied == a.state.N() && o.head > 0 {
		a.tip = tip{n: a.state.N(), hash: a.state.Hash(), revision: o.head}
	}
	return a
}

func (a *assembler) emptyPart() part {
	return part{
		first: a.state.N() + 1, puts: make(map[string][]byte), deletes: make(map[string]bool),
		revisions: make(map[string]events.Revision),
	}
}

// take judges the next entry of the stream.
func (a *assembler) take(e events.Entry) verdict {
	var v verdict
	a.position = e.Revision
	key, err := events.ParseKey(e.Key)
	if err != nil {
		return v // not ours, and nothing reads it
	}
	switch key.Kind {
	case events.KeyBeacon:
		a.takeBeacon(&v, e)
		return v
	case events.KeyServer:
		a.takeServer(&v, key.Name, e)
		return v
	}
	if a.forked {
		return v
	}
	switch key.Kind {
	case events.KeyLog:
		a.takeEvent(&v, key.N, e)
	case events.KeyHead:
		a.noteRevision(&v, e)
		a.takeHead(&v, e)
	default:
		a.noteRevision(&v, e)
		a.takeValue(&v, key, e)
	}
	if a.boundary && a.applied < a.state.N() {
		a.show(&v)
	}
	if v.part == nil && (len(a.part.records) >= stageRecords || a.part.size >= stageBytes) {
		a.handOver(&v)
	}
	return v
}

func (a *assembler) noteRevision(v *verdict, e events.Entry) {
	v.revision = true
	a.part.revisions[e.Key] = e.Revision
}

// show hands the state over to be shown, unless key material is outstanding. That may
// stand before its event, where this was put back: so all is read once more before it
// counts as missing.
func (a *assembler) show(v *verdict) {
	missing := slices.DeleteFunc(slices.Collect(maps.Keys(a.outstanding)), func(key string) bool { return !isMaterial(key) })
	if len(missing) > 0 && a.sought < a.state.N() {
		a.position, a.sought, v.reread = 0, a.state.N(), true
		return
	}
	for _, key := range missing {
		v.alarm(AlarmHalted, key, "event %d cannot be applied: this key material is missing", a.state.N())
	}
	if len(missing) > 0 {
		return
	}
	if number := a.state.Epoch().Number; number != a.pin.Epoch {
		a.fork(v, "the bucket of epoch %d has a history of epoch %d", a.pin.Epoch, number)
		return
	}
	a.part.show = true
	a.applied = a.state.N()
	a.handOver(v)
}

func (a *assembler) handOver(v *verdict) {
	p := a.part
	p.cursor, p.boundary = a.position, a.boundary
	if a.halt != nil {
		// Whoever begins here again must meet the event again: he may know it.
		p.cursor = min(p.cursor, a.halt.revision-1)
	}
	a.part = a.emptyPart()
	if !p.show {
		// Deletions are shown with the event that made them.
		a.part.deletes, p.deletes = p.deletes, nil
	}
	v.part = &p
}

// fork ends assembling for good. why must be the same for the same fork.
func (a *assembler) fork(v *verdict, format string, args ...any) {
	if a.forked {
		return
	}
	a.forked = true
	v.alarm(AlarmForked, "", format, args...)
}

func (a *assembler) takeEvent(v *verdict, n keystore.N, e events.Entry) {
	switch next := a.state.N() + 1; {
	case n < next:
		a.takeKnown(v, n, e)
	case a.halt != nil && n > a.halt.n:
		// Nothing after the event that halts is looked at.
	case n > next && a.state.N() == 0:
		a.passed = true // nobody's signature can be told before event 1
	case n > next && (e.Deleted || !a.signedByMember(e.Value)):
		// Nobody's event, in a place that is not due: nothing is missing by that.
		v.alarm(AlarmTampered, e.Key, "event %d is not due, and no member signed it", n)
	case n > next:
		a.passed = true
		a.stop(v, next, e.Revision, fmt.Errorf("event %d is missing: event %d came in its place", next, n))
	case e.Deleted:
		a.stop(v, n, e.Revision, errors.New("it is deleted"))
	default:
		a.takeNext(v, n, e)
	}
}

// takeKnown compares a message on an event that is known already.
func (a *assembler) takeKnown(v *verdict, n keystore.N, e events.Entry) {
	have, ok := a.knownHash(n)
	switch {
	case !ok:
	case !e.Deleted && events.HashOf(e.Value) == have:
		v.end(AlarmTampered, e.Key)
	default:
		v.alarm(AlarmTampered, e.Key, "event %d was applied; what stands there now is another, and is not applied", n)
	}
}

func (a *assembler) knownHash(n keystore.N) (events.Hash, bool) {
	if n == a.state.N() {
		return a.state.Hash(), n > 0
	}
	if n >= a.part.first && n < a.part.first+keystore.N(len(a.part.records)) {
		return a.part.records[n-a.part.first].Hash(), true
	}
	return a.hashAt(n)
}

func (a *assembler) takeNext(v *verdict, n keystore.N, e events.Entry) {
	rec := events.Record(e.Value)
	if n == 1 && rec.Hash() != a.pin.Genesis {
		a.fork(v, "the genesis of the core is %s; pinned is %s", rec.Hash(), a.pin.Genesis)
		return
	}
	ev, err := a.state.Apply(rec)
	if errors.Is(err, events.ErrForked) && a.signedByMember(rec) {
		a.fork(v, "event %d of the core follows another history than this replica's", n)
		return
	}
	if err != nil {
		a.stop(v, n, e.Revision, err)
		return
	}
	if a.halt != nil {
		// Events that came after the one that halted were not looked at.
		a.position, v.reread = a.halt.revision-1, true
		v.end(AlarmHalted, events.LogKey(a.halt.n))
		a.halt = nil
	}
	if a.passed {
		// The event was put back, and stands behind those that follow it, and behind its
		// own values: these were taken for nobody's.
		a.position, a.passed, v.reread = 0, false, true
	}
	v.end(AlarmTampered, e.Key)
	a.boundary = false
	a.part.records = append(a.part.records, rec)
	a.part.size += len(rec)
	for _, effect := range ev.Effects {
		a.expect(v, effect)
	}
	if ev.Type == events.TypeServerForgotten {
		a.forgetServer(v, ev)
	}
}

func (a *assembler) expect(v *verdict, effect events.Effect) {
	delete(a.missed, effect.Key)
	if effect.Deleted {
		v.end(AlarmHalted, effect.Key) // what is destroyed is not missing any more
		delete(a.outstanding, effect.Key)
		delete(a.part.puts, effect.Key)
		a.part.deletes[effect.Key] = true
		return
	}
	a.outstanding[effect.Key] = true
	delete(a.part.deletes, effect.Key)
}

func (a *assembler) signedByMember(rec events.Record) bool {
	ev, err := events.Decode(rec)
	if err != nil {
		return false
	}
	member, ok := a.state.Member(ev.Server)
	return ok && member.Forgotten == 0 && rec.Verify(member.PublicKey) == nil
}

// stop halts at event n, until a good one stands in its place.
func (a *assembler) stop(v *verdict, n keystore.N, at events.Revision, why error) {
	if a.halt == nil {
		a.halt = &halt{n: n, revision: at}
	}
	v.alarm(AlarmHalted, events.LogKey(n), "event %d cannot be applied: %v", n, why)
}

func (a *assembler) takeHead(v *verdict, e events.Entry) {
	a.boundary = true
	head, err := events.DecodeHead(e.Value)
	want := a.state.Head()
	switch {
	case a.halt != nil:
		return // it names events that are not known here
	case err != nil || e.Deleted || head != want:
		v.alarm(AlarmTampered, e.Key, "it does not name event %d, the last one", want.N)
	default:
		v.end(AlarmTampered, e.Key)
	}
	a.tip = tip{n: want.N, hash: want.Hash, revision: e.Revision}
}

func (a *assembler) takeValue(v *verdict, key events.Key, e events.Entry) {
	kind := AlarmValueDiffers // of values that nothing but people read
	if isMaterial(e.Key) {
		kind = AlarmTampered
	}
	want, live := a.state.Expect(e.Key)
	switch {
	case !e.Deleted && live && events.HashOf(e.Value) == want:
		a.part.puts[e.Key] = e.Value
		a.part.size += len(e.Value)
		delete(a.outstanding, e.Key)
		delete(a.missed, e.Key)
		v.end(kind, e.Key)
		if isMaterial(e.Key) {
			v.end(AlarmHalted, e.Key)
		}
	case e.Deleted && !live:
		v.end(kind, e.Key)
	case a.halt != nil:
		// An event that is not known here may have written it.
	case !live:
		v.alarm(kind, e.Key, "no event puts it")
	case e.Deleted:
		v.alarm(kind, e.Key, "it is deleted, and no event says so")
	default:
		v.alarm(kind, e.Key, "it is not the value that its event names")
	}
}

func isMaterial(key string) bool {
	k, err := events.ParseKey(key)
	return err == nil && (k.Kind == events.KeyMaterial || k.Kind == events.KeyKSK)
}
