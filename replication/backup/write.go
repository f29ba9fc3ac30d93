package backup

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
)

// Magic is how every backup begins.
const Magic = "keytide backup 1\n"

// The kinds of frame. Stored: never renumber.
const (
	frameLedger = 1 // a ledger begins: JSON of Part
	frameEvent  = 2 // an event's record
	frameValue  = 3 // a live value: length of the KV key, 1 byte; the key; the value
	frameEnd    = 4 // SHA-256 of everything before this frame
)

// maxFrame is the most bytes that a frame's payload may have: the largest record is
// 128 KiB, the largest value 64 KiB.
const maxFrame = 256 << 10

// A Part says which events of which ledger a backup holds: those after Base, up to Head.
type Part struct {
	Kind    events.Kind    `json:"kind"`
	Store   string         `json:"store"`
	Epoch   keystore.Epoch `json:"epoch"`
	Genesis events.Hash    `json:"genesis"` // hash of event 1
	Base    events.Head    `json:"base"`    // N 0: the backup is whole; otherwise an increment to one that ends there
	Head    events.Head    `json:"head"`
	Made    time.Time      `json:"made_at"`
}

// A Source is a part with what is in it.
type Source struct {
	Part
	Records iter.Seq2[events.Record, error] // of the events after Base, up to Head, in order
	Values  map[string][]byte               // those that live at Head and that these events put
}

// Write writes one backup file of the parts. It checks nothing: that is Verify's.
func Write(w io.Writer, parts ...Source) error {
	out := bufio.NewWriterSize(w, 1<<16)
	f := &framer{digest: sha256.New()}
	f.w = io.MultiWriter(out, f.digest)
	if _, err := io.WriteString(f.w, Magic); err != nil {
		return err
	}
	for _, p := range parts {
		if err := f.part(p); err != nil {
			return fmt.Errorf("backup of %s: %w", p.Kind, err)
		}
	}
	sum := f.digest.Sum(nil)
	if err := f.frame(frameEnd, sum); err != nil {
		return err
	}
	return out.Flush()
}

type framer struct {
	w      io.Writer
	digest hash.Hash
}

func (f *framer) part(p Source) error {
	header, err := json.Marshal(p.Part)
	if err != nil {
		return err
	}
	if err := f.frame(frameLedger, header); err != nil {
		return err
	}
	for rec, err := range p.Records {
		if err := errors.Join(err, f.frame(frameEvent, rec)); err != nil {
			return err
		}
	}
	for _, key := range slices.Sorted(maps.Keys(p.Values)) {
		if err := f.frame(frameValue, []byte{byte(len(key))}, []byte(key), p.Values[key]); err != nil {
			return err
		}
	}
	return nil
}

// frame writes a kind, the payload's length and the payload.
func (f *framer) frame(kind byte, payload ...[]byte) error {
	size := 0
	for _, p := range payload {
		size += len(p)
	}
	if size > maxFrame {
		return fmt.Errorf("a frame of %d bytes; at most %d are allowed", size, maxFrame)
	}
	head := binary.BigEndian.AppendUint32([]byte{kind}, uint32(size))
	for _, p := range append([][]byte{head}, payload...) {
		if _, err := f.w.Write(p); err != nil {
			return err
		}
	}
	return nil
}
