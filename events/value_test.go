package events_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/host"
)

func sampleServer() events.ServerRecord {
	return events.ServerRecord{
		ID: "ps-1", Region: "eu", Address: "https://ps-1.example.com:7443", PublicKey: public, Levels: []uint64{1, 2},
		Boot: [16]byte{9, 8, 7}, Counter: 70_000, Applied: sampleHead(), At: day, ClockOffset: -1234 * time.Millisecond,
		State: events.Fresh, Agents: 10_000, AgentsBehind: 3,
		Hosts: []events.HostApplied{{Host: "web-1", N: 42}, {Host: "web-2"}},
	}
}

func sampleHead() events.Head {
	return events.Head{Epoch: 1, N: 42, Hash: events.HashOf([]byte("event 42"))}
}

func sampleBeacon() events.Beacon {
	return events.Beacon{
		Epoch: 1, Term: 3, Holder: "ps-1", Counter: 1 << 33, N: 42,
		Hash: events.HashOf([]byte("event 42")), Origin: day,
	}
}

func sampleMaterial() events.MaterialValue {
	return events.MaterialValue{
		Purpose: 1, Alg: 1, Generation: 300, Created: day, Owner: "ring:sso", Record: bytes.Repeat([]byte{0x57}, 70),
	}
}

func sampleKSK() events.KSKValue {
	return events.KSKValue{ID: kid(0xf1), Slots: []events.Slot{
		{Record: bytes.Repeat([]byte{0x53}, 87)}, {Record: bytes.Repeat([]byte{1}, 300)},
	}}
}

// sampleNextKSK is one that servers have yet to take.
func sampleNextKSK() events.KSKValue {
	k := sampleKSK()
	k.Slots[1].Region, k.Slots[1].Label, k.Slots[1].Added, k.Slots[1].Replaces = "eu", "the safe", day, kid(0xf3)
	k.Envelopes = []events.Envelope{{Server: "ps-1", Box: bytes.Repeat([]byte{0x45}, 129)}, {Server: "ps-2", Box: []byte{1}}}
	return k
}

func sampleRing(t testing.TB) keystore.Ring {
	h := newHistory(t, events.Keys)
	h.apply(h.create("sso"))
	h.apply(h.rollover("sso"))
	ring, _ := h.state.Ring("sso")
	ring.Policy, ring.NextSlot, ring.Answered = scheduledPolicy(t), day, day.AddDate(0, 0, -1)
	ring.Hold = keystore.Hold{Slot: day, Since: day.Add(time.Second), By: []string{"ps-2"}}
	ring.Incident, ring.Deleted = ring.Last, true // not at once, but each must be kept
	ring.NewMode = keystore.NewMode{Next: keystore.ModeStatic, Published: 3, Overlap: time.Hour, Left: 2, LeftAt: day, Session: time.Minute}
	ring.Keys[len(ring.Keys)-1].Published, ring.Keys[len(ring.Keys)-1].Overlap = 9, time.Hour
	return ring
}

func sampleHost(t testing.TB) host.Host {
	h := newHistory(t, events.Hosts)
	h.apply(h.register("web-1"))
	web, _ := h.state.Host("web-1")
	return web
}

// A codec is one kind of bytes, for tests that treat all kinds alike.
type codec struct {
	name   string
	sample []byte
	// again decodes and encodes anew.
	again func(b []byte) ([]byte, error)
}

func codecs(t testing.TB) []codec {
	must := func(b []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	_, ringChange := changePayload(t)
	_, hostChange := hostPayload(t)
	return []codec{
		{"genesis", must(genesis(events.Keys).Encode()), func(b []byte) ([]byte, error) {
			return then(events.DecodeGenesis(b))(events.Genesis.Encode)
		}},
		{"ring_change", ringChange, func(b []byte) ([]byte, error) {
			c, err := events.DecodeRingChange(events.TypeRollover, b)
			return then(c, err)(func(c keystore.Change) ([]byte, error) { _, p, err := events.EncodeRingChange(c); return p, err })
		}},
		{"host_change", hostChange, func(b []byte) ([]byte, error) {
			c, err := events.DecodeHostChanges(events.TypeHostRegistered, b)
			return then(c, err)(func(c []host.Change) ([]byte, error) { _, p, err := events.EncodeHostChange(c...); return p, err })
		}},
		{"ring", must(events.EncodeRing(sampleRing(t))), func(b []byte) ([]byte, error) {
			return then(events.DecodeRing(b))(events.EncodeRing)
		}},
		{"host", must(events.EncodeHost(sampleHost(t))), func(b []byte) ([]byte, error) {
			return then(events.DecodeHost(b))(events.EncodeHost)
		}},
		{"material", must(sampleMaterial().Encode()), func(b []byte) ([]byte, error) {
			return then(events.DecodeMaterial(b))(events.MaterialValue.Encode)
		}},
		{"ksk", must(sampleKSK().Encode()), func(b []byte) ([]byte, error) {
			return then(events.DecodeKSK(b))(events.KSKValue.Encode)
		}},
		{"head", sampleHead().Encode(), func(b []byte) ([]byte, error) {
			return then(events.DecodeHead(b))(func(h events.Head) ([]byte, error) { return h.Encode(), nil })
		}},
		{"server", must(sampleServer().Sign(private)), func(b []byte) ([]byte, error) {
			return then(events.DecodeServer(b))(func(s events.ServerRecord) ([]byte, error) { return s.Sign(private) })
		}},
		{"beacon", must(sampleBeacon().Sign(private)), func(b []byte) ([]byte, error) {
			return then(events.DecodeBeacon(b))(func(s events.Beacon) ([]byte, error) { return s.Sign(private) })
		}},
		{"server_change", must(joined("ps-2", other).Encode()), func(b []byte) ([]byte, error) {
			return then(events.DecodeServerChange(events.TypeServerJoined, b))(events.ServerChange.Encode)
		}},
		{"epoch_begun", must(events.EpochBegun{
			Epoch: 2, Old: events.EpochID{Number: 1, Genesis: events.HashOf([]byte("event 1"))}, Kept: sampleHead(),
		}.Encode()), func(b []byte) ([]byte, error) {
			return then(events.DecodeEpochBegun(b))(events.EpochBegun.Encode)
		}},
		{"epoch_ended", must(events.EpochEnded{
			Next: events.EpochID{Number: 2, Genesis: events.HashOf([]byte("event 43"))},
		}.Encode()), func(b []byte) ([]byte, error) {
			return then(events.DecodeEpochEnded(b))(events.EpochEnded.Encode)
		}},
		{"host_changes", hostsPayload(t), func(b []byte) ([]byte, error) {
			c, err := events.DecodeHostChanges(events.TypeHostsSeen, b)
			return then(c, err)(func(c []host.Change) ([]byte, error) { _, p, err := events.EncodeHostChange(c...); return p, err })
		}},
		{"token_change", tokenPayload(t), func(b []byte) ([]byte, error) {
			c, err := events.DecodeTokenChange(events.TypeTokenCreated, b)
			return then(c, err)(func(c host.TokenChange) ([]byte, error) { _, p, err := events.EncodeTokenChange(c); return p, err })
		}},
		{"ksk_next", must(sampleNextKSK().Encode()), func(b []byte) ([]byte, error) {
			return then(events.DecodeKSK(b))(events.KSKValue.Encode)
		}},
		{"ksk_change", must(slotsSet().Encode()), func(b []byte) ([]byte, error) {
			return then(events.DecodeKSKChange(events.TypeSlotsSet, b))(events.KSKChange.Encode)
		}},
		{"token", must(events.EncodeToken(sampleToken(t))), func(b []byte) ([]byte, error) {
			return then(events.DecodeToken(b))(events.EncodeToken)
		}},
		{"secret_policy", must(events.EncodeSecretPolicy(samplePolicy())), func(b []byte) ([]byte, error) {
			return then(events.DecodeSecretPolicy(b))(events.EncodeSecretPolicy)
		}},
	}
}

// then goes on with v if there was no error.
func then[T any](v T, err error) func(func(T) ([]byte, error)) ([]byte, error) {
	return func(next func(T) ([]byte, error)) ([]byte, error) {
		if err != nil {
			return nil, err
		}
		return next(v)
	}
}

func changePayload(t testing.TB) (events.Type, []byte) {
	policy := scheduledPolicy(t)
	kind, payload, err := events.EncodeRingChange(keystore.Change{
		Kind: keystore.RolledOver, Ring: "sso", Version: 7, Made: []keystore.MadeKey{{KID: kid(9), Role: keystore.Future, Created: day, OpenOnly: true}},
		Destroyed: []keystore.KID{kid(1), kid(2)}, Policy: &policy, Trigger: keystore.Scheduled, Forced: true, Slot: day,
		NextSlot: day.AddDate(0, 0, 7), Missed: 3, HeldBy: []string{"ps-2", "ps-3"}, Restored: kid(3),
		Activated: []keystore.KID{kid(4)}, Mode: keystore.ModeStatic, Overlap: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	return kind, payload
}

func hostPayload(t testing.TB) (events.Type, []byte) {
	kind, payload, err := events.EncodeHostChange(host.Change{
		Kind: host.Registered, Host: "web-1", Rings: []keystore.RingName{"partners", "sso"},
		Secret: host.Secret{KID: kid(5), Created: day, Generation: 2}, Destroyed: []keystore.KID{kid(4)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return kind, payload
}

func TestValuesReadBack(t *testing.T) {
	server, beacon := codecs(t)[8].sample, codecs(t)[9].sample
	gotServer, err := events.DecodeServer(server)
	if diff := cmp.Diff(sampleServer(), gotServer); diff != "" || err != nil {
		t.Errorf("server record: %v\n%s", err, diff)
	}
	gotBeacon, err := events.DecodeBeacon(beacon)
	if diff := cmp.Diff(sampleBeacon(), gotBeacon); diff != "" || err != nil {
		t.Errorf("beacon: %v\n%s", err, diff)
	}
	gotRing, err := events.DecodeRing(codecs(t)[3].sample)
	if diff := cmp.Diff(sampleRing(t), gotRing); diff != "" || err != nil {
		t.Errorf("ring: %v\n%s", err, diff)
	}
	gotHost, err := events.DecodeHost(codecs(t)[4].sample)
	if diff := cmp.Diff(sampleHost(t), gotHost); diff != "" || err != nil {
		t.Errorf("host: %v\n%s", err, diff)
	}
	gotMaterial, err := events.DecodeMaterial(codecs(t)[5].sample)
	if diff := cmp.Diff(sampleMaterial(), gotMaterial); diff != "" || err != nil {
		t.Errorf("material: %v\n%s", err, diff)
	}
}

// TestOneEncoding changes each bit of each kind of bytes: what still decodes
// encodes to exactly those bytes. Fields with changed names are unknown ones.
func TestOneEncoding(t *testing.T) {
	for _, c := range codecs(t) {
		if again, err := c.again(c.sample); err != nil || !bytes.Equal(again, c.sample) {
			t.Errorf("%s: encodes to other bytes, or %v", c.name, err)
		}
		for i := range c.sample {
			if _, err := c.again(c.sample[:i]); err == nil {
				t.Errorf("%s: the first %d bytes of %d decode", c.name, i, len(c.sample))
			}
		}
		if _, err := c.again(append(bytes.Clone(c.sample), 0)); err == nil && c.name != "server" && c.name != "beacon" {
			t.Errorf("%s: decodes with a byte more", c.name)
		}
		for i := range c.sample {
			for bit := range 8 {
				changed := bytes.Clone(c.sample)
				changed[i] ^= 1 << bit
				checkOneEncoding(t, c, changed)
			}
		}
	}
}

// checkOneEncoding is the oracle of tests and fuzzing alike: bytes that decode
// encode to something that decodes to the same, and is no longer; anything else
// gives the one error.
func checkOneEncoding(t testing.TB, c codec, b []byte) {
	t.Helper()
	once, err := c.again(b)
	if err != nil {
		if !errors.Is(err, events.ErrMalformed) && !errors.Is(err, events.ErrUnknownType) {
			t.Fatalf("%s: %x: error %v, want one that is ErrMalformed", c.name, b, err)
		}
		return
	}
	if len(once) > len(b) {
		t.Fatalf("%s: %x: encodes to more bytes, %x", c.name, b, once)
	}
	twice, err := c.again(once)
	if err != nil || !bytes.Equal(once, twice) {
		t.Fatalf("%s: %x: encodes to %x, which encodes to %x, %v", c.name, b, once, twice, err)
	}
	if len(once) == len(b) && !bytes.Equal(unsigned(c, once), unsigned(c, b)) {
		t.Fatalf("%s: %x has a second encoding, %x", c.name, b, once)
	}
}

func unsigned(c codec, b []byte) []byte {
	if c.name == "server" || c.name == "beacon" {
		return b[:len(b)-ed25519.SignatureSize]
	}
	return b
}

// TestSignaturesDoNotCross: what one signature covers, no other does.
func TestSignaturesDoNotCross(t *testing.T) {
	server, beacon := codecs(t)[8].sample, codecs(t)[9].sample
	if err := events.VerifyServer(server, public); err != nil {
		t.Errorf("VerifyServer = %v, want nil", err)
	}
	if err := events.VerifyBeacon(beacon, public); err != nil {
		t.Errorf("VerifyBeacon = %v, want nil", err)
	}
	for name, err := range map[string]error{
		"beacon as server":  events.VerifyServer(beacon, public),
		"server as beacon":  events.VerifyBeacon(server, public),
		"beacon as event":   events.Record(beacon).Verify(public),
		"event as beacon":   events.VerifyBeacon(sign(t, full()), public),
		"another key":       events.VerifyBeacon(beacon, other.Public().(ed25519.PublicKey)),
		"no key":            events.VerifyBeacon(beacon, nil),
		"no bytes":          events.VerifyServer(nil, public),
		"a record too, nil": events.Record(nil).Verify(public),
	} {
		if !errors.Is(err, events.ErrSignature) {
			t.Errorf("%s: %v, want ErrSignature", name, err)
		}
	}
}

func TestEncodersRefuseWhatWouldNotDecode(t *testing.T) {
	policy := keystore.Policy{MaxSession: time.Second + time.Microsecond}
	many := make([]keystore.KID, 97)
	for name, c := range map[string]keystore.Change{
		"kind":     {Kind: 99, Ring: "sso"},
		"name":     {Kind: keystore.Created, Ring: "SSO"},
		"duration": {Kind: keystore.Created, Ring: "sso", Policy: &policy},
		"many":     {Kind: keystore.KeysDestroyed, Ring: "sso", Destroyed: many},
		"slot":     {Kind: keystore.RolledOver, Ring: "sso", Slot: time.UnixMilli(-1)},
		"missed":   {Kind: keystore.RolledOver, Ring: "sso", Missed: -1},
		"held by":  {Kind: keystore.RolloverHeld, Ring: "sso", HeldBy: []string{"PS 2"}},
		"old time": {Kind: keystore.RolledOver, Ring: "sso", Made: []keystore.MadeKey{{KID: kid(1), Created: time.Unix(-1, 0)}}},
	} {
		if _, _, err := events.EncodeRingChange(c); !errors.Is(err, keystore.ErrInvalid) {
			t.Errorf("%s: EncodeRingChange = %v, want one that is ErrInvalid", name, err)
		}
	}
	if _, err := (events.KSKValue{Slots: []events.Slot{{}}}).Encode(); !errors.Is(err, keystore.ErrInvalid) {
		t.Errorf("an empty slot: Encode = %v, want one that is ErrInvalid", err)
	}
	if _, err := (events.Beacon{Holder: "ps-1"}).Sign(nil); !errors.Is(err, keystore.ErrInvalid) {
		t.Errorf("no key: Sign = %v, want one that is ErrInvalid", err)
	}
}

func TestWordsReadBack(t *testing.T) {
	for _, s := range []events.ServerState{events.Fresh, events.Stale, events.Forked, events.Halted, events.Stopped} {
		text, err := s.MarshalText()
		var back events.ServerState
		if err != nil || back.UnmarshalText(text) != nil || back != s {
			t.Errorf("%v reads back as %v", s, back)
		}
	}
	for _, k := range []events.Kind{events.Keys, events.Hosts} {
		text, err := k.MarshalText()
		var back events.Kind
		if err != nil || back.UnmarshalText(text) != nil || back != k {
			t.Errorf("%v reads back as %v", k, back)
		}
	}
}
