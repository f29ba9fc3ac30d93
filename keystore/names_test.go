package keystore_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/keytide/keytide/keystore"
)

func TestCheckName(t *testing.T) {
	for _, name := range []string{"a", "0", "sso", "web-1", "a--b", "a-", strings.Repeat("a", 63)} {
		if err := keystore.CheckName(name); err != nil {
			t.Errorf("CheckName(%q) = %v, want nil", name, err)
		}
	}
	for _, name := range []string{"", "-a", "A", "a.b", "a b", "a_b", "a*", ">", "é", "a\n", strings.Repeat("a", 64)} {
		if err := keystore.CheckName(name); !errors.Is(err, keystore.ErrInvalid) {
			t.Errorf("CheckName(%q) = %v, want ErrInvalid", name, err)
		}
	}
}

func TestKID(t *testing.T) {
	secret := make([]byte, 32)
	for i := range secret {
		secret[i] = byte(i)
	}
	kid := keystore.KIDOf(secret)
	if got, want := kid.String(), "45acbd341a656a64"; got != want {
		t.Errorf("KIDOf(00..1f) = %s, want %s", got, want)
	}
	if back, err := keystore.ParseKID(kid.String()); err != nil || back != kid {
		t.Errorf("ParseKID(%s) = %s, %v", kid, back, err)
	}
	for _, text := range []string{"", "45acbd341a656a6", "45acbd341a656a640", "45acbd341a656a6g"} {
		if _, err := keystore.ParseKID(text); !errors.Is(err, keystore.ErrInvalid) {
			t.Errorf("ParseKID(%q) = %v, want ErrInvalid", text, err)
		}
	}
}

func TestMaterialRefuses(t *testing.T) {
	for _, size := range []int{0, 16, 31, 32, 33} { // all zero bytes
		if _, err := keystore.NewMaterial(make([]byte, size)); !errors.Is(err, keystore.ErrInvalid) {
			t.Errorf("NewMaterial of %d zero bytes = %v, want ErrInvalid", size, err)
		}
	}
	var none keystore.Material
	err := none.Use(func([]byte) error { t.Error("Use of no material called its function"); return nil })
	if !errors.Is(err, keystore.ErrNoMaterial) || !none.IsZero() || none.KID() != (keystore.KID{}) {
		t.Errorf("the zero Material: Use = %v, IsZero %v, KID %v", err, none.IsZero(), none.KID())
	}
}

func TestMaterialIsACopy(t *testing.T) {
	secret := secretBytes()
	m, err := keystore.NewMaterial(secret)
	if err != nil {
		t.Fatalf("NewMaterial: %v", err)
	}
	want := m.KID()
	clear(secret)
	if m.KID() != want {
		t.Error("clearing the caller's bytes changed the material")
	}
}

// TestWords pins the stored numbers of every enumeration and their words.
func TestWords(t *testing.T) {
	type words struct {
		Roles    []keystore.Role
		Modes    []keystore.Mode
		Kinds    []keystore.ChangeKind
		Triggers []keystore.Trigger
	}
	got, err := json.Marshal(words{
		[]keystore.Role{1, 2, 3, 4, 5}, []keystore.Mode{1, 2}, []keystore.ChangeKind{1, 2, 3, 4, 5, 8, 9, 10, 11, 12}, []keystore.Trigger{1, 2, 3, 4},
	})
	want := `{"Roles":["old","current","future","static","session_ticket"],"Modes":["dynamic","static"],` +
		`"Kinds":["created","policy_set","rolled_over","keys_destroyed","deleted","undone","rollover_held","hold_ended","incident_closed","slot_skipped"],` +
		`"Triggers":["manual","scheduled","fresh","emergency"]}`
	if err != nil || string(got) != want {
		t.Errorf("words = %s, %v; want %s", got, err, want)
	}
	var back words
	if err := json.Unmarshal(got, &back); err != nil || back.Roles[4] != keystore.SessionTicket || back.Triggers[1] != keystore.Scheduled {
		t.Errorf("Unmarshal = %+v, %v", back, err)
	}
	for _, bad := range []string{`{"Roles":["New"]}`, `{"Modes":[""]}`, `{"Kinds":["published"]}`, `{"Triggers":["hourly"]}`} {
		if err := json.Unmarshal([]byte(bad), &back); !errors.Is(err, keystore.ErrInvalid) {
			t.Errorf("Unmarshal(%s) = %v, want ErrInvalid", bad, err)
		}
	}
	if _, err := keystore.Role(9).MarshalText(); !errors.Is(err, keystore.ErrInvalid) {
		t.Errorf("MarshalText of an unknown role = %v, want ErrInvalid", err)
	}
}

func TestKeySetNewer(t *testing.T) {
	s := &keystore.KeySet{Epoch: 2, Version: 5}
	tests := []struct {
		epoch   keystore.Epoch
		version keystore.Version
		want    bool
	}{{2, 6, true}, {2, 5, false}, {2, 4, false}, {3, 1, true}, {1, 9, false}}
	for _, tt := range tests {
		if got := s.Newer(tt.epoch, tt.version); got != tt.want {
			t.Errorf("Newer(%d, %d) = %v, want %v", tt.epoch, tt.version, got, tt.want)
		}
	}
}
