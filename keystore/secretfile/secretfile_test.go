//go:build unix

package secretfile_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/keytide/keytide/keystore/secretfile"
)

const secret = "correct horse battery staple"

// file makes a file of this mode, owned by somebody other than root.
func file(t *testing.T, mode fs.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "unlock.key")
	if err := os.WriteFile(path, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		if err := os.Chown(path, 1, 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRead(t *testing.T) {
	for _, mode := range []fs.FileMode{0o600, 0o400, 0o700} {
		got, err := secretfile.Read(file(t, mode))
		if err != nil || string(got) != secret {
			t.Errorf("Read of mode %04o = %q, %v; want the content", mode, got, err)
		}
	}
}

func TestReadRefusesModes(t *testing.T) {
	tests := map[fs.FileMode]string{
		0o604: "others can read or change it (mode 0604)",
		0o602: "others can read or change it (mode 0602)",
		0o601: "others can read or change it (mode 0601)",
		0o644: "others can read or change it (mode 0644)",
		0o620: "its group can change it (mode 0620)",
		0o640: "its group can read it (mode 0640)",
	}
	for mode, want := range tests {
		path := file(t, mode)
		_, err := secretfile.Read(path)
		unsafe, ok := errors.AsType[*secretfile.Error](err)
		if !ok || !errors.Is(err, secretfile.ErrUnsafe) {
			t.Errorf("Read of mode %04o = %v, want ErrUnsafe", mode, err)
			continue
		}
		if got := err.Error(); got != "secret file "+path+": "+want {
			t.Errorf("Read of mode %04o = %q, want %q", mode, got, want)
		}
		if !strings.Contains(unsafe.Hint(), "chmod 600 "+path) {
			t.Errorf("hint = %q, want the chmod", unsafe.Hint())
		}
	}
}

func TestReadGroupOfRootsFile(t *testing.T) {
	// Every system has a root-owned file; whose group may read it depends on who runs
	// this, so the rule is tried on a file of our own only when we are root.
	path := file(t, 0o640)
	want := os.Getuid() == 0
	if want {
		if err := os.Chown(path, 0, 1); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := secretfile.Read(path); (err == nil) != want {
		t.Errorf("Read of mode 0640, owned by root %v = %v", want, err)
	}
}

func TestReadRefusesOtherThings(t *testing.T) {
	dir := t.TempDir()
	empty, pipe, large := filepath.Join(dir, "empty"), filepath.Join(dir, "pipe"), filepath.Join(dir, "large")
	if err := errors.Join(os.WriteFile(empty, nil, 0o600), syscall.Mkfifo(pipe, 0o600),
		os.WriteFile(large, make([]byte, secretfile.MaxSize+1), 0o600)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		empty: "is empty", pipe: "is not a plain file", dir: "is not a plain file", large: "has more than 1048576 bytes",
	} {
		if _, err := secretfile.Read(path); !errors.Is(err, secretfile.ErrUnsafe) || !strings.Contains(err.Error(), want) {
			t.Errorf("Read(%s) = %v, want ErrUnsafe with %q", path, err, want)
		}
	}
	if _, err := secretfile.Read(filepath.Join(dir, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Read of a missing file = %v, want ErrNotExist", err)
	}
}

func TestReadFollowsLinks(t *testing.T) {
	path := file(t, 0o600)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	if got, err := secretfile.Read(link); err != nil || string(got) != secret {
		t.Errorf("Read of a link = %q, %v", got, err)
	}
}

func TestWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "web-1.yaml")
	if err := secretfile.Write(path, []byte(secret)); err != nil {
		t.Fatalf("Write: %v", err)
	}
	checkFile(t, path, secret)
	err := secretfile.Write(path, []byte("another"))
	if !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("second Write = %v, want ErrExist with the path", err)
	}
	checkFile(t, path, secret)
	if err := secretfile.Replace(path, []byte("another")); err != nil {
		t.Fatalf("Replace: %v", err)
	}
	checkFile(t, path, "another")
}

func TestReplaceMakesANewFileSafe(t *testing.T) {
	path := file(t, 0o644)
	if err := secretfile.Replace(path, []byte("another")); err != nil {
		t.Fatalf("Replace: %v", err)
	}
	checkFile(t, path, "another")
}

// checkFile checks content and mode, and that nothing else is left beside the file.
func checkFile(t *testing.T, path, want string) {
	t.Helper()
	got, err := secretfile.Read(path)
	if err != nil || string(got) != want {
		t.Errorf("Read = %q, %v; want %q", got, err, want)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode = %v, %v; want 0600", info.Mode(), err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("directory = %v, %v; want the file alone", entries, err)
	}
}

func TestWriteFaults(t *testing.T) {
	dir := t.TempDir()
	if err := secretfile.Write(filepath.Join(dir, "a"), nil); !errors.Is(err, secretfile.ErrUnsafe) {
		t.Errorf("Write of nothing = %v, want ErrUnsafe", err)
	}
	if err := secretfile.Write(filepath.Join(dir, "missing", "a"), []byte(secret)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Write into a missing directory = %v, want ErrNotExist", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "taken"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := secretfile.Write(filepath.Join(dir, "taken"), []byte(secret)); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Write over a directory = %v, want ErrExist", err)
	}
	if err := secretfile.Replace(filepath.Join(dir, "taken"), []byte(secret)); err == nil {
		t.Error("Replace of a directory succeeded")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("directory = %v, %v; want no temporary file left", entries, err)
	}
}

// TestWriteRace has many writers of one name: exactly one of them wins, and the file
// is that one's, whole.
func TestWriteRace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	var wg sync.WaitGroup
	won := make(chan []byte, 16)
	for i := range cap(won) {
		wg.Go(func() {
			content := bytes.Repeat([]byte{byte('a' + i)}, 4096)
			err := secretfile.Write(path, content)
			if err == nil {
				won <- content
			} else if !errors.Is(err, fs.ErrExist) {
				t.Errorf("Write = %v, want nil or ErrExist", err)
			}
		})
	}
	wg.Wait()
	if len(won) != 1 {
		t.Fatalf("%d writers won, want 1", len(won))
	}
	checkFile(t, path, string(<-won))
}

// TestErrorsDoNotShowContent reads and writes in every wrong way and looks for the
// secret in what comes back.
func TestErrorsDoNotShowContent(t *testing.T) {
	path := file(t, 0o644)
	_, readErr := secretfile.Read(path)
	for _, err := range []error{readErr, secretfile.Write(path, []byte(secret)), secretfile.Write("/nowhere/at/all", []byte(secret))} {
		if err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("error = %v, want one that does not show the secret", err)
		}
	}
}
