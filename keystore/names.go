package keystore

import "fmt"

// A RingName identifies a ring within its key store. It is one token of a KV
// key: 1 to 63 characters, lower-case letters, digits and hyphens, beginning
// with a letter or digit.
type RingName string

// A Version counts the changes of one ring's keys: dense, grows, never reused.
// The first is 1.
type Version uint64

// An Epoch is the incarnation of a ledger. It rises at every restore. The first
// is 1.
type Epoch uint64

// An N is an event's place in its ledger's log: 1, 2, 3 … without gaps.
type N uint64

// maxName is the most bytes that a name may have: a DNS label, so that names can
// be host names, file names and KV key tokens alike.
const maxName = 63

// ParseRingName checks a ring's name where it enters the program.
func ParseRingName(s string) (RingName, error) {
	if err := CheckName(s); err != nil {
		return "", fmt.Errorf("ring name %q: %w", s, err)
	}
	return RingName(s), nil
}

// CheckName reports what is wrong with the name of a ring, host, store, server
// or region. The error wraps ErrInvalid.
func CheckName(s string) error {
	if s == "" {
		return invalidf("is empty")
	}
	if len(s) > maxName {
		return invalidf("has %d characters; at most %d are allowed", len(s), maxName)
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		case c == '-' && i > 0:
		default:
			return invalidf("has %q at position %d; names are lower-case letters, digits and hyphens, and do not begin with a hyphen", c, i+1)
		}
	}
	return nil
}
