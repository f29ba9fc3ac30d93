package hub

import (
	"net"
	"net/http"
	"os"
	"syscall"
	"testing"
	"time"
)

// full is a listener that finds no descriptor, once it is told to, until a connection
// of before has been closed.
type full struct {
	net.Listener
	on     bool
	opened []net.Conn
}

func (f *full) Accept() (net.Conn, error) {
	if f.on {
		for _, conn := range f.opened {
			if _, err := conn.Write(nil); err != nil {
				f.on = false
			}
		}
	}
	if f.on {
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	conn, err := f.Listener.Accept()
	if err == nil {
		f.opened = append(f.opened, conn)
	}
	return conn, err
}

// TestDoorMakesRoomForDescriptors: the longest silent goes when a descriptor is wanted
// and there is none.
func TestDoorMakesRoomForDescriptors(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	listener := &full{Listener: inner}
	door := NewDoor(listener, 0)
	door.Guard(&http.Server{})
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	first := dial()
	visitor, err := door.Accept()
	if err != nil {
		t.Fatal(err)
	}
	reading := make(chan error, 1)
	go func() {
		_, err := visitor.Read(make([]byte, 1))
		reading <- err
	}()
	for silent := 0; silent == 0; time.Sleep(time.Millisecond) {
		door.mu.Lock()
		silent = door.silent.Len()
		door.mu.Unlock()
	}
	listener.on = true
	dial()
	next, err := door.Accept()
	if err != nil {
		t.Fatalf("with a silent connection to cut: %v", err)
	}
	next.Close()
	if err := <-reading; err == nil {
		t.Error("the silent connection was not cut")
	}
	if _, err := first.Read(make([]byte, 1)); err == nil {
		t.Error("the silent connection is open at its end")
	}
	listener.on, listener.opened = true, nil
	if _, err := door.Accept(); err == nil {
		t.Error("Accept found a descriptor although nobody could be cut")
	}
}
