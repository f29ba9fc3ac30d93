package sidecar

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A rendered set is what an output's files are to be, in the order in which they are
// written.
type renderedSet struct {
	output *Output
	paths  []string
	blobs  []blob
}

// render makes the content of all files of an output, or of none.
func (o *Output) render(s source) (set renderedSet, err error) {
	set.output = o
	defer func() {
		if err != nil {
			set.clear()
		}
	}()
	// A set that is read while it is written must open what others seal meanwhile:
	// older keys are in place before the ones that follow them.
	files := slices.Clone(o.Files)
	slices.SortStableFunc(files, func(a, b File) int { return cmp.Compare(b.age(), a.age()) })
	for i := range files {
		f := &files[i]
		var content bytes.Buffer
		err := f.render(&content, f, s)
		set.paths = append(set.paths, f.Path)
		set.blobs = append(set.blobs, blob{content.Bytes(), f.Mode, f.owner})
		if err != nil {
			return set, fmt.Errorf("%s: %w", f.Path, err)
		}
	}
	return set, nil
}

// age is the place of a file's key in time: 0 for the current one and for a file of
// many keys, more for older ones.
func (f File) age() which {
	if f.Format != "nginx" {
		return 0
	}
	age, err := parseWhich(f.Key)
	if err != nil {
		return 0 // config.check has refused it
	}
	return age
}

func (s renderedSet) clear() {
	for _, b := range s.blobs {
		clear(b.content)
	}
}

// differs reports whether a file of the set is not as it is to be.
func (s renderedSet) differs() bool {
	for i, path := range s.paths {
		if !identical(path, s.blobs[i]) {
			return true
		}
	}
	return false
}

// place writes what differs.
func (s renderedSet) place() error {
	if s.output.Dir != "" {
		return s.placeDir()
	}
	var faults []error
	for i, path := range s.paths {
		// A file that fails keeps no other from its new content.
		if _, err := place(path, s.blobs[i]); err != nil {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

// placeDir makes the set in a new directory and puts a symbolic link to it in the
// place of the former link.
func (s renderedSet) placeDir() error {
	link := s.output.Dir
	parent := filepath.Dir(link)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	if err := checkDir(parent); err != nil {
		return err
	}
	if info, err := os.Lstat(link); err == nil && info.IsDir() {
		return &notALinkError{link}
	}
	name := "." + filepath.Base(link) + "." + rand.Text()
	fresh := filepath.Join(parent, name)
	err := s.fillDir(fresh)
	if err == nil {
		err = os.Symlink(name, fresh+".link")
	}
	if err == nil {
		err = os.Rename(fresh+".link", link)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(fresh), os.RemoveAll(fresh+".link"))
	}
	if err := syncDir(parent); err != nil {
		return err
	}
	return removeSets(link, name)
}

func (s renderedSet) fillDir(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for i, path := range s.paths {
		if err := fill(filepath.Join(dir, filepath.Base(path)), s.blobs[i]); err != nil {
			return err
		}
	}
	return syncDir(dir)
}

// removeSets removes former sets, and what an agent that was killed left behind: they
// hold keys as well.
func removeSets(link, keep string) error {
	parent := filepath.Dir(link)
	entries, err := os.ReadDir(parent)
	for _, e := range entries {
		unique, ok := strings.CutPrefix(e.Name(), "."+filepath.Base(link)+".")
		if ok && e.Name() != keep && len(strings.TrimSuffix(unique, ".link")) == len(rand.Text()) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(parent, e.Name())))
		}
	}
	return err
}

type notALinkError struct{ path string }

func (e *notALinkError) Error() string {
	return fmt.Sprintf("%s is a directory, and the agent keeps its set behind a symbolic link", e.path)
}
func (e *notALinkError) Hint() string { return "remove it, or choose another dir" }
