package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/keystore/adminapi"
)

// reachPause is how often --wait asks who lacks the new keys.
const reachPause = 100 * time.Millisecond

// A rollover is one run of the command.
type rollover struct {
	*app
	out     *output
	change  *change
	ask     adminapi.Rollover // but for its intent
	dryRun  bool
	wait    bool
	timeout time.Duration
}

func (a *app) rolloverCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "rollover NAME", Short: "Roll a ring over: its future key becomes current", Args: oneName,
	}
	r := &rollover{app: a, out: outputFlag(cmd), change: changeFlags(cmd)}
	flags := cmd.Flags()
	flags.BoolVar(&r.dryRun, "dry-run", false, "say what would happen, and change nothing")
	flags.BoolVar(&r.ask.Force, "force", false, "roll over within the minimum interval, or although a server lags")
	flags.BoolVar(&r.ask.Fresh, "fresh", false, "make a new current key, too: the future key may be known to others")
	flags.BoolVar(&r.ask.Emergency, "emergency", false, "make new keys, and destroy all older dynamic ones at once: logs everybody out")
	flags.StringSliceVar(&r.ask.With, "with", nil, "with --emergency: replace these keys, too (`static,ticket`)")
	flags.BoolVar(&r.ask.Undo, "undo", false, "make the key current again that was before the last rollover")
	flags.BoolVar(&r.wait, "wait", false, "wait until every connected agent has been given the new keys")
	flags.DurationVar(&r.timeout, "timeout", 30*time.Second, "how long --wait waits (`DURATION`)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := r.check(cmd); err != nil {
			return err
		}
		return a.call(func(ctx context.Context, client *adminhttp.Client, args []string) error {
			if r.dryRun {
				return r.preview(ctx, client, args[0])
			}
			return r.run(ctx, client, args[0])
		})(cmd, args)
	}
	return cmd
}

// check refuses flags that do not go together.
func (r *rollover) check(cmd *cobra.Command) error {
	kinds := 0
	for _, set := range []bool{r.ask.Fresh, r.ask.Emergency, r.ask.Undo} {
		if set {
			kinds++
		}
	}
	switch {
	case kinds > 1:
		return usagef(cmd, "--fresh, --emergency and --undo: want one of them at most")
	case len(r.ask.With) > 0 && !r.ask.Emergency:
		return usagef(cmd, "--with goes with --emergency")
	case r.ask.Undo && r.ask.Force:
		return usagef(cmd, "--undo: nothing holds an undo that --force would override")
	}
	for i, with := range r.ask.With {
		if with != "static" && with != "ticket" || slices.Contains(r.ask.With[:i], with) {
			return usagef(cmd, "--with %s: want static, ticket, or both: static,ticket", strings.Join(r.ask.With, ","))
		}
	}
	return nil
}

func (r *rollover) preview(ctx context.Context, client *adminhttp.Client, name string) error {
	preview, err := client.Preview(ctx, name, r.ask)
	if err != nil {
		return err
	}
	if err := r.out.print(r.Stdout, preview, func(w io.Writer) { printPreview(w, preview) }); err != nil {
		return err
	}
	if preview.Refused != nil {
		return adminhttp.ErrorOf(*preview.Refused)
	}
	return nil
}

func printPreview(w io.Writer, p adminapi.Preview) {
	fmt.Fprintf(w, "ring %s would be at version %d; nothing was changed\n\n", p.Ring, p.Version)
	rows := make([][]string, len(p.Changes))
	for i, c := range p.Changes {
		kid, from, to := c.KID, c.From, c.To
		if kid == "" {
			kid = "(new)"
		}
		if from == "" {
			from = "-"
		}
		if to == "" {
			to = "destroyed"
		}
		rows[i] = []string{kid, from, to}
	}
	printTable(w, []string{"KID", "FROM", "TO"}, rows)
	fmt.Fprintln(w)
	printFields(w,
		[2]string{"destroyed", list(p.Destroyed)},
		[2]string{"behind", list(p.Behind)},
		[2]string{"logged out", p.LoggedOut},
	)
}

func (r *rollover) run(ctx context.Context, client *adminhttp.Client, name string) error {
	if (r.ask.Force || r.ask.Emergency) && !r.change.yes {
		preview, err := client.Preview(ctx, name, r.ask)
		if err != nil {
			return err
		}
		var text strings.Builder
		printPreview(&text, preview)
		if err := r.change.confirm(r.app, name, text.String()); err != nil {
			return err
		}
	}
	r.ask.Intent = r.change.intent()
	done, err := client.Rollover(ctx, name, r.ask)
	if err != nil {
		return err
	}
	err = r.out.print(r.Stdout, done, func(w io.Writer) {
		printEvent(w, done.N, done.ID)
		fmt.Fprintf(w, "ring %s is at version %d; on disk at %s\n\n", done.Ring, done.Version, list(done.Replicas))
		printKeys(w, done.Keys)
	})
	if err != nil || !r.wait {
		return err
	}
	return r.await(ctx, client, done)
}

// await waits until every agent that is connected has been given the rollover, and says who
// lacks it when that takes too long. The rollover stands either way.
func (r *rollover) await(ctx context.Context, client *adminhttp.Client, done adminapi.RolledOver) error {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	var reach adminapi.Reach
	for {
		now, err := client.Reach(ctx, done.Ring, done.N)
		switch {
		case err == nil && len(now.Lacking) == 0:
			fmt.Fprintf(r.Stderr, "all %d connected agents have been given version %d\n", now.Connected, done.Version)
			return nil
		case err == nil:
			reach = now
		case ctx.Err() == nil:
			return err
		}
		select {
		case <-ctx.Done():
			stands := "the rollover stands, and cookies stay good: these agents hold the new current key as their future key"
			switch {
			case r.ask.Emergency:
				stands = "the rollover stands; these agents still use keys that are destroyed everywhere else"
			case r.ask.Fresh:
				stands = "the rollover stands; these agents refuse cookies sealed with the new current key until they have it"
			case r.ask.Undo:
				stands = "the undo stands, and cookies stay good: these agents hold both keys"
			}
			return hint(fmt.Errorf("ring %s: after %v, %d of %d connected agents have not been given version %d: %s",
				done.Ring, r.timeout, len(reach.Lacking), reach.Connected, done.Version, list(reach.Lacking)),
				"%s\nsee who is behind:  keytide status", stands)
		case <-time.After(reachPause):
		}
	}
}
