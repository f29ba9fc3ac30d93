//go:build unix

package sidecar

import (
	"os/exec"
	"syscall"
)

// inGroup makes a command the first of a process group, which is told to end when the
// command's context ends. The func returned kills what is left of the group.
func inGroup(cmd *exec.Cmd) (kill func()) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	signal := func(s syscall.Signal) error {
		if cmd.Process == nil {
			return nil // it never began
		}
		return syscall.Kill(-cmd.Process.Pid, s)
	}
	cmd.Cancel = func() error { return signal(syscall.SIGTERM) }
	return func() { signal(syscall.SIGKILL) } // an error means that nothing is left
}
