//go:build unix

package server

import "syscall"

// fileLimit is how many file descriptors this process may have. Go has raised the soft
// limit to the hard one at its start.
func fileLimit() (uint64, bool) {
	var limit syscall.Rlimit
	err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)
	return uint64(limit.Cur), err == nil
}
