//go:build !linux

package hub

import (
	"net"
	"syscall"
)

// tune sets up the socket of an agent. What fails is an improvement, not a need.
func tune(conn *net.TCPConn) { conn.SetWriteBuffer(socketBuffer) }

// unsent would tell what the other end has not acknowledged: each write then has a
// goroutine.
func unsent(syscall.RawConn) int { return -1 }

// hungUp would tell that the other end has closed: here the next heartbeats do.
func hungUp(syscall.RawConn) bool { return false }
