package events

import (
	"errors"
	"fmt"

	"github.com/keytide/keytide/keystore"
)

// Sentinels to branch on. Those of reading say why an event was refused; State is
// unchanged by an event that it refused.
var (
	// ErrMalformed: bytes that are not the one encoding of anything.
	ErrMalformed = errors.New("malformed")
	// ErrNotNext: an event whose n is not the next one.
	ErrNotNext = errors.New("not the next event")
	// ErrForked: an event that does not follow from the one before: another prev.
	ErrForked = errors.New("follows another history")
	// ErrNotMember: an event by a server that is not a member.
	ErrNotMember = errors.New("not by a member")
	// ErrForgotten: an event, beacon or record by a server that was forgotten. It is
	// ErrNotMember too.
	ErrForgotten = errors.New("by a forgotten server")
	// ErrSignature: a signature that is not by the key of the member it names.
	ErrSignature = errors.New("wrong signature")
	// ErrUnknownType: an event type that this program does not know; it is an
	// *UnknownTypeError.
	ErrUnknownType = errors.New("unknown event type")
	// ErrWrongKind: an event that does not belong in a ledger of this kind.
	ErrWrongKind = errors.New("wrong kind of ledger")
	// ErrPayload: a payload, or effects, that do not fit the state.
	ErrPayload = errors.New("does not fit")
)

// Sentinels of Log. Each says what is known of the write.
var (
	// ErrConflict: not stored; somebody else was first. Reload and decide again.
	// After an earlier ErrUnknown of the same batch that somebody may be the
	// caller: the event at that n says so by its id.
	ErrConflict = errors.New("somebody else was first")
	// ErrUnknown: it may have been stored, or may be stored later.
	ErrUnknown = errors.New("may or may not be stored")
	// ErrUnavailable: surely not stored by this call; the store could not take it.
	ErrUnavailable = errors.New("not stored: ledger unavailable")
	// ErrNoLeader: ErrUnavailable because nobody there may store anything now: the
	// core is choosing a leader, or there is none any more. It may be over in seconds.
	ErrNoLeader = fmt.Errorf("%w: the core has no leader", ErrUnavailable)
	// ErrNoBucket: the bucket does not exist.
	ErrNoBucket = errors.New("no such bucket")
	// ErrBucketExists: the bucket exists already.
	ErrBucketExists = errors.New("bucket exists already")
	// ErrSettings: the bucket is not kept as a ledger must be; the error names each
	// setting.
	ErrSettings = errors.New("unsafe bucket settings")
	// ErrInterrupted: following ended because it may have missed something.
	ErrInterrupted = errors.New("interrupted")
	// ErrNoEntry: nothing is stored under the key.
	ErrNoEntry = errors.New("no such entry")
)

// An UnknownTypeError is an event of a type that this program does not know. It
// is ErrUnknownType.
type UnknownTypeError struct {
	N    keystore.N // 0 where only a payload was decoded
	Type Type
}

func (e *UnknownTypeError) Error() string {
	return fmt.Sprintf("unknown event type %d; a newer program wrote it", uint16(e.Type))
}

func (e *UnknownTypeError) Unwrap() error { return ErrUnknownType }

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{keystore.ErrInvalid}, args...)...)
}

func unfit(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrPayload}, args...)...)
}
