package hub

import (
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// TestDoorCountsRight: whatever visitors do, over either protocol, those that we wait
// for are counted as silent, and when all have gone none is counted.
func TestDoorCountsRight(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	inner := httptest.NewUnstartedServer(http.NotFoundHandler())
	inner.StartTLS()
	defer inner.Close()
	door := NewDoor(listener, 0)
	server := &http.Server{Handler: http.NotFoundHandler(), TLSConfig: &tls.Config{Certificates: inner.TLS.Certificates, NextProtos: []string{"h2", "http/1.1"}},
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	door.Guard(server)
	done := make(chan struct{})
	go func() { defer close(done); server.ServeTLS(door, "", "") }()
	defer func() { server.Close(); <-done }()
	await := func(ours, silent int) {
		t.Helper()
		over := time.Now().Add(time.Minute)
		for {
			door.mu.Lock()
			gotOurs, gotSilent := door.ours, door.silent.Len()
			door.mu.Unlock()
			if gotOurs == ours && gotSilent == silent {
				return
			}
			if time.Now().After(over) {
				t.Fatalf("%d wait for us and we for %d, want %d and %d", gotOurs, gotSilent, ours, silent)
			}
			time.Sleep(time.Millisecond)
		}
	}
	const each = 8
	var conns []net.Conn
	for range each {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	for _, h2 := range []bool{false, true} {
		for range each {
			client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: h2}}
			defer client.CloseIdleConnections()
			for range 3 {
				response, err := client.Get("https://" + listener.Addr().String() + "/")
				if err != nil {
					t.Fatal(err)
				}
				if h2 != (response.ProtoMajor == 2) {
					t.Fatalf("%s, want HTTP/2: %v", response.Proto, h2)
				}
				io.Copy(io.Discard, response.Body)
				response.Body.Close()
			}
		}
	}
	await(0, 3*each)
	for _, conn := range conns {
		conn.Close()
	}
	await(0, 2*each)
	server.Close()
	await(0, 0)
}
