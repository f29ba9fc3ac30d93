package keystore_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/keytide/keytide/keystore"
)

// holder has material at every depth at which a printing function might find it.
type holder struct {
	Open    keystore.Material
	hidden  keystore.Material
	Pointer *keystore.Material
	hidPtr  *keystore.Material
	Any     any
	hidAny  any
	List    []keystore.Material
	hidMap  map[string]*keystore.Material
	Inner   *holder
	set     *keystore.KeySet
}

func newHolder(m keystore.Material, depth int) *holder {
	h := &holder{
		Open: m, hidden: m, Pointer: &m, hidPtr: &m, Any: m, hidAny: &m,
		List: []keystore.Material{m}, hidMap: map[string]*keystore.Material{"k": &m},
		set: &keystore.KeySet{Ring: "sso", Keys: []keystore.SetKey{{Material: m}}},
	}
	if depth > 0 {
		h.Inner = newHolder(m, depth-1)
	}
	return h
}

// leaks returns the forms in which text shows the secret, whole or half.
func leaks(text, secret []byte) []string {
	var found []string
	for _, part := range [][]byte{secret[:len(secret)/2], secret[len(secret)/2:]} {
		decimal := strings.Trim(fmt.Sprint(part), "[]")
		aligned := part[:len(part)/3*3]
		for form, needle := range map[string]string{
			"raw":           string(part),
			"hex":           hex.EncodeToString(part),
			"HEX":           strings.ToUpper(hex.EncodeToString(part)),
			"spaced hex":    fmt.Sprintf("% x", part),
			"Go bytes":      strings.TrimSuffix(strings.SplitN(fmt.Sprintf("%#v", part), "{", 2)[1], "}"),
			"decimal":       decimal,
			"decimal list":  strings.ReplaceAll(decimal, " ", ","),
			"decimal, list": strings.ReplaceAll(decimal, " ", ", "),
			"quoted":        strings.Trim(fmt.Sprintf("%q", part), `"`),
			"base64":        base64.StdEncoding.EncodeToString(aligned),
			"base64url":     base64.URLEncoding.EncodeToString(aligned),
		} {
			if bytes.Contains(text, []byte(needle)) {
				found = append(found, form)
			}
		}
	}
	return found
}

func TestLeaksFindsEveryForm(t *testing.T) {
	secret := secretBytes()
	for _, text := range []string{
		fmt.Sprintf("%v", secret), fmt.Sprintf("%x", secret), fmt.Sprintf("%X", secret), fmt.Sprintf("%q", secret),
		string(secret), fmt.Sprintf("%#v", secret), fmt.Sprintf("% x", secret),
		base64.StdEncoding.EncodeToString(secret), base64.RawURLEncoding.EncodeToString(secret),
	} {
		if len(leaks([]byte(text), secret)) == 0 {
			t.Errorf("%q is not found to leak", text)
		}
	}
}

func secretBytes() []byte {
	secret := make([]byte, keystore.MaterialSize)
	for i := range secret {
		secret[i] = byte(0xb0 + 3*i)
	}
	return secret
}

// TestMaterialCannotBePrinted is the promise that no way of printing shows key
// bytes: every verb and flag, both log formats, JSON, at every depth.
func TestMaterialCannotBePrinted(t *testing.T) {
	secret := secretBytes()
	m, err := keystore.NewMaterial(secret)
	if err != nil {
		t.Fatalf("NewMaterial: %v", err)
	}
	h := newHolder(m, 2)
	values := map[string]any{
		"material": m, "pointer": &m, "holder": *h, "holder pointer": h, "slice": []any{m, &m, h},
		"map": map[string]any{"m": m, "h": h}, "set": h.set, "set key": h.set.Keys[0],
		"array": [1]keystore.Material{m}, "error": errors.Join(fmt.Errorf("%v", m)), "use": m.Use,
	}
	for name, v := range values {
		for verb := '!'; verb <= '~'; verb++ {
			for _, flags := range []string{"", "+", "#", " ", "-", "0", "+#", "# ", "200.100"} {
				format := "%" + flags + string(verb)
				if found := leaks(fmt.Appendf(nil, format, v), secret); found != nil {
					t.Errorf("%s: %s shows the secret: %v", name, format, found)
				}
			}
		}
		text := []byte(fmt.Sprint(v) + fmt.Sprintln(v))
		if out, err := json.Marshal(v); err == nil {
			text = append(text, out...)
		} else {
			text = append(text, err.Error()...)
		}
		var log bytes.Buffer
		for _, handler := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
			slog.New(handler).With("with", v).Info("keys", "attr", v, slog.Group("group", "attr", v))
		}
		if found := leaks(append(text, log.Bytes()...), secret); found != nil {
			t.Errorf("%s: print, json or slog shows the secret: %v", name, found)
		}
	}
}

func TestMaterialRefusesToMarshal(t *testing.T) {
	m := material(t, 1)
	if out, err := json.Marshal(m); err == nil {
		t.Errorf("json.Marshal = %s, want an error", out)
	}
	if out, err := m.MarshalText(); err == nil {
		t.Errorf("MarshalText = %s, want an error", out)
	}
}

func TestMaterialPlaceholder(t *testing.T) {
	m := material(t, 1)
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
		if got := fmt.Sprintf(format, m); got != "[key material]" {
			t.Errorf("%s = %q, want the placeholder", format, got)
		}
	}
}
