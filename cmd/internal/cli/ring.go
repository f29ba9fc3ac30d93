package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/keystore/adminapi"
)

func (a *app) ringCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "ring", Short: "List, show, create and set rings"}
	cmd.AddCommand(a.ringList(), a.ringShow(), a.ringCreate(), a.ringSet())
	return cmd
}

func (a *app) ringList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List the rings", Args: cobra.NoArgs}
	out := outputFlag(cmd)
	cmd.RunE = a.call(func(ctx context.Context, client *adminhttp.Client, _ []string) error {
		rings, err := client.Rings(ctx)
		if err != nil {
			return err
		}
		return out.print(a.Stdout, rings, func(w io.Writer) { printRings(w, rings.Rings) })
	})
	return cmd
}

func printRings(w io.Writer, rings []adminapi.Ring) {
	rows := make([][]string, len(rings))
	for i, r := range rings {
		rows[i] = []string{
			r.Name, strconv.FormatUint(uint64(r.Version), 10), r.Mode, strconv.Itoa(len(r.Keys)),
			stamp(r.LastEvent.At), r.LastEvent.Type,
		}
	}
	printTable(w, []string{"RING", "VERSION", "MODE", "KEYS", "CHANGED", "BY"}, rows)
}

func (a *app) ringShow() *cobra.Command {
	cmd := &cobra.Command{Use: "show NAME", Short: "Show a ring: its keys and its policy", Args: oneName}
	out := outputFlag(cmd)
	cmd.RunE = a.call(func(ctx context.Context, client *adminhttp.Client, args []string) error {
		ring, err := client.Ring(ctx, args[0])
		if err != nil {
			return err
		}
		return out.print(a.Stdout, ring, func(w io.Writer) { printRing(w, ring) })
	})
	return cmd
}

func printRing(w io.Writer, r adminapi.Ring) {
	printFields(w,
		[2]string{"ring", r.Name},
		[2]string{"version", fmt.Sprintf("%d (epoch %d)", r.Version, r.Epoch)},
		[2]string{"mode", r.Mode},
		[2]string{"max session", r.Policy.MaxSession},
		[2]string{"retain", r.Policy.Retain},
		[2]string{"min interval", r.Policy.MinInterval},
		[2]string{"schedule", r.Policy.Schedule},
		[2]string{"last event", fmt.Sprintf("%d %s %s %s", r.LastEvent.N, r.LastEvent.Type, stamp(r.LastEvent.At), r.LastEvent.ID)},
	)
	fmt.Fprintln(w)
	printKeys(w, r.Keys)
}

func printKeys(w io.Writer, keys []adminapi.Key) {
	rows := make([][]string, len(keys))
	for i, k := range keys {
		does := "opens"
		switch {
		case k.Seals:
			does = "seals and opens"
		case k.Role == "session_ticket":
			does = "seals session tickets"
		}
		rows[i] = []string{k.Role, k.KID, stamp(k.CreatedAt), does}
	}
	printTable(w, []string{"ROLE", "KID", "CREATED", "DOES"}, rows)
}

// policyFlags are the flags of ring create and ring set that make a policy.
type policyFlags struct {
	cmd         *cobra.Command
	maxSession  time.Duration
	retain      string
	minInterval time.Duration
	manual      bool
}

func newPolicyFlags(cmd *cobra.Command) *policyFlags {
	p := &policyFlags{cmd: cmd}
	flags := cmd.Flags()
	flags.DurationVar(&p.maxSession, "max-session", 0, "the longest that a session may live (`DURATION`, default 8h)")
	flags.StringVar(&p.retain, "retain", "", "how many old keys to keep (`auto|N`, default auto: as long as their sessions live)")
	flags.DurationVar(&p.minInterval, "min-interval", 0, "the least time between two rollovers (`DURATION`, default 1h)")
	flags.BoolVar(&p.manual, "manual", false, "roll over by hand only (the default)")
	return p
}

// change returns the flags that were given.
func (p *policyFlags) change() (adminapi.PolicyChange, int) {
	var c adminapi.PolicyChange
	given := 0
	set := func(flag, value string, field **string) {
		if p.cmd.Flags().Changed(flag) {
			*field = &value
			given++
		}
	}
	set("max-session", p.maxSession.String(), &c.MaxSession)
	set("retain", p.retain, &c.Retain)
	set("min-interval", p.minInterval.String(), &c.MinInterval)
	if p.manual {
		set("manual", "manual", &c.Schedule)
	}
	return c, given
}

func (a *app) ringCreate() *cobra.Command {
	cmd := &cobra.Command{Use: "create NAME", Short: "Create a ring with new keys", Args: oneName}
	out, change, policy := outputFlag(cmd), changeFlags(cmd), newPolicyFlags(cmd)
	cmd.RunE = a.call(func(ctx context.Context, client *adminhttp.Client, args []string) error {
		req := adminapi.CreateRing{Intent: change.intent(), Name: args[0]}
		req.Policy, _ = policy.change()
		done, err := client.CreateRing(ctx, req)
		if err != nil {
			return err
		}
		return out.print(a.Stdout, done, func(w io.Writer) { printChanged(w, done) })
	})
	return cmd
}

func (a *app) ringSet() *cobra.Command {
	cmd := &cobra.Command{Use: "set NAME", Short: "Change a ring's policy", Args: oneName}
	out, change, policy := outputFlag(cmd), changeFlags(cmd), newPolicyFlags(cmd)
	force := cmd.Flags().Bool("force", false, "take a policy that may log users out")
	cmd.RunE = a.call(func(ctx context.Context, client *adminhttp.Client, args []string) error {
		req := adminapi.SetPolicy{Intent: change.intent(), Force: *force}
		given := 0
		if req.Policy, given = policy.change(); given == 0 {
			return usagef(cmd, "nothing to set")
		}
		if *force {
			if err := change.confirm(a, args[0], "A forced policy may end sessions before their time."); err != nil {
				return err
			}
		}
		done, err := client.SetPolicy(ctx, args[0], req)
		if err != nil {
			return err
		}
		return out.print(a.Stdout, done, func(w io.Writer) { printChanged(w, done) })
	})
	return cmd
}

func printChanged(w io.Writer, done adminapi.RingChanged) {
	printEvent(w, done.N, done.ID)
	fmt.Fprintln(w)
	printRing(w, done.Ring)
}
