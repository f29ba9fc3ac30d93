package sidecar_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keytide/keytide/agentfeed/sidecar"
	"github.com/keytide/keytide/keystore"
)

var update = flag.Bool("update", false, "write the vectors anew")

const vectorFile = "testdata/vectors/formats.json"

type vectors struct {
	Comment string         `json:"comment"`
	Ring    string         `json:"ring"`
	Keys    []vectorKey    `json:"keys"`
	Derived []derived      `json:"derived"`
	Files   []vectorOutput `json:"files"`
}

type vectorKey struct {
	Role   keystore.Role `json:"role"`
	Secret string        `json:"secret_hex"`
}

type derived struct {
	Role keystore.Role `json:"role"`
	Info string        `json:"info"`
	Hex  string        `json:"hex"`
}

type vectorOutput struct {
	Format string `json:"format"`
	Key    string `json:"key,omitempty"`
	Base64 string `json:"base64"`
}

// keySet is a ring whose keys are 32 times the same byte, from first on.
func keySet(t *testing.T, first byte, roles ...keystore.Role) *keystore.KeySet {
	t.Helper()
	set := &keystore.KeySet{Ring: "sso", Epoch: 1, Version: 7, Mode: keystore.ModeDynamic}
	for i, role := range roles {
		m, err := keystore.NewMaterial(bytes.Repeat([]byte{first + byte(i)}, keystore.MaterialSize))
		if err != nil {
			t.Fatal(err)
		}
		set.Keys = append(set.Keys, keystore.SetKey{KID: m.KID(), Role: role, Seals: role == keystore.Current, Material: m})
	}
	return set
}

func render(t *testing.T, f sidecar.File, sets ...*keystore.KeySet) string {
	t.Helper()
	text, err := sidecar.Render(f, sets...)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestVectors compares each format with testdata/vectors, which other programs can
// check themselves against.
func TestVectors(t *testing.T) {
	roles := []keystore.Role{keystore.Current, keystore.Old, keystore.Old, keystore.Future, keystore.Static}
	set := keySet(t, 1, roles...)
	got := vectors{Comment: "Files of one ring: see SPEC.md. The keys are examples.", Ring: "sso"}
	for i, role := range roles {
		got.Keys = append(got.Keys, vectorKey{role, hex.EncodeToString(bytes.Repeat([]byte{byte(i + 1)}, 32))})
	}
	current := render(t, sidecar.File{Format: "nginx", Ring: "sso", Key: "current"}, set)
	got.Derived = []derived{{keystore.Current, "keytide/v1 stek nginx|sso", hex.EncodeToString([]byte(current))}}
	lines := strings.Fields(render(t, sidecar.File{Format: "haproxy", Ring: "sso"}, set))
	line, err := base64.StdEncoding.DecodeString(lines[len(lines)-2])
	if err != nil {
		t.Fatal(err)
	}
	got.Derived = append(got.Derived, derived{keystore.Current, "keytide/v1 stek haproxy|sso", hex.EncodeToString(line)})
	for _, f := range []sidecar.File{
		{Format: "jwks"}, {Format: "haproxy"}, {Format: "envoy"},
		{Format: "nginx", Key: "current"}, {Format: "nginx", Key: "future"}, {Format: "nginx", Key: "old"}, {Format: "nginx", Key: "old-2"}, {Format: "nginx", Key: "old-3"},
	} {
		f.Ring = "sso"
		got.Files = append(got.Files, vectorOutput{f.Format, f.Key, base64.StdEncoding.EncodeToString([]byte(render(t, f, set)))})
	}
	if *update {
		text, err := json.MarshalIndent(got, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(vectorFile, append(text, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	var want vectors
	if err := json.Unmarshal(text, &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("formats (-want +got):\n%s", diff)
	}
}

func TestTicketFormats(t *testing.T) {
	young := keySet(t, 1, keystore.Current, keystore.Future, keystore.Static)
	lines := strings.Fields(render(t, sidecar.File{Format: "haproxy", Ring: "sso"}, young))
	if len(lines) != 3 || lines[0] != lines[1] || lines[1] == lines[2] {
		t.Errorf("%d lines of a ring without old keys, want current twice and future", len(lines))
	}
	file := func(set *keystore.KeySet, key string) string {
		return render(t, sidecar.File{Format: "nginx", Ring: "sso", Key: key}, set)
	}
	if current := file(young, "current"); len(current) != 80 || file(young, "old") != current || file(young, "old-2") != current || file(young, "future") == current {
		t.Error("old keys that there are not yet are not stood in for by current")
	}
	// A rollover: what was future is current, what was current is old.
	next := keySet(t, 1, keystore.Old, keystore.Current, keystore.Static)
	next.Keys = append(next.Keys, keySet(t, 9, keystore.Future).Keys...)
	if file(next, "old") != file(young, "current") || file(next, "current") != file(young, "future") {
		t.Error("a key has another ticket key after a rollover")
	}
	other := keySet(t, 1, keystore.Current)
	other.Ring = "api"
	if render(t, sidecar.File{Format: "nginx", Ring: "api", Key: "current"}, other) == file(young, "current") {
		t.Error("two rings have the same ticket key")
	}
	if _, err := sidecar.Render(sidecar.File{Format: "envoy", Ring: "api"}, young); err == nil || !strings.Contains(err.Error(), "ring api: this host has no ring of that name; it has sso") {
		t.Errorf("a ring that the host has not: %v", err)
	}
}
