package events_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/keytide/keytide/events"
)

func FuzzEvent(f *testing.F) {
	f.Add([]byte(sign(f, full())))
	for _, rec := range story(f).records {
		f.Add([]byte(rec))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := events.Decode(b)
		if err != nil {
			if !errors.Is(err, events.ErrMalformed) {
				t.Fatalf("error %v, want one that is ErrMalformed", err)
			}
			return
		}
		if again := sign(t, e); !bytes.Equal(packed(again), packed(b)) {
			t.Fatalf("decodes, but encodes to %x", again)
		}
	})
}

// FuzzState gives a state any payload and any type under a right signature: it is
// refused without a trace, or folded, and then the next event is too.
func FuzzState(f *testing.F) {
	h := story(f)
	h.life("web")
	h.published("app")
	h.apply(h.begin(2))
	for _, rec := range h.records {
		e, err := events.Decode(rec)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint16(e.Type), e.Payload, true)
	}
	for _, c := range []events.ServerChange{invited("ps-2"), joined("ps-2", other), excluded("ps-1"), returned("ps-1"), forgotten("ps-1")} {
		f.Add(uint16(c.Type), h.server(c).Payload, c.Type == events.TypeServerInvited)
	}
	for _, c := range rekeyChanges() {
		f.Add(uint16(c.Type), newHistory(f, events.Keys).kskEvent(c).Payload, true)
	}
	f.Fuzz(func(t *testing.T, kind uint16, payload []byte, keys bool) {
		h := newHistory(t, map[bool]events.Kind{true: events.Keys, false: events.Hosts}[keys])
		rec, err := events.Sign(h.event(events.Type(kind), payload), private)
		if err != nil {
			return
		}
		before := summary(h.state)
		if _, err := h.state.Apply(rec); err != nil && summary(h.state) != before {
			t.Fatalf("refused with %v, but the state changed", err)
		}
		if _, ended := h.state.Ended(); !ended {
			h.apply(h.event(events.TypeVoid, events.VoidPayload()))
		}
	})
}

func fuzzCodec(f *testing.F, name string) {
	for _, c := range codecs(f) {
		if c.name == name {
			f.Add(c.sample)
			f.Fuzz(func(t *testing.T, b []byte) { checkOneEncoding(t, c, b) })
			return
		}
	}
	f.Fatalf("no codec %s", name)
}

func FuzzGenesis(f *testing.F)      { fuzzCodec(f, "genesis") }
func FuzzRingChange(f *testing.F)   { fuzzCodec(f, "ring_change") }
func FuzzHostChange(f *testing.F)   { fuzzCodec(f, "host_change") }
func FuzzEpochBegun(f *testing.F)   { fuzzCodec(f, "epoch_begun") }
func FuzzEpochEnded(f *testing.F)   { fuzzCodec(f, "epoch_ended") }
func FuzzServerChange(f *testing.F) { fuzzCodec(f, "server_change") }
func FuzzRing(f *testing.F)         { fuzzCodec(f, "ring") }
func FuzzHost(f *testing.F)         { fuzzCodec(f, "host") }
func FuzzMaterial(f *testing.F)     { fuzzCodec(f, "material") }
func FuzzKSK(f *testing.F)          { fuzzCodec(f, "ksk") }
func FuzzNextKSK(f *testing.F)      { fuzzCodec(f, "ksk_next") }
func FuzzKSKChange(f *testing.F)    { fuzzCodec(f, "ksk_change") }
func FuzzHead(f *testing.F)         { fuzzCodec(f, "head") }
func FuzzServer(f *testing.F)       { fuzzCodec(f, "server") }
func FuzzBeacon(f *testing.F)       { fuzzCodec(f, "beacon") }

func FuzzHostChanges(f *testing.F)  { fuzzCodec(f, "host_changes") }
func FuzzTokenChange(f *testing.F)  { fuzzCodec(f, "token_change") }
func FuzzToken(f *testing.F)        { fuzzCodec(f, "token") }
func FuzzSecretPolicy(f *testing.F) { fuzzCodec(f, "secret_policy") }

func FuzzKey(f *testing.F) {
	for _, key := range []string{"log.1", "ring.sso", "host.web-1", "material.00000000000000a1", "ksk.00000000000000a1", "head", "server.ps-1", "beacon", "token.00000000000000a1", "policy.secrets"} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, s string) {
		key, err := events.ParseKey(s)
		if err != nil {
			return
		}
		again := map[events.KeyKind]func() string{
			events.KeyLog: func() string { return events.LogKey(key.N) }, events.KeyMaterial: func() string { return events.MaterialKey(key.KID) },
			events.KeyKSK: func() string { return events.KSKKey(key.KID) }, events.KeyHost: func() string { return events.HostKey(key.Name) },
			events.KeyServer: func() string { return events.ServerKey(key.Name) }, events.KeyHead: func() string { return events.HeadKey },
			events.KeyBeacon: func() string { return events.BeaconKey },
			events.KeyToken:  func() string { return events.TokenKey(key.KID) }, events.KeyPolicy: func() string { return events.PolicyKey(key.Name) },
			events.KeyRing: func() string { return "ring." + key.Name },
		}[key.Kind]()
		if again != s {
			t.Fatalf("%q parses to %+v, whose key is %q", s, key, again)
		}
	})
}
