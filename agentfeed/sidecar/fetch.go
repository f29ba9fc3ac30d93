package sidecar

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/keytide/keytide/agentfeed"
)

// fetch gets the rings once and shows them.
type fetch struct {
	hostFile string
	format   string // json or table
	timeout  time.Duration
}

func (f fetch) run(ctx context.Context, env Env) error {
	client, err := agentfeed.New(agentfeed.Config{HostFile: f.hostFile, Proxy: env.Proxy})
	if err != nil {
		return err
	}
	defer client.Close()
	waiting, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	if err := client.WaitReady(waiting); err != nil {
		if cause := client.Status().Err; cause != nil {
			return fmt.Errorf("no rings: %w", cause)
		}
		return fmt.Errorf("no rings within %s: %w", f.timeout, err)
	}
	held := ringsOf(client)
	if f.format == "json" {
		return writeJSON(env.Stdout, held)
	}
	return writeTable(env.Stdout, held)
}

func writeTable(w io.Writer, held Rings) error {
	rows := [][]string{{"RING", "VERSION", "MODE", "ROLE", "KID"}}
	for _, r := range held.Rings {
		for _, k := range r.Keys {
			rows = append(rows, []string{string(r.Name), fmt.Sprintf("%d.%d", r.Epoch, r.Version), r.Mode.String(), k.Role.String(), k.KID.String()})
		}
	}
	writeRows(w, rows)
	_, err := fmt.Fprintf(w, "\n%s, from policy server %s\n", held.State, held.Server)
	return err
}

// writeRows writes rows in columns as wide as they need.
func writeRows(w io.Writer, rows [][]string) (err error) {
	size := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			size[i] = max(size[i], len(cell))
		}
	}
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			fmt.Fprintf(&line, "%-*s  ", size[i], cell)
		}
		_, err = fmt.Fprintln(w, strings.TrimRight(line.String(), " "))
	}
	return err
}
