package wire_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/keytide/keytide/agentfeed/internal/wire"
	"github.com/keytide/keytide/keystore"
)

const (
	secretHex = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
	otherHex  = "ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
	keyHex    = "a0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebf"
)

// writeVectors writes the vectors anew. The bytes of ct differ each time.
func writeVectors(t *testing.T) {
	t.Helper()
	auth := sampleAuth(t)
	ring, beat, polled := sampleSeals(t)
	cache := sampleCache(t, ring)
	v := vectors{
		Comment:      "Vectors of the agent feed, version 1: see SPEC.md, section 13. The secrets are examples.",
		Auth:         auth,
		AuthInvalid:  append(spoilAuth(auth[0]), spoilReportAuth(auth[len(auth)-1])...),
		Seal:         []sealVector{ring, beat, polled},
		SealInvalid:  spoilSeal(ring),
		Cache:        []cacheVector{cache},
		CacheInvalid: spoilCache(t, cache),
		Positions: []positionVector{{"1.42-1.7", true}, {"0.0-0.0", true}, {"18446744073709551615.1-1.1", true},
			{"01.42-1.7", false}, {"1.42", false}, {"1.42-1.7-1.1", false}, {"1.-1.7", false}, {"+1.42-1.7", false},
			{"18446744073709551616.1-1.1", false}, {"1.42-1.7 ", false}, {"", false}},
		Reports: sampleReports(), ReportsInvalid: spoilReports(),
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(v); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vectorFile, out.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func sampleAuth(t *testing.T) []authVector {
	var list []authVector
	secret := material(t, secretHex)
	for note, applied := range map[string]string{"without applied": "", "with applied": "1.42-1.7"} {
		a := wire.Authorization{Host: "web-1", KID: secret.KID(), Time: 1795392000, Nonce: wire.Nonce{15: 1}, Applied: applied}
		if err := a.Sign(secret, "GET", "/v1/feed"); err != nil {
			t.Fatal(err)
		}
		list = append(list, authVector{note, secretHex, "GET", "/v1/feed", a.String(), ""})
	}
	if strings.HasPrefix(list[0].Note, "with ") {
		list[0], list[1] = list[1], list[0]
	}
	a := wire.Authorization{Host: "web-1", KID: secret.KID(), Time: 1795392000, Nonce: wire.Nonce{15: 1}, Applied: "1.42-1.7",
		Instance: "00c0ffee00c0ffee", Keeps: true}
	if err := a.Sign(secret, "GET", "/v1/feed"); err != nil {
		t.Fatal(err)
	}
	list = append(list, authVector{"with all parameters", secretHex, "GET", "/v1/feed", a.String(), ""})
	body := sampleReports()[0].Body
	a = wire.Authorization{Host: "web-1", KID: secret.KID(), Time: 1795392000, Nonce: wire.Nonce{15: 1}, Body: wire.BodyHash([]byte(body))}
	if err := a.Sign(secret, "POST", wire.ReportTarget); err != nil {
		t.Fatal(err)
	}
	return append(list, authVector{"a report", secretHex, "POST", wire.ReportTarget, a.String(), body})
}

func spoilReportAuth(good authVector) []authVector {
	other, none := good, good
	other.Note, other.Body = "a report with another body", strings.Replace(good.Body, "42", "43", 1)
	none.Note, none.Body = "a report without its body", ""
	return []authVector{other, none}
}

func sampleReports() []reportVector {
	return []reportVector{
		{"as an agent writes it", `{"run":"00c0ffee00c0ffee","v":"1.42-1.7","agent":"keytide-agent/1.0","state":"fresh","transport":"stream",` +
			`"rings":[{"name":"sso","epoch":1,"version":42}],"failures":[{"output":"web","error":"exit status 1"}]}`},
		{"no rings yet, and a member that nobody knows", `{"run":"00c0ffee00c0ffee","v":"1.42-1.7","state":"stale","transport":"poll","rings":[],"more":1}`},
	}
}

func spoilReports() (list []reportVector) {
	good := sampleReports()[0].Body
	for _, c := range [][3]string{
		{"no run", `"run":"00c0ffee00c0ffee",`, ""},
		{"a run of zeros", "00c0ffee00c0ffee", "0000000000000000"},
		{"an upper-case run", "00c0ffee", "00C0FFEE"},
		{"no position", `"v":"1.42-1.7",`, ""},
		{"half a position", "1.42-1.7", "1.42"},
		{"a state that there is not", "fresh", "happy"},
		{"a transport that there is not", "stream", "pigeon"},
		{"an agent of two lines", "keytide-agent/", `keytide\nagent/`},
		{"an agent of 65 bytes", "keytide-agent/1.0", strings.Repeat("a", 65)},
		{"a ring twice", `"version":42}]`, `"version":42},{"name":"sso","epoch":1,"version":42}]`},
		{"a ring without a name", `"name":"sso"`, `"name":""`},
		{"a failure without an output", `"output":"web"`, `"output":""`},
		{"an error of 257 bytes", "exit status 1", strings.Repeat("e", 257)},
		{"a version below zero", `"version":42`, `"version":-1`},
		{"cut short", "]}", ""},
	} {
		list = append(list, reportVector{c[0], strings.Replace(good, c[1], c[2], 1)})
	}
	return list
}

func spoilAuth(good authVector) []authVector {
	var list []authVector
	add := func(note string, edit func(*authVector)) {
		bad := good
		bad.Note = note
		edit(&bad)
		list = append(list, bad)
	}
	replace := func(old, with string) func(*authVector) {
		return func(v *authVector) { v.Header = strings.Replace(v.Header, old, with, 1) }
	}
	add("other secret", func(v *authVector) { v.Secret = otherHex })
	add("other method", func(v *authVector) { v.Method = "HEAD" })
	add("other target", func(v *authVector) { v.Target = "/v1/feed?" })
	add("other host", replace("web-1", "web-2"))
	add("other time", replace(`ts="1795392000"`, `ts="1795392001"`))
	add("leading zero in ts", replace(`ts="1795392000"`, `ts="01795392000"`))
	add("applied added", replace(`, mac=`, `, applied="1.42-1.7", mac=`))
	add("keeps added", replace(`, mac=`, `, keeps="1", mac=`))
	add("instance added", replace(`, mac=`, `, instance="00c0ffee00c0ffee", mac=`))
	add("instance of zeros", replace(`, mac=`, `, instance="0000000000000000", mac=`))
	add("unknown parameter", replace(`, mac=`, `, extra="1", mac=`))
	add("parameter twice", replace(`, mac=`, `, host="web-1", mac=`))
	add("no mac", func(v *authVector) { v.Header, _, _ = strings.Cut(v.Header, ", mac=") })
	add("no space after the comma", replace(`", kid`, `",kid`))
	add("upper-case host", replace("web-1", "WEB-1"))
	add("other scheme", replace("KEYTIDE1", "KEYTIDE2"))
	add("nonce with spare bits", replace(`AAAAAAAAAAAAAAAAAAAAAQ"`, `AAAAAAAAAAAAAAAAAAAAAR"`))
	return list
}

func sampleSeals(t *testing.T) (ring, beat, polled sealVector) {
	at := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	key := material(t, keyHex)
	state := wire.State{V: "1.42-1.7", IssuedAt: at, AsOf: at.Add(-time.Second), StaleAfter: 60,
		Servers: []string{"https://ps-1:7443"}, Rings: []wire.Ring{{Name: "sso", Epoch: 1, Version: 42, Mode: keystore.ModeDynamic,
			Keys: []wire.Key{{KID: key.KID(), Role: keystore.Current, Created: at.Add(-time.Hour), Seals: true, K: wire.Bytes{Material: key}}}}}}
	ring = sealVector{Note: "a state with one key", Secret: secretHex, Host: "web-1", ClientNonce: wire.Nonce{15: 1}.String(),
		ServerNonce: wire.Nonce{15: 2}.String(), Event: wire.EventRing, V: "1.42-1.7", N: 1}
	beat = ring
	beat.Note, beat.Event, beat.V, beat.N = "a heartbeat at a later position", wire.EventBeat, "1.42-1.8", 2
	ring.seal(t, state)
	beat.seal(t, wire.Beat{AsOf: at.Add(15 * time.Second)})
	polled = beat
	polled.Note, polled.N = "the heartbeat of a poll that has waited", 1
	polled.seal(t, wire.Beat{AsOf: at.Add(25 * time.Second), ReceivedAt: &at})
	return ring, beat, polled
}

func (v *sealVector) seal(t *testing.T, message any) {
	t.Helper()
	plain, err := json.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	e, err := v.channel(t).Seal(v.Event, v.V, message)
	if err != nil {
		t.Fatal(err)
	}
	v.CT, v.Plain = e.CT, string(plain)
}

func spoilSeal(good sealVector) []sealVector {
	var list []sealVector
	add := func(note string, edit func(*sealVector)) {
		bad := good
		bad.Note, bad.Plain = note, ""
		edit(&bad)
		list = append(list, bad)
	}
	add("other secret", func(v *sealVector) { v.Secret = otherHex })
	add("other host", func(v *sealVector) { v.Host = "web-2" })
	add("other client nonce", func(v *sealVector) { v.ClientNonce = v.ServerNonce })
	add("other server nonce", func(v *sealVector) { v.ServerNonce = v.ClientNonce })
	add("other event", func(v *sealVector) { v.Event = wire.EventBeat })
	add("other position", func(v *sealVector) { v.V = "1.43-1.7" })
	add("other number", func(v *sealVector) { v.N = 2 })
	add("cut short", func(v *sealVector) { v.CT = v.CT[:len(v.CT)-4] })
	add("empty", func(v *sealVector) { v.CT = "" })
	add("one bit changed", func(v *sealVector) {
		last := byte('A')
		if v.CT[40] == last {
			last = 'B'
		}
		v.CT = v.CT[:40] + string(last) + v.CT[41:]
	})
	add("line end in the middle", func(v *sealVector) { v.CT = v.CT[:40] + "\n" + v.CT[40:] })
	return list
}

func sampleCache(t *testing.T, ring sealVector) cacheVector {
	t.Helper()
	var c wire.Cache
	if err := json.Unmarshal([]byte(`{"as_of":"2026-11-22T10:00:15Z","state":`+ring.Plain+`}`), &c); err != nil {
		t.Fatal(err)
	}
	plain, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	file, err := wire.SealCache(material(t, secretHex), ring.Host, c)
	if err != nil {
		t.Fatal(err)
	}
	return cacheVector{"a state with one key", secretHex, ring.Host, wire.B64.EncodeToString(file), string(plain)}
}

func spoilCache(t *testing.T, good cacheVector) []cacheVector {
	t.Helper()
	var list []cacheVector
	add := func(note string, edit func(*cacheVector)) {
		bad := good
		bad.Note, bad.Plain = note, ""
		edit(&bad)
		list = append(list, bad)
	}
	changed := func(edit func(file []byte) []byte) func(*cacheVector) {
		return func(v *cacheVector) {
			file, err := wire.B64.DecodeString(v.File)
			if err != nil {
				t.Fatal(err)
			}
			v.File = wire.B64.EncodeToString(edit(file))
		}
	}
	add("other secret", func(v *cacheVector) { v.Secret = otherHex })
	add("other host", func(v *cacheVector) { v.Host = "web-2" })
	for _, at := range []int{0, 1, 9, 25, 40, 200} {
		add(fmt.Sprintf("one bit of byte %d changed", at), changed(func(file []byte) []byte { file[at] ^= 1; return file }))
	}
	add("one bit of the last byte changed", changed(func(file []byte) []byte { file[len(file)-1] ^= 1; return file }))
	add("cut short", changed(func(file []byte) []byte { return file[:len(file)-1] }))
	add("one byte more", changed(func(file []byte) []byte { return append(file, 0) }))
	add("header only", changed(func(file []byte) []byte { return file[:25] }))
	add("empty", changed(func([]byte) []byte { return nil }))
	return list
}
