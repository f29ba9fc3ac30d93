package ticket

import (
	"fmt"

	"github.com/keytide/keytide/keystore"
)

// A Right is what a trusted host may have policy servers do with session tickets of its
// rings. Stored: never renumber.
type Right uint8

const (
	MayNothing Right = 0
	MayOpen    Right = 1
	MaySeal    Right = 2 // and open
)

var rightWords = [...]string{MayNothing: "none", MayOpen: "open", MaySeal: "seal"}

func (r Right) String() string {
	if int(r) < len(rightWords) {
		return rightWords[r]
	}
	return fmt.Sprintf("right(%d)", uint8(r))
}

// ParseRight reads "none", "open" or "seal". The error wraps keystore.ErrInvalid.
func ParseRight(s string) (Right, error) {
	for r, word := range rightWords {
		if s == word {
			return Right(r), nil
		}
	}
	return 0, fmt.Errorf("%w: right to session tickets %q: want none, open or seal", keystore.ErrInvalid, s)
}

// Known reports whether this program knows the right.
func (r Right) Known() bool { return int(r) < len(rightWords) }

// MarshalText gives the word.
func (r Right) MarshalText() ([]byte, error) { return []byte(r.String()), nil }
