package events_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keytide/keytide/events"
)

var update = flag.Bool("update", false, "write testdata/vectors anew")

// Vectors are for programs in other languages: bytes in hexadecimal, times in
// milliseconds, as SPEC.md names them.
type vectors struct {
	About   string          `json:"about"`
	Seed    string          `json:"ed25519_seed"`
	Public  string          `json:"ed25519_public_key"`
	History []vectorEvent   `json:"history"` // one ledger
	Values  []vectorValue   `json:"values"`
	Refused []vectorRefused `json:"refused"` // must not decode as an event
}

type vectorEvent struct {
	N       uint64         `json:"n"`
	ID      string         `json:"id"`
	Prev    string         `json:"prev"`
	Type    uint16         `json:"type"`
	Word    string         `json:"word"`
	At      int64          `json:"at"`
	Server  string         `json:"server"`
	Actor   string         `json:"actor"`
	Request string         `json:"request"`
	Reason  string         `json:"reason"`
	Payload string         `json:"payload"`
	Effects []vectorEffect `json:"effects"`
	Record  string         `json:"record"`
	Hash    string         `json:"hash"`
}

type vectorEffect struct {
	Key  string  `json:"key"`
	Hash *string `json:"hash"` // null: deleted
}

type vectorValue struct {
	Name  string `json:"name"`
	Key   string `json:"key,omitempty"`
	Value string `json:"value"`
	Hash  string `json:"hash"`
}

type vectorRefused struct {
	Why    string `json:"why"`
	Record string `json:"record"`
}

func makeVectors(t *testing.T) vectors {
	h := newHistory(t, events.Keys)
	create := h.create("sso")
	create.Request, create.Reason = "req-create-sso", "the first ring: für alle"
	h.apply(create)
	h.apply(h.rollover("sso"))
	h.apply(h.create("partners"))
	h.apply(h.event(events.TypeVoid, events.VoidPayload()))
	h.apply(h.rollover("sso"))
	h.apply(h.destroy("sso"))
	h.life("web")
	h.published("app")
	v := vectors{
		About: "Keytide event log, events/SPEC.md; every record and signed value is by the one key below",
		Seed:  hex.EncodeToString(private.Seed()), Public: hex.EncodeToString(public),
	}
	for _, rec := range h.records {
		v.History = append(v.History, vectorOf(t, rec))
	}
	keys := map[string]string{
		"ring": "ring.sso", "host": "host.web-1", "material": events.MaterialKey(kid(1)), "ksk": events.KSKKey(kid(0xf1)),
		"ksk_next": events.KSKKey(kid(0xf1)), "head": events.HeadKey, "server": "server.ps-1", "beacon": events.BeaconKey,
		"token": events.TokenKey(kid(0x77)), "secret_policy": events.PolicyKey(events.SecretPolicyName),
	}
	for _, c := range codecs(t) {
		if c.name == "server_change" || c.name == "epoch_begun" || c.name == "epoch_ended" {
			continue // members.json and epochs.json have those
		}
		if c.name == "ksk_change" {
			continue // rekey.json has those
		}
		v.Values = append(v.Values, vectorValue{c.name, keys[c.name], hex.EncodeToString(c.sample), events.HashOf(c.sample).String()})
	}
	v.Refused = refusedVectors(h.records[4])
	return v
}

func makeEpochVectors(t *testing.T) vectors {
	v := vectors{
		About: "Keytide event log, a ledger of hosts that was restored twice and ended; every record is by the one key below",
		Seed:  hex.EncodeToString(private.Seed()), Public: hex.EncodeToString(public),
	}
	for _, rec := range epochs(t).records {
		v.History = append(v.History, vectorOf(t, rec))
	}
	return v
}

func vectorOf(t *testing.T, rec events.Record) vectorEvent {
	e, err := events.Decode(rec)
	if err != nil {
		t.Fatal(err)
	}
	v := vectorEvent{
		N: uint64(e.N), ID: e.ID.String(), Prev: e.Prev.String(), Type: uint16(e.Type), Word: e.Type.String(), At: e.At.UnixMilli(),
		Server: e.Server, Actor: e.Actor, Request: e.Request, Reason: e.Reason, Payload: hex.EncodeToString(e.Payload),
		Record: hex.EncodeToString(rec), Hash: rec.Hash().String(), Effects: []vectorEffect{},
	}
	for _, effect := range e.Effects {
		hash := effect.Hash.String()
		if effect.Deleted {
			v.Effects = append(v.Effects, vectorEffect{Key: effect.Key})
			continue
		}
		v.Effects = append(v.Effects, vectorEffect{effect.Key, &hash})
	}
	return v
}

// refusedVectors damages a void event: 9c, 01, n 05, …
func refusedVectors(rec events.Record) []vectorRefused {
	body, signature := rec[:len(rec)-ed25519.SignatureSize], rec[len(rec)-ed25519.SignatureSize:]
	join := func(parts ...[]byte) string { return hex.EncodeToString(bytes.Join(parts, nil)) }
	return []vectorRefused{
		{"an array of 11", join([]byte{0x9b}, body[1:], signature)},
		{"another format", join([]byte{0x9c, 0x02}, body[2:], signature)},
		{"n is not in its shortest form", join(body[:2], []byte{0xcc, 0x05}, body[3:], signature)},
		{"n is zero", join(body[:2], []byte{0x00}, body[3:], signature)},
		{"a byte between array and signature", join(body, []byte{0x00}, signature)},
		{"no signature", join(body)},
		{"the payload is an array", join(body[:len(body)-2], []byte{0x90, 0x90}, signature)},
		{"the payload's fields are not sorted", join(body[:len(body)-2], []byte{0x82, 0xa1, 'b', 1, 0xa1, 'a', 1, 0x90}, signature)},
		{"the payload has a float", join(body[:len(body)-2], []byte{0x81, 0xa1, 'a', 0xcb, 0, 0, 0, 0, 0, 0, 0, 0, 0x90}, signature)},
		{"an effect on the head", join(body[:len(body)-1], []byte{0x91, 0x92, 0xa4, 'h', 'e', 'a', 'd', 0xc0}, signature)},
	}
}

func TestVectors(t *testing.T) {
	testVectors(t, "ledger.json", makeVectors(t))
	testVectors(t, "members.json", makeMemberVectors(t))
	testVectors(t, "epochs.json", makeEpochVectors(t))
	testVectors(t, "hosts.json", makeHostVectors(t))
	testVectors(t, "rekey.json", makeRekeyVectors(t))
}

// testVectors compares a file with what this program makes, and reads it back.
func testVectors(t *testing.T, name string, made vectors) {
	t.Helper()
	file := filepath.Join("testdata", "vectors", name)
	want, err := json.MarshalIndent(made, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, '\n')
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	stored, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(stored, want) {
		t.Errorf("%s is not what this program makes; a change of stored bytes breaks every ledger there is", file)
	}
	var v vectors
	if err := json.Unmarshal(stored, &v); err != nil {
		t.Fatal(err)
	}
	checkVectors(t, v)
}

// checkVectors reads the vectors as another program would.
func checkVectors(t *testing.T, v vectors) {
	state := events.NewState()
	for _, c := range v.History {
		rec := events.Record(unhex(t, c.Record))
		e, err := state.Apply(rec)
		if err != nil {
			t.Fatal(err)
		}
		if rec.Hash().String() != c.Hash || e.ID.String() != c.ID || e.At != time.UnixMilli(c.At).UTC() {
			t.Errorf("event %d reads back differently", c.N)
		}
	}
	for _, c := range v.Refused {
		if _, err := events.Decode(unhex(t, c.Record)); err == nil {
			t.Errorf("%s: decodes", c.Why)
		}
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
