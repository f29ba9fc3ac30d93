package sidecar

import (
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/keytide/keytide/agentfeed/sidecar/strictyaml"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/fips"
)

// check reports what is wrong with the values.
func (c *Config) check(report strictyaml.Report) {
	if c.HostFile == "" {
		report("host_file", "is empty")
	}
	if c.Metrics.Listen != "" {
		if _, _, err := net.SplitHostPort(c.Metrics.Listen); err != nil {
			report("metrics.listen", "want host:port such as 127.0.0.1:7491, not %q", c.Metrics.Listen)
		}
	}
	if c.Region != "" {
		if err := keystore.CheckName(c.Region); err != nil {
			report("region", "%v", err)
		}
	}
	if c.PollInterval != 0 && c.PollInterval < time.Second {
		report("poll_interval", "want 1s or more, not %v", c.PollInterval)
	}
	if err := fips.Check(c.FIPS); err != nil {
		report("fips", "%v", err)
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
		o.check(at, paths, report)
		o.Action.check(at+".action", report)
	}
}

func (o Output) check(at string, paths map[string]bool, report strictyaml.Report) {
	if len(o.Files) == 0 {
		report(at+".files", "is empty; there is nothing to do")
	}
	if strings.HasSuffix(o.Dir, "/") || o.Dir != "" && filepath.Base(o.Dir) == "." {
		report(at+".dir", "want the path of a symbolic link that the agent makes")
	}
	for j, f := range o.Files {
		at := fmt.Sprintf("%s.files[%d]", at, j)
		if o.Dir != "" && f.Path != filepath.Base(f.Path) {
			report(at+".path", "want a plain name; the file goes into %s", o.Dir)
		}
		f.check(at, filepath.Join(o.Dir, f.Path), paths, report)
	}
}

func (a *Action) check(at string, report strictyaml.Report) {
	if a == nil {
		return
	}
	if len(a.Exec) == 0 || a.Exec[0] == "" {
		report(at+".exec", "want a program and its arguments")
	}
	for _, d := range []struct {
		key   string
		value time.Duration
	}{{"timeout", a.Timeout}, {"debounce", a.Debounce}, {"min_interval", a.MinInterval}} {
		if d.value < 0 {
			report(at+"."+d.key, "%s is less than nothing", d.value)
		}
	}
}

func (f File) check(at, path string, paths map[string]bool, report strictyaml.Report) {
	switch {
	case f.Path == "" || f.Path == "." || strings.HasSuffix(f.Path, "/"):
		report(at+".path", "want the path of a file")
	case paths[path]:
		report(at+".path", "%s stands twice", path)
	default:
		paths[path] = true
	}
	f.checkFormat(at, report)
	switch {
	case f.Mode&0o007 != 0:
		report(at+".mode", "%04o lets everybody at the keys; want 0600 or 0640", f.Mode)
	case f.Mode != 0 && f.Mode&0o600 != 0o600:
		report(at+".mode", "%04o keeps the owner out; want 0600 or 0640", f.Mode)
	case f.Mode&0o130 != 0:
		report(at+".mode", "%04o lets others change or run the file; want 0600 or 0640", f.Mode)
	}
}

// checkFormat reports what is wrong with the keys that say what the file holds.
func (f File) checkFormat(at string, report strictyaml.Report) {
	_, known := formats[f.Format]
	switch {
	case f.Format == "" && f.Template == "":
		report(at, "has neither format nor template")
		return
	case f.Format != "" && f.Template != "":
		report(at+".template", "stands beside format; want one of both")
		return
	case f.Template == "" && !known:
		report(at+".format", "want %s, not %q", strings.Join(slices.Sorted(maps.Keys(formats)), ", "), f.Format)
		return
	}
	whole := f.Template != "" || f.Format == "json"
	switch {
	case whole && f.Ring != "":
		report(at+".ring", "has no effect here: the file can hold all rings")
	case !whole && f.Ring == "":
		report(at+".ring", "is missing: whose keys does the %s file hold?", f.Format)
	case !whole:
		if _, err := keystore.ParseRingName(string(f.Ring)); err != nil {
			report(at+".ring", "%v", err)
		}
	}
	switch {
	case f.Format != "nginx" && f.Key != "":
		report(at+".key", "has no effect here: only an nginx file holds one key alone")
	case f.Format == "nginx":
		if _, err := parseWhich(f.Key); err != nil {
			report(at+".key", "%v", err)
		}
	}
}
