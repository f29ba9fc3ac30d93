package bundle_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/bundle"
)

var exported = time.Date(2026, 11, 24, 9, 30, 0, 0, time.UTC)

func material(tb testing.TB, seed string) keystore.Material {
	tb.Helper()
	sum := sha256.Sum256([]byte(seed))
	m, err := keystore.NewMaterial(sum[:])
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

func aSet(tb testing.TB) bundle.Set {
	tb.Helper()
	return bundle.Set{Store: "main", Ring: "sso", Exported: exported, Keys: []bundle.Key{
		{Role: keystore.Static, Created: exported.Add(-time.Hour + 5*time.Millisecond), Material: material(tb, "static")},
		{Role: keystore.SessionTicket, Created: exported.Add(-2 * time.Hour), OpenOnly: true, Material: material(tb, "ticket")},
	}}
}

// signer is the key of a policy server, always the same one.
func signer() ed25519.PrivateKey {
	seed := sha256.Sum256([]byte("server"))
	return ed25519.NewKeyFromSeed(seed[:])
}

func sign(tb testing.TB, s bundle.Set) string {
	tb.Helper()
	signed, err := bundle.Sign(s, signer())
	if err != nil {
		tb.Fatalf("Sign: %v", err)
	}
	return signed
}

func fingerprint(tb testing.TB) bundle.Fingerprint {
	tb.Helper()
	from, err := bundle.FingerprintOf(signer().Public().(ed25519.PublicKey))
	if err != nil {
		tb.Fatal(err)
	}
	return from
}

// plain is a set with its keys' bytes, to compare.
func plain(tb testing.TB, s bundle.Set) string {
	tb.Helper()
	var b strings.Builder
	fmt.Fprintln(&b, s.Store, s.Ring, s.Exported)
	for _, k := range s.Keys {
		err := k.Material.Use(func(secret []byte) error {
			_, err := fmt.Fprintf(&b, "%v %v %v %x\n", k.Role, k.Created, k.OpenOnly, secret)
			return err
		})
		if err != nil {
			tb.Fatal(err)
		}
	}
	return b.String()
}

func recipientKey(tb testing.TB) bundle.RecipientKey {
	tb.Helper()
	key, err := bundle.NewRecipientKey()
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func TestRoundTrip(t *testing.T) {
	want, phrase, key := aSet(t), []byte("correct horse battery"), recipientKey(t)
	closed, err := bundle.CloseWeakly(sign(t, want), phrase)
	if err != nil {
		t.Fatalf("CloseWeakly: %v", err)
	}
	closedFor, err := bundle.CloseFor(sign(t, want), key.Recipient())
	if err != nil {
		t.Fatalf("CloseFor: %v", err)
	}
	open := map[string]func() (string, error){
		"passphrase":   func() (string, error) { return bundle.Open([]byte(closed), phrase) },
		"line ending":  func() (string, error) { return bundle.Open([]byte(closed+"\r\n"), phrase) },
		"for somebody": func() (string, error) { return bundle.OpenAs([]byte(closedFor), key) },
	}
	for name, open := range open {
		signed, err := open()
		if err != nil {
			t.Errorf("%s: Open: %v", name, err)
			continue
		}
		got, from, err := bundle.Verify(signed)
		if err != nil || from != fingerprint(t) {
			t.Errorf("%s: Verify = from %s, %v; want %s", name, from, err, fingerprint(t))
		}
		if diff := cmp.Diff(plain(t, want), plain(t, got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestNotOpened: every wrong key is told apart as far as anybody can.
func TestNotOpened(t *testing.T) {
	key, other := recipientKey(t), recipientKey(t)
	closed, err := bundle.CloseWeakly(sign(t, aSet(t)), []byte("right"))
	if err != nil {
		t.Fatal(err)
	}
	closedFor, err := bundle.CloseFor(sign(t, aSet(t)), key.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, want string
		open       func() (string, error)
	}{
		{"passphrase", "it is another, or the bundle was changed", func() (string, error) { return bundle.Open([]byte(closed), []byte("wrong")) }},
		{"passphrase for a recipient's", "closed for recipient", func() (string, error) { return bundle.Open([]byte(closedFor), []byte("right")) }},
		{"key for a passphrase's", "closed with a passphrase", func() (string, error) { return bundle.OpenAs([]byte(closed), key) }},
		{"another recipient", "and this is the key of", func() (string, error) { return bundle.OpenAs([]byte(closedFor), other) }},
	}
	for _, tt := range tests {
		signed, err := tt.open()
		problem, ok := errors.AsType[*bundle.OpenError](err)
		if !ok || !errors.Is(err, bundle.ErrNotOpened) || !strings.Contains(err.Error(), tt.want) || signed != "" || problem.Hint() == "" {
			t.Errorf("%s: %q, %v; want an OpenError with %q and a hint", tt.name, signed, err, tt.want)
		}
	}
}

// TestEveryByteCounts: a bundle with a byte changed does not open, wherever it is.
func TestEveryByteCounts(t *testing.T) {
	key := recipientKey(t)
	s := aSet(t)
	s.Keys = s.Keys[:1]
	text, err := bundle.CloseFor(sign(t, s), key.Recipient())
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(text); i += 1 + i%9 { // a stride that is no multiple of base64's four
		changed := []byte(text)
		changed[i] ^= 1
		if changed[i] == '.' || text[i] == '.' {
			changed[i] = 'A'
		}
		if _, err := bundle.OpenAs(changed, key); err == nil {
			t.Fatalf("opens with byte %d changed from %q to %q", i, text[i], changed[i])
		} else if !errors.Is(err, bundle.ErrMalformed) && !errors.Is(err, bundle.ErrNotOpened) {
			t.Fatalf("byte %d: %v, want ErrMalformed or ErrNotOpened", i, err)
		}
	}
}

// header gives a bundle another protected header.
func withHeader(tb testing.TB, text string, edit func(map[string]any)) string {
	tb.Helper()
	head, rest, _ := strings.Cut(text, ".")
	raw, err := base64.RawURLEncoding.DecodeString(head)
	if err != nil {
		tb.Fatal(err)
	}
	var h map[string]any
	if err := json.Unmarshal(raw, &h); err != nil {
		tb.Fatal(err)
	}
	edit(h)
	if raw, err = json.Marshal(h); err != nil {
		tb.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(raw) + "." + rest
}

// TestHeaderIsBounded: what is not authenticated yet is refused before anything is
// computed from it.
func TestHeaderIsBounded(t *testing.T) {
	phrase := []byte("right")
	text, err := bundle.CloseWeakly(sign(t, aSet(t)), phrase)
	if err != nil {
		t.Fatal(err)
	}
	set := func(name string, value any) func(map[string]any) {
		return func(h map[string]any) { h[name] = value }
	}
	for name, edit := range map[string]func(map[string]any){
		"p2c of 1,000,001": set("p2c", 1_000_001), "p2c of 999": set("p2c", 999), "p2c of 2^63": set("p2c", 9.3e18),
		"no p2c": func(h map[string]any) { delete(h, "p2c") }, "p2c text": set("p2c", "600000"),
		"short salt": set("p2s", "AAAAAAAAAA"), "no salt": set("p2s", ""), "long salt": set("p2s", strings.Repeat("A", 100)),
		"compressed": set("zip", "DEF"), "critical": set("crit", []string{"exp"}), "a URL": set("jku", "https://example.com"),
		"direct": set("alg", "dir"), "weaker": set("alg", "PBES2-HS256+A128KW"), "GCM": set("enc", "A256GCM"), "none": set("alg", "none"),
		"ECDH without epk": set("alg", "ECDH-ES+A256KW"),
	} {
		if _, err := bundle.Open([]byte(withHeader(t, text, edit)), phrase); !errors.Is(err, bundle.ErrMalformed) || !errors.Is(err, keystore.ErrInvalid) {
			t.Errorf("%s: %v, want ErrMalformed", name, err)
		}
	}
	head, rest, _ := strings.Cut(text, ".")
	raw, _ := base64.RawURLEncoding.DecodeString(head)
	twice := base64.RawURLEncoding.EncodeToString(bytes.Replace(raw, []byte("{"), []byte(`{"p2c":1000,`), 1)) + "." + rest
	for name, text := range map[string]string{
		"empty": "", "one part": "abc", "four parts": head + ".a.b.c", "six parts": text + ".", "a blank": " " + text,
		"padding": strings.Replace(text, ".", "=.", 1), "a line break": strings.Replace(text, ".", "\n.", 1),
		"p2c twice": twice, "too long": text + strings.Repeat("A", 200<<10), "JSON form": `{"protected":"` + head + `"}`,
	} {
		if _, err := bundle.Open([]byte(text), phrase); !errors.Is(err, bundle.ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", name, err)
		}
	}
}

// resign signs other contents, or as something else, by our own key.
func resign(tb testing.TB, payload string, edit func(map[string]any)) string {
	tb.Helper()
	public := signer().Public().(ed25519.PublicKey)
	h := map[string]any{"alg": "EdDSA", "typ": bundle.Kind, "jwk": map[string]any{
		"kty": "OKP", "crv": "Ed25519", "x": base64.RawURLEncoding.EncodeToString(public),
	}}
	if edit != nil {
		edit(h)
	}
	raw, err := json.Marshal(h)
	if err != nil {
		tb.Fatal(err)
	}
	input := base64.RawURLEncoding.EncodeToString(raw) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
	return input + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(signer(), []byte(input)))
}

func payload(tb testing.TB, signed string) string {
	tb.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(strings.Split(signed, ".")[1])
	if err != nil {
		tb.Fatal(err)
	}
	return string(raw)
}

func TestVerifyRefuses(t *testing.T) {
	good := payload(t, sign(t, aSet(t)))
	if _, _, err := bundle.Verify(resign(t, good, nil)); err != nil {
		t.Fatalf("the test's own signature: %v", err)
	}
	replaced := func(old, new string) string {
		changed := strings.Replace(good, old, new, 1)
		if changed == good {
			t.Fatalf("the contents have no %q", old)
		}
		return changed
	}
	for name, text := range map[string]string{
		"format":          replaced(`"keytide":1`, `"keytide":2`),
		"no format":       replaced(`"keytide":1,`, ``),
		"member twice":    replaced(`"keytide":1`, `"keytide":1,"keytide":1`),
		"no store":        replaced(`"store":"main"`, `"store":""`),
		"ring":            replaced(`"ring":"sso"`, `"ring":"SSO"`),
		"no time":         replaced(`"exported_at":"2026-11-24T09:30:00Z",`, ``),
		"kty":             replaced(`"kty":"oct"`, `"kty":"EC"`),
		"purpose":         replaced(`"purpose":"static"`, `"purpose":"current"`),
		"unknown purpose": replaced(`"purpose":"static"`, `"purpose":"cookies"`),
		"kid of another":  replaced(`"kid":"`+material(t, "static").KID().String(), `"kid":"0011223344556677`),
		"k too short":     replaced(`"k":"`, `"k":"AAAA`),
		"key created":     replaced(`"created_at":"2026-11-24T08:30:00.005Z"`, `"created_at":"1969-01-01T00:00:00Z"`),
		"k in base64":     replaced(`"k":"`, `"k":"+/`),
		"not JSON":        good[1:],
		"more behind":     good + "{}",
		"no keys":         good[:strings.Index(good, `"keys"`)] + `"keys":[]}`,
	} {
		_, _, err := bundle.Verify(resign(t, text, nil))
		if !errors.Is(err, bundle.ErrMalformed) {
			t.Errorf("%s: %v, want ErrMalformed", name, err)
		}
	}
	for name, edit := range map[string]func(map[string]any){
		"typ":         func(h map[string]any) { h["typ"] = "JWT" },
		"no typ":      func(h map[string]any) { delete(h, "typ") },
		"no jwk":      func(h map[string]any) { delete(h, "jwk") },
		"alg none":    func(h map[string]any) { h["alg"] = "none" },
		"alg HS256":   func(h map[string]any) { h["alg"] = "HS256" },
		"critical":    func(h map[string]any) { h["crit"] = []string{"exp"}; h["exp"] = 1 },
		"private key": func(h map[string]any) { h["jwk"].(map[string]any)["d"] = strings.Repeat("A", 43) },
		"oct":         func(h map[string]any) { h["jwk"] = map[string]any{"kty": "oct", "k": "AAAA"} },
	} {
		if _, _, err := bundle.Verify(resign(t, good, edit)); err == nil {
			t.Errorf("%s: verified", name)
		}
	}
	other := resign(t, good, func(h map[string]any) {
		h["jwk"].(map[string]any)["x"] = base64.RawURLEncoding.EncodeToString(ed25519.NewKeyFromSeed(make([]byte, 32)).Public().(ed25519.PublicKey))
	})
	if _, _, err := bundle.Verify(other); !errors.Is(err, bundle.ErrSignature) {
		t.Errorf("another key's name: %v, want ErrSignature", err)
	}
}

func TestSignRefuses(t *testing.T) {
	many := aSet(t)
	for i := range bundle.MaxKeys {
		many.Keys = append(many.Keys, bundle.Key{Role: keystore.Static, Created: exported, Material: material(t, fmt.Sprint(i))})
	}
	with := func(edit func(*bundle.Set)) bundle.Set {
		s := aSet(t)
		edit(&s)
		return s
	}
	for name, s := range map[string]bundle.Set{
		"nothing": {}, "too many keys": many,
		"no keys":      with(func(s *bundle.Set) { s.Keys = nil }),
		"dynamic":      with(func(s *bundle.Set) { s.Keys[0].Role = keystore.Current }),
		"no bytes":     with(func(s *bundle.Set) { s.Keys[0].Material = keystore.Material{} }),
		"twice":        with(func(s *bundle.Set) { s.Keys[1].Material = s.Keys[0].Material }),
		"store's name": with(func(s *bundle.Set) { s.Store = "a b" }),
	} {
		if signed, err := bundle.Sign(s, signer()); !errors.Is(err, bundle.ErrMalformed) || signed != "" {
			t.Errorf("%s: Sign = %v, want ErrMalformed", name, err)
		}
	}
}

// TestFullSetFits: the most keys that there may be fit into the text's limit.
func TestFullSetFits(t *testing.T) {
	s := aSet(t)
	for i := len(s.Keys); i < bundle.MaxKeys; i++ {
		s.Keys = append(s.Keys, bundle.Key{Role: keystore.SessionTicket, Created: exported, OpenOnly: true, Material: material(t, fmt.Sprint(i))})
	}
	key := recipientKey(t)
	text, err := bundle.CloseFor(sign(t, s), key.Recipient())
	if err != nil {
		t.Fatalf("CloseFor: %v", err)
	}
	signed, err := bundle.OpenAs([]byte(text), key)
	if err != nil {
		t.Fatalf("OpenAs: %v", err)
	}
	if got, _, err := bundle.Verify(signed); err != nil || len(got.Keys) != bundle.MaxKeys {
		t.Errorf("Verify = %d keys, %v; want %d", len(got.Keys), err, bundle.MaxKeys)
	}
}

func TestRecipientKeys(t *testing.T) {
	key := recipientKey(t)
	private, err := key.JWK()
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.Recipient().JWK()
	if err != nil {
		t.Fatal(err)
	}
	again, err := bundle.ParseRecipientKey(private)
	if err != nil {
		t.Fatalf("ParseRecipientKey: %v", err)
	}
	r, err := bundle.ParseRecipient(public)
	if err != nil {
		t.Fatalf("ParseRecipient: %v", err)
	}
	want, _ := key.Recipient().Fingerprint()
	for _, r := range []bundle.Recipient{r, again.Recipient()} {
		if got, err := r.Fingerprint(); got != want || err != nil {
			t.Errorf("Fingerprint = %s, %v; want %s", got, err, want)
		}
	}
	if _, err := bundle.ParseRecipient(private); !errors.Is(err, keystore.ErrInvalid) || !strings.Contains(err.Error(), "private key") {
		t.Errorf("ParseRecipient of a private key = %v", err)
	}
	if _, err := bundle.ParseRecipientKey(public); !errors.Is(err, keystore.ErrInvalid) {
		t.Errorf("ParseRecipientKey of a public key = %v", err)
	}
	var d struct{ D string }
	if err := json.Unmarshal(private, &d); err != nil || len(d.D) != 43 {
		t.Fatalf("the private JWK has no d: %v", err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		held := struct{ k bundle.RecipientKey }{key}
		if text := fmt.Sprintf(verb+verb+verb, key, held, &held); strings.Contains(text, d.D) || strings.Contains(text, "D:") {
			t.Errorf("%s prints the key: %s", verb, text)
		}
	}
	if _, err := json.Marshal(key); err == nil {
		t.Error("json.Marshal gives the private key away")
	}
	for _, bad := range []string{"", "{}", `{"kty":"oct","k":"AAAA"}`, `{"kty":"EC","crv":"P-384"}`, strings.Repeat(" ", 5000)} {
		if _, err := bundle.ParseRecipient([]byte(bad)); !errors.Is(err, keystore.ErrInvalid) {
			t.Errorf("ParseRecipient(%.20q) = %v, want ErrInvalid", bad, err)
		}
	}
}
