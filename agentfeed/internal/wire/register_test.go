package wire_test

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keytide/keytide/agentfeed/internal/wire"
	"github.com/keytide/keytide/keystore"
)

// registerVectors are for programs in other languages. Only what is not random has
// one: the token's forms, and requests with their signatures.
type registerVectors struct {
	Comment  string           `json:"comment"`
	Token    string           `json:"token"`
	ID       string           `json:"id"`
	Public   string           `json:"public_key"` // hexadecimal
	Accepted []registerVector `json:"accepted"`
	Refused  []registerVector `json:"refused"` // does not parse, or is not signed by the token
}

type registerVector struct {
	Note    string `json:"note"`
	Request string `json:"request"`
}

const registerFile = "../../testdata/vectors/register.json"

func makeRegisterVectors(t *testing.T) registerVectors {
	token := material(t, secretHex)
	public, err := wire.TokenPublic(token)
	if err != nil {
		t.Fatal(err)
	}
	request, _, err := wire.NewRegister(token, "web-1", wire.Nonce{15: 1})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	v := registerVectors{
		Comment: "Vectors of registration, version 1: see SPEC.md, section 10. The token is an example.",
		Token:   wire.TokenText(token), ID: token.KID().String(), Public: hex.EncodeToString(public[:]),
		Accepted: []registerVector{{"a request", string(text)}},
	}
	spoil := func(note, old, with string) {
		bad := strings.Replace(string(text), old, with, 1)
		if bad == string(text) {
			t.Fatalf("%s: %q is not in the request", note, old)
		}
		v.Refused = append(v.Refused, registerVector{note, bad})
	}
	spoil("another host", "web-1", "web-2")
	spoil("another registration", wire.Nonce{15: 1}.String(), wire.Nonce{15: 2}.String())
	spoil("another token's id", token.KID().String(), "0123456789abcdef")
	spoil("an unknown member", `{"token"`, `{"more":1,"token"`)
	spoil("a second object", `"}`, `"}{}`)
	spoil("an upper-case host", "web-1", "WEB-1")
	spoil("a signature that is cut short", request.Signature, request.Signature[:84])
	spoil("a key that is no point", request.Key, strings.Repeat("A", len(request.Key)))
	return v
}

func TestRegisterVectors(t *testing.T) {
	if *update {
		text, err := json.MarshalIndent(makeRegisterVectors(t), "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(registerFile, append(text, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(registerFile)
	if err != nil {
		t.Fatal(err)
	}
	var v registerVectors
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	token, err := wire.ParseToken(v.Token)
	if err != nil {
		t.Fatal(err)
	}
	public, err := wire.TokenPublic(token)
	if err != nil || hex.EncodeToString(public[:]) != v.Public || token.KID().String() != v.ID || wire.TokenText(token) != v.Token {
		t.Errorf("token: id %s, public key %x, error %v", token.KID(), public, err)
	}
	accepted := func(c registerVector) bool {
		request, err := wire.ParseRegister([]byte(c.Request))
		return err == nil && request.Token == token.KID() && request.Verify(public)
	}
	for _, c := range v.Accepted {
		if !accepted(c) {
			t.Errorf("%s is not accepted", c.Note)
		}
	}
	for _, c := range v.Refused {
		if accepted(c) {
			t.Errorf("%s is accepted", c.Note)
		}
	}
}

func TestRegisterAnswer(t *testing.T) {
	request, key, err := wire.NewRegister(material(t, secretHex), "web-1", wire.NewNonce())
	if err != nil {
		t.Fatal(err)
	}
	secret := material(t, keyHex)
	want := wire.Registered{
		Host: "web-1", KID: secret.KID(), Secret: wire.Bytes{Material: secret}, Rings: []keystore.RingName{"sso"},
		Servers: []string{"https://ps-1:7443"}, CA: "PEM",
	}
	answer := func(given wire.Registered) []byte {
		sealed, err := request.Answer(given)
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(sealed)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	good := answer(want)
	got, err := key.Open(request, good)
	if err != nil || got.Secret.KID() != secret.KID() {
		t.Fatalf("Open = %v", err)
	}
	got.Secret, want.Secret = wire.Bytes{}, wire.Bytes{}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(wire.Bytes{}), cmp.Comparer(func(a, b keystore.Material) bool { return a.IsZero() == b.IsZero() })); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
	want.Secret = wire.Bytes{Material: secret}

	other, otherKey, err := wire.NewRegister(material(t, secretHex), "web-1", wire.NewNonce())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := otherKey.Open(other, good); !errors.Is(err, wire.ErrSeal) {
		t.Errorf("another request opens the answer: %v", err)
	}
	if _, err := key.Open(other, good); !errors.Is(err, wire.ErrSeal) {
		t.Errorf("the answer opens for another registration: %v", err)
	}
	wrong := want
	wrong.Host = "web-2"
	if _, err := key.Open(request, answer(wrong)); !errors.Is(err, wire.ErrRegister) {
		t.Errorf("another host's answer opens: %v", err)
	}
	wrong = want
	wrong.KID = keystore.KID{1}
	if _, err := key.Open(request, answer(wrong)); !errors.Is(err, wire.ErrRegister) {
		t.Errorf("an answer with another kid opens: %v", err)
	}
}

func FuzzRegister(f *testing.F) {
	text, err := os.ReadFile(registerFile)
	if err != nil {
		f.Fatal(err)
	}
	var v registerVectors
	if err := json.Unmarshal(text, &v); err != nil {
		f.Fatal(err)
	}
	for _, c := range append(v.Accepted, v.Refused...) {
		f.Add([]byte(c.Request))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := wire.ParseRegister(body)
		if err != nil {
			if !errors.Is(err, wire.ErrRegister) {
				t.Errorf("error %v, want ErrRegister", err)
			}
			return
		}
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := wire.ParseRegister(text); err != nil || again != r {
			t.Errorf("%+v reads back as %+v: %v", r, again, err)
		}
	})
}

func FuzzRegisterAnswer(f *testing.F) {
	request, key, err := wire.NewRegister(material(f, secretHex), "web-1", wire.Nonce{1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"key":"` + request.Key + `","ct":"AAAA"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if _, err := key.Open(request, body); err == nil || !errors.Is(err, wire.ErrRegister) && !errors.Is(err, wire.ErrSeal) {
			t.Errorf("%q: %v, want ErrRegister or ErrSeal", body, err)
		}
	})
}

func FuzzToken(f *testing.F) {
	f.Add(wire.TokenText(material(f, secretHex)))
	f.Add("keytide_host_")
	f.Fuzz(func(t *testing.T, text string) {
		if m, err := wire.ParseToken(text); err == nil && wire.TokenText(m) != text {
			t.Error("a token has two texts")
		}
	})
}
