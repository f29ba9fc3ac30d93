package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/keystore/adminapi"
)

func (a *app) hostShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show NAME", Short: "Show a trusted host, and which keys it may know", Args: oneName}
	out := outputFlag(cmd)
	cmd.RunE = a.call(func(ctx context.Context, client *adminhttp.Client, args []string) error {
		host, err := client.Host(ctx, args[0])
		if err != nil {
			return err
		}
		return out.print(a.Stdout, host, func(w io.Writer) { printHost(w, host) })
	})
	return cmd
}

func printHost(w io.Writer, h adminapi.HostShown) {
	secrets := make([]string, len(h.Secrets))
	for i, s := range h.Secrets {
		secrets[i] = fmt.Sprintf("%s (number %d, %s)", s.KID, s.Generation, stamp(s.CreatedAt))
	}
	printFields(w,
		[2]string{"host", h.Name},
		[2]string{"state", hostState(h.Host)},
		[2]string{"rings", list(h.Rings)},
		[2]string{"registered", stamp(h.RegisteredAt)},
		[2]string{"agents", fmt.Sprintf("%d connected to this server", h.Agents)},
		[2]string{"last seen", seenText(h.Host)},
		[2]string{"labels", labelText(h.Labels)},
		[2]string{"token", cmp.Or(h.Token, "-")},
		[2]string{"ephemeral", cmp.Or(h.Ephemeral, "-")},
		[2]string{"secrets", list(secrets)},
		[2]string{"new secret", rollText(h.Host)},
		[2]string{"last event", fmt.Sprintf("%d %s %s %s", h.LastEvent.N, h.LastEvent.Type, stamp(h.LastEvent.At), h.LastEvent.ID)},
	)
	printSeen(w, h.Seen)
	printHostKeys(w, h.Keys)
	printNext(w, h.Next)
}

func hostState(h adminapi.Host) string {
	switch {
	case h.Expired:
		return "expired"
	case h.Revoked:
		return "revoked"
	case h.Clones > 0:
		return "cloned"
	case h.Stale:
		return "stale"
	}
	return "registered"
}

func seenText(h adminapi.Host) string {
	if h.LastSeen == nil {
		return "never"
	}
	return stamp(h.LastSeen.Truncate(time.Second))
}

// rollText says whether a host's secret can be rolled over.
func rollText(h adminapi.Host) string {
	switch {
	case h.CanRoll && h.AllowRoll:
		return "now, and by age"
	case h.CanRoll:
		return "now; by age it is not allowed"
	}
	return "not now: " + h.WhyNot
}

func printSeen(w io.Writer, instances []adminapi.HostInstance) {
	if len(instances) == 0 {
		return
	}
	rows := make([][]string, len(instances))
	for i, s := range instances {
		keeps := "yes"
		if !s.Keeps {
			keeps = "no"
		}
		rows[i] = []string{s.ID, stamp(s.LastSeen.Truncate(time.Second)), strconv.FormatUint(s.Generation, 10), keeps, list(s.Addresses)}
	}
	fmt.Fprintln(w)
	printTable(w, []string{"INSTANCE", "MARKED", "SECRET", "KEEPS", "CONNECTED FROM"}, rows)
}

func printHostKeys(w io.Writer, rings []adminapi.HostKeys) {
	var rows [][]string
	for _, r := range rings {
		for _, k := range r.Keys {
			does := "opens"
			if k.Seals {
				does = "seals and opens"
			}
			rows = append(rows, []string{r.Ring, strconv.FormatUint(uint64(r.Version), 10), k.Role, k.KID, does})
		}
	}
	fmt.Fprintln(w)
	printTable(w, []string{"RING", "VERSION", "ROLE", "KID", "DOES"}, rows)
}

// printNext says how to answer a revocation. Commands stand on lines of their own,
// to be copied.
func printNext(w io.Writer, commands []string) {
	if len(commands) == 0 {
		return
	}
	fmt.Fprintf(w, "\nThe host may know these keys. To take those that seal sessions now and next out\nof use:\n\n")
	for _, c := range commands {
		fmt.Fprintf(w, "  %s\n", c)
	}
	fmt.Fprintf(w, "\nOld keys open for as long as the sessions under them may live; a static key\nstays until it is replaced.\n")
}

func (a *app) hostRevoke() *cobra.Command {
	cmd := &cobra.Command{Use: "revoke [NAME...]", Short: "End trusted hosts and their secrets", Args: names}
	out, change := outputFlag(cmd), changeFlags(cmd)
	labels := cmd.Flags().StringArray("label", nil, "all hosts with this label `KEY=VALUE`; may be given again")
	cmd.RunE = a.call(func(ctx context.Context, client *adminhttp.Client, args []string) error {
		wanted, err := labelsOf(cmd, *labels)
		if err != nil {
			return err
		}
		hosts, err := chosenHosts(ctx, client, cmd, args, wanted)
		if err != nil {
			return err
		}
		if len(args) != 1 {
			return a.revokeMany(ctx, client, hosts, change, out)
		}
		if !change.yes {
			host, err := client.Host(ctx, args[0])
			if err != nil {
				return err
			}
			if !host.Revoked { // for one that is, there is nothing to ask: the server says so
				if err := change.confirm(a, args[0], revocation(host)); err != nil {
					return err
				}
			}
		}
		done, err := client.RevokeHost(ctx, args[0], adminapi.RevokeHost{Intent: change.intent()})
		if err != nil {
			return err
		}
		return out.print(a.Stdout, done, func(w io.Writer) {
			printEvent(w, done.N, done.ID)
			fmt.Fprintf(w, "host %s is revoked: its agents are cut off, its secrets %s are destroyed\n", done.Host, list(done.Destroyed))
			printHostKeys(w, done.Keys)
			printNext(w, done.Next)
		})
	})
	return cmd
}

// revocation says what revoking a host would do.
func revocation(h adminapi.HostShown) string {
	var text strings.Builder
	fmt.Fprintf(&text, "Host %s would get nothing any more. Its agents go on with the keys that they\nhave until they are stopped (%d connected to this server); to come back, the host\nmust be registered again. It may know:\n",
		h.Name, h.Agents)
	printHostKeys(&text, h.Keys)
	return text.String()
}
