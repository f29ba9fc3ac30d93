package bus

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// LockedError reports that another server uses the store directory.
type LockedError struct {
	Dir string
	PID int // of the process that holds it; 0 if it has not said
}

func (e *LockedError) Error() string {
	who := "another server"
	if e.PID != 0 {
		who = fmt.Sprintf("another server (process %d)", e.PID)
	}
	return fmt.Sprintf("bus: store directory %s: %s is using it", e.Dir, who)
}

// Hint says what to do about it.
func (e *LockedError) Hint() string {
	return "stop the other server first, or give this one a directory of its own"
}

// A dirLock holds a file by flock(2). The kernel gives it free when the process
// ends, however it ends, so a lock file that was left behind locks nobody out.
type dirLock struct {
	once sync.Once
	file *os.File
	err  error
}

func lockDir(path string) (*dirLock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("bus: lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, &LockedError{Dir: filepath.Dir(path), PID: readPID(f)}
		}
		return nil, fmt.Errorf("bus: lock %s: %w", path, err)
	}
	// The number only serves the message of whoever finds the lock taken.
	if err := errors.Join(f.Truncate(0), writePID(f)); err != nil {
		return nil, errors.Join(fmt.Errorf("bus: lock %s: %w", path, err), f.Close())
	}
	return &dirLock{file: f}, nil
}

func writePID(f *os.File) error {
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

func readPID(f *os.File) int {
	buf := make([]byte, 16)
	n, _ := f.ReadAt(buf, 0)
	pid, err := strconv.Atoi(strings.TrimSpace(string(buf[:n])))
	if err != nil {
		return 0
	}
	return pid
}

func (l *dirLock) release() error {
	l.once.Do(func() { l.err = l.file.Close() })
	return l.err
}
