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
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

// A moment is a flag that is a time: RFC 3339, or a duration before now.
type moment struct{ time.Time }

func (m *moment) Type() string { return "TIME" }
func (m *moment) String() string {
	if m.IsZero() {
		return ""
	}
	return stamp(m.Time)
}

func (m *moment) Set(s string) error {
	if at, err := time.Parse(time.RFC3339Nano, s); err == nil {
		m.Time = at
		return nil
	}
	if ago, err := time.ParseDuration(s); err == nil && ago >= 0 {
		m.Time = time.Now().Add(-ago)
		return nil
	}
	return fmt.Errorf("want a time such as 2026-11-22T08:00:00Z, or how long ago, such as 90m")
}

func (a *app) historyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "history NAME", Short: "List a ring's events", Args: oneName}
	out := outputFlag(cmd)
	var since, until moment
	cmd.Flags().Var(&since, "since", "events from this `TIME` on (RFC 3339, or how long ago)")
	cmd.Flags().Var(&until, "until", "events before this `TIME`")
	cmd.RunE = a.call(func(ctx context.Context, client *adminhttp.Client, args []string) error {
		history, err := client.History(ctx, args[0], adminhttp.Span{Since: since.Time, Until: until.Time})
		if err != nil {
			return err
		}
		return out.print(a.Stdout, history, func(w io.Writer) { printHistory(w, history) })
	})
	return cmd
}

func printHistory(w io.Writer, h adminapi.History) {
	rows := make([][]string, len(h.Events))
	for i, e := range h.Events {
		rows[i] = []string{
			strconv.FormatUint(uint64(e.N), 10), stamp(e.At), strconv.FormatUint(uint64(e.Version), 10), whatHappened(e), e.Actor, why(e),
		}
	}
	printTable(w, []string{"EVENT", "AT", "VERSION", "WHAT", "BY", "REASON"}, rows)
}

// whatHappened is an event's type with what tells it from others of its type.
func whatHappened(e adminapi.HistoryEvent) string {
	var more []string
	if e.Trigger != "" && e.Trigger != manual {
		more = append(more, e.Trigger)
	}
	if e.Mode != "" {
		more = append(more, e.Mode+" mode")
	}
	for _, k := range e.Made {
		if e.Type == "key_published" {
			more = append(more, k.Role)
		}
	}
	if e.Forced {
		more = append(more, "forced")
	}
	if len(more) == 0 {
		return e.Type
	}
	return e.Type + " (" + strings.Join(more, ", ") + ")"
}

// why is an event's reason with what belongs to it and may be long: the last column wraps.
func why(e adminapi.HistoryEvent) string {
	var more []string
	if e.Reason != "" {
		more = append(more, e.Reason)
	}
	if len(e.HeldBy) > 0 {
		more = append(more, "by "+strings.Join(e.HeldBy, ", "))
	}
	if !e.Slot.IsZero() {
		more = append(more, "slot "+stamp(e.Slot))
	}
	if e.Missed > 0 {
		more = append(more, fmt.Sprintf("for %d more", e.Missed))
	}
	return strings.Join(more, "; ")
}

func (a *app) replayCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "replay NAME", Short: "Show a ring as it was at a version or time", Args: oneName}
	out := outputFlag(cmd)
	var at moment
	cmd.Flags().Var(&at, "at", "as of this `TIME` (RFC 3339, or how long ago)")
	version := cmd.Flags().Uint64("version", 0, "at this version (`N`)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if cmd.Flags().Changed("at") == cmd.Flags().Changed("version") {
			return usagef(cmd, "wants --at TIME or --version N, one of the two")
		}
		if cmd.Flags().Changed("version") && *version == 0 {
			return usagef(cmd, "--version: versions begin with 1")
		}
		return a.call(func(ctx context.Context, client *adminhttp.Client, args []string) error {
			ring, err := client.Replay(ctx, args[0], adminhttp.Point{Version: keystore.Version(*version), At: at.Time})
			if err != nil {
				return err
			}
			return out.print(a.Stdout, ring, func(w io.Writer) { printRing(w, ring) })
		})(cmd, args)
	}
	return cmd
}
