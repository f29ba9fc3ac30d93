package cli

import (
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

func everyCommand(t *testing.T, visit func(*testing.T, *cobra.Command)) {
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Name() == "completion" || cmd.Name() == "help" {
			return // cobra's own
		}
		t.Run(cmd.CommandPath(), func(t *testing.T) { visit(t, cmd) })
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(quietRoot())
}

func quietRoot() *cobra.Command {
	return newRoot(Env{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard, Getenv: func(string) string { return "" }})
}

func TestEveryCommandHasItsManual(t *testing.T) {
	left := make(map[string]bool)
	for _, pages := range []map[string]page{pages, keyPages, rekeyPages} {
		for path := range pages {
			left[path] = true
		}
	}
	everyCommand(t, func(t *testing.T, cmd *cobra.Command) {
		delete(left, cmd.CommandPath())
		if cmd.Short == "" || cmd.Long == "" || cmd.Example == "" {
			t.Errorf("short %q, long %q, example %q: want all three", cmd.Short, cmd.Long, cmd.Example)
		}
		var help strings.Builder
		cmd.SetOut(&help)
		if err := cmd.Help(); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(help.String()) {
			if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > width {
				t.Errorf("a line has %d columns, want %d at most: %s", n, width, line)
			}
		}
	})
	for path := range left {
		t.Errorf("there is a manual of %q and no such command", path)
	}
}

// TestExamplesAreCommands: what the manuals show is taken by the commands that they
// show, and by no flag that is not there.
func TestExamplesAreCommands(t *testing.T) {
	everyCommand(t, func(t *testing.T, cmd *cobra.Command) {
		text := strings.ReplaceAll(cmd.Example, "\\\n", " ")
		for line := range strings.Lines(text) {
			words := shellWords(line)
			if len(words) == 0 || words[0] != "keytide" {
				t.Errorf("example %q: want a command of keytide", line)
				continue
			}
			root := quietRoot()
			found, rest, err := root.Traverse(words[1:])
			if err == nil {
				err = found.ParseFlags(rest)
			}
			if err == nil {
				err = found.ValidateArgs(found.Flags().Args())
			}
			if err != nil {
				t.Errorf("example %q: %v", line, err)
			}
			if found.HasSubCommands() && !strings.Contains(found.Use, "--") { // one with flags does something itself
				t.Errorf("example %q: names no command that does something", line)
			}
		}
	})
}

// shellWords splits as a shell does, for what examples need: double quotes, comments
// and redirections at the end.
func shellWords(line string) (words []string) {
	for i, part := range strings.Split(strings.TrimSpace(line), `"`) {
		if i%2 == 1 {
			words = append(words, part)
			continue
		}
		for _, word := range strings.Fields(part) {
			if word == "#" || word == "<" || word == ">>" {
				return words
			}
			words = append(words, word)
		}
	}
	return words
}
