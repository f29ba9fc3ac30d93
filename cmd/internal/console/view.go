package console

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

// A view is what the templates show.
type view struct {
	Build, Actor, Server string
	Store                string
	Epoch                keystore.Epoch
	N                    keystore.N
	Tag, Live            string
	At                   moment
	Verdict              verdict
	Alarms               []alarmView
	Rings                []ringView
	RingCount            int
	First, Last          int    // the rings of this page, from 1
	Previous, Next       string // where other pages begin
	Servers              []serverView
	Events               []eventView
}

// Reload is how often a page without a script reloads, in seconds.
func (v *view) Reload() int { return int(agesEvery / time.Second) }

// A verdict says at one glance whether somebody has to do something.
type verdict struct {
	Level  string // good, warn, bad
	Title  string
	Points []string
}

// verdictOf looks for what is wrong, the worst first.
func verdictOf(s adminapi.Status) verdict {
	standing, fresh, agents, behind := 0, 0, 0, 0
	for _, a := range s.Alarms {
		if a.Ended.IsZero() {
			standing++
		}
	}
	var bad, warn []string
	if standing > 0 {
		bad = append(bad, count(standing, "alarm stands", "alarms stand"))
	}
	for _, each := range s.Servers {
		agents, behind = agents+each.Agents, behind+each.AgentsBehind
		text := fmt.Sprintf("server %s is %s", each.ID, each.State)
		switch level(each) {
		case "good":
			fresh++
		case "warn":
			if each.Excluded {
				text += ", and excluded: rollovers do not wait for it"
			}
			warn = append(warn, text)
		default:
			bad = append(bad, text)
		}
	}
	for _, r := range s.Rings {
		if len(r.HeldBy) > 0 {
			warn = append(warn, fmt.Sprintf("ring %s waits for %s to confirm version %d", r.Name, strings.Join(r.HeldBy, ", "), r.Version))
		}
	}
	if behind > 0 {
		warn = append(warn, count(behind, "agent has", "agents have")+" not been given the newest keys")
	}
	if ended := len(s.Alarms) - standing; ended > 0 {
		warn = append(warn, count(ended, "alarm of the last day has ended", "alarms of the last day have ended"))
	}
	switch {
	case len(bad) > 0:
		return verdict{Level: "bad", Title: "Somebody has to act", Points: append(bad, warn...)}
	case len(warn) > 0:
		return verdict{Level: "warn", Title: "Worth a look", Points: warn}
	}
	return verdict{Level: "good", Title: "All is well", Points: []string{
		count(fresh, "policy server fresh", "policy servers fresh"), upToDate(agents), "no alarms",
	}}
}

// upToDate says that no agent is behind.
func upToDate(agents int) string {
	if agents == 0 {
		return "no agents connected"
	}
	return count(agents, "agent connected, with the newest keys", "agents connected, all with the newest keys")
}

func count(n int, one, many string) string {
	switch n {
	case 0:
		return "no " + many
	case 1:
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// level says how bad a server's state is. Of one that ended in order, or that is
// excluded, an administrator knows.
func level(s adminapi.Server) string {
	switch {
	case s.State == events.Stopped.String(), s.Excluded:
		return "warn"
	case s.State == events.Fresh.String():
		return "good"
	}
	return "bad"
}

type serverView struct {
	adminapi.Server
	Level  string
	Proof  string // when it last could prove that it is up to date
	Behind keystore.N
	Clock  string // its offset, where it matters
}

func serversView(s adminapi.Status) []serverView {
	views := make([]serverView, len(s.Servers))
	for i, each := range s.Servers {
		v := serverView{Server: each, Level: level(each), Proof: brief(time.Duration(each.AgeMS)*time.Millisecond) + " ago"}
		if each.N < s.N {
			v.Behind = s.N - each.N
		}
		if off := time.Duration(each.ClockOffsetMS) * time.Millisecond; off.Abs() >= time.Second {
			v.Clock = fmt.Sprintf("%+.1f s", off.Seconds())
		}
		views[i] = v
	}
	return views
}

type alarmView struct {
	adminapi.Alarm
	Level        string
	Since, Ended moment
}

// alarmsView puts those that stand first, and the newest first of each.
func alarmsView(alarms []adminapi.Alarm, now time.Time) []alarmView {
	views := make([]alarmView, len(alarms))
	for i, a := range alarms {
		views[i] = alarmView{Alarm: a, Level: "bad", Since: moment{a.Since, now}, Ended: moment{a.Ended, now}}
		if !a.Ended.IsZero() {
			views[i].Level = "warn"
		}
	}
	slices.SortStableFunc(views, func(a, b alarmView) int {
		return cmp.Or(cmp.Compare(a.Level, b.Level), b.Alarm.Since.Compare(a.Alarm.Since))
	})
	return views
}

type eventView struct {
	adminapi.HistoryEvent
	Ring, What string
	At         moment
}

func eventsView(ring string, events []adminapi.HistoryEvent, now time.Time) []eventView {
	views := make([]eventView, len(events))
	for i, e := range events {
		views[i] = eventView{HistoryEvent: e, Ring: ring, What: whatOf(e), At: moment{e.At, now}}
	}
	return views
}

// whatOf says in words what an event did.
func whatOf(e adminapi.HistoryEvent) string {
	text := strings.ReplaceAll(e.Type, "_", " ")
	if e.Trigger != "" {
		text = e.Trigger + " rollover"
	}
	if e.Forced {
		text += ", forced"
	}
	if !e.Slot.IsZero() {
		text += ", slot " + e.Slot.UTC().Format("2 Jan 15:04")
	}
	if len(e.HeldBy) > 0 {
		text += ", by " + strings.Join(e.HeldBy, ", ")
	}
	if n := len(e.Gone); n > 0 && e.Trigger != "" {
		text += ", " + count(n, "key destroyed", "keys destroyed")
	}
	return text
}

// A moment is a time as the page shows it: in UTC, beside the time of the page.
// The zero time is one that has not come.
type moment struct{ t, now time.Time }

func (m moment) IsZero() bool { return m.t.IsZero() }

// ISO is the time for programs.
func (m moment) ISO() string { return m.t.UTC().Format(time.RFC3339) }

// Clock is the time of the day.
func (m moment) Clock() string { return m.t.UTC().Format("15:04:05") }

// String leaves out today's date, and the year where nobody can mistake it.
func (m moment) String() string {
	t := m.t.UTC()
	switch {
	case t.Truncate(day).Equal(m.now.UTC().Truncate(day)):
		return m.Clock()
	case m.now.Sub(m.t).Abs() > 180*day:
		return t.Format("2 Jan 2006 15:04")
	}
	return t.Format("2 Jan 15:04:05")
}

// Ago is how long ago it was, or in how long it will be.
func (m moment) Ago() string {
	if d := m.now.Sub(m.t); d >= 0 {
		return brief(d) + " ago"
	}
	return "in " + brief(m.t.Sub(m.now))
}

// brief writes a duration with one or two units.
func brief(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + brief(-d)
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d days", int(d/day))
}
