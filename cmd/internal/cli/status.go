package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/keystore/fips"
)

func (a *app) statusCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "status", Short: "Show servers, agents, versions, and who is behind", Args: cobra.NoArgs}
	out := outputFlag(cmd)
	region := cmd.Flags().String("region", "", "show the policy servers of region `R` alone")
	watched := cmd.Flags().Bool("watch", false, "go on showing it until interrupted: painted anew on a terminal, else a line for each change")
	cmd.RunE = a.call(func(ctx context.Context, client *adminhttp.Client, _ []string) error {
		if *watched {
			return (&watch{app: a, out: out, region: *region}).run(ctx, client)
		}
		status, err := client.Status(ctx)
		if err == nil {
			status, err = inRegion(status, *region)
		}
		if err != nil {
			return err
		}
		return out.print(a.Stdout, status, func(w io.Writer) { printStatus(w, status) })
	})
	return cmd
}

func printStatus(w io.Writer, s adminapi.Status) {
	fmt.Fprintf(w, "store %s  epoch %d  event %d\nFIPS 140-3 %s\n", s.Store, s.Epoch, s.N, s.FIPS)
	printCore(w, s.Core)
	fmt.Fprintln(w)
	servers := make([][]string, len(s.Servers))
	for i, v := range s.Servers {
		agents := strconv.Itoa(v.Agents)
		if v.AgentsBehind > 0 {
			agents += fmt.Sprintf(" (%d behind)", v.AgentsBehind)
		}
		servers[i] = []string{
			v.ID, v.Region, strconv.FormatUint(uint64(v.N), 10), milliseconds(v.AgeMS), milliseconds(v.ClockOffsetMS),
			agents, v.State,
		}
		switch {
		case v.Why != "":
			servers[i][6] += ": " + v.Why
		case v.Excluded:
			servers[i][6] += ", excluded: rollovers do not wait for it"
		}
	}
	printTable(w, []string{"SERVER", "REGION", "EVENT", "AGE", "CLOCK", "AGENTS", "STATE"}, servers)
	fmt.Fprintln(w)
	rings := make([][]string, len(s.Rings))
	for i, r := range s.Rings {
		next := "by hand"
		if !r.NextSlot.IsZero() {
			next = stamp(r.NextSlot)
		}
		rings[i] = []string{r.Name, strconv.FormatUint(uint64(r.Version), 10), next, list(r.HeldBy)}
	}
	printTable(w, []string{"RING", "VERSION", "NEXT ROLLOVER", "HELD BY"}, rings)
	for _, r := range s.Rings {
		for _, b := range r.Behind {
			fmt.Fprintf(w, "\nring %s waits for %s (region %s): %s\n", r.Name, b.Server, b.Region, lag(b))
		}
	}
	for _, alarm := range s.Alarms {
		printAlarm(w, alarm)
	}
}

// lag says how far a server is behind.
func lag(b adminapi.Behind) string {
	text := fmt.Sprintf("at event %d, needs %d", b.Applied, b.Needs)
	if !b.Since.IsZero() {
		text += "\n  behind since " + stamp(b.Since)
	}
	return text
}

// printCore says where the ledgers are, unless they are in the server itself.
func printCore(w io.Writer, c adminapi.Core) {
	if c.Kind == "alone" || c.Kind == "" {
		return
	}
	fmt.Fprintf(w, "core %s, %d servers  durability %s", c.Kind, c.Servers, c.Durability)
	if c.Connected != "" {
		fmt.Fprintf(w, "  connected to %s", c.Connected)
	}
	if c.Why != "" {
		fmt.Fprintf(w, "\n  %s", c.Why)
	}
	fmt.Fprintln(w)
}

func printAlarm(w io.Writer, a adminapi.Alarm) {
	word, until := "ALARM", ""
	if !a.Ended.IsZero() {
		word, until = "ended alarm", ", until "+stamp(a.Ended)
	}
	subject := a.Ledger
	if a.Key != "" {
		subject += " " + a.Key
	}
	lines := wrap(fmt.Sprintf("%s %s: %s", a.Kind, subject, a.Text), width-len(word)-2)
	fmt.Fprintf(w, "\n%s  %s\n  since %s%s\n", word, strings.Join(lines, "\n  "), stamp(a.Since), until)
}

func milliseconds(ms int64) string { return (time.Duration(ms) * time.Millisecond).String() }

func (a *app) versionCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "version", Short: "Print the program's version and cryptographic module", Args: cobra.NoArgs}
	out := outputFlag(cmd)
	cmd.RunE = func(*cobra.Command, []string) error {
		v := struct {
			Version string      `json:"version"`
			FIPS    fips.Module `json:"fips"`
		}{a.Version, fips.Running()}
		return out.print(a.Stdout, v, func(w io.Writer) {
			fmt.Fprintln(w, "keytide", a.Version)
			fmt.Fprintln(w, "FIPS 140-3", v.FIPS)
		})
	}
	return cmd
}
