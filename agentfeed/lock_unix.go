//go:build unix

package agentfeed

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// lockDir makes this process the only one that changes files of a directory by this
// lock, until unlock. It waits for others, which hold it for the time of a write.
func lockDir(dir string) (unlock func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(d.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock directory %s: %w", dir, err), d.Close())
	}
	return func() { d.Close() }, nil
}
