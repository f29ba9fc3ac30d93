package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/keystore/host"
)

// names wants hosts' names as arguments, checked before a server is asked.
func names(cmd *cobra.Command, args []string) error {
	for _, name := range args {
		if err := keystore.CheckName(name); err != nil {
			return usagef(cmd, "the name %q %v", name, err)
		}
	}
	return nil
}

func (a *app) hostRoll() *cobra.Command {
	cmd := &cobra.Command{Use: "roll [NAME...]", Short: "Roll over shared secrets", Args: names}
	out, change := outputFlag(cmd), changeFlags(cmd)
	var req adminapi.RollHosts
	cmd.Flags().BoolVar(&req.All, "all", false, "of all hosts")
	labels := cmd.Flags().StringArray("label", nil, "of the hosts with this label `KEY=VALUE`; may be given again")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var err error
		if req.Labels, err = labelsOf(cmd, *labels); err != nil {
			return err
		}
		ways := 0
		for _, given := range []bool{len(args) > 0, req.All, len(req.Labels) > 0} {
			if given {
				ways++
			}
		}
		if ways != 1 {
			return usagef(cmd, "wants names of hosts, or --label, or --all")
		}
		req.Names, req.Intent = args, change.intent()
		return a.call(func(ctx context.Context, client *adminhttp.Client, _ []string) error {
			return a.rollAll(ctx, client, req, out)
		})(cmd, args)
	}
	return cmd
}

// rolled is what host roll prints.
type rolled struct {
	Rolled  int                    `json:"rolled"`
	Skipped []adminapi.HostSkipped `json:"skipped"`
	N       uint64                 `json:"n"` // the last event; 0: there was none
	ID      string                 `json:"id"`
}

// rollAll goes on until all hosts have had their turn, and says how far it is.
func (a *app) rollAll(ctx context.Context, client *adminhttp.Client, req adminapi.RollHosts, out *output) error {
	total := rolled{Skipped: []adminapi.HostSkipped{}}
	for {
		part, err := client.RollHosts(ctx, req)
		if err != nil {
			if total.Rolled+len(total.Skipped) > 0 {
				err = hint(fmt.Errorf("after %s: %w", counted(uint64(total.Rolled+len(total.Skipped)), "host"), err),
					"run it again: hosts whose rollover is under way are left as they are")
			}
			return err
		}
		total.Rolled += part.Rolled
		total.Skipped = append(total.Skipped, part.Skipped...)
		if part.N > 0 {
			total.N, total.ID = part.N, part.ID
		}
		if part.Next == "" {
			break
		}
		fmt.Fprintf(a.Stderr, "%d hosts done, %d left\n", total.Rolled+len(total.Skipped), part.Left)
		req.After = part.Next
	}
	err := out.print(a.Stdout, total, func(w io.Writer) {
		if total.N > 0 {
			fmt.Fprintf(w, "event %d  %s\n", total.N, total.ID)
		}
		fmt.Fprintf(w, "%s get a new secret; the former stays valid until every agent has shown the new one\n", counted(uint64(total.Rolled), "host"))
		if len(total.Skipped) > 0 {
			rows := make([][]string, len(total.Skipped))
			for i, s := range total.Skipped {
				rows[i] = []string{s.Host, s.Why}
			}
			fmt.Fprintln(w)
			printTable(w, []string{"LEFT OUT", "WHY"}, rows)
		}
	})
	if err == nil && total.Rolled == 0 {
		err = hint(refusedf("no secret is rolled over"), "see why of each host:  keytide host show NAME")
	}
	return err
}

func (a *app) hostPolicy() *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "Show or set at what age shared secrets roll over", Args: cobra.NoArgs}
	out, change := outputFlag(cmd), changeFlags(cmd)
	every := cmd.Flags().String("secret-every", "", "the `AGE`, such as 12h, 30d, 2w or 3mo, or off")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *every == "" {
			return a.call(func(ctx context.Context, client *adminhttp.Client, _ []string) error {
				policy, err := client.SecretPolicy(ctx)
				if err != nil {
					return err
				}
				return out.print(a.Stdout, policy, func(w io.Writer) { printPolicy(w, policy) })
			})(cmd, args)
		}
		if _, err := host.ParseAge(*every); err != nil {
			return usagef(cmd, "--secret-every: %v", err)
		}
		return a.call(func(ctx context.Context, client *adminhttp.Client, _ []string) error {
			done, err := client.SetSecretPolicy(ctx, adminapi.SetSecretPolicy{Intent: change.intent(), SecretEvery: *every})
			if err != nil {
				return err
			}
			return out.print(a.Stdout, done, func(w io.Writer) {
				printEvent(w, done.N, done.ID)
				printPolicy(w, done.SecretPolicy)
			})
		})(cmd, args)
	}
	return cmd
}

func printPolicy(w io.Writer, p adminapi.SecretPolicy) {
	last := "-"
	if p.LastEvent != nil {
		last = fmt.Sprintf("%d %s %s", p.LastEvent.N, p.LastEvent.Type, stamp(p.LastEvent.At))
	}
	printFields(w,
		[2]string{"secrets every", p.SecretEvery},
		[2]string{"hosts that allow it", strconv.Itoa(p.Hosts)},
		[2]string{"rollovers under way", strconv.Itoa(p.Rolling)},
		[2]string{"last event", last},
	)
}
