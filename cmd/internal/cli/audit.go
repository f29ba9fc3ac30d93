package cli

import (
	"bufio"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/keystore/adminapi"
)

func (a *app) auditCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "audit", Short: "Verify and export the history"}
	cmd.AddCommand(a.auditVerify(), a.auditExport())
	return cmd
}

func (a *app) auditVerify() *cobra.Command {
	cmd := &cobra.Command{
		Use: "verify", Short: "Recompute the whole chain: every hash, signature and value", Args: cobra.NoArgs,
	}
	out := outputFlag(cmd)
	backups := cmd.Flags().StringArray("from-backup", nil, "check this backup `FILE` instead of a server; increments follow, each with the flag again")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(*backups) > 0 {
			v, err := verifyBackup(*backups)
			if err != nil {
				return err
			}
			return a.showVerification(out, v, "this backup does not restore the store; take another, and keep this one as evidence")
		}
		return a.call(func(ctx context.Context, client *adminhttp.Client, _ []string) error {
			v, err := client.Verify(ctx)
			if err != nil {
				return err
			}
			return a.showVerification(out, v,
				"compare with another server's replica before anything else is changed; this server's log says more")
		})(cmd, args)
	}
	return cmd
}

func (a *app) showVerification(out *output, v adminapi.Verification, next string) error {
	if err := out.print(a.Stdout, v, func(w io.Writer) { printVerification(w, v) }); err != nil {
		return err
	}
	if !v.OK {
		return hint(errors.New("the history is not what was written"), "%s", next)
	}
	return nil
}

func printVerification(w io.Writer, v adminapi.Verification) {
	rows := [][]string{verified("keys", adminapi.LedgerVerification{
		OK: v.OK && v.FirstBad == nil, Events: v.Events, Head: v.Head, FirstBad: v.FirstBad, Why: v.Why,
	})}
	if v.Hosts != nil {
		rows = append(rows, verified("hosts", *v.Hosts))
	}
	printTable(w, []string{"LEDGER", "EVENTS", "RESULT"}, rows)
}

func verified(ledger string, v adminapi.LedgerVerification) []string {
	result := "good; head " + v.Head
	if v.FirstBad != nil {
		result = fmt.Sprintf("BAD at event %d: %s", *v.FirstBad, v.Why)
	}
	return []string{ledger, strconv.FormatUint(uint64(v.Events), 10), result}
}

func (a *app) auditExport() *cobra.Command {
	cmd := &cobra.Command{Use: "export", Short: "Print every event of both ledgers, oldest first", Args: cobra.NoArgs}
	format := cmd.Flags().String("format", "jsonl", "`jsonl|csv`")
	var since, until moment
	cmd.Flags().Var(&since, "since", "events from this `TIME` on (RFC 3339, or how long ago)")
	cmd.Flags().Var(&until, "until", "events before this `TIME`")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *format != "jsonl" && *format != "csv" {
			return usagef(cmd, `--format %q: want "jsonl" or "csv"`, *format)
		}
		return a.call(func(ctx context.Context, client *adminhttp.Client, _ []string) error {
			span := adminhttp.Span{Since: since.Time, Until: until.Time}
			if *format == "jsonl" {
				return client.Export(ctx, span, a.Stdout)
			}
			return exportCSV(ctx, client, span, a.Stdout)
		})(cmd, args)
	}
	cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"jsonl", "csv"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// csvColumns are stable: new ones come last.
var csvColumns = []string{
	"ledger", "epoch", "n", "id", "type", "at", "server", "actor", "request", "reason", "subject", "change", "hash", "prev",
}

// exportCSV turns the lines of JSON into records as they come.
func exportCSV(ctx context.Context, client *adminhttp.Client, span adminhttp.Span, w io.Writer) error {
	lines, feed := io.Pipe()
	failed := make(chan error, 1)
	go func() {
		err := client.Export(ctx, span, feed)
		feed.CloseWithError(err)
		failed <- err
	}()
	err := writeCSV(bufio.NewReader(lines), w)
	lines.CloseWithError(os.ErrClosed)
	if exported := <-failed; exported != nil && err == nil {
		return exported
	}
	return err
}

func writeCSV(lines io.Reader, w io.Writer) error {
	out := csv.NewWriter(w)
	if err := out.Write(csvColumns); err != nil {
		return err
	}
	for in := json.NewDecoder(lines); ; {
		var e struct {
			adminapi.AuditEvent
			Change json.RawMessage `json:"change"`
		}
		err := in.Decode(&e)
		if errors.Is(err, io.EOF) {
			out.Flush()
			return out.Error()
		}
		if err != nil {
			return err
		}
		err = out.Write([]string{
			e.Ledger, strconv.FormatUint(e.Epoch, 10), strconv.FormatUint(uint64(e.N), 10), e.ID, e.Type, stamp(e.At),
			e.Server, cell(e.Actor), cell(e.Request), cell(e.Reason), e.Subject, string(e.Change), e.Hash, e.Prev,
		})
		if err != nil {
			return err
		}
	}
}

// cell keeps a spreadsheet from taking somebody's text for a formula.
func cell(text string) string {
	if text != "" && (text[0] == '=' || text[0] == '+' || text[0] == '-' || text[0] == '@') {
		return "'" + text
	}
	return text
}
