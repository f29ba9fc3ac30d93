package events

import (
	"encoding/binary"
	"math"
)

// The functions below append canonical MessagePack.

func appendBig(b []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(b, v) }

func appendUint(b []byte, v uint64) []byte {
	switch {
	case v < 1<<7:
		return append(b, byte(v))
	case v < 1<<8:
		return append(b, mpU8, byte(v))
	case v < 1<<16:
		return append(b, mpU16, byte(v>>8), byte(v))
	case v < 1<<32:
		return binary.BigEndian.AppendUint32(append(b, mpU32), uint32(v))
	default:
		return appendBig(append(b, mpU64), v)
	}
}

func appendInt(b []byte, v int64) []byte {
	switch {
	case v >= 0:
		return appendUint(b, uint64(v))
	case v >= -32:
		return append(b, byte(v))
	case v >= math.MinInt8:
		return append(b, mpI8, byte(v))
	case v >= math.MinInt16:
		return append(b, mpI16, byte(v>>8), byte(v))
	case v >= math.MinInt32:
		return binary.BigEndian.AppendUint32(append(b, mpI32), uint32(v))
	default:
		return appendBig(append(b, mpI64), uint64(v))
	}
}

// appendStr packs a string; the caller has bounded it to 65,535 bytes.
func appendStr[T string | []byte](b []byte, s T) []byte {
	switch n := len(s); {
	case n < 32:
		b = append(b, mpFixStr|byte(n))
	case n < 256:
		b = append(b, mpStr8, byte(n))
	default:
		b = append(b, mpStr16, byte(n>>8), byte(n))
	}
	return append(b, s...)
}

// appendBin packs binary; the caller has bounded it to 65,535 bytes.
func appendBin(b, v []byte) []byte {
	if n := len(v); n < 256 {
		b = append(b, mpBin8, byte(n))
	} else {
		b = append(b, mpBin16, byte(n>>8), byte(n))
	}
	return append(b, v...)
}

func appendArray(b []byte, n int) []byte {
	if n < 16 {
		return append(b, mpFixArr|byte(n))
	}
	return append(b, mpArr16, byte(n>>8), byte(n))
}
