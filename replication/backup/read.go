package backup

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
)

// ErrDamaged: what is read is not a backup, not a whole one, or was changed.
var ErrDamaged = errors.New("not a whole backup")

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrDamaged}, args...)...)
}

// A frame is one piece of a backup. Its payload is valid until the next one is read.
type frame struct {
	kind    byte
	payload []byte
}

// A reader reads frames and checks, at the end, that nothing was changed and nothing
// follows.
type reader struct {
	in     *bufio.Reader
	digest hash.Hash
	buf    []byte
}

func newReader(r io.Reader) (*reader, error) {
	f := &reader{in: bufio.NewReaderSize(r, 1<<16), digest: sha256.New()}
	start := make([]byte, len(Magic))
	if _, err := io.ReadFull(f.in, start); err != nil || string(start) != Magic {
		return nil, damaged("it does not begin as a backup does")
	}
	f.digest.Write(start)
	return f, nil
}

// next returns the next frame, or io.EOF after a good end.
func (f *reader) next() (frame, error) {
	var head [5]byte
	if _, err := io.ReadFull(f.in, head[:]); err != nil {
		return frame{}, cutShort(err)
	}
	size := binary.BigEndian.Uint32(head[1:])
	if size > maxFrame {
		return frame{}, damaged("a frame of %d bytes", size)
	}
	if int(size) > cap(f.buf) {
		f.buf = make([]byte, size)
	}
	f.buf = f.buf[:size]
	if _, err := io.ReadFull(f.in, f.buf); err != nil {
		return frame{}, cutShort(err)
	}
	if head[0] == frameEnd {
		return frame{}, f.end()
	}
	f.digest.Write(head[:])
	f.digest.Write(f.buf)
	return frame{kind: head[0], payload: f.buf}, nil
}

func cutShort(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return damaged("it is cut short")
	}
	return err
}

func (f *reader) end() error {
	if !bytes.Equal(f.buf, f.digest.Sum(nil)) {
		return damaged("its digest is another than that of its bytes")
	}
	if _, err := f.in.ReadByte(); !errors.Is(err, io.EOF) {
		return damaged("something follows its end")
	}
	return io.EOF
}

// Parts lists what a backup file holds, without looking at its events. It reads the
// whole file, and refuses one that was cut short or changed.
func Parts(r io.Reader) ([]Part, error) {
	f, err := newReader(r)
	if err != nil {
		return nil, err
	}
	var parts []Part
	for {
		fr, err := f.next()
		if errors.Is(err, io.EOF) {
			return parts, nil
		}
		if err != nil {
			return nil, err
		}
		if fr.kind != frameLedger {
			continue
		}
		p, err := decodePart(fr.payload)
		if err != nil {
			return nil, err
		}
		parts = append(parts, p)
	}
}

func decodePart(payload []byte) (Part, error) {
	var p Part
	if err := json.Unmarshal(payload, &p); err != nil {
		return Part{}, damaged("a ledger's header: %v", err)
	}
	return p, nil
}

// splitValue takes a value's frame apart.
func splitValue(payload []byte) (key string, value []byte, err error) {
	if len(payload) == 0 || len(payload) < 1+int(payload[0]) {
		return "", nil, damaged("a value without its key")
	}
	end := 1 + int(payload[0])
	return string(payload[1:end]), bytes.Clone(payload[end:]), nil
}
