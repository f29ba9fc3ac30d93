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

// manual is the schedule of a ring that rolls over by hand.
const manual = "manual"

// policyFlags are the flags of ring create and ring set that make a policy.
type policyFlags struct {
	cmd         *cobra.Command
	maxSession  time.Duration
	retain      string
	minInterval time.Duration
	every       string
	daily       string
	weekly      string
	cron        string
	manual      bool
	tz          string
	blackout    []string
	maxHold     string
	guardAgents []string
}

func newPolicyFlags(cmd *cobra.Command) *policyFlags {
	p := &policyFlags{cmd: cmd}
	flags := cmd.Flags()
	flags.DurationVar(&p.maxSession, "max-session", 0, "the longest that a session may live (`DURATION`, default 8h)")
	flags.StringVar(&p.retain, "retain", "", "how many old keys to keep (`auto|N`, default auto: as long as their sessions live)")
	flags.DurationVar(&p.minInterval, "min-interval", 0, "the least time between two rollovers (`DURATION`, default 1h)")
	flags.StringVar(&p.every, "every", "", "roll over again and again after this time (`DURATION`, such as 3h)")
	flags.StringVar(&p.daily, "daily", "", "roll over each day at these `TIMES`, such as 02:30,14:30")
	flags.StringVar(&p.weekly, "weekly", "", "roll over each week on `DAYS@TIMES`, such as mon,thu@02:30")
	flags.StringVar(&p.cron, "cron", "", "roll over by a cron `EXPRESSION` of five fields")
	flags.BoolVar(&p.manual, "manual", false, "roll over by hand only (the default)")
	flags.StringVar(&p.tz, "tz", "", "the IANA time `ZONE` of schedule and blackout (default UTC)")
	flags.StringArrayVar(&p.blackout, "blackout", nil, "a `WINDOW` in which no slot falls, such as mon-fri@08:00-18:00; may be given again; none ends all")
	flags.StringVar(&p.maxHold, "max-hold", "", "how long servers that lag may hold a scheduled rollover before they are excluded (`DURATION|none`, default none)")
	flags.StringSliceVar(&p.guardAgents, "guard-agents", nil, "rollovers wait for the agents of these `HOSTS`, too, such as web-1,web-2; none ends it")
	return p
}

// change returns what the flags that were given change, and how many they are.
func (p *policyFlags) change() (c adminapi.PolicyChange, given int, err error) {
	set := func(flag, value string, field **string) {
		if p.cmd.Flags().Changed(flag) {
			*field = &value
			given++
		}
	}
	set("max-session", p.maxSession.String(), &c.MaxSession)
	set("retain", p.retain, &c.Retain)
	set("min-interval", p.minInterval.String(), &c.MinInterval)
	set("tz", p.tz, &c.TZ)
	set("max-hold", p.maxHold, &c.MaxHold)
	if p.cmd.Flags().Changed("guard-agents") {
		hosts := p.guardAgents
		if len(hosts) == 1 && hosts[0] == "none" {
			hosts = []string{}
		}
		c.GuardAgents = &hosts
		given++
	}
	if p.cmd.Flags().Changed("blackout") {
		windows := p.blackout
		if len(windows) == 1 && windows[0] == "none" {
			windows = []string{}
		}
		c.Blackout = &windows
		given++
	}
	var kinds []string
	for _, kind := range []struct{ flag, rule string }{
		{"every", p.every}, {"daily", p.daily}, {"weekly", p.weekly}, {"cron", p.cron},
	} {
		if p.cmd.Flags().Changed(kind.flag) {
			kinds = append(kinds, "--"+kind.flag)
			set(kind.flag, kind.flag+" "+kind.rule, &c.Schedule)
		}
	}
	if p.manual {
		kinds = append(kinds, "--manual")
		set("manual", manual, &c.Schedule)
	}
	if len(kinds) > 1 {
		return c, given, usagef(p.cmd, "%s: want one of them at most", strings.Join(kinds, ", "))
	}
	return c, given, nil
}

// slotText is a slot in UTC and, where that is another, on its zone's clock.
func slotText(slot time.Time, zone string) string {
	if slot.IsZero() {
		return "-"
	}
	location, err := time.LoadLocation(zone)
	if err != nil || zone == time.UTC.String() {
		return stamp(slot)
	}
	return fmt.Sprintf("%s (%s)", stamp(slot), slot.In(location).Format("Mon 2006-01-02 15:04 MST"))
}

func (a *app) scheduleCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "schedule", Short: "Look at when rings roll over by themselves"}
	cmd.AddCommand(a.schedulePreview())
	return cmd
}

func (a *app) schedulePreview() *cobra.Command {
	cmd := &cobra.Command{Use: "preview NAME", Short: "List a ring's next scheduled rollovers", Args: oneName}
	out := outputFlag(cmd)
	var from moment
	cmd.Flags().Var(&from, "from", "from this `TIME` on (RFC 3339; default: the ring's next one)")
	count := cmd.Flags().IntP("count", "n", 10, "how many (`N`)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *count < 1 || *count > 1000 {
			return usagef(cmd, "-n %d: want 1 to 1000", *count)
		}
		return a.call(func(ctx context.Context, client *adminhttp.Client, args []string) error {
			slots, err := client.Slots(ctx, args[0], from.Time, *count)
			if err != nil {
				return err
			}
			ring, err := client.Ring(ctx, args[0])
			if err != nil {
				return err
			}
			return out.print(a.Stdout, slots, func(w io.Writer) { printSlots(w, slots, ring.Policy) })
		})(cmd, args)
	}
	return cmd
}

func printSlots(w io.Writer, s adminapi.Slots, p adminapi.Policy) {
	if len(s.Slots) == 0 {
		fmt.Fprintln(w, "none: the ring rolls over by hand")
	}
	for _, slot := range s.Slots {
		fmt.Fprintln(w, slotText(slot, p.TZ))
	}
}
