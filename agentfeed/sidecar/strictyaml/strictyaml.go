// Package strictyaml reads configuration files: YAML into Go structs, strictly.
//
// It names every fault at once, each with its path and line: unknown keys, keys
// that stand twice, missing required keys, values of the wrong kind. It refuses what
// a configuration file does not need: anchors, aliases, merge keys, tags and
// documents beyond the first. A null value is a fault.
//
// Fields are matched by their tag `yaml:"name"` or `yaml:"name,required"`; a field
// without a tag, or with "-", is not read. Kinds are structs and pointers to them,
// slices, maps with string keys, strings, booleans, numbers, time.Duration (a text
// such as "1h30m"), fs.FileMode (a text of three or four octal digits such as
// "0640") and whatever implements encoding.TextUnmarshaler. What the file does not
// set keeps the value it had.
package strictyaml

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// MaxSize is the most bytes that a file may have.
const MaxSize = 1 << 20

// ErrInvalid: a file that is not what it must be. The error is an *Error.
var ErrInvalid = errors.New("invalid YAML")

// A Fault is one thing that is wrong. Path is such as "outputs[0].files[1].mode", ""
// for the whole document; Line counts from 1, 0 where there is none.
type Fault struct {
	Path string
	What string
	Line int
}

func (f Fault) String() string {
	text := f.What
	if f.Path != "" {
		text = f.Path + ": " + text
	}
	if f.Line > 0 {
		text += fmt.Sprintf(" (line %d)", f.Line)
	}
	return text
}

// An Error holds all faults, by line.
type Error struct {
	Faults []Fault
}

func (e *Error) Error() string {
	lines := make([]string, len(e.Faults))
	for i, f := range e.Faults {
		lines[i] = f.String()
	}
	return strings.Join(lines, "\n")
}

func (e *Error) Unwrap() error { return ErrInvalid }

// A Report notes a fault at a path that a check has found in the values; the
// format is fmt's.
type Report func(path, format string, args ...any)

// Unmarshal reads content into v, a pointer to a struct. The checks then look at
// the values, and report what is wrong with them at their paths; they run even when
// there are faults already, and what they report at a path that has one is dropped.
// The error is an *Error with all faults, and v is then not to be used.
func Unmarshal(content []byte, v any, checks ...func(Report)) error {
	target := reflect.ValueOf(v)
	if target.Kind() != reflect.Pointer || target.Elem().Kind() != reflect.Struct {
		panic(fmt.Sprintf("strictyaml: %T is not a pointer to a struct", v))
	}
	d := decoder{lines: make(map[string]int)}
	if body := d.parse(content); len(d.faults) == 0 {
		d.document(body, target.Elem())
	}
	for _, check := range checks {
		check(d.report)
	}
	if len(d.faults) == 0 {
		return nil
	}
	slices.SortStableFunc(d.faults, func(a, b Fault) int { return a.Line - b.Line })
	return &Error{d.faults}
}

// A decoder walks one document.
type decoder struct {
	faults []Fault
	lines  map[string]int // of each path that the document has
}

func (d *decoder) fault(path string, line int, format string, args ...any) {
	d.faults = append(d.faults, Fault{path, fmt.Sprintf(format, args...), line})
}

// report adds a check's fault, unless the path or one above it has one already.
func (d *decoder) report(path, format string, args ...any) {
	for _, f := range d.faults {
		rest, ok := strings.CutPrefix(path, f.Path)
		if ok && (f.Path == "" || rest == "" || rest[0] == '.' || rest[0] == '[') {
			return
		}
	}
	d.fault(path, d.line(path), format, args...)
}

// line returns the line of a path, or of the nearest above it that there is.
func (d *decoder) line(path string) int {
	for path != "" {
		if line, ok := d.lines[path]; ok {
			return line
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return d.lines[""]
}

// parse returns the one document's body, nil when it is empty.
func (d *decoder) parse(content []byte) ast.Node {
	if len(content) > MaxSize {
		d.fault("", 0, "has more than %d bytes", MaxSize)
		return nil
	}
	file, err := parser.ParseBytes(content, 0, parser.AllowDuplicateMapKey())
	var syntax interface {
		GetToken() *token.Token
		GetMessage() string
	}
	switch {
	case errors.As(err, &syntax) && syntax.GetToken() != nil:
		d.fault("", syntax.GetToken().Position.Line, "is not YAML: %s", syntax.GetMessage())
		return nil
	case err != nil:
		d.fault("", 0, "is not YAML")
		return nil
	}
	var body ast.Node
	for i, doc := range file.Docs {
		if i > 0 && doc.Body != nil {
			d.fault("", lineOf(doc.Body), "a second document")
		}
		if i == 0 {
			body = doc.Body
		}
	}
	return body
}

func (d *decoder) document(body ast.Node, target reflect.Value) {
	switch body := body.(type) {
	case nil, *ast.NullNode, *ast.CommentGroupNode:
		d.mapping("", 1, nil, target)
	default:
		d.value("", body, target)
	}
}

func lineOf(n ast.Node) int {
	if t := n.GetToken(); t != nil && t.Position != nil {
		return t.Position.Line
	}
	return 0
}

// entry is one key of a mapping.
type entry struct {
	path  string
	key   string
	line  int
	value ast.Node
}

// entries lists a mapping's keys; those that stand twice only once.
func (d *decoder) entries(path string, values []*ast.MappingValueNode) []entry {
	seen := make(map[string]int)
	var list []entry
	for _, v := range values {
		line := lineOf(v.Key)
		name, ok := keyName(v.Key)
		if !ok {
			d.fault(path, line, "a key that is not plain text")
			continue
		}
		e := entry{path: join(path, name), key: name, line: line, value: v.Value}
		if first, twice := seen[name]; twice {
			d.fault(e.path, line, "stands twice; first on line %d", first)
			continue
		}
		seen[name] = line
		d.lines[e.path] = line
		list = append(list, e)
	}
	return list
}

func keyName(n ast.MapKeyNode) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode:
		return n.GetToken().Value, true
	}
	return "", false
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
