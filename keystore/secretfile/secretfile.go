// Package secretfile reads and writes files that hold secrets: unlock keys,
// passphrases, host files, tokens, rings.
//
// It refuses to read a file that others than its owner can read or change, and
// every file that it writes has mode 0600 from its first moment and is whole after
// a crash at any point. It never shows a file's content. It imports the standard
// library only.
package secretfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// MaxSize is the most bytes that a secret file may have.
const MaxSize = 1 << 20

// ErrUnsafe: a file that others can read or change, or that is not a plain file
// with something in it. The error is an *Error.
var ErrUnsafe = errors.New("unsafe secret file")

// Error says what is wrong with a secret file, and what next.
type Error struct {
	Path string
	Why  string
	Next string // a hint
}

func (e *Error) Error() string { return fmt.Sprintf("secret file %s: %s", e.Path, e.Why) }
func (e *Error) Hint() string  { return e.Next }
func (e *Error) Unwrap() error { return ErrUnsafe }

// Read returns the content of the secret file at path, at least one byte.
//
// It refuses, with an *Error, a file that everybody can read, write or execute,
// that its group can write, or that its group can read, unless root owns it (so
// that a service's group may read what root keeps for it). It refuses an empty
// file, one beyond MaxSize, and what is not a plain file; a symbolic link is
// followed. Modes are not checked where the system has none of this kind.
func Read(path string) ([]byte, error) {
	// Looked at before it is opened, because opening a named pipe waits.
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("secret file: %w", err)
	}
	if err := check(path, info); err != nil {
		return nil, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("secret file: %w", err)
	}
	defer file.Close()
	// And again as opened: the name may stand for another file by now.
	if info, err = file.Stat(); err != nil {
		return nil, fmt.Errorf("secret file: %w", err)
	}
	if err := check(path, info); err != nil {
		return nil, err
	}
	content, err := io.ReadAll(io.LimitReader(file, MaxSize+1))
	if err != nil {
		return nil, fmt.Errorf("secret file: %w", err)
	}
	switch {
	case len(content) == 0:
		return nil, &Error{path, "is empty", "put the secret into it, or name another file"}
	case len(content) > MaxSize:
		return nil, &Error{path, fmt.Sprintf("has more than %d bytes", MaxSize), "check that this is the file you mean"}
	}
	return content, nil
}

func check(path string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return &Error{path, "is not a plain file", "put the secret into a plain file of mode 0600"}
	}
	if why := unsafe(info); why != "" {
		return &Error{path, fmt.Sprintf("%s (mode %04o)", why, info.Mode().Perm()),
			fmt.Sprintf("chmod 600 %s, and replace the secret if anybody may have read it", path)}
	}
	return nil
}

// Write makes a secret file of mode 0600 with this content. It refuses to
// overwrite: the error then wraps fs.ErrExist. When it returns nil the file is
// durable; after any other error there is either no file or the whole one.
func Write(path string, content []byte) error { return write(path, content, link) }

// Replace makes or overwrites a secret file. Whoever opens it sees the former
// content or the new, whole, at every moment and after a crash. When it returns nil
// the new content is durable.
func Replace(path string, content []byte) error { return write(path, content, os.Rename) }

func write(path string, content []byte, place func(temp, path string) error) (err error) {
	if len(content) == 0 {
		return &Error{path, "would be empty", "give it a secret"}
	}
	dir := filepath.Dir(path)
	// CreateTemp opens with O_EXCL and mode 0600.
	temp, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*.tmp")
	if err != nil {
		return fmt.Errorf("secret file %s: %w", path, err)
	}
	defer os.Remove(temp.Name()) // gone already when it was renamed
	defer func() {
		if err != nil {
			err = fmt.Errorf("secret file %s: %w", path, err)
		}
	}()
	_, err = temp.Write(content)
	if err == nil {
		err = temp.Sync()
	}
	if err = errors.Join(err, temp.Close()); err != nil {
		return err
	}
	if err = place(temp.Name(), path); err != nil {
		return err
	}
	// The name itself lasts only once the directory is on disk.
	return syncDir(dir)
}

// link gives temp the name path, unless there is such a name already.
func link(temp, path string) error {
	err := os.Link(temp, path)
	if err == nil {
		return nil
	}
	if errors.Is(err, fs.ErrExist) {
		return fs.ErrExist // without the temporary name
	}
	// A file system without hard links: look, then rename.
	if _, statErr := os.Lstat(path); !errors.Is(statErr, fs.ErrNotExist) {
		return errors.Join(fs.ErrExist, statErr)
	}
	return os.Rename(temp, path)
}
