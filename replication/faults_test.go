package replication

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestFaultsNamesTests: every fault of FAULTS.md has a test, in the package that it names.
func TestFaultsNamesTests(t *testing.T) {
	page, err := os.ReadFile("FAULTS.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := make(map[string]map[string]bool)
	word := regexp.MustCompile("`([^`]+)`")
	rows := 0
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(strings.Trim(line, "| \n"), "|")
		if len(cells) != 6 || strings.HasPrefix(cells[0], "---") || strings.HasPrefix(cells[0], "Fault ") {
			continue
		}
		rows++
		folder, named := "", 0
		for _, found := range word.FindAllStringSubmatch(cells[5], -1) {
			if !strings.HasPrefix(found[1], "Test") {
				folder = found[1]
				continue
			}
			named++
			if tests[folder] == nil {
				tests[folder] = testsOf(t, filepath.Join("..", filepath.FromSlash(folder)))
			}
			if !tests[folder][found[1]] {
				t.Errorf("%s: there is no test %s in %s", strings.TrimSpace(cells[0]), found[1], folder)
			}
		}
		if named == 0 {
			t.Errorf("%s: no test is named", strings.TrimSpace(cells[0]))
		}
	}
	if rows < 20 {
		t.Errorf("%d rows were read; the page's form has changed", rows)
	}
}

// testsOf are the tests of a folder.
func testsOf(t *testing.T, folder string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(folder, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]bool)
	for _, file := range files {
		source, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range source.Decls {
			if name, ok := testName(decl); ok {
				found[name] = true
			}
		}
	}
	return found
}

func testName(decl ast.Decl) (string, bool) {
	fn, ok := decl.(*ast.FuncDecl)
	if !ok || fn.Recv != nil || !strings.HasPrefix(fn.Name.Name, "Test") {
		return "", false
	}
	return fn.Name.Name, true
}
