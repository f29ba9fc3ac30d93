package e2e

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/keytide/keytide"

// A layer is a folder, with all below it that has no layer of its own, and what
// it may import beyond the standard library: packages of this module below the
// named folders, and the named modules ("*" for any).
type layer struct {
	folder  string
	own     []string
	tests   []string // packages of this module that its tests may import too
	modules []string
}

var everything = []string{"keystore/...", "events/...", "replication/...", "agentfeed/...", "cmd/...", "e2e/..."}

// layers is the one way of imports: keystore ← events ← replication ← cmd and
// keystore ← agentfeed ← cmd.
var layers = []layer{
	{folder: "keystore", tests: []string{"keystore/schedule"}},
	{folder: "keystore/secretfile"},
	{folder: "keystore/fips", own: []string{"keystore"}},
	{folder: "keystore/adminapi", own: []string{"keystore", "keystore/doctor", "keystore/fips"}},
	{folder: "keystore/doctor", own: []string{"keystore"}},
	{folder: "keystore/host", own: []string{"keystore", "keystore/ticket"}},
	{folder: "keystore/ticket", own: []string{"keystore"}},
	{folder: "keystore/bundle", own: []string{"keystore"}, modules: []string{"github.com/go-jose/go-jose/v4"}},
	{folder: "keystore/schedule", own: []string{"keystore"}, modules: []string{"github.com/netresearch/go-cron"}},
	{folder: "keystore/seal", own: []string{"keystore", "keystore/secretfile"}, modules: []string{"golang.org/x/crypto"}},
	{
		folder:  "events",
		own:     []string{"keystore", "keystore/host", "keystore/ticket"},
		modules: []string{"github.com/oklog/ulid/v2", "github.com/vmihailenco/msgpack/v5"},
	},
	{
		folder:  "events/ledger",
		own:     []string{"keystore", "events"},
		modules: []string{"github.com/nats-io/nats.go", "github.com/synadia-io/orbit.go/jetstreamext"},
	},
	{
		folder: "replication",
		own:    []string{"keystore", "keystore/doctor", "keystore/host", "keystore/seal", "events", "events/ledger"},
		tests:  []string{"replication/bus"},
		modules: []string{
			"github.com/nats-io/nats.go", "github.com/oklog/ulid/v2", "go.etcd.io/bbolt",
			"golang.org/x/sync", "golang.org/x/sys",
		},
	},
	{folder: "replication/backup", own: []string{"keystore", "keystore/host", "events"}},
	{
		folder:  "replication/bus",
		tests:   []string{"replication/wan"},
		modules: []string{"github.com/nats-io/nats.go", "github.com/nats-io/nats-server/v2", "github.com/nats-io/nkeys", "github.com/minio/highwayhash", "golang.org/x/sys"},
	},
	{folder: "replication/wan"},
	{
		folder: "agentfeed",
		own:    []string{"keystore", "keystore/secretfile"},
		// The model of both sides of a shared secret needs both.
		tests: []string{"agentfeed/feedtest", "agentfeed/hub", "keystore/host", "keystore/fips/fipstest"},
	},
	{folder: "agentfeed/cookie", own: []string{"keystore"}, tests: []string{"agentfeed", "agentfeed/feedtest", "keystore/fips/fipstest"}},
	{
		folder:  "agentfeed/hub",
		own:     []string{"keystore", "keystore/ticket", "agentfeed/internal/wire"},
		tests:   []string{"keystore/fips/fipstest"},
		modules: []string{"golang.org/x/sys"},
	},
	{folder: "agentfeed/feedtest", own: []string{"keystore", "keystore/secretfile", "keystore/ticket", "agentfeed", "agentfeed/hub"}},
	{
		folder:  "agentfeed/sidecar",
		own:     []string{"keystore", "keystore/secretfile", "keystore/fips", "agentfeed", "agentfeed/conformance"},
		tests:   []string{"agentfeed/feedtest"},
		modules: []string{"github.com/goccy/go-yaml", "github.com/spf13/cobra"},
	},
	{folder: "cmd", own: everything, modules: []string{"*"}},
	{folder: "cmd/keytide-agent", own: []string{"agentfeed/sidecar"}},
	{folder: "e2e", own: everything, modules: []string{"*"}},
}

// TestImportsRunOneWay reads the source of every package. Tests may use other
// modules, but of this module no more than the package that they test and what its
// layer names for them.
func TestImportsRunOneWay(t *testing.T) {
	files := 0
	err := filepath.WalkDir("..", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && file != ".." && strings.HasPrefix(d.Name(), ".") {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(file, ".go") {
			return nil
		}
		files++
		checkImports(t, file)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 20 {
		t.Errorf("read %d files; the walk has lost the source", files)
	}
}

func checkImports(t *testing.T, file string) {
	folder := filepath.ToSlash(filepath.Dir(strings.TrimPrefix(file, "../")))
	rule, ok := layerOf(folder)
	if !ok {
		t.Errorf("%s: folder %s has no layer", file, folder)
		return
	}
	source, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
	if err != nil {
		t.Error(err)
		return
	}
	for _, spec := range source.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if !rule.allows(folder, imported, strings.HasSuffix(file, "_test.go")) {
			t.Errorf("%s imports %s, which layer %s may not", file, imported, rule.folder)
		}
	}
}

// layerOf returns the deepest layer that holds the folder.
func layerOf(folder string) (layer, bool) {
	var found layer
	for _, l := range layers {
		if within(folder, l.folder) && len(l.folder) > len(found.folder) {
			found = l
		}
	}
	return found, found.folder != ""
}

func (l layer) allows(folder, imported string, test bool) bool {
	if rest, ok := strings.CutPrefix(imported, module+"/"); ok {
		if within(rest, "cmd") && !within(folder, "cmd") {
			return false
		}
		same, _ := layerOf(rest)
		return same.folder == l.folder || test && slices.Contains(l.tests, rest) || slices.ContainsFunc(l.own, func(own string) bool {
			root, tree := strings.CutSuffix(own, "/...")
			return rest == root || tree && within(rest, root)
		})
	}
	if !strings.Contains(strings.Split(imported, "/")[0], ".") {
		return true // the standard library
	}
	return test || slices.ContainsFunc(l.modules, func(m string) bool { return m == "*" || within(imported, m) })
}

func within(name, folder string) bool {
	return name == folder || strings.HasPrefix(name, folder+"/")
}

// TestTopLevelIsFixed keeps the top level to what the design names.
func TestTopLevelIsFixed(t *testing.T) {
	want := []string{
		"LICENSE", "Makefile", "README.md", "agentfeed", "cmd", "deploy", "e2e", "events",
		"go.mod", "go.sum", "keystore", "replication",
	}
	entries, err := os.ReadDir("..")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		name := path.Base(e.Name())
		if !strings.HasPrefix(name, ".") && !slices.Contains(want, name) && !ignored(name) {
			t.Errorf("top level holds %s", name)
		}
	}
}

// ignored names what builds and first steps leave behind; .gitignore lists it.
func ignored(name string) bool { return name == "bin" || name == "keytide-dev" }
