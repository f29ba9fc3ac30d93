package cookie_test

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/keytide/keytide/agentfeed/cookie"
)

// TestKeysDoNotLeak prints a codec in use, and what holds it, in every way there is,
// and looks for the key, its subkey and the payload in any notation.
func TestKeysDoNotLeak(t *testing.T) {
	set := dynamicSet(t, 5, 3)
	c := newCodec(t, cookie.Config{Ring: ringOf(set)})
	const payload = "the user's secret payload"
	token := mustSeal(t, c, payload)
	mustOpen(t, c, token, payload)
	_, badErr := c.Open(nil, token[:90])

	key := sha256.Sum256([]byte("d5"))
	raw, err := base64.RawURLEncoding.DecodeString(string(token[:32]))
	if err != nil {
		t.Fatal(err)
	}
	subkey, err := hkdf.Expand(sha256.New, key[:], "kt1 sub"+string(raw), 32)
	if err != nil {
		t.Fatal(err)
	}

	holder := struct {
		Codec  *cookie.Codec
		hidden *cookie.Codec
		Config cookie.Config
		Set    any
	}{c, c, cookie.Config{Ring: ringOf(set)}, set}
	explained, err := cookie.Explain(string(token))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, v := range []any{c, holder, &holder, badErr, explained} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "v", v)
		text, err := json.Marshal(v)
		fmt.Fprintln(&out, string(text), err)
	}
	printed := out.String()
	for name, secret := range map[string][]byte{"key": key[:], "subkey": subkey, "payload": []byte(payload)} {
		head := secret[:8]
		for _, notation := range []string{
			string(head), hex.EncodeToString(head), strings.ToUpper(hex.EncodeToString(head)),
			strings.Trim(fmt.Sprint(head), "[]"), strings.Trim(fmt.Sprintf("%#v", head), "[]byte{}"),
			base64.StdEncoding.EncodeToString(secret[:6]), base64.RawURLEncoding.EncodeToString(secret[:6]),
		} {
			if strings.Contains(printed, notation) {
				t.Errorf("the %s is printed as %q", name, notation)
			}
		}
	}
}
