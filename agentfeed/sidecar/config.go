package sidecar

import (
	"cmp"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

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

	// Cache says whether the rings are kept in the state directory, sealed under the
	// shared secret, so that the agent can start while no policy server can be reached.
	// If not set, they are. Without it keys touch no disk but that of the outputs.
	Cache *bool `yaml:"cache"`

	// SecretState is a file that keeps the shared secret once it has been rolled over,
	// where the host file cannot be written. It must last as long as the host file does.
	// If empty, the host file itself is rewritten.
	SecretState string `yaml:"secret_state"`

	// KeepSecret says whether a new shared secret is kept at all. If not set, it is. On
	// images whose files do not outlast the container, say false: the host's secret is
	// then not rolled over, as otherwise the next start would come with the former one.
	KeepSecret *bool `yaml:"keep_secret"`

	// Metrics is where /metrics, /healthz and /readyz are served, in plain HTTP.
	Metrics Metrics `yaml:"metrics"`

	// Region is where the agent stands, in place of the host file's region: policy servers
	// there are asked before others. If neither says, all are alike.
	Region string `yaml:"region"`

	// PollInterval is the time between two polls, give or take a fifth, where proxies let
	// neither streams nor polls that wait through. If zero, 30 seconds; 1 second at least.
	// A rollover reaches the agent that much later; beyond 45 s the agent may call itself
	// stale between two polls.
	PollInterval time.Duration `yaml:"poll_interval"`

	// FIPS, if it is "required", lets the agent start only with a certified cryptographic
	// module in FIPS 140-3 mode. If empty, it starts with any.
	FIPS string `yaml:"fips"`

	// Outputs are the sets of files that the agent keeps.
	Outputs []Output `yaml:"outputs,required"`
}

// Metrics is a listener for Prometheus and for probes. It gives no keys away.
type Metrics struct {
	// Listen is a TCP address such as 127.0.0.1:7491. If empty, there is no listener.
	Listen string `yaml:"listen"`
}

// Output is a set of files. They are rendered together: when one of them cannot be,
// none is written.
type Output struct {
	Name string `yaml:"name,required"`

	// Dir, if set, is a symbolic link to the directory with the set, which the agent
	// replaces as one: who opens the directory once never sees files of two versions.
	// The files' paths are then plain names. If empty, files are replaced one by one,
	// those with the oldest keys first.
	Dir string `yaml:"dir"`

	Files []File `yaml:"files,required"`

	// Action is run after the set has changed. If not set, nothing is.
	Action *Action `yaml:"action"`
}

// File is one file that the agent keeps.
type File struct {
	Path string `yaml:"path,required"`

	// One of both: Format is json, jwks, nginx, haproxy or envoy; Template is the path
	// of a Go text/template (SPEC.md, section 4), read when the agent starts.
	Format   string `yaml:"format"`
	Template string `yaml:"template"`

	// Ring is whose keys the file holds, in every format but json, which holds all.
	Ring keystore.RingName `yaml:"ring"`

	// Key is the one key of an nginx file: current, future, old (the newest old one)
	// or old-2, old-3, …
	Key string `yaml:"key"`

	// Mode is the file's. If zero, 0600. Those who can read the file can open and
	// forge every cookie of its rings.
	Mode fs.FileMode `yaml:"mode"`

	// Owner and Group are the file's, by name or number. If empty, the agent's own.
	// Only root can give files away.
	Owner string `yaml:"owner"`
	Group string `yaml:"group"`

	render renderer
	owner  owner
}

// readConfig reads the file at path, and the templates that it names; all that is
// wrong with them is in the error.
func readConfig(path string) (*Config, error) {
	content, err := readBounded(path)
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	c := new(Config)
	dir := filepath.Dir(path)
	err = strictyaml.Unmarshal(content, c, c.check, func(report strictyaml.Report) { c.prepare(dir, report) })
	if err != nil {
		return nil, &configError{path, err}
	}
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

// prepare makes paths absolute or relative to the working directory, fills in
// defaults, and looks up what the files need: templates, users and groups.
func (c *Config) prepare(dir string, report strictyaml.Report) {
	from := func(path string) string {
		if path == "" || filepath.IsAbs(path) {
			return path
		}
		return filepath.Join(dir, path)
	}
	c.HostFile, c.StateDir, c.SecretState = from(c.HostFile), from(c.StateDir), from(c.SecretState)
	for i := range c.Outputs {
		o := &c.Outputs[i]
		o.Dir = from(o.Dir)
		for j := range o.Files {
			f := &o.Files[j]
			if f.Path = from(f.Path); o.Dir != "" {
				f.Path = filepath.Join(o.Dir, filepath.Base(f.Path))
			}
			f.Template = from(f.Template)
			f.prepare(fmt.Sprintf("outputs[%d].files[%d]", i, j), report)
		}
		o.Action.prepare(dir)
	}
}

func (a *Action) prepare(dir string) {
	if a == nil {
		return
	}
	// A relative path without a slash would be looked for on PATH.
	if len(a.Exec) > 0 && strings.Contains(a.Exec[0], "/") && !filepath.IsAbs(a.Exec[0]) {
		if abs, err := filepath.Abs(filepath.Join(dir, a.Exec[0])); err == nil {
			a.Exec[0] = abs
		}
	}
	a.Timeout = cmp.Or(a.Timeout, 10*time.Second)
	a.Debounce = cmp.Or(a.Debounce, 2*time.Second)
	a.MinInterval = cmp.Or(a.MinInterval, 30*time.Second)
}

func (f *File) prepare(at string, report strictyaml.Report) {
	if f.Mode == 0 {
		f.Mode = 0o600
	}
	f.owner = ownerOf(f.Owner, f.Group, func(key string, err error) { report(at+"."+key, "%v", err) })
	var err error
	if f.Template == "" {
		f.render = formats[f.Format]
	} else if f.render, err = parseTemplate(f.Template); err != nil {
		report(at+".template", "%v", err)
	}
}
