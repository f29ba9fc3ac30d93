package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/keytide/keytide/agentfeed"
)

// ticketUser is how this test program is told to be an application with session
// tickets: a process of its own, so that its memory can be searched.
const ticketUser = "KEYTIDE_TICKET_USER"

// useTickets seals and opens session tickets until its standard input ends.
func useTickets(hostFile string) int {
	client, err := agentfeed.New(agentfeed.Config{HostFile: hostFile})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err = client.WaitReady(ctx)
	for i := 0; i < 50 && err == nil; i++ {
		var tickets []string
		var opened []agentfeed.Ticket
		if tickets, err = client.Ring("sso").SealTickets(ctx, 0, []byte("user=amira")); err != nil {
			break
		}
		if opened, err = client.Ring("sso").OpenTickets(ctx, tickets...); err == nil {
			err = opened[0].Err
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("tickets ready")
	io.Copy(io.Discard, os.Stdin)
	return 0
}

// inMemory reports whether a process has the bytes in any page that can be read.
func inMemory(t *testing.T, pid int, secret []byte) bool {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	searched := 0
	for line := range strings.Lines(string(maps)) {
		span, rest, _ := strings.Cut(line, " ")
		from, to, _ := strings.Cut(span, "-")
		low, err1 := strconv.ParseUint(from, 16, 63)
		high, err2 := strconv.ParseUint(to, 16, 63)
		if err1 != nil || err2 != nil || !strings.HasPrefix(rest, "rw") || high-low > 1<<30 {
			continue
		}
		page := make([]byte, high-low)
		n, _ := memory.ReadAt(page, int64(low)) // what cannot be read is not there to be found
		searched += n
		if bytes.Contains(page[:n], secret) {
			return true
		}
	}
	if searched < 1<<20 {
		t.Fatalf("read %d bytes of process %d; the search has lost its memory", searched, pid)
	}
	return false
}

// TestTicketKeyNeverLeavesPolicyServers enters a session ticket key whose bytes are
// known, has an application use tickets and a sidecar run, and looks for the bytes: in
// memory they are in the policy server's alone, in files nowhere. The ring's current
// key, which agents do get, is found in the sidecar by the same search.
func TestTicketKeyNeverLeavesPolicyServers(t *testing.T) {
	s := startSite(t)
	secret := make([]byte, 32)
	rand.Read(secret)
	keyFile := filepath.Join(t.TempDir(), "ticket.key")
	if err := os.WriteFile(keyFile, []byte(hex.EncodeToString(secret)), 0o600); err != nil {
		t.Fatal(err)
	}
	s.keytide(t, "ticket", "set", "sso", "--key-file", keyFile)
	os.Remove(keyFile)
	eventually(t, "the key is active", func() error {
		out := s.keytide(t, "history", "sso")
		if !bytes.Contains(out, []byte("key_activated")) {
			return errors.New("it is pending")
		}
		return nil
	})
	hostFile := filepath.Join(t.TempDir(), "app.yaml")
	s.keytide(t, "host", "register", "app", "--ring", "sso", "--tickets", "seal", "--out", hostFile)
	sidecar := startSidecar(t, s.output, s.host(t, "web"))
	sidecar.collect(t, 1)

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	app := exec.Command(self)
	app.Env = append(os.Environ(), ticketUser+"="+hostFile)
	app.Stderr = s.output
	stdin, err := app.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := app.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := app.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); app.Wait() })
	defer time.AfterFunc(patience, func() { app.Process.Kill() }).Stop()
	ready := make([]byte, len("tickets ready\n"))
	if _, err := io.ReadFull(stdout, ready); err != nil {
		t.Fatalf("the application ended: %v\n%s", err, s.output)
	}

	if !inMemory(t, s.cmd.Process.Pid, secret) {
		t.Error("the policy server's memory has no session ticket key; the search finds nothing")
	}
	current := sidecar.secrets[s.ring(t).current()]
	if len(current) == 0 || !inMemory(t, sidecar.process.cmd.Process.Pid, current) {
		t.Error("the sidecar's memory has no current key; the search finds nothing")
	}
	for name, pid := range map[string]int{"application": app.Process.Pid, "sidecar": sidecar.process.cmd.Process.Pid} {
		if inMemory(t, pid, secret) {
			t.Errorf("the memory of the %s has the session ticket key", name)
		}
	}
	for _, dir := range []string{filepath.Dir(filepath.Dir(sidecar.file)), s.dir, filepath.Dir(hostFile)} {
		searchFiles(t, dir, secret)
	}
	if text := s.output.String(); strings.Contains(text, hex.EncodeToString(secret)) || strings.Contains(text, base64.RawURLEncoding.EncodeToString(secret)) {
		t.Error("the session ticket key was printed")
	}
}

// searchFiles looks for a key below a folder, as it is and in the texts that it has.
func searchFiles(t *testing.T, dir string, secret []byte) {
	t.Helper()
	forms := [][]byte{secret, []byte(hex.EncodeToString(secret)), []byte(base64.RawURLEncoding.EncodeToString(secret)), []byte(base64.StdEncoding.EncodeToString(secret))}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		for _, form := range forms {
			if bytes.Contains(content, form) {
				t.Errorf("%s has the session ticket key", path)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
