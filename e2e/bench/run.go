package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"golang.org/x/term"
)

// A Result is one measured row. Value and Baseline are in Unit.
type Result struct {
	Name     string  `json:"name"`
	Value    float64 `json:"value"`    // of the product
	Unit     string  `json:"unit"`     // of Value and Baseline
	Baseline float64 `json:"baseline"` // of the bare operation; 0 if the goal is a plain number
	Ratio    float64 `json:"ratio"`    // of Value to Baseline; 0 without one
	Goal     string  `json:"goal"`     // in words, such as "ratio <= 1.1, 0 allocations"
	Met      bool    `json:"met"`
	Samples  int     `json:"samples"` // how many measurements the figures come from
	Note     string  `json:"note"`    // what else is worth knowing: circumstances, spread
}

// A Row is something to measure. Measure returns one result for each of Names, in
// that order: rows that come from one run share a Row.
type Row struct {
	Names   []string
	Measure func(ctx context.Context) ([]Result, error)
}

// table lists all rows in the order in which they are measured, with so many agents
// connected to a policy server.
func table(agents []int, deadPercent int) []Row {
	return slices.Concat(rolloverRows, cutRows, secretRows, cookieRows, fanoutRows(agents, deadPercent))
}

// run is the program. It returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 1 && args[0] == bareArg {
		if err := serveBare(os.Stdin, stdout); err != nil {
			fmt.Fprintf(stderr, "error: %v\n", err)
			return 1
		}
		return 0
	}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	names := flags.String("rows", "", "comma-separated `names` of the rows to measure; all if empty")
	agents := flags.String("agents", strconv.Itoa(fanoutAgents), "comma-separated `numbers` of agents for the rows of fan-out, such as 1000,10000,40000")
	dead := flags.Int("dead", 0, "measure also what this `percentage` of agents that read nothing does to the others, from 1 to 50")
	asJSON := flags.Bool("json", false, "print JSON also on a terminal")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	counts, err := parseCounts(*agents)
	if err == nil && (*dead < 0 || *dead > 50) {
		err = fmt.Errorf("--dead %d: want a percentage from 1 to 50, or 0 for none", *dead)
	}
	rows, chooseErr := choose(table(counts, *dead), *names)
	if err = errors.Join(err, chooseErr, unexpected(flags.Args())); err != nil {
		fmt.Fprintf(stderr, "error: %v\n", err)
		return 2
	}
	results, err := measure(ctx, rows, stderr)
	if writeErr := write(stdout, results, *asJSON || !isTerminal(stdout)); writeErr != nil {
		err = errors.Join(err, writeErr)
	}
	if err != nil {
		fmt.Fprintf(stderr, "error: %v\n", err)
		return 1
	}
	return 0
}

func unexpected(args []string) error {
	if len(args) == 0 {
		return nil
	}
	return fmt.Errorf("unexpected arguments %q", args)
}

// A choice is a row and which of its names are wanted.
type choice struct {
	Row
	wanted []string
}

// choose picks the rows that names lists, all if it is empty.
func choose(all []Row, names string) ([]choice, error) {
	wanted := strings.FieldsFunc(names, func(r rune) bool { return r == ',' || r == ' ' })
	var known []string
	var chosen []choice
	for _, row := range all {
		known = append(known, row.Names...)
		c := choice{Row: row}
		for _, name := range row.Names {
			if len(wanted) == 0 || slices.Contains(wanted, name) {
				c.wanted = append(c.wanted, name)
			}
		}
		if len(c.wanted) > 0 {
			chosen = append(chosen, c)
		}
	}
	for _, name := range wanted {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("no row %q; there are %s", name, strings.Join(known, ", "))
		}
	}
	return chosen, nil
}

// measure goes on after a row that fails, and reports all that failed.
func measure(ctx context.Context, rows []choice, stderr io.Writer) ([]Result, error) {
	results := []Result{} // "rows":[] rather than null
	var failed []error
	for _, row := range rows {
		if isTerminal(stderr) {
			fmt.Fprintf(stderr, "measuring %s\n", strings.Join(row.Names, ", "))
		}
		got, err := row.Measure(ctx)
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", strings.Join(row.Names, ", "), err))
			continue
		}
		for i, r := range got {
			r.Name = row.Names[i]
			if slices.Contains(row.wanted, r.Name) {
				results = append(results, r)
			}
		}
	}
	return results, errors.Join(failed...)
}

func write(w io.Writer, results []Result, asJSON bool) error {
	if asJSON {
		encoder := json.NewEncoder(w)
		encoder.SetEscapeHTML(false) // goals say <=
		return encoder.Encode(struct {
			Rows []Result `json:"rows"`
		}{results})
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ROW\tVALUE\tBASELINE\tRATIO\tGOAL\tMET\tSAMPLES\tNOTE")
	for _, r := range results {
		baseline, ratio := "", ""
		if r.Baseline != 0 {
			baseline, ratio = fmt.Sprintf("%.4g %s", r.Baseline, r.Unit), fmt.Sprintf("%.3f", r.Ratio)
		}
		met := "no"
		if r.Met {
			met = "yes"
		}
		fmt.Fprintf(t, "%s\t%.4g %s\t%s\t%s\t%s\t%s\t%d\t%s\n", r.Name, r.Value, r.Unit, baseline, ratio, r.Goal, met, r.Samples, r.Note)
	}
	return t.Flush()
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
