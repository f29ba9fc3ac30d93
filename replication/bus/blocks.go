package bus

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/minio/highwayhash"
)

// This file reads the NATS server's own files past it. A server checks a record when it
// reads it, and answers from memory or from another server's copy before that; so a
// block that has rotted on one disk stays unnoticed until that server starts anew, and
// drops what it cannot read. The form of a record, little-endian:
//
//	length, its high bit set where there are headers      4 bytes
//	sequence, with two bits for what is erased or a tombstone      8
//	time      8
//	length of the subject      2
//	subject, [length of headers (4), headers], message
//	HighwayHash-64 of all between the two lengths and here, but for the headers' length      8
//
// The hash's key is the SHA-256 of the stream's name, a hyphen and the block's number.

const (
	recordHead  = 22
	recordHash  = 8
	recordMost  = 32 << 20
	withHeaders = 1 << 31
	erasedBit   = 1 << 63
	tombBit     = 1 << 62

	// rereadAfter is how long a place is given that does not read: it may be a record
	// that is being written.
	rereadAfter = 200 * time.Millisecond
	damageMost  = 16 // places told of one pass
)

// A Stored is a message as it lies in the server's files: perhaps not the newest of its
// subject. Its bytes are good until the next one.
type Stored struct {
	Subject  string
	Sequence uint64
	Headers  []byte
	Data     []byte
}

// A Damage is a place in the server's files that does not read.
type Damage struct {
	File   string
	Offset int64
	Why    string
}

func (d Damage) String() string { return fmt.Sprintf("%s at byte %d: %s", d.File, d.Offset, d.Why) }

// A Scan is what one pass over some of a stream's blocks gave.
type Scan struct {
	Next   uint64 // the block to go on with; 0: that was all
	Bytes  int64
	Damage []Damage
}

// StreamDir is where the server keeps a stream's messages.
func (b *Bus) StreamDir(stream string) string {
	account := "$G"
	if b.gate != nil {
		account = keysAccount
	}
	return filepath.Join(b.cfg.StoreDir, "jetstream", account, "streams", stream, "msgs")
}

// ReadBlocks reads a stream's blocks from number from on, until it has read limit bytes
// (one block at least), and calls each with every message. The server goes on meanwhile:
// blocks that are gone when their turn comes are passed by, and what does not read is
// read again after a moment before it counts.
func (b *Bus) ReadBlocks(stream string, from uint64, limit int64, each func(Stored)) (Scan, error) {
	dir := b.StreamDir(stream)
	numbers, err := blocks(dir)
	if err != nil {
		return Scan{}, fmt.Errorf("bus: stream %s: %w", stream, err)
	}
	var scan Scan
	for _, number := range numbers {
		if number < from {
			continue
		}
		if scan.Bytes >= limit && scan.Bytes > 0 {
			scan.Next = number
			return scan, nil
		}
		name := filepath.Join(dir, strconv.FormatUint(number, 10)+".blk")
		size, damage, err := readBlock(name, stream, number, each)
		if err != nil {
			return scan, fmt.Errorf("bus: stream %s: %w", stream, err)
		}
		scan.Bytes += size
		scan.Damage = append(scan.Damage, damage[:min(len(damage), damageMost-len(scan.Damage))]...)
	}
	return scan, nil
}

func blocks(dir string) ([]uint64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var numbers []uint64
	for _, e := range entries {
		text, ok := strings.CutSuffix(e.Name(), ".blk")
		if n, err := strconv.ParseUint(text, 10, 32); ok && err == nil {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// readBlock reads one block, twice where something in it does not read: what both times
// is found in the same place is damage.
func readBlock(name, stream string, number uint64, each func(Stored)) (size int64, damage []Damage, err error) {
	key := sha256.Sum256(fmt.Appendf(nil, "%s-%d", stream, number))
	for again := false; ; again = true {
		text, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			return size, nil, nil
		}
		if err != nil { // a disk that gives an error is damage too
			return size, []Damage{{File: name, Why: err.Error()}}, nil
		}
		size = int64(len(text))
		found := parseBlock(text, key[:], each)
		for i := range found {
			found[i].File = name
		}
		if again {
			return size, slices.DeleteFunc(found, func(d Damage) bool { return !slices.Contains(damage, d) }), nil
		}
		if damage = found; len(found) == 0 {
			return size, nil, nil
		}
		time.Sleep(rereadAfter)
	}
}

// parseBlock calls each with every message of a block whose hash is right.
func parseBlock(text, key []byte, each func(Stored)) (damage []Damage) {
	for at := 0; at < len(text); {
		length, ok := recordLength(text[at:])
		if !ok {
			return append(damage, Damage{Offset: int64(at), Why: "no record begins here"})
		}
		msg, whole := openRecord(text[at:at+length], key)
		switch {
		case !whole:
			damage = append(damage, Damage{Offset: int64(at), Why: "the record's checksum is wrong"})
		case msg.Subject != "":
			each(msg)
		}
		at += length
	}
	return damage
}

func recordLength(text []byte) (length int, ok bool) {
	if len(text) < recordHead+recordHash {
		return 0, false
	}
	head := binary.LittleEndian.Uint32(text)
	length = int(head &^ withHeaders)
	subject := int(binary.LittleEndian.Uint16(text[20:]))
	if head&withHeaders != 0 {
		subject += 4
	}
	return length, length >= recordHead+recordHash+subject && length <= len(text) && length <= recordMost
}

// openRecord reports false where the hash is wrong. What is erased, or a tombstone, has
// no subject.
func openRecord(rec, key []byte) (msg Stored, whole bool) {
	sequence := binary.LittleEndian.Uint64(rec[4:])
	end := len(rec) - recordHash
	subjectEnd := recordHead + int(binary.LittleEndian.Uint16(rec[20:]))
	body := rec[subjectEnd:end]
	if binary.LittleEndian.Uint32(rec)&withHeaders != 0 {
		headers := int(binary.LittleEndian.Uint32(body))
		body = body[4:]
		if headers > len(body) {
			return Stored{}, false
		}
		msg.Headers = body[:headers]
	}
	hash, err := highwayhash.NewDigest64(key)
	if err != nil {
		return Stored{}, false // a key of another length; SHA-256 has the right one
	}
	hash.Write(rec[4:20])
	hash.Write(rec[recordHead:subjectEnd])
	hash.Write(body)
	if !bytes.Equal(hash.Sum(nil), rec[end:]) {
		return Stored{}, false
	}
	if sequence&(erasedBit|tombBit) != 0 {
		return Stored{}, true
	}
	msg.Subject, msg.Sequence, msg.Data = string(rec[recordHead:subjectEnd]), sequence, body[len(msg.Headers):]
	return msg, true
}
