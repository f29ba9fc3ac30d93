package e2e

import (
	"crypto/tls"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestSecondSignalKills: the first signal waits for requests that are being
// answered; whoever does not want to wait sends another one.
func TestSecondSignalKills(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(signal.String(), func(t *testing.T) {
			t.Parallel()
			s := startSite(t)
			hold(t, s)
			if err := s.cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the first signal is heeded", func() error {
				if !strings.Contains(s.output.String(), "msg=stopping") {
					return fmt.Errorf("the server has not said that it stops")
				}
				return nil
			})
			select {
			case <-s.exited:
				t.Fatal("the server has ended although a request is being answered")
			default:
			}
			if err := s.cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			<-s.exited
			status := s.cmd.ProcessState.Sys().(syscall.WaitStatus)
			if !status.Signaled() || status.Signal() != signal {
				t.Errorf("after the second signal: %v, want an end by %v", s.cmd.ProcessState, signal)
			}
			// What was killed starts again.
			s.restart(t)
			s.keytide(t, "audit", "verify")
		})
	}
}

// hold keeps one request from being answered: its body never ends.
func hold(t *testing.T, s *site) {
	t.Helper()
	token, err := os.ReadFile(filepath.Join(s.dir, "admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", s.admin, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_, err = fmt.Fprintf(conn, "POST /v1/rings HTTP/1.1\r\nHost: keytide\r\nAuthorization: Bearer %s\r\n"+
		"Content-Type: application/json\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n\r\n", strings.TrimSpace(string(token)))
	if err != nil {
		t.Fatal(err)
	}
	// The server asks for the body once its handler reads it.
	answer := make([]byte, len("HTTP/1.1 100 Continue"))
	if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != "HTTP/1.1 100 Continue" {
		t.Fatalf("the server answers %q, %v, want it to ask for the body", answer, err)
	}
}
