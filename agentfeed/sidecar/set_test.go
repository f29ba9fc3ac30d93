package sidecar_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keytide/keytide/agentfeed/feedtest"
)

func writeBeside(t *testing.T, config, name, text string) string {
	t.Helper()
	path := filepath.Join(filepath.Dir(config), name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

const versionTemplate = `{{(ring "sso").Version}} {{hex (current "sso")}}`

// TestSetIsNeverMixed reads a set of files in one directory all the while rings roll
// over: all that one directory holds is of one version.
func TestSetIsNeverMixed(t *testing.T) {
	server := feedtest.NewServer(t, "sso")
	config, dir := writeConfig(t, server.WriteHostFile("web-1"), `outputs:
  - name: web
    dir: out/web
    files:
      - {path: a, template: version.tmpl}
      - {path: b, template: version.tmpl}
`)
	writeBeside(t, config, "version.tmpl", versionTemplate)
	start(t, "run", "--config", config)
	link := filepath.Join(dir, "out/web")
	reached := func(version string) func() bool {
		return func() bool {
			set, err := filepath.EvalSymlinks(link)
			if err != nil {
				return false
			}
			a, _ := readFile(t, filepath.Join(set, "a"))
			b, _ := readFile(t, filepath.Join(set, "b"))
			if a != "" && b != "" && a != b {
				t.Fatalf("a set of two versions: %.2s and %.2s", a, b)
			}
			return strings.HasPrefix(b, version)
		}
	}
	until(t, "the set is there", reached("1 "))
	for _, version := range []string{"2 ", "3 ", "4 ", "5 "} {
		server.Rollover("sso")
		until(t, "the set follows", reached(version))
	}
	until(t, "former sets are gone", func() bool {
		entries, err := os.ReadDir(filepath.Join(dir, "out"))
		return err == nil && len(entries) == 2
	})
}

func TestSetBesideADirectory(t *testing.T) {
	server := feedtest.NewServer(t, "sso")
	config, dir := writeConfig(t, server.WriteHostFile("web-1"), "outputs: [{name: web, dir: web, files: [{path: a, format: json}]}]\n")
	if err := os.Mkdir(filepath.Join(dir, "web"), 0o700); err != nil {
		t.Fatal(err)
	}
	a := start(t, "run", "--config", config)
	if code := a.wait(); code != 1 || !strings.Contains(a.talk.String(), "web is a directory") || !strings.Contains(a.talk.String(), "hint:  remove it") {
		t.Errorf("exit %d: %s", code, a.talk.String())
	}
}

// TestTemplateErrorKeepsTheOldFiles: a set of which one file cannot be rendered stays
// whole as it was, and other sets go on.
func TestTemplateErrorKeepsTheOldFiles(t *testing.T) {
	server := feedtest.NewServer(t, "sso")
	config, dir := writeConfig(t, server.WriteHostFile("web-1"), `outputs:
  - name: web
    files:
      - {path: ring.json, format: json}
      - {path: app.conf, template: app.tmpl}
  - name: other
    files: [{path: other.json, format: json}]
`)
	path := writeBeside(t, config, "app.tmpl", "{{(ring \"sso\").Version}}\n{{if ge (len (old \"sso\")) 1}}{{index (old \"sso\") 7}}{{end}}")
	a := start(t, "run", "--config", config)
	ring := filepath.Join(dir, "ring.json")
	until(t, "the set is there", func() bool { text, _ := readFile(t, filepath.Join(dir, "app.conf")); return text == "1\n" })
	before, _ := readFile(t, ring)
	server.Rollover("sso")
	until(t, "it says where", func() bool {
		return strings.Contains(a.talk.String(), path+":2:") && strings.Contains(a.talk.String(), "output web: ")
	})
	other, _ := readFile(t, filepath.Join(dir, "other.json"))
	if after, _ := readFile(t, ring); after != before || parse(t, other).Rings[0].Version != 2 {
		t.Error("the set did not stay as it was, or the other did not follow")
	}
}
