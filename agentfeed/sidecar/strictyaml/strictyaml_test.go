package strictyaml_test

import (
	"errors"
	"io/fs"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keytide/keytide/agentfeed/sidecar/strictyaml"
	"github.com/keytide/keytide/keystore"
)

type file struct {
	Path   string        `yaml:"path,required"`
	Format string        `yaml:"format"`
	Mode   fs.FileMode   `yaml:"mode"`
	Keep   time.Duration `yaml:"keep"`
}

type config struct {
	Name    string            `yaml:"name,required"`
	KID     keystore.KID      `yaml:"kid"`
	On      bool              `yaml:"on"`
	Count   int               `yaml:"count"`
	Size    uint8             `yaml:"size"`
	Ratio   float64           `yaml:"ratio"`
	Servers []string          `yaml:"servers"`
	Labels  map[string]string `yaml:"labels"`
	Files   []file            `yaml:"files"`
	Sub     *file             `yaml:"sub"`
	hidden  string
	Ignored string
}

func TestUnmarshal(t *testing.T) {
	const text = `# a comment
name: web
kid: 0123456789abcdef
on: true
count: -3
size: 7
ratio: 1.5
servers: [a, "b"]
labels:
  zone: eu   # another
  "8": x
files:
  - {path: out/ring.json, mode: "0640"}
  - path: x
    keep: 1h30m
sub:
  path: |
    long
`
	got := config{Ignored: "kept", hidden: "kept"}
	if err := strictyaml.Unmarshal([]byte(text), &got); err != nil {
		t.Fatal(err)
	}
	want := config{
		Name: "web", KID: keystore.KID{0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef}, On: true, Count: -3, Size: 7, Ratio: 1.5,
		Servers: []string{"a", "b"}, Labels: map[string]string{"zone": "eu", "8": "x"},
		Files:   []file{{Path: "out/ring.json", Mode: 0o640}, {Path: "x", Keep: 90 * time.Minute}},
		Sub:     &file{Path: "long\n"},
		Ignored: "kept", hidden: "kept",
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(config{})); diff != "" {
		t.Errorf("Unmarshal (-want +got):\n%s", diff)
	}
}

func TestUnmarshalNamesEveryFault(t *testing.T) {
	const text = `nmae: web
count: many
size: 300
servers: a
files:
  - {format: json, mode: 0640}
  - path: x
    keep: 5
    colour: red
kid: xyz
count: 4
labels:
sub: &a {path: [x]}
`
	err := strictyaml.Unmarshal([]byte(text), new(config), func(report strictyaml.Report) {
		report("count", "dropped, as there is a fault already")
		report("sub.path", "dropped as well")
		report("files[1].path", "no such directory %q", "x")
		report("on", "must be true")
	})
	const want = `name: is missing (line 1)
nmae: unknown key; did you mean name? (line 1)
on: must be true (line 1)
count: want a whole number, not other text (line 2)
size: want a whole number of 0 or more, not 300 (line 3)
servers: want a list, not other text (line 4)
files[0].mode: want a file mode in quotes such as "0640", not 0640 (line 6)
files[0].path: is missing (line 6)
files[1].path: no such directory "x" (line 7)
files[1].keep: want a duration such as "1h30m", not 5 (line 8)
files[1].colour: unknown key; there are path, format, mode, keep (line 9)
kid: invalid: kid "xyz": want 16 hexadecimal digits (line 10)
count: stands twice; first on line 2 (line 11)
labels: has no value (line 12)
sub: anchors, aliases, merge keys and tags are not allowed (line 13)`
	if !errors.Is(err, strictyaml.ErrInvalid) {
		t.Fatalf("error %v does not wrap ErrInvalid", err)
	}
	if diff := cmp.Diff(sorted(want), sorted(err.Error())); diff != "" {
		t.Errorf("faults (-want +got):\n%s", diff)
	}
}

func TestUnmarshalRefusesWhatIsNotOneMapping(t *testing.T) {
	for name, text := range map[string]string{
		"syntax":    "name: [a",
		"tab":       "name: a\n\tx: b\n",
		"list":      "- name: a\n",
		"text":      "hello",
		"documents": "name: a\n---\nname: b\n",
		"empty":     "",
		"comment":   "# nothing\n",
		"merge":     "name: a\nsub:\n  <<: {path: x}\n",
		"alias":     "name: &x a\nsub: {path: *x}\n",
	} {
		if err := strictyaml.Unmarshal([]byte(text), new(config)); !errors.Is(err, strictyaml.ErrInvalid) {
			t.Errorf("%s: error %v, want ErrInvalid", name, err)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
}

func FuzzUnmarshal(f *testing.F) {
	f.Add([]byte("name: web\nfiles:\n  - {path: x, mode: \"0640\"}\n"))
	f.Add([]byte("a: &a [*a]\n<<: *a\n? [x]\n: y\n--- !t\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		var c config
		err := strictyaml.Unmarshal(content, &c)
		if err == nil && c.Name == "" && len(content) < 7 {
			t.Errorf("accepted %q without its required key", content)
		}
		if err != nil && !errors.Is(err, strictyaml.ErrInvalid) {
			t.Errorf("error %v does not wrap ErrInvalid", err)
		}
	})
}
