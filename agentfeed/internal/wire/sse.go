package wire

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// MaxEvent is the most bytes that a line of a stream, and an event's data, may have.
const MaxEvent = 1 << 20

// ErrStream: a stream is not valid.
var ErrStream = errors.New("malformed event stream")

// An Event is one Server-Sent Event.
type Event struct {
	Name  string
	ID    string
	Data  []byte
	Retry time.Duration // 0: not said
}

// AppendEvent appends an event whose data is the JSON of v.
func AppendEvent(dst []byte, e Event, v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return dst, err
	}
	dst = append(appendFields(dst, e), data...)
	return append(dst, "\n\n"...), nil
}

// appendFields appends all that comes before the data.
func appendFields(dst []byte, e Event) []byte {
	if e.Retry > 0 {
		dst = strconv.AppendInt(append(dst, "retry: "...), e.Retry.Milliseconds(), 10)
		dst = append(dst, '\n')
	}
	dst = append(append(append(dst, "event: "...), e.Name...), '\n')
	if e.ID != "" {
		dst = append(append(append(dst, "id: "...), e.ID...), '\n')
	}
	return append(dst, "data: "...)
}

// A Reader reads the events of a stream.
type Reader struct {
	in *bufio.Reader
}

// NewReader reads from in, never more than MaxEvent bytes of one line.
func NewReader(in io.Reader) *Reader { return &Reader{bufio.NewReader(in)} }

// Next returns the next event that has data. A stream that ends within an event
// gives io.ErrUnexpectedEOF, and no event; one that ends between two, io.EOF.
func (r *Reader) Next() (Event, error) {
	var e Event
	started, hasData := false, false
	for {
		line, err := r.line()
		if err == io.EOF && started {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return Event{}, err
		}
		if len(line) == 0 {
			if hasData {
				return e, nil
			}
			e, started = Event{Retry: e.Retry}, false
			continue
		}
		started = true
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		if string(field) == "data" {
			if hasData {
				e.Data = append(e.Data, '\n')
			}
			hasData = true
		}
		if err := e.set(string(field), value); err != nil {
			return Event{}, err
		}
	}
}

// set takes in one field; unknown ones, and comments, are ignored.
func (e *Event) set(field string, value []byte) error {
	switch field {
	case "event":
		e.Name = string(value)
	case "id":
		e.ID = string(value)
	case "retry":
		ms, err := strconv.ParseUint(string(value), 10, 31)
		if err == nil {
			e.Retry = time.Duration(ms) * time.Millisecond
		}
	case "data":
		if len(e.Data)+len(value) > MaxEvent {
			return fmt.Errorf("%w: an event of more than %d bytes", ErrStream, MaxEvent)
		}
		e.Data = append(e.Data, value...)
	}
	return nil
}

// line returns the next line without its end, which is LF or CR LF.
func (r *Reader) line() ([]byte, error) {
	var line []byte
	for {
		part, err := r.in.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > MaxEvent+64 {
			return nil, fmt.Errorf("%w: a line of more than %d bytes", ErrStream, MaxEvent)
		}
		switch {
		case err == nil:
			return []byte(strings.TrimSuffix(strings.TrimSuffix(string(line), "\n"), "\r")), nil
		case err == bufio.ErrBufferFull:
		case err == io.EOF && len(line) > 0:
			return nil, io.ErrUnexpectedEOF
		default:
			return nil, err
		}
	}
}
