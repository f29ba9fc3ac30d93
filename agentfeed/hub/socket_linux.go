package hub

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// userTimeout is how long sent data may stay without an acknowledgement.
const userTimeout = 30 * time.Second

// established is TCP_ESTABLISHED, the one state in which the other end has not closed.
const established = 1

// tune sets up the socket of an agent. What fails is an improvement, not a need.
func tune(conn *net.TCPConn) {
	conn.SetWriteBuffer(socketBuffer)
	if raw, err := conn.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) {
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout.Milliseconds()))
		})
	}
}

// unsent is how many bytes the other end has not acknowledged; -1 if that cannot be
// told.
func unsent(raw syscall.RawConn) int {
	n := -1
	raw.Control(func(fd uintptr) {
		if queued, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ); err == nil {
			n = queued
		}
	})
	return n
}

// hungUp reports whether the other end has closed or reset the connection.
func hungUp(raw syscall.RawConn) bool {
	gone := false
	err := raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		gone = err == nil && info.State != established
	})
	return gone || err != nil
}
