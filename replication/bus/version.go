package bus

import (
	"fmt"
	"strconv"
	"strings"
)

// The oldest NATS server that has atomic batches, on which every change rests.
const minMajor, minMinor = 2, 12

// A VersionError refuses a NATS server that is too old.
type VersionError struct {
	Server  string // its URL
	Version string
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("NATS server %s has version %s; want %d.%d or newer", e.Server, e.Version, minMajor, minMinor)
}

// Hint says why, and what to do.
func (e *VersionError) Hint() string {
	return "older ones have no atomic batches: a change could be stored in part.\nUpgrade every NATS server, or make a core of keytide's own:  keytide core init"
}

// newEnough reads a version such as 2.15.2 or 2.12.0-RC.1. What it cannot read is
// not new enough.
func newEnough(version string) bool {
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 3)
	if len(parts) < 2 {
		return false
	}
	major, err := strconv.Atoi(parts[0])
	if err != nil {
		return false
	}
	minor, err := strconv.Atoi(parts[1])
	return err == nil && (major > minMajor || major == minMajor && minor >= minMinor)
}
