package wan

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
)

// A port keeps an address for a link that does not listen for the moment: a bound
// socket without a backlog. The kernel then refuses connections, and gives the port to
// nobody who asks for any.
type port struct {
	file    *os.File
	address string
}

// keepPort binds the address, HOST:PORT with a numeric host; port 0 takes any.
func keepPort(address string) (*port, error) {
	want, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	family, name := syscall.AF_INET6, syscall.Sockaddr(&syscall.SockaddrInet6{Port: int(want.Port()), Addr: want.Addr().As16()})
	if want.Addr().Is4() {
		family, name = syscall.AF_INET, &syscall.SockaddrInet4{Port: int(want.Port()), Addr: want.Addr().As4()}
	}
	syscall.ForkLock.RLock() // no child may inherit the socket: it would keep the port
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	p := &port{file: os.NewFile(uintptr(fd), address)}
	// With this option on both, another socket of ours may listen beside it.
	err = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
	if err == nil {
		err = syscall.Bind(fd, name)
	}
	if err == nil {
		p.address, err = boundTo(fd)
	}
	if err != nil {
		p.free()
		return nil, fmt.Errorf("bind %s: %w", address, err)
	}
	return p, nil
}

func boundTo(fd int) (string, error) {
	name, err := syscall.Getsockname(fd)
	if err != nil {
		return "", err
	}
	switch name := name.(type) {
	case *syscall.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(name.Addr), uint16(name.Port)).String(), nil
	case *syscall.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(name.Addr), uint16(name.Port)).String(), nil
	}
	return "", fmt.Errorf("address of unknown family %T", name)
}

// listen lets connections come until the listener is closed.
func (p *port) listen() (net.Listener, error) { return net.Listen("tcp", p.address) }

func (p *port) free() error { return p.file.Close() }
