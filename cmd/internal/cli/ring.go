package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/keystore/adminapi"
)

func (a *app) ringCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "ring", Short: "List, show, create, set and delete rings"}
	cmd.AddCommand(a.ringList(), a.ringShow(), a.ringCreate(), a.ringSet(), a.ringDelete())
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
	fields := [][2]string{
		{"ring", r.Name},
		{"version", fmt.Sprintf("%d (epoch %d)", r.Version, r.Epoch)},
		{"mode", modeText(r)},
		{"max session", r.Policy.MaxSession},
		{"retain", r.Policy.Retain},
		{"min interval", r.Policy.MinInterval},
		{"schedule", r.Policy.Schedule},
	}
	if r.Policy.Schedule != manual {
		fields = append(fields, [2]string{"time zone", r.Policy.TZ}, [2]string{"blackout", cmp.Or(strings.Join(r.Policy.Blackout, " "), "-")},
			[2]string{"max hold", r.Policy.MaxHold}, [2]string{"next slot", slotText(r.NextSlot, r.Policy.TZ)})
	}
	if len(r.Policy.GuardAgents) > 0 {
		fields = append(fields, [2]string{"guard agents", list(r.Policy.GuardAgents)})
	}
	if r.Hold != nil {
		fields = append(fields, [2]string{"held", fmt.Sprintf("slot %s, since %s, by %s", stamp(r.Hold.Slot), stamp(r.Hold.Since), list(r.Hold.By))})
	}
	if r.Incident != nil {
		fields = append(fields, [2]string{"incident", fmt.Sprintf("emergency rollover of event %d at %s: not everybody has confirmed it", r.Incident.N, stamp(r.Incident.At))})
	}
	printFields(w, append(fields, [2]string{"last event", fmt.Sprintf("%d %s %s %s", r.LastEvent.N, r.LastEvent.Type, stamp(r.LastEvent.At), r.LastEvent.ID)})...)
	fmt.Fprintln(w)
	printKeys(w, r.Keys)
}

func printKeys(w io.Writer, keys []adminapi.Key) {
	rows := make([][]string, len(keys))
	for i, k := range keys {
		does := "opens"
		switch {
		case k.Pending:
			does = "opens; published, not sealed with yet"
		case k.Seals:
			does = "seals and opens"
		case k.Role == "session_ticket" && !k.RetiredAt.IsZero():
			does = "opens session tickets"
		case k.Role == "session_ticket":
			does = "seals session tickets"
		}
		rows[i] = []string{k.Role, k.KID, stamp(k.CreatedAt), does}
	}
	printTable(w, []string{"ROLE", "KID", "CREATED", "DOES"}, rows)
}

// forcedPolicy is what a forced policy costs.
const forcedPolicy = "A forced policy may end sessions before their time."

func (a *app) ringCreate() *cobra.Command {
	cmd := &cobra.Command{Use: "create NAME", Short: "Create a ring with new keys", Args: oneName}
	out, change, policy := outputFlag(cmd), changeFlags(cmd), newPolicyFlags(cmd)
	mode := newModeFlags(cmd)
	force := cmd.Flags().Bool("force", false, "take a policy that may log users out")
	cmd.RunE = a.call(func(ctx context.Context, client *adminhttp.Client, args []string) error {
		req := adminapi.CreateRing{Intent: change.intent(), Name: args[0], Force: *force}
		var err error
		if req.Policy, _, err = policy.change(); err != nil {
			return err
		}
		if *force {
			if err := change.confirm(a, args[0], forcedPolicy); err != nil {
				return err
			}
		}
		done, err := client.CreateRing(ctx, req)
		if err == nil && mode.mode == "static" {
			done, err = mode.set(ctx, client, change, args[0])
		}
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
	mode := newModeFlags(cmd)
	force := cmd.Flags().Bool("force", false, "take a policy that may log users out")
	cmd.RunE = a.call(func(ctx context.Context, client *adminhttp.Client, args []string) error {
		req := adminapi.SetPolicy{Intent: change.intent(), Force: *force}
		var given int
		var err error
		if req.Policy, given, err = policy.change(); err != nil {
			return err
		}
		if given == 0 && mode.mode == "" {
			return usagef(cmd, "nothing to set")
		}
		mode.force = *force
		if *force {
			if err := change.confirm(a, args[0], forcedPolicy); err != nil {
				return err
			}
		}
		var done adminapi.RingChanged
		if given > 0 {
			done, err = client.SetPolicy(ctx, args[0], req)
		}
		if err == nil && mode.mode != "" {
			done, err = mode.set(ctx, client, change, args[0])
		}
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

func (a *app) ringDelete() *cobra.Command {
	cmd := &cobra.Command{Use: "delete NAME", Short: "End a ring and destroy all its keys", Args: oneName}
	out, change := outputFlag(cmd), changeFlags(cmd)
	force := cmd.Flags().Bool("force", false, "delete it although hosts are granted it")
	cmd.RunE = a.call(func(ctx context.Context, client *adminhttp.Client, args []string) error {
		ring, err := client.Ring(ctx, args[0])
		if err != nil {
			return err
		}
		what := fmt.Sprintf("All %d keys of ring %s would be destroyed, for good: every cookie and session ticket that they sealed is refused from then on.",
			len(ring.Keys), ring.Name)
		if err := change.confirm(a, args[0], what); err != nil {
			return err
		}
		done, err := client.DeleteRing(ctx, args[0], adminapi.DeleteRing{Intent: change.intent(), Force: *force})
		if err != nil {
			return err
		}
		return out.print(a.Stdout, done, func(w io.Writer) { printDeleted(w, done) })
	})
	return cmd
}

func printDeleted(w io.Writer, done adminapi.RingDeleted) {
	printEvent(w, done.N, done.ID)
	fmt.Fprintf(w, "ring %s is deleted; destroyed: %s\n", done.Ring, list(done.Destroyed))
	if len(done.Hosts) > 0 {
		fmt.Fprintf(w, "still granted the name: %s; a new ring of this name would be theirs\n", list(done.Hosts))
	}
}
