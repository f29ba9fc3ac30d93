package events_test

import (
	"crypto/ed25519"
	"encoding/binary"
	"iter"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/host"
)

// What every test signs with: a fixed key pair, for vectors.
var (
	private = ed25519.NewKeyFromSeed([]byte("keytide events test vector key 1"))
	public  = private.Public().(ed25519.PublicKey)
	other   = ed25519.NewKeyFromSeed([]byte("keytide events test vector key 2"))
	day     = time.Date(2026, 11, 22, 2, 30, 0, 0, time.UTC)
)

func kid(i uint64) keystore.KID {
	return keystore.KID(binary.BigEndian.AppendUint64(nil, 0xa0<<56|i))
}

func ulidAt(i uint64) ulid.ULID {
	var id ulid.ULID
	if err := id.SetTime(uint64(day.UnixMilli()) + i); err != nil {
		panic(err)
	}
	binary.BigEndian.PutUint64(id[8:], i+1)
	return id
}

func sign(t testing.TB, e events.Event) events.Record {
	t.Helper()
	rec, err := events.Sign(e, private)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

// A history builds records, one after another, as a server would.
type history struct {
	t       testing.TB
	state   *events.State
	records []events.Record
	keys    uint64 // made so far
}

func genesis(kind events.Kind) events.Genesis {
	return events.Genesis{
		Store: "main", StoreID: [16]byte{1, 2, 3}, Kind: kind, Epoch: 1, KSK: kid(0xf1), Membership: kid(0xf2),
		Founder: events.Member{ID: "ps-1", Region: "eu", PublicKey: public, P256Key: p256("ps-1")}, Dev: true,
	}
}

// newHistory begins a ledger: event 1 is applied.
func newHistory(t testing.TB, kind events.Kind) *history {
	t.Helper()
	h := &history{t: t, state: events.NewState()}
	h.apply(h.genesisEvent(kind))
	return h
}

func (h *history) genesisEvent(kind events.Kind) events.Event {
	g := genesis(kind)
	payload, err := g.Encode()
	if err != nil {
		h.t.Fatal(err)
	}
	return h.event(events.TypeGenesis, payload, put(events.KSKKey(g.KSK)), put(events.MaterialKey(g.Membership)))
}

func put(key string) events.Effect { return events.Effect{Key: key, Hash: events.HashOf([]byte(key))} }
func del(key string) events.Effect { return events.Effect{Key: key, Deleted: true} }

// event is the next event of this kind.
func (h *history) event(t events.Type, payload []byte, effects ...events.Effect) events.Event {
	n := h.state.N() + 1
	return events.Event{
		N: n, ID: ulidAt(uint64(n)), Prev: h.state.Hash(), Type: t, At: day.Add(time.Duration(n) * time.Hour),
		Server: "ps-1", Actor: "admin:eva", Payload: payload, Effects: effects,
	}
}

func (h *history) apply(e events.Event) events.Record {
	h.t.Helper()
	rec := sign(h.t, e)
	if _, err := h.state.Apply(rec); err != nil {
		h.t.Fatal(err)
	}
	h.records = append(h.records, rec)
	return rec
}

func (h *history) newKey() keystore.NewKey {
	h.keys++
	if h.keys == 0xf0 {
		h.keys = 0x100 // the genesis has some of those between
	}
	return keystore.NewKey{KID: kid(h.keys), Created: day.Add(time.Duration(h.keys) * time.Minute)}
}

// ringEvent is the event of a ring's change, with the effects that it must have.
func (h *history) ringEvent(c keystore.Change) events.Event {
	h.t.Helper()
	kind, payload, err := events.EncodeRingChange(c)
	if err != nil {
		h.t.Fatal(err)
	}
	effects := []events.Effect{put(events.RingKey(c.Ring))}
	for _, k := range c.Made {
		effects = append(effects, put(events.MaterialKey(k.KID)))
	}
	for _, k := range c.Destroyed {
		effects = append(effects, del(events.MaterialKey(k)))
	}
	return h.event(kind, payload, effects...)
}

func (h *history) create(name keystore.RingName) events.Event {
	h.t.Helper()
	c, err := keystore.Create(name, keystore.DefaultPolicy(), keystore.FirstKeys{
		Current: h.newKey(), Future: h.newKey(), Static: h.newKey(), SessionTicket: h.newKey(),
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return h.ringEvent(c)
}

func (h *history) rollover(name keystore.RingName) events.Event {
	h.t.Helper()
	ring, _ := h.state.Ring(name)
	c, err := ring.Rollover(keystore.Rollover{Trigger: keystore.Manual, Future: h.newKey(), Now: day.AddDate(9, 0, 0), Force: true})
	if err != nil {
		h.t.Fatal(err)
	}
	return h.ringEvent(c)
}

func (h *history) destroy(name keystore.RingName) events.Event {
	h.t.Helper()
	ring, _ := h.state.Ring(name)
	var kids []keystore.KID
	for _, k := range ring.ByRole(keystore.Old) {
		kids = append(kids, k.KID)
	}
	c, err := ring.Destroy(kids)
	if err != nil {
		h.t.Fatal(err)
	}
	return h.ringEvent(c)
}

func (h *history) hostEvent(c host.Change) events.Event {
	h.t.Helper()
	kind, payload, err := events.EncodeHostChange(c)
	if err != nil {
		h.t.Fatal(err)
	}
	effects := []events.Effect{put(events.HostKey(c.Host))}
	if c.Kind == host.Registered {
		effects = append(effects, put(events.MaterialKey(c.Secret.KID)))
	}
	for _, k := range c.Destroyed {
		effects = append(effects, del(events.MaterialKey(k)))
	}
	return h.event(kind, payload, effects...)
}

func (h *history) register(name string) events.Event {
	h.t.Helper()
	was, _ := h.state.Host(name)
	c, err := was.Register(name, []keystore.RingName{"sso"}, h.newKey(), host.Grant{})
	if err != nil {
		h.t.Fatal(err)
	}
	return h.hostEvent(c)
}

func all(records []events.Record) iter.Seq2[events.Record, error] {
	return func(yield func(events.Record, error) bool) {
		for _, rec := range records {
			if !yield(rec, nil) {
				return
			}
		}
	}
}
