package sidecar

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// errUnsafeDir: a directory in which others could put files of their own.
var errUnsafeDir = errors.New("unsafe directory")

// A blob is what a file is to be.
type blob struct {
	content []byte
	mode    fs.FileMode
	owner   owner
}

// place makes the file at path be b. Whoever opens it sees the former content or the
// new, whole, at every moment and after a crash. It reports false when the file was
// so already, and then does not touch it.
func place(path string, b blob) (bool, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return false, err
	}
	if err := checkDir(dir); err != nil {
		return false, err
	}
	if identical(path, b) {
		return false, nil
	}
	// What an agent that was killed left behind holds keys as well.
	leftovers, err := filepath.Glob(filepath.Join(dir, tempName(path, "*")))
	if err != nil {
		return false, err
	}
	for _, l := range leftovers {
		os.Remove(l)
	}
	temp := filepath.Join(dir, tempName(path, rand.Text()))
	if err := fill(temp, b); err != nil {
		os.Remove(temp)
		return false, err
	}
	if err := os.Rename(temp, path); err != nil {
		os.Remove(temp)
		return false, err
	}
	// The name itself lasts only once the directory is on disk.
	return true, syncDir(dir)
}

func tempName(path, unique string) string {
	return "." + filepath.Base(path) + "." + unique + ".tmp"
}

// fill makes a new file that is b. It is 0600 from its first moment, and gets its
// owner and mode before its content.
func fill(temp string, b blob) error {
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL|noFollow, 0o600)
	if err != nil {
		return err
	}
	err = b.owner.give(f)
	if err == nil {
		err = f.Chmod(b.mode)
	}
	if err == nil {
		_, err = f.Write(b.content)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// identical reports whether path is a plain file that is b.
func identical(path string, b blob) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm() != b.mode || info.Size() != int64(len(b.content)) || !b.owner.has(info) {
		return false
	}
	held, err := os.ReadFile(path)
	defer clear(held)
	return err == nil && bytes.Equal(held, b.content)
}

// checkDir refuses a directory that everybody may write to: they could put another
// file in place of ours. One with the sticky bit, such as /tmp, keeps ours.
func checkDir(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0 {
		return &unsafeDirError{dir}
	}
	return nil
}

type unsafeDirError struct{ dir string }

func (e *unsafeDirError) Error() string {
	return fmt.Sprintf("directory %s: everybody can put files there", e.dir)
}
func (e *unsafeDirError) Hint() string  { return "chmod o-w " + e.dir }
func (e *unsafeDirError) Unwrap() error { return errUnsafeDir }
