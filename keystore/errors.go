package keystore

import (
	"errors"
	"fmt"
)

// Sentinels to branch on. Each names one fact for the whole module.
var (
	// ErrInvalid: an input that no state could make right.
	ErrInvalid = errors.New("invalid")
	// ErrNotFound: no ring, host or key of that name.
	ErrNotFound = errors.New("not found")
	// ErrExists: there is one of that name already.
	ErrExists = errors.New("exists already")
	// ErrRefused: possible, but unsafe; the error says why and what would allow it.
	ErrRefused = errors.New("refused")
)

func invalidf(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...)
}
