package events_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/oklog/ulid/v2"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
)

// full is an event that uses every element.
func full() events.Event {
	return events.Event{
		N: 300, ID: ulidAt(7), Prev: events.HashOf([]byte("before")), Type: events.TypeRollover,
		At: day.Add(1500 * time.Millisecond), Server: "ps-1", Actor: "admin:eva", Request: "req-1",
		Reason:  strings.Repeat("long enough to need two bytes of length: ä ", 3),
		Payload: []byte{0x81, 0xa1, 'a', 0xcd, 0x01, 0x00},
		Effects: []events.Effect{
			{Key: events.MaterialKey(kid(1)), Deleted: true},
			{Key: events.MaterialKey(kid(2)), Hash: events.HashOf([]byte("sealed"))},
			{Key: events.RingKey("sso"), Hash: events.HashOf([]byte("state"))},
		},
	}
}

func TestDecodeGivesBackWhatWasSigned(t *testing.T) {
	rec := sign(t, full())
	got, err := events.Decode(rec)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(full(), got); diff != "" {
		t.Errorf("Decode (-signed +decoded):\n%s", diff)
	}
	if err := rec.Verify(public); err != nil {
		t.Errorf("Verify = %v, want nil", err)
	}
}

// TestBytesAreMessagePack reads an event with a library that knows nothing of ours.
func TestBytesAreMessagePack(t *testing.T) {
	rec := sign(t, full())
	packed := rec[:len(rec)-ed25519.SignatureSize]
	var elements []any
	if err := msgpack.Unmarshal(packed, &elements); err != nil {
		t.Fatal(err)
	}
	if len(elements) != 12 {
		t.Fatalf("array of %d elements, want 12", len(elements))
	}
	var again bytes.Buffer
	enc := msgpack.NewEncoder(&again)
	enc.UseCompactInts(true)
	enc.SetSortMapKeys(true)
	if err := enc.Encode(elements); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again.Bytes(), packed) {
		t.Errorf("the library packs it as\n%x, we as\n%x", again.Bytes(), packed)
	}
}

func TestSignSortsEffectsAndRefusesWhatIsOutOfBounds(t *testing.T) {
	shuffled := full()
	shuffled.Effects[0], shuffled.Effects[2] = shuffled.Effects[2], shuffled.Effects[0]
	if got := sign(t, shuffled); !bytes.Equal(got, sign(t, full())) {
		t.Error("the order in which effects are given changes the record")
	}
	for name, change := range map[string]func(*events.Event){
		"n":              func(e *events.Event) { e.N = 0 },
		"id":             func(e *events.Event) { e.ID = ulid.ULID{} },
		"prev":           func(e *events.Event) { e.Prev = events.Hash{} },
		"prev of one":    func(e *events.Event) { e.N = 1 },
		"type":           func(e *events.Event) { e.Type = 0 },
		"time":           func(e *events.Event) { e.At = time.Time{} },
		"late time":      func(e *events.Event) { e.At = time.UnixMilli(1 << 48) },
		"server":         func(e *events.Event) { e.Server = "" },
		"long server":    func(e *events.Event) { e.Server = strings.Repeat("s", 64) },
		"actor":          func(e *events.Event) { e.Actor = strings.Repeat("a", 256) },
		"request":        func(e *events.Event) { e.Request = strings.Repeat("r", 129) },
		"reason":         func(e *events.Event) { e.Reason = strings.Repeat("r", 1025) },
		"control":        func(e *events.Event) { e.Reason = "two\nlines" },
		"C1 control":     func(e *events.Event) { e.Reason = "\u009b31m" },
		"not UTF-8":      func(e *events.Event) { e.Actor = "\xff" },
		"payload":        func(e *events.Event) { e.Payload = nil },
		"no map":         func(e *events.Event) { e.Payload = []byte{0x01} },
		"two payloads":   func(e *events.Event) { e.Payload = []byte{0x80, 0x80} },
		"unsorted":       func(e *events.Event) { e.Payload = []byte{0x82, 0xa1, 'b', 1, 0xa1, 'a', 1} },
		"wide number":    func(e *events.Event) { e.Payload = []byte{0x81, 0xa1, 'a', 0xcd, 0x00, 0x01} },
		"float":          func(e *events.Event) { e.Payload = []byte{0x81, 0xa1, 'a', 0xca, 0, 0, 0, 0} },
		"big payload":    func(e *events.Event) { e.Payload = bigPayload(events.MaxPayloadSize) },
		"same effect":    func(e *events.Event) { e.Effects = append(e.Effects, e.Effects[0]) },
		"effect on head": func(e *events.Event) { e.Effects[0].Key = "head" },
		"effect on log":  func(e *events.Event) { e.Effects[0].Key = "log.5" },
		"strange effect": func(e *events.Event) { e.Effects[0].Key = "material.XYZ" },
		"many effects":   func(e *events.Event) { e.Effects = make([]events.Effect, events.MaxEffects+1) },
	} {
		e := full()
		change(&e)
		if _, err := events.Sign(e, private); !errors.Is(err, keystore.ErrInvalid) {
			t.Errorf("%s: Sign = %v, want one that is ErrInvalid", name, err)
		}
	}
}

// bigPayload is a map of more than size bytes, each value within its own bounds.
func bigPayload(size int) []byte {
	b := []byte{0x83}
	for _, key := range []byte("abc") {
		b = append(b, 0xa1, key, 0xc5, byte(size/3>>8), byte(size/3))
		b = append(b, make([]byte, size/3)...)
	}
	return b
}

// TestDecodeRefusesEveryOtherByte changes each byte of a record in each bit: what
// still decodes must encode to exactly those bytes again.
func TestDecodeRefusesEveryOtherByte(t *testing.T) {
	rec := sign(t, full())
	for i := range rec {
		for bit := range 8 {
			changed := bytes.Clone(rec)
			changed[i] ^= 1 << bit
			e, err := events.Decode(changed)
			if err != nil {
				if !errors.Is(err, events.ErrMalformed) {
					t.Fatalf("byte %d, bit %d: error %v, want one that is ErrMalformed", i, bit, err)
				}
				continue
			}
			if again := sign(t, e); !bytes.Equal(packed(again), packed(changed)) {
				t.Fatalf("byte %d, bit %d: decodes, but encodes to other bytes", i, bit)
			}
			if events.Record(changed).Verify(public) == nil {
				t.Fatalf("byte %d, bit %d: the signature still holds", i, bit)
			}
		}
	}
	for i := range rec {
		if _, err := events.Decode(rec[:i]); err == nil {
			t.Errorf("the first %d of %d bytes decode", i, len(rec))
		}
	}
	if _, err := events.Decode(append(bytes.Clone(rec), 0)); err == nil {
		t.Error("a record with a byte more decodes")
	}
}

func packed(rec events.Record) []byte { return rec[:len(rec)-ed25519.SignatureSize] }

func TestHashText(t *testing.T) {
	h := events.HashOf([]byte("x"))
	back, err := events.ParseHash(h.String())
	if err != nil || back != h {
		t.Errorf("ParseHash(String) = %v, %v, want %v", back, err, h)
	}
	for _, s := range []string{"", "00", strings.Repeat("g", 64), h.String() + "00"} {
		if _, err := events.ParseHash(s); !errors.Is(err, keystore.ErrInvalid) {
			t.Errorf("ParseHash(%q) = %v, want one that is ErrInvalid", s, err)
		}
	}
}

func TestKeysParseBack(t *testing.T) {
	for key, want := range map[string]events.Key{
		events.LogKey(42):           {Kind: events.KeyLog, N: 42},
		events.RingKey("sso"):       {Kind: events.KeyRing, Name: "sso"},
		events.HostKey("web-1"):     {Kind: events.KeyHost, Name: "web-1"},
		events.MaterialKey(kid(10)): {Kind: events.KeyMaterial, KID: kid(10)},
		events.KSKKey(kid(11)):      {Kind: events.KeyKSK, KID: kid(11)},
		events.ServerKey("ps-1"):    {Kind: events.KeyServer, Name: "ps-1"},
		events.HeadKey:              {Kind: events.KeyHead},
		events.BeaconKey:            {Kind: events.KeyBeacon},
		events.TokenKey(kid(12)):    {Kind: events.KeyToken, KID: kid(12)},
		events.PolicyKey("secrets"): {Kind: events.KeyPolicy, Name: "secrets"},
	} {
		if got, err := events.ParseKey(key); err != nil || got != want {
			t.Errorf("ParseKey(%q) = %+v, %v, want %+v", key, got, err, want)
		}
	}
	for _, key := range []string{
		"", "log.", "log.0", "log.01", "log.+1", "log.1.2", "log.18446744073709551616", "ring.", "ring.A", "ring.a.b", "heads",
		"material.00", "material." + strings.ToUpper(hex.EncodeToString(bytes.Repeat([]byte{0xab}, 8))), "policy.X", "token.x", "beacon.",
	} {
		if got, err := events.ParseKey(key); !errors.Is(err, keystore.ErrInvalid) {
			t.Errorf("ParseKey(%q) = %+v, %v, want one that is ErrInvalid", key, got, err)
		}
	}
}

func TestBucketNamesParseBack(t *testing.T) {
	bucket := events.BucketName(events.Keys, "main", 1)
	if bucket != "keytide_keys_main_e1" {
		t.Errorf("BucketName = %q", bucket)
	}
	kind, store, epoch, err := events.ParseBucket(bucket)
	if err != nil || kind != events.Keys || store != "main" || epoch != 1 {
		t.Errorf("ParseBucket = %v, %q, %d, %v", kind, store, epoch, err)
	}
	for _, s := range []string{"", "keytide_", "keytide_keys_main", "keytide_keys_main_e0", "keytide_keys_main_e01", "keytide_x_main_e1", "keytide_keys_MAIN_e1", "keytide_keys_main_1"} {
		if _, _, _, err := events.ParseBucket(s); !errors.Is(err, keystore.ErrInvalid) {
			t.Errorf("ParseBucket(%q) = %v, want one that is ErrInvalid", s, err)
		}
	}
	if key, ok := events.KeyOf(bucket, events.Subject(bucket, "ring.sso")); !ok || key != "ring.sso" {
		t.Errorf("KeyOf(Subject) = %q, %v", key, ok)
	}
}
