package sidecar

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/keytide/keytide/agentfeed/sidecar/strictyaml"
	"github.com/keytide/keytide/keystore"
)

// Config is the file of keytide-agent run. Relative paths count from its directory.
type Config struct {
	// HostFile is the trusted host's file, from keytide host register.
	HostFile string `yaml:"host_file,required"`

	// StateDir is the agent's own directory, made if need be. One agent uses it at a
	// time: a second one is refused. If empty, two agents can get into each other's way.
	StateDir string `yaml:"state_dir"`

	// Outputs are the sets of files that the agent keeps.
	Outputs []Output `yaml:"outputs,required"`
}

// Output is a set of files.
type Output struct {
	Name  string `yaml:"name,required"`
	Files []File `yaml:"files,required"`
}

// File is one file that the agent keeps.
type File struct {
	Path   string `yaml:"path,required"`
	Format string `yaml:"format,required"` // json

	// Mode is the file's. If zero, 0600. Those who can read the file can open and
	// forge every cookie of its rings.
	Mode fs.FileMode `yaml:"mode"`
}

// readConfig reads the file at path; all that is wrong with it is in the error.
func readConfig(path string) (*Config, error) {
	content, err := readBounded(path)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	c := new(Config)
	err = strictyaml.Unmarshal(content, c, c.check)
	if err != nil {
		return nil, &configError{path, err}
	}
	c.resolve(filepath.Dir(path))
	return c, nil
}

// A configError is all that is wrong with a file, one fault a line.
type configError struct {
	path string
	err  error
}

func (e *configError) Error() string {
	text := e.err.Error()
	if strings.Contains(text, "\n") {
		text = "\n  " + strings.ReplaceAll(text, "\n", "\n  ")
	} else {
		text = " " + text
	}
	return "config " + e.path + ":" + text
}

func (e *configError) Unwrap() error { return e.err }

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, strictyaml.MaxSize+1))
}

// check reports what is wrong with the values.
func (c *Config) check(report strictyaml.Report) {
	if c.HostFile == "" {
		report("host_file", "is empty")
	}
	if len(c.Outputs) == 0 {
		report("outputs", "is empty; there is nothing to do")
	}
	names, paths := make(map[string]bool), make(map[string]bool)
	for i, o := range c.Outputs {
		at := fmt.Sprintf("outputs[%d]", i)
		if err := keystore.CheckName(o.Name); err != nil {
			report(at+".name", "%v", err)
		} else if names[o.Name] {
			report(at+".name", "%s stands twice", o.Name)
		}
		names[o.Name] = true
		if len(o.Files) == 0 {
			report(at+".files", "is empty; there is nothing to do")
		}
		for j, f := range o.Files {
			f.check(fmt.Sprintf("%s.files[%d]", at, j), paths, report)
		}
	}
}

func (f File) check(at string, paths map[string]bool, report strictyaml.Report) {
	switch clean := filepath.Clean(f.Path); {
	case f.Path == "" || strings.HasSuffix(f.Path, "/"):
		report(at+".path", "want the path of a file")
	case paths[clean]:
		report(at+".path", "%s stands twice", clean)
	default:
		paths[clean] = true
	}
	if f.Format != "json" {
		report(at+".format", "want json, not %q", f.Format)
	}
	switch {
	case f.Mode&0o007 != 0:
		report(at+".mode", "%04o lets everybody at the keys; want 0600 or 0640", f.Mode)
	case f.Mode != 0 && f.Mode&0o600 != 0o600:
		report(at+".mode", "%04o keeps the owner out; want 0600 or 0640", f.Mode)
	case f.Mode&0o130 != 0:
		report(at+".mode", "%04o lets others change or run the file; want 0600 or 0640", f.Mode)
	}
}

// resolve makes paths absolute or relative to the working directory, and fills in
// defaults.
func (c *Config) resolve(dir string) {
	from := func(path string) string {
		if path == "" || filepath.IsAbs(path) {
			return path
		}
		return filepath.Join(dir, path)
	}
	c.HostFile, c.StateDir = from(c.HostFile), from(c.StateDir)
	for i := range c.Outputs {
		for j := range c.Outputs[i].Files {
			f := &c.Outputs[i].Files[j]
			f.Path = from(f.Path)
			if f.Mode == 0 {
				f.Mode = 0o600
			}
		}
	}
}
