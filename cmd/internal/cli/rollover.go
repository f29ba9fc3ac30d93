package cli

import (
	"context"
	"fmt"
	"io"
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
	dryRun  bool
	force   bool
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
	flags.BoolVar(&r.force, "force", false, "roll over within the minimum interval, or although a server lags")
	flags.BoolVar(&r.wait, "wait", false, "wait until every connected agent has been given the new keys")
	flags.DurationVar(&r.timeout, "timeout", 30*time.Second, "how long --wait waits (`DURATION`)")
	cmd.RunE = a.call(func(ctx context.Context, client *adminhttp.Client, args []string) error {
		if r.dryRun {
			return r.preview(ctx, client, args[0])
		}
		return r.run(ctx, client, args[0])
	})
	return cmd
}

func (r *rollover) preview(ctx context.Context, client *adminhttp.Client, name string) error {
	preview, err := client.Preview(ctx, name, r.force)
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
	if r.force && !r.change.yes {
		preview, err := client.Preview(ctx, name, true)
		if err != nil {
			return err
		}
		var text strings.Builder
		printPreview(&text, preview)
		if err := r.change.confirm(r.app, name, text.String()); err != nil {
			return err
		}
	}
	done, err := client.Rollover(ctx, name, adminapi.Rollover{Intent: r.change.intent(), Force: r.force})
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
			return hint(fmt.Errorf("ring %s: after %v, %d of %d connected agents have not been given version %d: %s",
				done.Ring, r.timeout, len(reach.Lacking), reach.Connected, done.Version, list(reach.Lacking)),
				"the rollover stands, and cookies stay good: these agents hold the new current key as their future key\nsee who is behind:  keytide status")
		case <-time.After(reachPause):
		}
	}
}
