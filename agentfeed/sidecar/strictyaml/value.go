package strictyaml

import (
	"encoding"
	"fmt"
	"io/fs"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// value reads a node into target.
func (d *decoder) value(path string, n ast.Node, target reflect.Value) {
	line := lineOf(n)
	switch n.(type) {
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode, *ast.MergeKeyNode:
		d.fault(path, line, "anchors, aliases, merge keys and tags are not allowed")
		return
	case *ast.NullNode:
		d.fault(path, d.line(path), "has no value")
		return
	}
	if target.Kind() == reflect.Pointer {
		fresh := reflect.New(target.Type().Elem())
		if !target.IsNil() {
			fresh.Elem().Set(target.Elem())
		}
		d.value(path, n, fresh.Elem())
		target.Set(fresh)
		return
	}
	if isScalar(target) {
		d.scalar(path, n, target)
		return
	}
	switch target.Kind() {
	case reflect.Struct:
		values, ok := mappingOf(n)
		if !ok {
			d.fault(path, line, "want keys and values, not %s", kindOf(n))
			return
		}
		d.mapping(path, line, values, target)
	case reflect.Map:
		d.table(path, n, target)
	case reflect.Slice:
		d.list(path, n, target)
	default:
		panic(fmt.Sprintf("strictyaml: %s: kind %s cannot be read", path, target.Type()))
	}
}

func mappingOf(n ast.Node) ([]*ast.MappingValueNode, bool) {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	}
	return nil, false
}

// mapping reads keys into the fields of a struct.
func (d *decoder) mapping(path string, line int, values []*ast.MappingValueNode, target reflect.Value) {
	if _, known := d.lines[path]; !known {
		d.lines[path] = line
	}
	fields, names := fieldsOf(target)
	given := make(map[string]bool)
	for _, e := range d.entries(path, values) {
		field, ok := fields[e.key]
		if !ok {
			d.fault(e.path, e.line, "unknown key%s", hint(e.key, names))
			continue
		}
		given[e.key] = true
		d.value(e.path, e.value, field.value)
	}
	for _, name := range names {
		if fields[name].required && !given[name] {
			d.fault(join(path, name), d.lines[path], "is missing")
		}
	}
}

type field struct {
	value    reflect.Value
	required bool
}

// fieldsOf lists the fields of a struct by their names, and the names in order.
func fieldsOf(target reflect.Value) (map[string]field, []string) {
	fields := make(map[string]field)
	var names []string
	for i := range target.NumField() {
		name, options, _ := strings.Cut(target.Type().Field(i).Tag.Get("yaml"), ",")
		if name == "" || name == "-" || !target.Type().Field(i).IsExported() {
			continue
		}
		fields[name] = field{target.Field(i), slices.Contains(strings.Split(options, ","), "required")}
		names = append(names, name)
	}
	return fields, names
}

// hint names the key that was probably meant, or all that there are.
func hint(key string, names []string) string {
	for _, name := range names {
		if distance(key, name) <= 2 {
			return fmt.Sprintf("; did you mean %s?", name)
		}
	}
	return "; there are " + strings.Join(names, ", ")
}

// distance is the number of single-character edits between two words.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return len(a) + len(b)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func (d *decoder) table(path string, n ast.Node, target reflect.Value) {
	values, ok := mappingOf(n)
	if !ok {
		d.fault(path, lineOf(n), "want keys and values, not %s", kindOf(n))
		return
	}
	table := reflect.MakeMap(target.Type())
	for _, e := range d.entries(path, values) {
		item := reflect.New(target.Type().Elem()).Elem()
		d.value(e.path, e.value, item)
		table.SetMapIndex(reflect.ValueOf(e.key).Convert(target.Type().Key()), item)
	}
	target.Set(table)
}

func (d *decoder) list(path string, n ast.Node, target reflect.Value) {
	sequence, ok := n.(*ast.SequenceNode)
	if !ok {
		d.fault(path, lineOf(n), "want a list, not %s", kindOf(n))
		return
	}
	list := reflect.MakeSlice(target.Type(), len(sequence.Values), len(sequence.Values))
	for i, v := range sequence.Values {
		item := fmt.Sprintf("%s[%d]", path, i)
		d.lines[item] = lineOf(v)
		d.value(item, v, list.Index(i))
	}
	target.Set(list)
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	modeType     = reflect.TypeFor[fs.FileMode]()
)

func isScalar(target reflect.Value) bool {
	if _, ok := target.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return true
	}
	switch target.Kind() {
	case reflect.Struct, reflect.Map, reflect.Slice:
		return false
	}
	return true
}

// scalar reads one plain value.
func (d *decoder) scalar(path string, n ast.Node, target reflect.Value) {
	text, isText, ok := textOf(n)
	if !ok {
		d.fault(path, lineOf(n), "want %s, not %s", wanted(target), kindOf(n))
		return
	}
	if err := set(target, text, isText, n); err != nil {
		d.fault(path, lineOf(n), "%s", err)
	}
}

// textOf returns a scalar's text, and whether YAML takes it for text.
func textOf(n ast.Node) (text string, isText, ok bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true, true
	case *ast.LiteralNode:
		return n.Value.Value, true, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, false, true
	}
	return "", false, false
}

func set(target reflect.Value, text string, isText bool, n ast.Node) error {
	bad := fmt.Errorf("want %s, not %s", wanted(target), kindOf(n))
	if u, ok := target.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	switch target.Type() {
	case durationType:
		v, err := time.ParseDuration(text)
		if err != nil {
			return bad
		}
		target.SetInt(int64(v))
		return nil
	case modeType:
		v, err := strconv.ParseUint(text, 8, 32)
		if err != nil || !isText || v > 0o777 || len(text) < 3 || len(text) > 4 {
			return bad
		}
		target.SetUint(v)
		return nil
	}
	return setPlain(target, text, isText, bad)
}

func setPlain(target reflect.Value, text string, isText bool, bad error) error {
	if isText != (target.Kind() == reflect.String) {
		return bad
	}
	var err error
	switch target.Kind() {
	case reflect.String:
		target.SetString(text)
	case reflect.Bool:
		var v bool
		v, err = strconv.ParseBool(strings.ToLower(text))
		target.SetBool(v)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		var v int64
		v, err = strconv.ParseInt(text, 10, target.Type().Bits())
		target.SetInt(v)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		var v uint64
		v, err = strconv.ParseUint(text, 10, target.Type().Bits())
		target.SetUint(v)
	case reflect.Float32, reflect.Float64:
		var v float64
		v, err = strconv.ParseFloat(text, target.Type().Bits())
		target.SetFloat(v)
	default:
		panic(fmt.Sprintf("strictyaml: kind %s cannot be read", target.Type()))
	}
	if err != nil {
		return bad
	}
	return nil
}

// wanted says in words what target takes.
func wanted(target reflect.Value) string {
	switch target.Type() {
	case durationType:
		return `a duration such as "1h30m"`
	case modeType:
		return `a file mode in quotes such as "0640"`
	}
	switch target.Kind() {
	case reflect.String, reflect.Struct, reflect.Slice, reflect.Array:
		return "text"
	case reflect.Bool:
		return "true or false"
	case reflect.Float32, reflect.Float64:
		return "a number"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number of 0 or more"
	}
	return "a whole number"
}

// kindOf says in words what a node is. It shows no text: the file may hold, in a
// wrong place, what nobody should see.
func kindOf(n ast.Node) string {
	switch n := n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "keys and values"
	case *ast.SequenceNode:
		return "a list"
	case *ast.NullNode:
		return "nothing"
	case *ast.BoolNode:
		return n.GetToken().Value
	case *ast.IntegerNode, *ast.FloatNode:
		if text := n.GetToken().Value; len(text) <= 8 {
			return text
		}
		return "another number"
	}
	return "other text"
}
