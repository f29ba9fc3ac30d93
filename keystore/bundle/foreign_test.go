package bundle_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keytide/keytide/keystore/bundle"
)

// A foreign is a program with another JOSE implementation.
type foreign struct {
	name    string
	command []string
	env     string
}

var foreigners = []foreign{
	{name: "jwcrypto", command: []string{"/usr/bin/python3", "testdata/foreign.py"}},
	{name: "jose", command: []string{"node", "testdata/foreign.js"}, env: "NODE_PATH=/usr/share/nodejs"},
}

// An answer is what a foreign prints.
type answer struct {
	From   bundle.Fingerprint `json:"from"`
	Set    json.RawMessage    `json:"set"`
	Bundle string             `json:"bundle"`
}

func (f foreign) run(t *testing.T, verb string, ask map[string]any) answer {
	t.Helper()
	in, err := json.Marshal(ask)
	if err != nil {
		t.Fatal(err)
	}
	args := append(f.command[1:len(f.command):len(f.command)], verb)
	cmd := exec.Command(f.command[0], args...)
	cmd.Env = append(os.Environ(), f.env)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v (.ci/install installs it)", filepath.Base(f.command[0]), verb, err)
	}
	var a answer
	if err := json.Unmarshal(out, &a); err != nil {
		t.Fatalf("%s %s: %v", f.name, verb, err)
	}
	return a
}

// TestOtherImplementations: what is closed here opens with other JOSE
// implementations, and what they make opens here, in both ways of closing. They name
// the same signer.
func TestOtherImplementations(t *testing.T) {
	const phrase = "correct horse battery staple"
	key := recipientKey(t)
	private, err := key.JWK()
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.Recipient().JWK()
	if err != nil {
		t.Fatal(err)
	}
	want, signed := aSet(t), sign(t, aSet(t))
	set := json.RawMessage(payload(t, signed))
	closed, err := bundle.Close(signed, []byte(phrase))
	if err != nil {
		t.Fatal(err)
	}
	closedFor, err := bundle.CloseFor(signed, key.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range foreigners {
		t.Run(f.name, func(t *testing.T) {
			for _, ask := range []map[string]any{
				{"bundle": closed, "passphrase": phrase}, {"bundle": closedFor, "jwk": json.RawMessage(private)},
			} {
				got := f.run(t, "open", ask)
				if diff := cmp.Diff(canonical(t, set), canonical(t, got.Set)); diff != "" || got.From != fingerprint(t) {
					t.Errorf("opened (-want +got), from %s:\n%s", got.From, diff)
				}
			}
			theirs := f.run(t, "make", map[string]any{"set": set, "passphrase": phrase})
			check(t, theirs, want, func() (string, error) { return bundle.Open([]byte(theirs.Bundle), []byte(phrase)) })
			theirsFor := f.run(t, "make", map[string]any{"set": set, "jwk": json.RawMessage(public)})
			check(t, theirsFor, want, func() (string, error) { return bundle.OpenAs([]byte(theirsFor.Bundle), key) })
		})
	}
}

func check(t *testing.T, theirs answer, want bundle.Set, open func() (string, error)) {
	t.Helper()
	signed, err := open()
	if err != nil {
		t.Fatalf("theirs does not open: %v", err)
	}
	got, from, err := bundle.Verify(signed)
	if err != nil || from != theirs.From {
		t.Fatalf("Verify = from %s, %v; want %s", from, err, theirs.From)
	}
	if diff := cmp.Diff(plain(t, want), plain(t, got)); diff != "" {
		t.Errorf("theirs (-want +got):\n%s", diff)
	}
}

func canonical(t *testing.T, text []byte) (v any) {
	t.Helper()
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	return v
}
