package wire_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keytide/keytide/agentfeed/internal/wire"
)

func FuzzParseAuthorization(f *testing.F) {
	f.Add(`KEYTIDE1-HMAC-SHA256 host="web-1", kid="0123456789abcdef", ts="1", nonce="AAAAAAAAAAAAAAAAAAAAAA", applied="1.1-1.1", mac="AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"`)
	f.Add(`KEYTIDE1-HMAC-SHA256 host="", mac="`)
	f.Fuzz(func(t *testing.T, header string) {
		a, err := wire.ParseAuthorization(header)
		if err != nil {
			if !errors.Is(err, wire.ErrAuthorization) {
				t.Errorf("error %v does not wrap ErrAuthorization", err)
			}
			return
		}
		again, err := wire.ParseAuthorization(a.String())
		if err != nil || *again != *a {
			t.Errorf("%q reads as %+v, which prints as %q: %v", header, a, a.String(), err)
		}
	})
}

func FuzzReader(f *testing.F) {
	f.Add([]byte("retry: 5\nevent: ring\nid: 1\ndata: {}\n\n: x\r\n\r\ndata\n\n"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := wire.NewReader(bytes.NewReader(stream))
		for {
			e, err := r.Next()
			if err != nil {
				if err != io.EOF && err != io.ErrUnexpectedEOF && !errors.Is(err, wire.ErrStream) {
					t.Errorf("error %v", err)
				}
				return
			}
			if len(e.Data) > len(stream) {
				t.Errorf("%d bytes of data in a stream of %d", len(e.Data), len(stream))
			}
		}
	})
}

func FuzzEvent(f *testing.F) {
	f.Add("ring", "1.1-1.1", "text")
	f.Fuzz(func(t *testing.T, name, id, text string) {
		if bytes.ContainsAny([]byte(name+id), "\r\n") || name == "" {
			return // names and ids are ours
		}
		want, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		out, err := wire.AppendEvent(nil, wire.Event{Name: name, ID: id}, text)
		if err != nil {
			t.Fatal(err)
		}
		got, err := wire.NewReader(bytes.NewReader(out)).Next()
		if diff := cmp.Diff(wire.Event{Name: name, ID: id, Data: want}, got); (diff != "" || err != nil) && len(name+id) > 0 && name[0] != ' ' && (id == "" || id[0] != ' ') {
			t.Errorf("reads back as (-want +got):\n%s\nerror %v", diff, err)
		}
	})
}

func FuzzOpen(f *testing.F) {
	v := sealVector{Secret: secretHex, Host: "web-1", ClientNonce: wire.Nonce{1}.String(), ServerNonce: wire.Nonce{2}.String(), N: 1}
	f.Add([]byte(`{"v":"1.1-1.1","n":1,"ct":"AAAA"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var e wire.Envelope
		if json.Unmarshal(data, &e) != nil {
			return
		}
		var state wire.State
		if err := v.channel(t).Open(wire.EventRing, e, &state); !errors.Is(err, wire.ErrSeal) {
			t.Errorf("%q opens: %v", data, err)
		}
	})
}

func FuzzState(f *testing.F) {
	f.Add([]byte(`{"v":"1.1-1.1","rings":[{"name":"sso","mode":"dynamic","keys":[{"kid":"0123456789abcdef","role":"current","k":"oKGio6SlpqeoqaqrrK2ur7CxsrO0tba3uLm6u7y9vr8"}]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var state wire.State
		if json.Unmarshal(data, &state) != nil {
			return
		}
		for _, ring := range state.Rings {
			set, err := ring.KeySet()
			if err != nil {
				continue
			}
			again, err := wire.RingOf(set).KeySet()
			if err != nil || len(again.Keys) != len(set.Keys) {
				t.Errorf("ring %+v does not come back: %v", ring, err)
			}
		}
	})
}

func FuzzOpenCache(f *testing.F) {
	// From the vectors: the processes that fuzz must all have the same bytes.
	text, err := os.ReadFile(vectorFile)
	if err != nil {
		f.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(text, &v); err != nil {
		f.Fatal(err)
	}
	good, err := wire.B64.DecodeString(v.Cache[0].File)
	if err != nil {
		f.Fatal(err)
	}
	m := material(f, secretHex)
	f.Add(good)
	f.Add(good[:25])
	f.Fuzz(func(t *testing.T, file []byte) {
		if _, err := wire.OpenCache(file, "web-1", m); err == nil != bytes.Equal(file, good) || err != nil && !errors.Is(err, wire.ErrCache) {
			t.Errorf("%x: error %v", file, err)
		}
	})
}
