package cookie_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/fips140"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keytide/keytide/agentfeed/cookie"
	"github.com/keytide/keytide/keystore"
)

var update = flag.Bool("update", false, "write testdata/vectors anew")

const vectorFile = "testdata/vectors/kt1.json"

// vectors is the file; SPEC.md says what its fields are.
type vectors struct {
	Valid   []vector `json:"valid"`
	Refused []refuse `json:"refused"`
}

type vector struct {
	Name       string `json:"name"`
	Key        string `json:"key"`
	Salt       string `json:"salt"`
	Nonce      string `json:"nonce"`
	Purpose    string `json:"purpose"`
	CookieName string `json:"cookie_name"`
	Context    string `json:"context"`
	Issued     uint32 `json:"issued"`
	MaxAge     uint32 `json:"max_age"`
	Payload    string `json:"payload"`

	KID     string `json:"kid"`
	Subkey  string `json:"subkey"`
	Binding string `json:"binding"`
	Token   string `json:"token"`
}

// A refuse is a token that does not open, with the key and binding of the first
// valid vector, at time At.
type refuse struct {
	Name   string `json:"name"`
	At     uint32 `json:"at"`
	Token  string `json:"token"`
	Reason string `json:"reason"`
}

func unhex(tb testing.TB, s string) []byte {
	tb.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func count(from, n byte) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = from + byte(i)
	}
	return hex.EncodeToString(b)
}

// inputs are the vectors without what is computed.
func inputs() []vector {
	base := vector{
		Name: "session", Key: count(0, 32), Salt: count(0xa0, 15), Nonce: count(0xc0, 12),
		Purpose: "session", CookieName: "SESSION", Context: "example.com",
		Issued: 1_790_000_000, MaxAge: 28_800, Payload: hex.EncodeToString([]byte("hello")),
	}
	with := func(name string, change func(*vector)) vector {
		v := base
		v.Name = name
		change(&v)
		return v
	}
	all := []vector{
		base,
		with("empty payload and context", func(v *vector) { v.Payload, v.Context = "", "" }),
		with("credentials without an end", func(v *vector) { v.Purpose, v.MaxAge = "credentials", 0 }),
		with("tracking, issued after 2038", func(v *vector) { v.Purpose, v.Issued, v.MaxAge = "tracking", 4_102_444_800, 1<<32-1-4_102_444_800 }),
		with("another key, salt and nonce", func(v *vector) { v.Key, v.Salt, v.Nonce = count(0x80, 32), count(1, 15), count(0x40, 12) }),
		with("context of several bytes a character", func(v *vector) { v.Context = "bücher.example" }),
		with("the longest token", func(v *vector) { v.Payload = strings.Repeat("5a", maxPayload) }),
	}
	for n := 1; n <= 3; n++ { // each rest of the encoding
		all = append(all, with("payload of length "+string(rune('0'+n)), func(v *vector) { v.Payload = strings.Repeat("ff", n) }))
	}
	return all
}

// compute fills in the rest by SPEC.md, independently of the package.
func compute(tb testing.TB, v vector) vector {
	tb.Helper()
	expand := func(info []byte, n int) []byte {
		out, err := hkdf.Expand(sha256.New, unhex(tb, v.Key), string(info), n)
		if err != nil {
			tb.Fatal(err)
		}
		return out
	}
	kid := expand([]byte("kt1 kid"), 8)
	header := slices.Concat([]byte{1}, kid, unhex(tb, v.Salt))
	subkey := expand(slices.Concat([]byte("kt1 sub"), header), 32)
	bound := []byte("kt1 ctx")
	for _, s := range []string{v.Purpose, v.CookieName, v.Context} {
		bound = append(binary.BigEndian.AppendUint32(bound, uint32(len(s))), s...)
	}
	binding := sha256.Sum256(bound)
	plain := binary.BigEndian.AppendUint32(nil, v.Issued)
	plain = append(binary.BigEndian.AppendUint32(plain, v.MaxAge), unhex(tb, v.Payload)...)
	token := slices.Concat(header, unhex(tb, v.Nonce), encrypt(tb, subkey, unhex(tb, v.Nonce), plain, binding[:]))
	v.KID, v.Subkey, v.Binding = hex.EncodeToString(kid), hex.EncodeToString(subkey), hex.EncodeToString(binding[:])
	v.Token = base64.RawURLEncoding.EncodeToString(token)
	return v
}

// encrypt is AES-256-GCM with a given nonce, which FIPS enforcement forbids to all
// but vectors.
func encrypt(tb testing.TB, key, nonce, plain, aad []byte) (out []byte) {
	tb.Helper()
	fips140.WithoutEnforcement(func() {
		block, err := aes.NewCipher(key)
		if err != nil {
			tb.Fatal(err)
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			tb.Fatal(err)
		}
		out = aead.Seal(nil, nonce, plain, aad)
	})
	return out
}

func refusals(tb testing.TB, v vector) []refuse {
	tb.Helper()
	raw, err := base64.RawURLEncoding.DecodeString(v.Token)
	if err != nil {
		tb.Fatal(err)
	}
	flip := func(at int) string {
		changed := bytes.Clone(raw)
		changed[at] ^= 1
		return base64.RawURLEncoding.EncodeToString(changed)
	}
	replaced := func(at int, c string) string { return v.Token[:at] + c + v.Token[at+1:] }
	// The token ends with four bits that mean nothing and must be zero.
	last := string(rune(v.Token[len(v.Token)-1] + 1))
	all := []refuse{
		{"empty", v.Issued, "", "malformed"},
		{"one byte less than an empty payload", v.Issued, v.Token[:78], "malformed"},
		{"longer than 4000 characters", v.Issued, v.Token + strings.Repeat("A", 4000), "malformed"},
		{"padding", v.Issued, v.Token + "=", "malformed"},
		{"line break", v.Issued, v.Token[:50] + "\n" + v.Token[50:], "malformed"},
		{"standard alphabet", v.Issued, replaced(60, "+"), "malformed"},
		{"trailing bits", v.Issued, replaced(len(v.Token)-1, last), "malformed"},
		{"version 2", v.Issued, "Ag" + v.Token[2:], "malformed"},
		{"another kid", v.Issued, flip(8), "unknown_key"},
		{"another salt", v.Issued, flip(9), "unauthentic"},
		{"another nonce", v.Issued, flip(24), "unauthentic"},
		{"another issue time", v.Issued, flip(39), "unauthentic"},
		{"another tag", v.Issued, flip(len(raw) - 1), "unauthentic"},
		{"cut", v.Issued, v.Token[:len(v.Token)-3], "unauthentic"},
		{"issued too far in the future", v.Issued - 301, v.Token, "premature"},
		{"at its end", v.Issued + v.MaxAge, v.Token, "expired"},
	}
	for _, change := range []struct {
		name string
		fn   func(*vector)
	}{
		{"another purpose", func(v *vector) { v.Purpose = "tracking" }},
		{"another cookie name", func(v *vector) { v.CookieName = "SESSIOM" }},
		{"another context", func(v *vector) { v.Context = "example.org" }},
	} {
		other := v
		change.fn(&other)
		all = append(all, refuse{change.name, v.Issued, compute(tb, other).Token, "unauthentic"})
	}
	return all
}

func TestVectors(t *testing.T) {
	var want vectors
	for _, v := range inputs() {
		want.Valid = append(want.Valid, compute(t, v))
	}
	want.Refused = refusals(t, want.Valid[0])
	if *update {
		text, err := json.MarshalIndent(want, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll("testdata/vectors", 0o755); err != nil {
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
	var got vectors
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("%s differs from what SPEC.md says (-want +got):\n%s", vectorFile, diff)
	}
	for _, v := range got.Valid {
		t.Run(v.Name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { openVector(t, v) }) })
	}
	for _, r := range got.Refused {
		t.Run(r.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := vectorCodec(t, got.Valid[0])
				time.Sleep(time.Until(time.Unix(int64(r.At), 0)))
				_, err := c.OpenString(nil, r.Token)
				if got := cookie.ReasonOf(err).String(); got != r.Reason {
					t.Errorf("Open: %v, want it refused as %v", got, r.Reason)
				}
			})
		})
	}
}

func vectorCodec(t *testing.T, v vector) *cookie.Codec {
	t.Helper()
	m, err := keystore.NewMaterial(unhex(t, v.Key))
	if err != nil {
		t.Fatal(err)
	}
	purpose, role := cookie.Session, keystore.Current
	if v.Purpose != "session" {
		role = keystore.Static
		if purpose = cookie.Credentials; v.Purpose == "tracking" {
			purpose = cookie.Tracking
		}
	}
	set := setOf(keystore.ModeDynamic, keystore.SetKey{KID: m.KID(), Role: role, Seals: true, Material: m})
	return newCodec(t, cookie.Config{Ring: ringOf(set), Name: v.CookieName, Context: v.Context, Purpose: purpose})
}

func openVector(t *testing.T, v vector) {
	t.Helper()
	c := vectorCodec(t, v)
	time.Sleep(time.Until(time.Unix(int64(v.Issued), 0)))
	opened := mustOpen(t, c, []byte(v.Token), string(unhex(t, v.Payload)))
	if opened.KID.String() != v.KID || opened.Issued.Unix() != int64(v.Issued) || opened.MaxAge != time.Duration(v.MaxAge)*time.Second {
		t.Errorf("Open = %v %v %v, want %v %v %v", opened.KID, opened.Issued.Unix(), opened.MaxAge, v.KID, v.Issued, v.MaxAge)
	}
	e, err := cookie.Explain(v.Token)
	if err != nil || e.KID.String() != v.KID || e.Sealer != v.Salt || e.PayloadSize != len(v.Payload)/2 {
		t.Errorf("Explain = %+v, %v", e, err)
	}
}
