package replication

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
)

// This file is the kit of both test packages of this folder.

// A Pen writes a ledger's history without a core: each batch becomes the entries
// that a reader would get.
type Pen struct {
	State  *events.State
	Key    ed25519.PrivateKey
	Server string
	Stream []events.Entry // every message that there ever was
	Pin    Pin
	counts map[string]uint64
}

// NewGenesis draws what a ledger of the store "main" begins with.
func NewGenesis(tb testing.TB, server string, key ed25519.PrivateKey) FoundConfig {
	tb.Helper()
	g := events.Genesis{
		Store: "main", Kind: events.Keys, Epoch: 1, KSK: randomKID(), Membership: randomKID(),
		Founder: NewMemberOf(tb, server, "eu", key),
	}
	rand.Read(g.StoreID[:])
	ksk, err := events.KSKValue{ID: g.KSK, Slots: []events.Slot{{Record: []byte("slot")}}}.Encode()
	if err != nil {
		tb.Fatal(err)
	}
	return FoundConfig{Genesis: g, Key: key, KSK: ksk, Membership: material(tb, "member"), Actor: "test"}
}

// NewKey draws a signing key.
func NewKey(tb testing.TB) ed25519.PrivateKey {
	tb.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

// NewMemberOf is how a ledger knows a server, with a P-256 key that nobody keeps.
func NewMemberOf(tb testing.TB, id, region string, key ed25519.PrivateKey) events.Member {
	tb.Helper()
	p256, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return events.Member{ID: id, Region: region, PublicKey: key.Public().(ed25519.PublicKey), P256Key: p256.PublicKey().Bytes()}
}

// Servers decides on a change of the members.
func Servers(tb testing.TB, c events.ServerChange) Decide {
	return func(*events.State) (Proposal, error) {
		tb.Helper()
		payload, err := c.Encode()
		return Proposal{Type: c.Type, Payload: payload, Actor: "test"}, err
	}
}

// Invited and Joined are the changes by which a server becomes a member.
func Invited(m events.Member) events.ServerChange {
	return events.ServerChange{
		Type: events.TypeServerInvited, ID: m.ID, Region: m.Region, Token: events.TokenHash("token"), Expires: time.Now().Add(time.Hour),
	}
}

func Joined(m events.Member) events.ServerChange {
	return events.ServerChange{
		Type: events.TypeServerJoined, ID: m.ID, Region: m.Region, PublicKey: m.PublicKey, P256Key: m.P256Key, MAC: [32]byte{1},
	}
}

// NewPen founds a ledger.
func NewPen(tb testing.TB) *Pen {
	tb.Helper()
	key := NewKey(tb)
	p := &Pen{State: events.NewState(), Key: key, Server: "ps-1", counts: make(map[string]uint64)}
	batch, err := NewGenesis(tb, p.Server, key).batch()
	if err != nil {
		tb.Fatal(err)
	}
	p.add(tb, batch)
	p.Pin = Pin{Kind: events.Keys, Store: "main", Epoch: 1, Genesis: batch.Record.Hash()}
	return p
}

// Put adds a message that somebody wrote by hand, and returns it.
func (p *Pen) Put(key string, value []byte) events.Entry {
	e := events.Entry{Key: key, Value: value, Revision: events.Revision(len(p.Stream) + 1)}
	p.Stream = append(p.Stream, e)
	return e
}

// Delete adds a deletion, and returns it.
func (p *Pen) Delete(key string) events.Entry {
	p.Stream = append(p.Stream, events.Entry{Key: key, Deleted: true, Revision: events.Revision(len(p.Stream) + 1)})
	return p.Stream[len(p.Stream)-1]
}

func (p *Pen) add(tb testing.TB, b events.Batch) []events.Entry {
	tb.Helper()
	from := len(p.Stream)
	p.Put(events.LogKey(b.N), b.Record)
	for _, put := range b.Puts {
		if put.Delete {
			p.Delete(put.Key)
		} else {
			p.Put(put.Key, put.Value)
		}
	}
	p.Put(events.HeadKey, b.Head.Encode())
	if _, err := p.State.Apply(b.Record); err != nil {
		tb.Fatal(err)
	}
	return p.Stream[from:]
}

// Commit decides and returns the entries of the batch.
func (p *Pen) Commit(tb testing.TB, decide Decide) []events.Entry {
	tb.Helper()
	return p.add(tb, p.Batch(tb, decide))
}

// Batch makes a batch of what decide decides, and does not write it.
func (p *Pen) Batch(tb testing.TB, decide Decide) events.Batch {
	tb.Helper()
	prop, err := decide(p.State)
	if err != nil {
		tb.Fatal(err)
	}
	ev := events.Event{
		N: p.State.N() + 1, ID: newULID(), Prev: p.State.Hash(), Type: prop.Type, At: time.Now(),
		Server: p.Server, Request: prop.Request, Payload: prop.Payload,
	}
	puts, err := completePuts(p.State, ev, prop.Puts)
	if err != nil {
		tb.Fatal(err)
	}
	for _, put := range puts {
		ev.Effects = append(ev.Effects, put.Effect())
	}
	rec, err := events.Sign(ev, p.Key)
	if err != nil {
		tb.Fatal(err)
	}
	return events.Batch{N: ev.N, Record: rec, Puts: puts, Head: events.Head{Epoch: 1, N: ev.N, Hash: rec.Hash()}}
}

// Beacon adds a beacon at the pen's n, and returns it.
func (p *Pen) Beacon(tb testing.TB, edit func(*events.Beacon)) events.Entry {
	tb.Helper()
	p.counts["beacon"]++
	b := events.Beacon{
		Epoch: 1, Term: 1, Holder: p.Server, Counter: p.counts["beacon"], N: p.State.N(), Hash: p.State.Hash(), Origin: time.Now(),
	}
	if edit != nil {
		edit(&b)
	}
	value, err := b.Sign(p.Key)
	if err != nil {
		tb.Fatal(err)
	}
	return p.Put(events.BeaconKey, value)
}

// Record adds the server's own record, signed by key, and returns it.
func (p *Pen) Record(tb testing.TB, key ed25519.PrivateKey) events.Entry {
	tb.Helper()
	p.counts["record"]++
	value, err := events.ServerRecord{
		ID: p.Server, Region: "eu", Address: "127.0.0.1:1", PublicKey: p.Key.Public().(ed25519.PublicKey), Boot: [16]byte{1},
		Counter: p.counts["record"], Applied: p.State.Head(), At: time.Now(), State: events.Fresh,
	}.Sign(key)
	if err != nil {
		tb.Fatal(err)
	}
	return p.Put(events.ServerKey(p.Server), value)
}

// Newest returns what a late reader gets: each key's newest message, in order.
func (p *Pen) Newest(from events.Revision) []events.Entry {
	newest := make(map[string]events.Revision)
	for _, e := range p.Stream {
		newest[e.Key] = e.Revision
	}
	return slices.DeleteFunc(slices.Clone(p.Stream), func(e events.Entry) bool {
		return e.Revision < from || newest[e.Key] != e.Revision
	})
}

func randomKID() keystore.KID {
	secret := make([]byte, keystore.MaterialSize)
	rand.Read(secret)
	return keystore.KIDOf(secret)
}

func material(tb testing.TB, owner string) []byte {
	tb.Helper()
	record := make([]byte, 70)
	rand.Read(record)
	value, err := events.MaterialValue{Purpose: 1, Alg: 1, Generation: 1, Created: time.Now(), Owner: owner, Record: record}.Encode()
	if err != nil {
		tb.Fatal(err)
	}
	return value
}

func newKeys(tb testing.TB, ring keystore.RingName, n int) (keys []keystore.NewKey, puts []events.Put) {
	tb.Helper()
	for range n {
		k := keystore.NewKey{KID: randomKID(), Created: time.Now().UTC().Truncate(time.Millisecond)}
		keys = append(keys, k)
		puts = append(puts, events.Put{Key: events.MaterialKey(k.KID), Value: material(tb, "ring:"+string(ring))})
	}
	return keys, puts
}

// NewSecret draws a trusted host's shared secret.
func NewSecret(tb testing.TB, name string) (keystore.NewKey, events.Put) {
	tb.Helper()
	k := keystore.NewKey{KID: randomKID(), Created: time.Now().UTC().Truncate(time.Millisecond)}
	return k, events.Put{Key: events.MaterialKey(k.KID), Value: material(tb, "host:"+name)}
}

// CreateRing decides on a new ring that keeps one old key.
func CreateRing(tb testing.TB, name keystore.RingName) Decide {
	return func(s *events.State) (Proposal, error) {
		if _, ok := s.Ring(name); ok {
			return Proposal{}, fmt.Errorf("ring %s: %w", name, keystore.ErrExists)
		}
		keys, puts := newKeys(tb, name, 4)
		policy := keystore.Policy{MaxSession: time.Hour, MinInterval: time.Hour, Retain: 1}
		c, err := keystore.Create(name, policy, keystore.FirstKeys{Current: keys[0], Future: keys[1], Static: keys[2], SessionTicket: keys[3]})
		if err != nil {
			return Proposal{}, err
		}
		return ringProposal(c, puts)
	}
}

// Roll decides on a forced rollover.
func Roll(tb testing.TB, name keystore.RingName, request string) Decide {
	return func(s *events.State) (Proposal, error) {
		ring, ok := s.Ring(name)
		if !ok {
			return Proposal{Request: request}, fmt.Errorf("ring %s: %w", name, keystore.ErrNotFound)
		}
		keys, puts := newKeys(tb, name, 1)
		c, err := ring.Rollover(keystore.Rollover{Trigger: keystore.Manual, Future: keys[0], Now: time.Now(), Force: true})
		if err != nil {
			return Proposal{Request: request}, err
		}
		p, err := ringProposal(c, puts)
		p.Request = request
		return p, err
	}
}

// RollTo decides on a forced rollover that brings in a key of this id.
func RollTo(tb testing.TB, name keystore.RingName, kid keystore.KID) Decide {
	return func(s *events.State) (Proposal, error) {
		ring, _ := s.Ring(name)
		c, err := ring.Rollover(keystore.Rollover{
			Trigger: keystore.Manual, Future: keystore.NewKey{KID: kid, Created: time.Now()}, Now: time.Now(), Force: true,
		})
		if err != nil {
			return Proposal{}, err
		}
		return ringProposal(c, []events.Put{{Key: events.MaterialKey(kid), Value: material(tb, "ring:"+string(name))}})
	}
}

func ringProposal(c keystore.Change, puts []events.Put) (Proposal, error) {
	t, payload, err := events.EncodeRingChange(c)
	return Proposal{Type: t, Payload: payload, Actor: "test", Puts: puts}, err
}

// A shelf is a replica without a file: what an assembler handed over.
type shelf struct {
	pin      Pin
	state    *events.State // shown
	scratch  *events.State // every record on the shelf
	records  []events.Record
	values   map[string][]byte
	alarms   map[alarmID]string // standing
	raised   []Alarm            // ever
	head     events.Revision
	cursor   events.Revision
	boundary bool
	beacons  int
	servers  int
	parts    int
}

func newShelf(pin Pin) *shelf {
	return &shelf{
		pin: pin, state: events.NewState(), scratch: events.NewState(), values: make(map[string][]byte), alarms: make(map[alarmID]string),
	}
}

// assembler makes one that goes on from the shelf, as after a crash.
func (s *shelf) assembler() *assembler {
	return newAssembler(origin{
		pin: s.pin, state: s.scratch.Clone(), applied: s.state.N(), position: s.cursor, boundary: s.boundary, head: s.head,
		held: func(key string) ([]byte, bool) { v, ok := s.values[key]; return v, ok },
		keys: slices.Collect(maps.Keys(s.values)),
		hashAt: func(n keystore.N) (events.Hash, bool) {
			if n == 0 || int(n) > len(s.records) {
				return events.Hash{}, false
			}
			return s.records[n-1].Hash(), true
		},
	})
}

func (s *shelf) take(tb testing.TB, a *assembler, entries ...events.Entry) {
	tb.Helper()
	for _, e := range entries {
		v := a.take(e)
		for _, alarm := range v.raise {
			s.alarms[alarmID{alarm.Kind, alarm.Key}] = alarm.Why
			s.raised = append(s.raised, alarm)
		}
		for _, id := range v.clear {
			delete(s.alarms, id)
		}
		if v.beacon != nil {
			s.beacons++
		}
		if v.server != nil {
			s.servers++
		}
		if v.part != nil {
			s.put(tb, v.part)
		}
	}
}

// follow reads what an assembler has not seen, anew from its position when it asks.
func (s *shelf) follow(tb testing.TB, a *assembler, p *Pen) {
	tb.Helper()
	for again := true; again; {
		again = false
		for _, e := range p.Newest(a.position + 1) {
			s.take(tb, a, e)
			if again = a.position < e.Revision; again {
				break
			}
		}
	}
}

func (s *shelf) put(tb testing.TB, p *part) {
	tb.Helper()
	if int(p.first) != len(s.records)+1 {
		tb.Fatalf("part begins at event %d; the shelf ends at %d", p.first, len(s.records))
	}
	s.parts++
	s.records = append(s.records, p.records...)
	maps.Copy(s.values, p.puts)
	for key := range p.deletes {
		delete(s.values, key)
	}
	for key, rev := range p.revisions {
		if key == events.HeadKey {
			s.head = rev
		}
	}
	s.cursor, s.boundary = p.cursor, p.boundary
	for _, rec := range p.records {
		if err := s.scratch.Fold(rec); err != nil {
			tb.Fatal(err)
		}
	}
	if p.show {
		s.state = s.scratch.Clone()
	}
}

// AtSteps has fn called with the name of each step of a change.
func AtSteps(cfg *MemberConfig, fn func(step string)) { cfg.step = fn }

// FillDisk makes the replica's file refuse to grow, until mend is called.
func FillDisk(tb testing.TB, r *Replica) (mend func()) {
	tb.Helper()
	set := func(max int) {
		tx, err := r.file.db.Begin(true) // waits for whoever writes
		if err != nil {
			tb.Fatal(err)
		}
		r.file.db.MaxSize = max
		if err := tx.Rollback(); err != nil {
			tb.Fatal(err)
		}
	}
	set(1)
	return func() { set(0) }
}

// openRecord is a record of the pen's server.
func openRecord(tb testing.TB, p *Pen) events.ServerRecord {
	tb.Helper()
	rec, err := openServer(p.State, p.Server, p.Record(tb, p.Key).Value)
	if err != nil {
		tb.Fatal(err)
	}
	return rec
}
