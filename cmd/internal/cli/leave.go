package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/keystore/adminapi"
)

// A leaving is a verb that leaves a policy server out.
type leaving struct {
	verb, short, done string
	cost              func(adminapi.ServerShown) adminapi.Cost
	do                func(*adminhttp.Client, context.Context, string, adminapi.LeaveOut) (adminapi.LeftOut, error)
}

func (a *app) serverExclude() *cobra.Command {
	return a.leave(leaving{
		verb: "exclude", short: "Let rollovers no longer wait for a server, until it returns",
		done: "is excluded until it is fresh again",
		cost: func(s adminapi.ServerShown) adminapi.Cost { return s.Exclude }, do: (*adminhttp.Client).ExcludeServer,
	})
}

func (a *app) serverForget() *cobra.Command {
	return a.leave(leaving{
		verb: "forget", short: "End a server for good",
		done: "is forgotten",
		cost: func(s adminapi.ServerShown) adminapi.Cost { return s.Forget }, do: (*adminhttp.Client).ForgetServer,
	})
}

func (a *app) leave(l leaving) *cobra.Command {
	cmd := &cobra.Command{Use: l.verb + " ID", Short: l.short, Args: oneName}
	out, change := outputFlag(cmd), changeFlags(cmd)
	force := cmd.Flags().Bool("force", false, "do it although it is refused as unsafe")
	dry := cmd.Flags().Bool("dry-run", false, "say what it would do, and change nothing")
	cmd.RunE = a.call(func(ctx context.Context, client *adminhttp.Client, args []string) error {
		if *dry || !change.yes {
			shown, err := client.Server(ctx, args[0])
			if err != nil {
				return err
			}
			cost := l.cost(shown)
			if *dry {
				return out.print(a.Stdout, cost, func(w io.Writer) { printCost(w, shown, cost) })
			}
			if cost.Allowed || *force { // otherwise there is nothing to ask: the server refuses
				var text strings.Builder
				printCost(&text, shown, cost)
				if err := change.confirm(a, args[0], text.String()); err != nil {
					return err
				}
			}
		}
		done, err := l.do(client, ctx, args[0], adminapi.LeaveOut{Intent: change.intent(), Force: *force})
		if err != nil {
			return err
		}
		return out.print(a.Stdout, done, func(w io.Writer) {
			printEvent(w, done.N, done.ID)
			fmt.Fprintf(w, "server %s %s\n", done.Server, l.done)
		})
	})
	return cmd
}

func printCost(w io.Writer, s adminapi.ServerShown, c adminapi.Cost) {
	state := s.State
	if s.Why != "" {
		state += ": " + s.Why
	}
	printFields(w, [2]string{"server", s.ID}, [2]string{"region", s.Region}, [2]string{"state", state})
	fmt.Fprintln(w)
	for _, effect := range c.Effects {
		for i, line := range wrap(effect, width-2) {
			mark := "- "
			if i > 0 {
				mark = "  "
			}
			fmt.Fprintln(w, mark+line)
		}
	}
	if c.Refused != nil {
		fmt.Fprintf(w, "\nIt is refused as it stands: %s\n", c.Refused.Detail)
	}
}
