package wire_test

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keytide/keytide/agentfeed/internal/wire"
	"github.com/keytide/keytide/keystore"
)

var update = flag.Bool("update", false, "write the vectors anew")

const vectorFile = "../../testdata/vectors/feed.json"

type vectors struct {
	Comment      string           `json:"comment"`
	Auth         []authVector     `json:"auth"`
	AuthInvalid  []authVector     `json:"auth_invalid"`
	Seal         []sealVector     `json:"seal"`
	SealInvalid  []sealVector     `json:"seal_invalid"`
	Cache        []cacheVector    `json:"cache"`
	CacheInvalid []cacheVector    `json:"cache_invalid"`
	Positions    []positionVector `json:"positions"`

	Reports        []reportVector `json:"reports"`
	ReportsInvalid []reportVector `json:"reports_invalid"`
}

type cacheVector struct {
	Note   string `json:"note"`
	Secret string `json:"secret_hex"`
	Host   string `json:"host"`
	File   string `json:"file"` // b64url
	Plain  string `json:"plaintext,omitempty"`
}

// open gives the JSON of what the file holds.
func (v cacheVector) open(tb testing.TB) (string, error) {
	tb.Helper()
	file, err := wire.B64.DecodeString(v.File)
	if err != nil {
		tb.Fatal(err)
	}
	cache, err := wire.OpenCache(file, v.Host, material(tb, v.Secret))
	if err != nil {
		return "", err
	}
	plain, err := json.Marshal(cache)
	return string(plain), err
}

type authVector struct {
	Note   string `json:"note"`
	Secret string `json:"secret_hex"`
	Method string `json:"method"`
	Target string `json:"target"`
	Header string `json:"header"`
	Body   string `json:"body,omitempty"` // of a POST that the MAC covers
}

// parse reads the header, for the request's body.
func (v authVector) parse() (*wire.Authorization, error) {
	a, err := wire.ParseAuthorization(v.Header)
	if err == nil && v.Body != "" {
		a.Body = wire.BodyHash([]byte(v.Body))
	}
	return a, err
}

// A reportVector is the body of a report.
type reportVector struct {
	Note string `json:"note"`
	Body string `json:"body"`
}

type sealVector struct {
	Note        string `json:"note"`
	Secret      string `json:"secret_hex"`
	Host        string `json:"host"`
	ClientNonce string `json:"client_nonce"`
	ServerNonce string `json:"server_nonce"`
	Event       string `json:"event"`
	V           string `json:"v"`
	N           uint64 `json:"n"`
	CT          string `json:"ct"`
	Plain       string `json:"plaintext,omitempty"`
}

type positionVector struct {
	Text  string `json:"text"`
	Valid bool   `json:"valid"`
}

func material(tb testing.TB, text string) keystore.Material {
	tb.Helper()
	raw, err := hex.DecodeString(text)
	if err != nil {
		tb.Fatal(err)
	}
	m, err := keystore.NewMaterial(raw)
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

// channel gives a channel that is about to seal or open number n.
func (v sealVector) channel(tb testing.TB) *wire.Channel {
	tb.Helper()
	client, err1 := wire.ParseNonce(v.ClientNonce)
	server, err2 := wire.ParseNonce(v.ServerNonce)
	c, err3 := wire.NewChannel(material(tb, v.Secret), v.Host, client, server)
	for _, err := range []error{err1, err2, err3} {
		if err != nil {
			tb.Fatal(err)
		}
	}
	for range v.N - 1 {
		if _, err := c.Seal("", "", nil); err != nil {
			tb.Fatal(err)
		}
	}
	return c
}

func (v sealVector) open(tb testing.TB) (string, error) {
	tb.Helper()
	var message json.RawMessage
	err := v.channel(tb).Open(v.Event, wire.Envelope{V: v.V, N: v.N, CT: v.CT}, &message)
	return string(message), err
}

func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	text, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	for _, c := range v.Auth {
		a, err := c.parse()
		if err != nil || !a.Verify(material(t, c.Secret), c.Method, c.Target) {
			t.Errorf("auth %q: not accepted: %v", c.Note, err)
		} else if a.String() != c.Header {
			t.Errorf("auth %q: prints as %s, want %s", c.Note, a.String(), c.Header)
		}
	}
	for _, c := range v.AuthInvalid {
		if a, err := c.parse(); err == nil && a.Verify(material(t, c.Secret), c.Method, c.Target) {
			t.Errorf("auth_invalid %q: accepted", c.Note)
		}
	}
	for _, c := range v.Seal {
		plain, err := c.open(t)
		if err != nil {
			t.Errorf("seal %q: %v", c.Note, err)
		}
		if diff := cmp.Diff(c.Plain, plain); diff != "" {
			t.Errorf("seal %q (-want +got):\n%s", c.Note, diff)
		}
	}
	for _, c := range v.SealInvalid {
		if _, err := c.open(t); err == nil {
			t.Errorf("seal_invalid %q: opened", c.Note)
		}
	}
	for _, c := range v.Cache {
		if plain, err := c.open(t); err != nil || plain != c.Plain {
			t.Errorf("cache %q: %s, %v; want %s", c.Note, plain, err, c.Plain)
		}
	}
	for _, c := range v.CacheInvalid {
		if _, err := c.open(t); !errors.Is(err, wire.ErrCache) {
			t.Errorf("cache_invalid %q: error %v, want ErrCache", c.Note, err)
		}
	}
	for _, c := range v.Positions {
		if _, err := wire.ParsePosition(c.Text); (err == nil) != c.Valid {
			t.Errorf("position %q: error %v, want valid %v", c.Text, err, c.Valid)
		}
	}
	for _, c := range v.Reports {
		r, err := wire.ParseReport([]byte(c.Body))
		if err != nil {
			t.Errorf("report %q: %v", c.Note, err)
			continue
		}
		if again, err := r.Encode(); err != nil || c.Note == "as an agent writes it" && string(again) != c.Body {
			t.Errorf("report %q: written as %s, %v", c.Note, again, err)
		}
	}
	for _, c := range v.ReportsInvalid {
		if _, err := wire.ParseReport([]byte(c.Body)); err == nil {
			t.Errorf("report_invalid %q: accepted", c.Note)
		}
	}
	if len(v.Reports) == 0 || len(v.ReportsInvalid) == 0 || len(v.Auth) == 0 || len(v.AuthInvalid) == 0 || len(v.Seal) == 0 || len(v.SealInvalid) == 0 ||
		len(v.Cache) == 0 || len(v.CacheInvalid) == 0 || len(v.Positions) == 0 {
		t.Error("a section of the vectors is empty")
	}
}
