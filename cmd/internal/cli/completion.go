package cli

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
)

// completeTime is how long a shell waits for names: longer, and the key seems dead.
const completeTime = time.Second

// A lister gives the names that there are, with a word about each.
type lister func(context.Context, *adminhttp.Client) []cobra.Completion

// complete gives every command and flag its completions: names by the admin API,
// nothing where a new name is wanted, and files only where a file is.
func (a *app) complete(cmd *cobra.Command) {
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	switch cmd.CommandPath() {
	case "keytide ring show", "keytide ring set", "keytide rollover", "keytide history", "keytide replay",
		"keytide static generate", "keytide static set", "keytide ticket generate", "keytide ticket set":
		cmd.ValidArgsFunction = a.names(ringNames, 1)
	case "keytide host show", "keytide host revoke":
		cmd.ValidArgsFunction = a.names(hostNames, 1)
	}
	for flag, fn := range map[string]cobra.CompletionFunc{
		"output": cobra.FixedCompletions([]cobra.Completion{"json", "table"}, cobra.ShellCompDirectiveNoFileComp),
		"retain": cobra.FixedCompletions([]cobra.Completion{"auto"}, cobra.ShellCompDirectiveNoFileComp),
		"ring":   a.names(ringNames, 0),
		"mode":   cobra.FixedCompletions([]cobra.Completion{"dynamic", "static"}, cobra.ShellCompDirectiveNoFileComp),
		"what":   cobra.FixedCompletions([]cobra.Completion{"static", "ticket", "static,ticket"}, cobra.ShellCompDirectiveNoFileComp),
		"region": a.names(regionNames, 0),
	} {
		if cmd.Flags().Lookup(flag) != nil && !(flag == "region" && cmd.CommandPath() != "keytide status") {
			cmd.RegisterFlagCompletionFunc(flag, fn) // fails for a flag that is not there alone
		}
	}
	for _, sub := range cmd.Commands() {
		a.complete(sub)
	}
}

// names completes from what the server knows; for arguments, up to most of them. A
// server that does not answer at once gives no names: there is nowhere to say why.
func (a *app) names(list lister, most int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if most > 0 && len(args) >= most {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		client, err := a.client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer client.Close()
		ctx, cancel := context.WithTimeout(cmd.Context(), completeTime)
		defer cancel()
		return slices.DeleteFunc(list(ctx, client), func(name cobra.Completion) bool {
			return !strings.HasPrefix(name, begun)
		}), cobra.ShellCompDirectiveNoFileComp
	}
}

func ringNames(ctx context.Context, client *adminhttp.Client) (names []cobra.Completion) {
	rings, _ := client.Rings(ctx) // none after an error
	for _, r := range rings.Rings {
		names = append(names, cobra.CompletionWithDesc(r.Name, "changed by "+r.LastEvent.Type+" at "+stamp(r.LastEvent.At)))
	}
	return names
}

func hostNames(ctx context.Context, client *adminhttp.Client) (names []cobra.Completion) {
	hosts, _ := client.Hosts(ctx)
	for _, h := range hosts.Hosts {
		names = append(names, cobra.CompletionWithDesc(h.Name, hostState(h)+", has "+list(h.Rings)))
	}
	return names
}

func regionNames(ctx context.Context, client *adminhttp.Client) (names []cobra.Completion) {
	status, _ := client.Status(ctx)
	for _, v := range status.Servers {
		if !slices.Contains(names, v.Region) {
			names = append(names, v.Region)
		}
	}
	return names
}
