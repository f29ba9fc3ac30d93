package wire_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keytide/keytide/agentfeed/internal/wire"
	"github.com/keytide/keytide/keystore"
)

func TestChannelWantsEachNumberOnce(t *testing.T) {
	v := sealVector{Secret: secretHex, Host: "web-1", ClientNonce: wire.Nonce{1}.String(), ServerNonce: wire.Nonce{2}.String(), N: 1}
	sealer := v.channel(t)
	var sent []wire.Envelope
	for i := range 4 {
		e, err := sealer.Seal("hb", "1.1-1.1", i)
		if err != nil {
			t.Fatal(err)
		}
		sent = append(sent, e)
	}
	for name, order := range map[string][]int{"gap": {0, 2}, "repeat": {0, 0}, "late start": {1}, "swap": {0, 2, 1}} {
		opener := v.channel(t)
		var err error
		for _, i := range order {
			var got int
			if err = opener.Open("hb", sent[i], &got); err != nil {
				break
			}
			if got != i {
				t.Errorf("%s: opened %d, want %d", name, got, i)
			}
		}
		if !errors.Is(err, wire.ErrSeal) {
			t.Errorf("%s: error %v, want ErrSeal", name, err)
		}
	}
}

// TestAppendedEventsRead: what a channel appends reads and opens like what is sealed
// and appended in two steps.
func TestAppendedEventsRead(t *testing.T) {
	v := sealVector{Secret: secretHex, Host: "web-1", ClientNonce: wire.Nonce{1}.String(), ServerNonce: wire.Nonce{2}.String(), N: 1}
	sealer, opener := v.channel(t), v.channel(t)
	stream := []byte("event: other\ndata: {}\n\n")
	sizes := []int{0, 1, 2, 3, 4, 700, 9000, 100}
	for _, size := range sizes {
		plain, err := json.Marshal(strings.Repeat("x", size))
		if err != nil {
			t.Fatal(err)
		}
		stream = sealer.AppendEvent(stream, wire.Event{Name: wire.EventRing, ID: "1.2-3.4", Retry: 250 * time.Millisecond}, "1.2-3.4", plain)
	}
	r := wire.NewReader(bytes.NewReader(stream))
	if e, err := r.Next(); err != nil || e.Name != "other" {
		t.Fatalf("%+v, %v", e, err)
	}
	for _, size := range sizes {
		e, err := r.Next()
		var envelope wire.Envelope
		var got string
		if err != nil || e.Name != wire.EventRing || e.ID != "1.2-3.4" || e.Retry != 250*time.Millisecond || json.Unmarshal(e.Data, &envelope) != nil {
			t.Fatalf("%+v, %v", e, err)
		}
		if err := opener.Open(wire.EventRing, envelope, &got); err != nil || len(got) != size {
			t.Errorf("%d bytes of %d: %v", len(got), size, err)
		}
	}
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("after the last: %v", err)
	}
}

func TestKeyBytesAreInJSONOnly(t *testing.T) {
	m := material(t, keyHex)
	key := wire.Key{KID: m.KID(), Role: keystore.Current, K: wire.Bytes{Material: m}}
	state := wire.State{Rings: []wire.Ring{{Name: "sso", Mode: keystore.ModeDynamic, Keys: []wire.Key{key}}}}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", key.K, "state", state)
	printed := log.String()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
		printed += fmt.Sprintf(verb+verb, state, &key)
	}
	const raw, base = "\xa0\xa1\xa2\xa3", "oKGio6SlpqeoqaqrrK2ur7"
	if strings.Contains(printed, raw) || strings.Contains(printed, base) || strings.Contains(printed, keyHex[:16]) || strings.Contains(printed, "160 161 162") {
		t.Errorf("key bytes in %s", printed)
	}
	text, err := json.Marshal(state)
	if err != nil || !strings.Contains(string(text), base) {
		t.Errorf("JSON = %s, %v; want the key's bytes in it", text, err)
	}
}

func TestKeySetRefusesWhatIsNotARing(t *testing.T) {
	m, other := material(t, keyHex), material(t, otherHex)
	good := wire.Key{KID: m.KID(), Role: keystore.Current, Seals: true, K: wire.Bytes{Material: m}}
	edit := func(f func(*wire.Key)) wire.Key { k := good; f(&k); return k }
	for name, ring := range map[string]wire.Ring{
		"name":           {Name: "S S O", Keys: []wire.Key{good}},
		"wrong kid":      {Name: "sso", Keys: []wire.Key{edit(func(k *wire.Key) { k.KID = other.KID() })}},
		"no bytes":       {Name: "sso", Keys: []wire.Key{edit(func(k *wire.Key) { k.K = wire.Bytes{} })}},
		"twice":          {Name: "sso", Keys: []wire.Key{good, edit(func(k *wire.Key) { k.Seals = false })}},
		"two seal":       {Name: "sso", Keys: []wire.Key{good, {KID: other.KID(), Role: keystore.Static, Seals: true, K: wire.Bytes{Material: other}}}},
		"pending seals":  {Name: "sso", Keys: []wire.Key{edit(func(k *wire.Key) { k.Pending = true })}},
		"session ticket": {Name: "sso", Keys: []wire.Key{edit(func(k *wire.Key) { k.Role = keystore.SessionTicket })}},
	} {
		if set, err := ring.KeySet(); err == nil {
			t.Errorf("%s: KeySet = %v, want an error", name, set)
		}
	}
	set, err := wire.Ring{Name: "sso", Keys: []wire.Key{good}}.KeySet()
	if err != nil {
		t.Fatal(err)
	}
	set.Keys = append(set.Keys, keystore.SetKey{KID: other.KID(), Role: keystore.SessionTicket, Material: other})
	if ring := wire.RingOf(set); len(ring.Keys) != 1 {
		t.Errorf("RingOf gave %d keys; the session ticket key must not be among them", len(ring.Keys))
	}
}

func TestReader(t *testing.T) {
	const text = ": comment\r\nretry: 250\r\nevent: hello\ndata: {\"a\":1}\n\n\nid: only\n\nevent:ring\nid: 7\nunknown: x\ndata:{\ndata: }\n\ndata: last\n\n"
	r := wire.NewReader(strings.NewReader(text))
	var got []wire.Event
	var err error
	for {
		var e wire.Event
		if e, err = r.Next(); err != nil {
			break
		}
		got = append(got, e)
	}
	want := []wire.Event{
		{Name: "hello", Data: []byte(`{"a":1}`), Retry: 250 * time.Millisecond},
		{Name: "ring", ID: "7", Data: []byte("{\n}")},
		{Data: []byte("last")},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != io.EOF {
		t.Errorf("events (-want +got):\n%s\nerror %v, want EOF", diff, err)
	}
}

func TestReaderBounds(t *testing.T) {
	for name, text := range map[string]string{
		"long line":    "data: " + strings.Repeat("x", wire.MaxEvent+100) + "\n\n",
		"endless line": strings.Repeat("x", 2*wire.MaxEvent),
		"many lines":   strings.Repeat("data: "+strings.Repeat("x", 1000)+"\n", 1200) + "\n",
	} {
		if _, err := wire.NewReader(strings.NewReader(text)).Next(); !errors.Is(err, wire.ErrStream) {
			t.Errorf("%s: error %v, want ErrStream", name, err)
		}
	}
	for _, text := range []string{"data: x\n", "data: x", "event: ring\n", "d"} {
		if e, err := wire.NewReader(strings.NewReader(text)).Next(); err != io.ErrUnexpectedEOF {
			t.Errorf("%q: event %v, error %v; want an unexpected end", text, e, err)
		}
	}
}

func TestPositionBefore(t *testing.T) {
	for _, c := range []struct {
		p, held string
		want    bool
	}{
		{"1.42-1.7", "1.42-1.7", false}, {"1.43-1.7", "1.42-1.7", false}, {"1.41-1.7", "1.42-1.7", true},
		{"2.1-1.7", "1.42-1.7", false}, {"1.42-1.6", "1.42-1.7", true}, {"1.43-1.6", "1.42-1.7", true}, {"2.1-2.1", "1.42-1.7", false},
	} {
		p, err1 := wire.ParsePosition(c.p)
		held, err2 := wire.ParsePosition(c.held)
		if got := p.Before(held); got != c.want || err1 != nil || err2 != nil {
			t.Errorf("%s before %s = %v, want %v", c.p, c.held, got, c.want)
		}
	}
}
