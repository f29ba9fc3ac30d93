package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// width is how wide a table is, in columns; the last column wraps at it.
const width = 80

// An output is how a command prints: as a table or as JSON.
type output string

func (o *output) String() string { return string(*o) }
func (o *output) Type() string   { return "json|table" }
func (o *output) Set(s string) error {
	if s != "json" && s != "table" {
		return fmt.Errorf(`want "json" or "table"`)
	}
	*o = output(s)
	return nil
}

func outputFlag(cmd *cobra.Command) *output {
	o := output("table")
	cmd.Flags().VarP(&o, "output", "o", "print `json|table`")
	return &o
}

// print writes v as JSON, or what table writes.
func (o *output) print(w io.Writer, v any, table func(io.Writer)) error {
	if *o == "json" {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(v)
	}
	table(w)
	return nil
}

// printTable writes rows under headings, in columns as wide as they need. The last
// column wraps between words so that lines keep to the width.
func printTable(w io.Writer, headings []string, rows [][]string) {
	last := len(headings) - 1
	size := make([]int, last)
	for _, row := range append([][]string{headings}, rows...) {
		for i := range size {
			size[i] = max(size[i], utf8.RuneCountInString(row[i]))
		}
	}
	used := 0
	for _, s := range size {
		used += s + 2
	}
	for _, row := range append([][]string{headings}, rows...) {
		for i, line := range wrap(row[last], max(width-used, 16)) {
			var b strings.Builder
			for c, s := range size {
				cell := ""
				if i == 0 {
					cell = row[c]
				}
				fmt.Fprintf(&b, "%-*s  ", s, cell)
			}
			fmt.Fprintln(w, strings.TrimRight(b.String()+line, " "))
		}
	}
}

// wrap breaks text between words into lines of at most limit characters. It has
// at least one line; a longer word has a line to itself.
func wrap(text string, limit int) []string {
	lines := []string{""}
	for word := range strings.FieldsSeq(text) {
		line := &lines[len(lines)-1]
		switch {
		case *line == "":
			*line = word
		case utf8.RuneCountInString(*line)+1+utf8.RuneCountInString(word) <= limit:
			*line += " " + word
		default:
			lines = append(lines, word)
		}
	}
	return lines
}

// printFields writes "name  value" lines.
func printFields(w io.Writer, fields ...[2]string) {
	size := 0
	for _, f := range fields {
		size = max(size, len(f[0]))
	}
	for _, f := range fields {
		for i, line := range wrap(f[1], width-size-2) {
			name := f[0]
			if i > 0 {
				name = ""
			}
			fmt.Fprintln(w, strings.TrimRight(fmt.Sprintf("%-*s  %s", size, name, line), " "))
		}
	}
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// list joins names, or says that there are none.
func list(names []string) string {
	if len(names) == 0 {
		return "-"
	}
	return strings.Join(names, ", ")
}
