package cookie

import (
	"errors"
	"fmt"
	"log/slog"
)

var (
	// ErrBadToken is the one error of a token that is refused. Its text is the same
	// whatever the reason.
	ErrBadToken = errors.New("cookie: bad token")
	// ErrNoKey says that the agent has no ring yet, or no key in it that may do
	// what was asked. The token, if there was one, may be good: do not throw it away.
	ErrNoKey = errors.New("cookie: no key")
	// ErrTooLong is returned by Seal for a payload that does not fit the longest
	// token.
	ErrTooLong = errors.New("cookie: payload too long")
	// ErrTime is returned by Seal and Reseal for an issue time or maximum age that a
	// token cannot express.
	ErrTime = errors.New("cookie: time out of range")
)

// A Reason says why a token was refused. It is for logs and counters; telling it
// to whoever sent the token helps nobody but a forger.
type Reason uint8

const (
	Malformed   Reason = 1 // not the text of a token: its length, its characters, its version
	UnknownKey  Reason = 2 // no key of that id in the ring opens tokens of this purpose
	Unauthentic Reason = 3 // forged, damaged, or sealed for another purpose, name or context
	Expired     Reason = 4 // its maximum age is over
	Premature   Reason = 5 // issued further in the future than clocks may differ
)

var reasonText = [...]string{
	Malformed: "malformed", UnknownKey: "unknown_key", Unauthentic: "unauthentic",
	Expired: "expired", Premature: "premature",
}

// String gives a word of a closed set, fit for a metric's label.
func (r Reason) String() string {
	if r == 0 || int(r) >= len(reasonText) {
		return fmt.Sprintf("reason(%d)", uint8(r))
	}
	return reasonText[r]
}

// ReasonOf returns why the token was refused, or 0 if err is no such refusal.
func ReasonOf(err error) Reason {
	if r, ok := errors.AsType[refusal](err); ok {
		return Reason(r)
	}
	return 0
}

// A refusal is ErrBadToken with its reason. Being one byte, it becomes an error
// without an allocation.
type refusal Reason

func (r refusal) Error() string { return ErrBadToken.Error() }
func (r refusal) Unwrap() error { return ErrBadToken }

// LogValue shows the reason in structured logs.
func (r refusal) LogValue() slog.Value {
	return slog.StringValue(ErrBadToken.Error() + ": " + Reason(r).String())
}
