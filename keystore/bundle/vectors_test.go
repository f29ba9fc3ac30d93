package bundle_test

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keytide/keytide/keystore/bundle"
)

var update = flag.Bool("update", false, "write testdata/vectors anew")

const vectorFile = "testdata/vectors/bundle.json"

// vectors is the file that other implementations test themselves with. SPEC.md says
// what the fields are.
type vectors struct {
	Comment string    `json:"comment"`
	Bundles []vector  `json:"bundles"`
	Refused []refused `json:"refused"`
}

type vector struct {
	Passphrase string             `json:"passphrase,omitempty"`
	Recipient  json.RawMessage    `json:"recipient_key,omitempty"`
	From       bundle.Fingerprint `json:"from"`
	Set        json.RawMessage    `json:"set"`
	Signed     string             `json:"signed"`
	Bundle     string             `json:"bundle"`
}

// A refused is a signed part that no implementation may take.
type refused struct {
	Why    string `json:"why"`
	Signed string `json:"signed"`
}

func writeVectors(t *testing.T) {
	const phrase = "five groups of five letters"
	set, key := aSet(t), recipientKey(t)
	signed := sign(t, set)
	closed, err := bundle.Close(signed, []byte(phrase))
	if err != nil {
		t.Fatal(err)
	}
	closedFor, err := bundle.CloseFor(signed, key.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	private, err := key.JWK()
	if err != nil {
		t.Fatal(err)
	}
	good := payload(t, signed)
	v := vectors{
		Comment: "Bundles of keys, as keystore/bundle/SPEC.md describes them. The keys are for tests only.",
		Bundles: []vector{
			{Passphrase: phrase, From: fingerprint(t), Set: json.RawMessage(good), Signed: signed, Bundle: closed},
			{Recipient: private, From: fingerprint(t), Set: json.RawMessage(good), Signed: signed, Bundle: closedFor},
		},
		Refused: []refused{
			{"a kid that is not derived from the bytes", resign(t, strings.Replace(good, set.Keys[0].KID().String(), "0011223344556677", 1), nil)},
			{"a dynamic key", resign(t, strings.Replace(good, `"purpose":"static"`, `"purpose":"current"`, 1), nil)},
			{"signed as something else", resign(t, good, func(h map[string]any) { h["typ"] = "JWT" })},
			{"a signature of other contents", signed[:strings.LastIndex(signed, ".")] + resign(t, "{}", nil)[strings.LastIndex(resign(t, "{}", nil), "."):]},
		},
	}
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vectorFile, append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestVectors: what was closed once opens for ever.
func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	v := readVectors(t)
	if len(v.Bundles) != 2 || len(v.Refused) < 4 {
		t.Fatalf("%d bundles and %d refusals", len(v.Bundles), len(v.Refused))
	}
	for i, b := range v.Bundles {
		signed, err := b.open()
		if err != nil || signed != b.Signed {
			t.Errorf("bundle %d does not open: %v", i, err)
			continue
		}
		set, from, err := bundle.Verify(signed)
		if err != nil || from != b.From {
			t.Errorf("bundle %d: from %s, %v; want %s", i, from, err, b.From)
		}
		if diff := cmp.Diff(plain(t, aSet(t)), plain(t, set)); diff != "" {
			t.Errorf("bundle %d (-want +got):\n%s", i, diff)
		}
		if diff := cmp.Diff(canonical(t, b.Set), canonical(t, []byte(payload(t, sign(t, set))))); diff != "" {
			t.Errorf("bundle %d encodes differently (-want +got):\n%s", i, diff)
		}
	}
	for _, r := range v.Refused {
		if _, _, err := bundle.Verify(r.Signed); !errors.Is(err, bundle.ErrMalformed) && !errors.Is(err, bundle.ErrSignature) {
			t.Errorf("%s: %v, want it refused", r.Why, err)
		}
	}
}

func readVectors(t testing.TB) vectors {
	t.Helper()
	text, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func (v vector) open() (string, error) {
	if v.Passphrase != "" {
		return bundle.Open([]byte(v.Bundle), []byte(v.Passphrase))
	}
	key, err := bundle.ParseRecipientKey(v.Recipient)
	if err != nil {
		return "", err
	}
	return bundle.OpenAs([]byte(v.Bundle), key)
}
