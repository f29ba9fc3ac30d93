package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// childPatience bounds the start and the end of a server's process.
const childPatience = time.Minute

// A child is a server in a process of its own.
type child struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	lines  *bufio.Scanner
	stderr bytes.Buffer
	ended  sync.Once
}

// startChild starts a program and waits for the line of its output that begins with
// ready, which it returns the rest of.
func startChild(ctx context.Context, ready, program string, args ...string) (*child, string, error) {
	c := &child{cmd: exec.Command(program, args...)}
	c.cmd.Stderr = &c.stderr
	stdout, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, "", err
	}
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, "", err
	}
	if err := c.cmd.Start(); err != nil {
		return nil, "", err
	}
	late := time.AfterFunc(childPatience, func() { c.cmd.Process.Kill() })
	defer late.Stop()
	interrupted := context.AfterFunc(ctx, func() { c.cmd.Process.Kill() })
	defer interrupted()
	c.lines = bufio.NewScanner(stdout)
	for c.lines.Scan() {
		if rest, ok := strings.CutPrefix(c.lines.Text(), ready); ok {
			return c, rest, nil
		}
	}
	c.kill()
	return nil, "", errors.Join(fmt.Errorf("%s was not ready:\n%s", filepath.Base(program), c.stderr.String()), ctx.Err())
}

// kill ends the process as a power cut would, once, and waits for it.
func (c *child) kill() {
	c.ended.Do(func() {
		c.cmd.Process.Kill()
		c.cmd.Wait()
	})
}

// cpu is the processor time that the process has used.
func (c *child) cpu() (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	// The name in the second field may hold spaces: the fields count from its end.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 13 {
		return 0, errors.New("/proc/PID/stat: too few fields")
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	const tick = time.Second / 100 // USER_HZ, on every Linux that Go runs on
	return time.Duration(user+system) * tick, errors.Join(err1, err2)
}

// ownCPU is the processor time that this process has used.
func ownCPU() time.Duration {
	var usage syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &usage) // fails for other targets only
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// memory returns what is resident of the process, now and at most so far.
func (c *child) memory() (now, peak int64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(text)) {
		var kilobytes int64
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kilobytes); err == nil {
			now = kilobytes << 10
		}
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kilobytes); err == nil {
			peak = kilobytes << 10
		}
	}
	if now == 0 {
		return 0, 0, errors.New("/proc/PID/status has no VmRSS")
	}
	return now, peak, nil
}

// resident waits until the memory has settled, as the runtime gives back what a burst
// took, and returns the least that it saw.
func (c *child) resident(ctx context.Context) (int64, error) {
	least := int64(0)
	for range 16 {
		now, _, err := c.memory()
		if err != nil {
			return 0, err
		}
		if least == 0 || now < least {
			least = now
		}
		if err := pause(ctx, 500*time.Millisecond); err != nil {
			return 0, err
		}
	}
	return least, nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// filesNeeded is how many file descriptors a process with so many connections needs.
func filesNeeded(connections int) uint64 { return uint64(connections) + 200 }

// allowFiles raises this process's limit of file descriptors, which its children
// inherit.
func allowFiles(need uint64) error {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	if limit.Cur >= need {
		return nil
	}
	raised := syscall.Rlimit{Cur: need, Max: max(limit.Max, need)}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &raised); err != nil {
		return fmt.Errorf("%d agents need %d file descriptors, and this process may have %d: raise the hard limit (ulimit -Hn, LimitNOFILE): %w",
			need-filesNeeded(0), need, limit.Max, err)
	}
	return nil
}
