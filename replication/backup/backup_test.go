package backup_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"errors"
	"io"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/replication/backup"
)

// A history is a ledger as its only member writes it.
type history struct {
	tb      testing.TB
	key     ed25519.PrivateKey
	state   *events.State
	records []events.Record
	values  map[string][]byte
}

func newHistory(tb testing.TB) *history {
	h := &history{
		tb: tb, key: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize)),
		state: events.NewState(), values: map[string][]byte{},
	}
	kid := func(b byte) keystore.KID { return keystore.KID(bytes.Repeat([]byte{b}, 8)) }
	genesis := events.Genesis{
		Store: "main", StoreID: [16]byte{1}, Kind: events.Keys, Epoch: 1, KSK: kid(1), Membership: kid(2),
		Founder: events.Member{ID: "ps-1", Region: "eu", PublicKey: h.key.Public().(ed25519.PublicKey), P256Key: p256Key(tb)},
	}
	payload, err := genesis.Encode()
	if err != nil {
		tb.Fatal(err)
	}
	slots, err := events.KSKValue{ID: kid(1), Slots: []events.Slot{{Record: []byte{1, 2, 3}}}}.Encode()
	if err != nil {
		tb.Fatal(err)
	}
	h.add(events.TypeGenesis, payload, map[string][]byte{events.KSKKey(kid(1)): slots, events.MaterialKey(kid(2)): []byte("sealed")})
	return h
}

// p256Key is a public key; nobody uses it here.
func p256Key(tb testing.TB) []byte {
	key, err := ecdh.P256().NewPrivateKey(append(make([]byte, 31), 1))
	if err != nil {
		tb.Fatal(err)
	}
	return key.PublicKey().Bytes()
}

func (h *history) add(typ events.Type, payload []byte, puts map[string][]byte) {
	h.tb.Helper()
	e := events.Event{
		N: h.state.N() + 1, ID: ulid.ULID{15: byte(h.state.N() + 1)}, Prev: h.state.Hash(), Type: typ,
		At: time.UnixMilli(1_800_000_000_000).UTC(), Server: "ps-1", Payload: payload,
	}
	for key, value := range puts {
		e.Effects = append(e.Effects, events.Effect{Key: key, Hash: events.HashOf(value)})
		h.values[key] = value
	}
	rec, err := events.Sign(e, h.key)
	if err != nil {
		h.tb.Fatal(err)
	}
	if _, err := h.state.Apply(rec); err != nil {
		h.tb.Fatal(err)
	}
	h.records = append(h.records, rec)
}

func (h *history) voids(count int) {
	for range count {
		h.add(events.TypeVoid, events.VoidPayload(), nil)
	}
}

// source is the history's events after base.
func (h *history) source(base events.Head) backup.Source {
	s := backup.Source{Part: backup.Part{
		Kind: events.Keys, Store: "main", Epoch: 1, Genesis: h.records[0].Hash(), Base: base, Head: h.state.Head(),
		Made: time.UnixMilli(1_800_000_000_000).UTC(),
	}}
	s.Records = all(h.records[base.N:])
	if base.N == 0 {
		s.Values = h.values
	}
	return s
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

func write(tb testing.TB, parts ...backup.Source) []byte {
	tb.Helper()
	var out bytes.Buffer
	if err := backup.Write(&out, parts...); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

func TestWholeBackupAndIncrements(t *testing.T) {
	h := newHistory(t)
	h.voids(3)
	whole := write(t, h.source(events.Head{}))
	at := h.state.Head()
	h.voids(2)
	first := write(t, h.source(at))
	at = h.state.Head()
	h.voids(1)
	second := write(t, h.source(at))

	var seen []events.Record
	ledgers, err := backup.Verify(func(_ events.Kind, rec events.Record) error {
		seen = append(seen, rec)
		return nil
	}, bytes.NewReader(whole), bytes.NewReader(first), bytes.NewReader(second))
	if err != nil || len(ledgers) != 1 {
		t.Fatalf("Verify = %d ledgers, %v", len(ledgers), err)
	}
	l := ledgers[0]
	if l.Bad != 0 || l.State.Head() != h.state.Head() || len(l.Values) != 2 || !slices.EqualFunc(seen, h.records, func(a, b events.Record) bool { return bytes.Equal(a, b) }) {
		t.Errorf("bad = %d (%v), head %v, %d values, %d events; want the whole history", l.Bad, l.Why, l.State.Head(), len(l.Values), len(seen))
	}

	for name, files := range map[string][][]byte{
		"increment alone":    {first},
		"one left out":       {whole, second},
		"wrong order":        {whole, second, first},
		"the same one twice": {whole, first, first},
		"two whole ones":     {whole, whole},
	} {
		var readers []io.Reader
		for _, f := range files {
			readers = append(readers, bytes.NewReader(f))
		}
		if _, err := backup.Verify(nil, readers...); !errors.Is(err, backup.ErrDamaged) {
			t.Errorf("%s: Verify = %v, want ErrDamaged", name, err)
		}
	}
	parts, err := backup.Parts(bytes.NewReader(first))
	if err != nil || len(parts) != 1 || parts[0].Base.N != 4 || parts[0].Head.N != 6 {
		t.Errorf("Parts = %+v, %v", parts, err)
	}
}

// No bit can be changed, no byte cut off and nothing added without being noticed.
func TestEveryChangeIsNoticed(t *testing.T) {
	h := newHistory(t)
	h.voids(2)
	whole := write(t, h.source(events.Head{}))
	refused := func(data []byte) bool {
		_, err := backup.Verify(nil, bytes.NewReader(data))
		return errors.Is(err, backup.ErrDamaged)
	}
	for i := range whole {
		changed := bytes.Clone(whole)
		changed[i] ^= 1 << (i % 8)
		if !refused(changed) {
			t.Errorf("byte %d changed: accepted", i)
		}
		if !refused(whole[:i]) {
			t.Errorf("cut at %d: accepted", i)
		}
	}
	if !refused(append(bytes.Clone(whole), 0)) {
		t.Error("a byte added: accepted")
	}
}

// A file whose digest is right is judged by what its events and values prove.
func TestForgedContentsAreNamed(t *testing.T) {
	h := newHistory(t)
	h.voids(3)
	stranger := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, ed25519.SeedSize))
	forged, err := events.Sign(events.Event{
		N: 3, ID: ulid.ULID{15: 3}, Prev: h.records[1].Hash(), Type: events.TypeVoid, At: time.UnixMilli(1_800_000_000_000).UTC(),
		Server: "ps-1", Payload: events.VoidPayload(),
	}, stranger)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		edit func(*backup.Source)
		bad  keystore.N
		why  string
	}{
		"another's signature":  {func(s *backup.Source) { s.Records = all([]events.Record{h.records[0], h.records[1], forged}) }, 3, "signature"},
		"an event left out":    {func(s *backup.Source) { s.Records = all([]events.Record{h.records[0], h.records[2]}) }, 2, "event 3"},
		"the last one missing": {func(s *backup.Source) { s.Records = all(h.records[:3]) }, 4, "its header says 4"},
		"another genesis":      {func(s *backup.Source) { s.Genesis = events.HashOf(nil) }, 1, "genesis"},
		"a value missing":      {func(s *backup.Source) { s.Values = nil }, 4, "missing"},
		"a value changed": {func(s *backup.Source) {
			s.Values = map[string][]byte{}
			for key := range h.values {
				s.Values[key] = []byte("other")
			}
		}, 4, "not the one"},
	} {
		s := h.source(events.Head{})
		c.edit(&s)
		ledgers, err := backup.Verify(nil, bytes.NewReader(write(t, s)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if l := ledgers[0]; l.Bad != c.bad || !strings.Contains(l.Why.Error(), c.why) {
			t.Errorf("%s: bad = %d (%v), want %d (%s)", name, l.Bad, l.Why, c.bad, c.why)
		}
	}
}

func FuzzVerify(f *testing.F) {
	h := newHistory(f)
	h.voids(2)
	whole := write(f, h.source(events.Head{}))
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte("keytide backup 1\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		ledgers, err := backup.Verify(nil, bytes.NewReader(data))
		if err != nil {
			return
		}
		for _, l := range ledgers {
			if l.Bad == 0 && l.State.Head() != l.Part.Head {
				t.Errorf("accepted with head %v, promised %v", l.State.Head(), l.Part.Head)
			}
		}
	})
}
