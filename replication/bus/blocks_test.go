package bus_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keytide/keytide/replication/bus"
)

// filled starts a server alone with a stream of count messages, the even ones with a
// header, and every third on a subject of its own.
func filled(t *testing.T, count int) *bus.Bus {
	t.Helper()
	b, err := bus.Start(bus.Config{StoreDir: storeDir(t), ServerName: "alone"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	js, nc, err := b.JetStream("test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	_, err = js.CreateStream(within(t), jetstream.StreamConfig{
		Name: "KV_b", Subjects: []string{"$KV.b.>"}, Storage: jetstream.FileStorage, MaxMsgsPerSubject: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := 1; i <= count; i++ {
		msg := &nats.Msg{Subject: "$KV.b.same", Data: fmt.Appendf(nil, "value %d", i), Header: nats.Header{}}
		if i%3 == 0 {
			msg.Subject = fmt.Sprintf("$KV.b.k%d", i)
		}
		if i%2 == 0 {
			msg.Header.Set("Name", "text")
		}
		if _, err := js.PublishMsg(within(t), msg); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func readAll(t *testing.T, b *bus.Bus) (found map[string]string, scan bus.Scan) {
	t.Helper()
	found = make(map[string]string)
	scan, err := b.ReadBlocks("KV_b", 0, 1<<30, func(s bus.Stored) { found[s.Subject] = string(s.Data) })
	if err != nil {
		t.Fatal(err)
	}
	return found, scan
}

func TestBlocksReadAsTheServerReadsThem(t *testing.T) {
	found, scan := readAll(t, filled(t, 100))
	if len(found) != 34 || found["$KV.b.same"] != "value 100" || found["$KV.b.k99"] != "value 99" || len(scan.Damage) != 0 || scan.Next != 0 {
		t.Errorf("found %d subjects, %q, and %+v; want 34 and no damage", len(found), found["$KV.b.same"], scan)
	}
}

// Every single flipped byte of a block is found, wherever it is, and the records that
// are whole are read as they are.
func TestEveryFlippedByteIsFound(t *testing.T) {
	b := filled(t, 12)
	file := filepath.Join(b.StreamDir("KV_b"), "1.blk")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	good, _ := readAll(t, b)
	for at := 0; at < len(text); at += 1 + at%7 {
		flipped := bytes.Clone(text)
		flipped[at] ^= 0x10
		damage := bus.ParseBlock(flipped, "KV_b", 1, func(s bus.Stored) {
			if want, ok := good[s.Subject]; ok && s.Subject != "$KV.b.same" && string(s.Data) != want {
				t.Errorf("byte %d: %s = %q, want %q", at, s.Subject, s.Data, want)
			}
		})
		// The length of the headers is the one thing that the hash does not cover.
		if len(damage) == 0 && !headerLength(text, at) {
			t.Errorf("a flip in byte %d of %d is not found", at, len(text))
		}
	}
	if err := os.WriteFile(file, append(bytes.Clone(text[:60]), bytes.Repeat([]byte{0xff}, len(text)-60)...), 0o600); err != nil {
		t.Fatal(err)
	}
	_, scan := readAll(t, b)
	if len(scan.Damage) == 0 || !strings.Contains(scan.Damage[0].String(), "1.blk at byte") {
		t.Errorf("scan = %+v, want damage with its place", scan)
	}
}

// headerLength reports whether a byte of a block is one of a length of headers.
func headerLength(block []byte, at int) bool {
	for pos := 0; pos < len(block); {
		length := int(block[pos]) | int(block[pos+1])<<8
		subject := int(block[pos+20]) | int(block[pos+21])<<8
		if field := pos + 22 + subject; block[pos+3]&0x80 != 0 && at >= field && at < field+4 {
			return true
		}
		pos += length
	}
	return false
}

func FuzzParseBlock(f *testing.F) {
	f.Add([]byte(""))
	f.Add(bytes.Repeat([]byte{30, 0, 0, 0}, 20))
	f.Add(append([]byte{34, 0, 0, 0x80}, bytes.Repeat([]byte{0}, 40)...))
	f.Fuzz(func(t *testing.T, block []byte) {
		damage := bus.ParseBlock(block, "KV_b", 1, func(bus.Stored) {})
		for _, d := range damage {
			if d.Offset < 0 || d.Offset >= int64(len(block)) {
				t.Errorf("damage at %d of %d bytes", d.Offset, len(block))
			}
		}
	})
}

func TestStatesOfOneServer(t *testing.T) {
	states, err := filled(t, 9).States(within(t))
	if err != nil {
		t.Fatal(err)
	}
	if len(states) != 1 || !states[0].SyncAlways || states[0].MaxStore != bus.DefaultMaxStore || len(states[0].Streams) != 1 {
		t.Fatalf("states = %+v, want one safe server with a stream", states)
	}
	if s := states[0].Streams[0]; s.Name != "KV_b" || s.Msgs != 4 || s.Last != 9 {
		t.Errorf("stream = %+v, want 4 messages up to 9", s)
	}
}

// testStates: every server tells its own state to each.
func (c *core) testStates(t *testing.T) {
	eventually(t, func() error {
		states, err := c.servers[1].States(within(t))
		if err != nil {
			return err
		}
		if len(states) != 3 {
			return fmt.Errorf("%d servers answer, want 3", len(states))
		}
		for _, s := range states {
			if !s.SyncAlways || len(s.Streams) != 2 || s.Streams[0].Msgs != states[0].Streams[0].Msgs {
				return fmt.Errorf("server %s: %+v", s.Server, s)
			}
		}
		return nil
	})
}
