package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/secretfile"
)

// Exit codes.
const (
	exitDone    = 0
	exitFailed  = 1
	exitMisuse  = 2
	exitRefused = 3
)

// errUsage: a command that was used wrongly.
var errUsage = errors.New("wrong use")

// exits is the one place where an error becomes an exit code. The first that
// matches counts; any other error is exitFailed.
var exits = []struct {
	sentinel error
	code     int
}{
	{errUsage, exitMisuse},
	{keystore.ErrRefused, exitRefused},
	{secretfile.ErrUnsafe, exitRefused},
	{keystore.ErrInvalid, exitMisuse},
}

func exitCode(err error) int {
	if err == nil {
		return exitDone
	}
	for _, e := range exits {
		if errors.Is(err, e.sentinel) {
			return e.code
		}
	}
	return exitFailed
}

// report tells a person what went wrong, and each line of the hint after it.
func report(w io.Writer, err error) {
	fmt.Fprintf(w, "error: %s\n", strings.ReplaceAll(err.Error(), "\n", "\n       "))
	hint := strings.TrimSpace(adminhttp.HintOf(err))
	if hint == "" {
		return
	}
	for line := range strings.Lines(hint) {
		fmt.Fprintf(w, "hint:  %s\n", strings.TrimRight(line, "\n"))
	}
}

// A hintedError adds to an error what to do next.
type hintedError struct {
	error
	hint string
}

func (e *hintedError) Hint() string  { return e.hint }
func (e *hintedError) Unwrap() error { return e.error }

func hint(err error, format string, args ...any) error {
	return &hintedError{error: err, hint: fmt.Sprintf(format, args...)}
}

// usagef says how a command was used wrongly, and how to see its use.
func usagef(cmd *cobra.Command, format string, args ...any) *hintedError {
	return &hintedError{
		error: &taggedError{text: fmt.Sprintf(cmd.CommandPath()+": "+format, args...), sentinel: errUsage},
		hint:  "see how it is used:  " + cmd.CommandPath() + " --help",
	}
}

// refusedf is an error that exits as refused.
func refusedf(format string, args ...any) error {
	return &taggedError{text: fmt.Sprintf(format, args...), sentinel: keystore.ErrRefused}
}

// A taggedError has a text of its own and a sentinel that the text does not show.
type taggedError struct {
	text     string
	sentinel error
}

func (e *taggedError) Error() string { return e.text }
func (e *taggedError) Unwrap() error { return e.sentinel }
