package console

import (
	"fmt"
	"strings"
	"time"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

const maxNames = 6 // hosts that a ring names

// A ringView is a ring as the page shows it.
type ringView struct {
	adminapi.Ring
	Since   moment // the last rollover; zero: none that is known
	Policy  policyView
	Allowed bool     // a rollover now
	Soonest moment   // when min_interval allows one, if that is what refuses it
	Refused string   // why else it is refused
	HeldBy  []string // servers, and by how much they are behind
	Slot    moment   // the schedule's next rollover; zero: none
	Reach   adminapi.Reach
	Keys    []keyView
	Ticks   []tick

	events []eventView
}

// NowX is where now is on the time lines.
func (ringView) NowX() string { return percent(nowAt) }

// Lacking names the hosts whose agents lack the newest state, the first few of them.
func (r ringView) Lacking() string {
	names := r.Reach.Lacking
	if len(names) <= maxNames {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:maxNames], ", "), len(names)-maxNames)
}

// Holding names the servers that hold the next rollover.
func (r ringView) Holding() string { return strings.Join(r.HeldBy, "; ") }

// A policyView has durations without their noughts.
type policyView struct{ MaxSession, Retain, MinInterval, Schedule string }

// A keyView is one row of a ring's table.
type keyView struct {
	Role, Word                string
	KID                       string
	Seals, Pending, Destroyed bool
	Made, From, To, End       moment // End: destroyed, or kept until then at least
	Spans                     []span
	EndX                      string // of a destroyed key
}

// bars are a key's time line.
type bars struct {
	NowX  string
	Ticks []tick
	Spans []span
	EndX  string
}

// On puts a key onto its ring's time line.
func (k keyView) On(r ringView) bars {
	return bars{NowX: r.NowX(), Ticks: r.Ticks, Spans: k.Spans, EndX: k.EndX}
}

// roleWords are what the page calls the roles.
var roleWords = map[string]string{"session_ticket": "session ticket"}

// makeRing joins a ring with its past.
func makeRing(ring adminapi.Ring, p past, now time.Time) ringView {
	at := func(t time.Time) moment { return moment{t, now} }
	v := ringView{Ring: ring, events: eventsView(ring.Name, p.events, now), Policy: policyView{
		MaxSession: short(ring.Policy.MaxSession), Retain: ring.Policy.Retain,
		MinInterval: short(ring.Policy.MinInterval), Schedule: ring.Policy.Schedule,
	}, Slot: at(ring.NextSlot)}
	line := newScale(now, dynamicTimes(ring, p)...)
	v.Ticks = line.ticks()
	for _, k := range ordered(ring.Keys) {
		l := p.lives[k.KID]
		kept := keptUntil(ring.Policy, k.Role, l)
		v.Keys = append(v.Keys, keyView{
			Role: k.Role, Word: wordOf(k.Role), KID: k.KID, Seals: k.Seals, Pending: k.Pending,
			Made: at(l.made), From: at(l.from), To: at(l.to), End: at(kept), Spans: line.spans(k.Role, l, kept),
		})
		if k.Role == keystore.Current.String() && ring.Version > 1 {
			v.Since = at(l.from)
		}
	}
	for _, l := range p.gone {
		v.Keys = append(v.Keys, keyView{
			Role: "destroyed", Word: "destroyed", KID: l.kid, Destroyed: true,
			Made: at(l.made), From: at(l.from), To: at(l.to), End: at(l.destroyed),
			Spans: line.spans("destroyed", l, time.Time{}), EndX: percent(line.at(l.destroyed)),
		})
	}
	return v
}

func wordOf(role string) string {
	if word, ok := roleWords[role]; ok {
		return word
	}
	return role
}

// ordered puts the keys in the order of time, the next one first: future, current,
// old with the newest first, and then those that last.
func ordered(keys []adminapi.Key) []adminapi.Key {
	var out []adminapi.Key
	for _, role := range []string{"future", "current", "old", "static", "session_ticket"} {
		for _, k := range keys {
			if k.Role == role {
				out = append(out, k)
			}
		}
	}
	for _, k := range keys {
		if kindOf[k.Role] == "" && k.Role != "future" && k.Role != "current" && k.Role != "old" {
			out = append(out, k)
		}
	}
	return out
}

// dynamicTimes are when the keys that roll over were made. Those that last would
// press the others together.
func dynamicTimes(ring adminapi.Ring, p past) []time.Time {
	var times []time.Time
	for _, k := range ring.Keys {
		if kindOf[k.Role] == "" {
			times = append(times, p.lives[k.KID].made)
		}
	}
	for _, l := range p.gone {
		times = append(times, l.made)
	}
	return times
}

// keptUntil is how long an old key is kept at the least: longer where a server has
// not confirmed what replaced it, or where max_session was longer once. A ring that
// keeps a number of old keys destroys them when it rolls over, whenever that will be.
func keptUntil(p adminapi.Policy, role string, l life) time.Time {
	session, err := time.ParseDuration(p.MaxSession)
	if role != keystore.Old.String() || l.to.IsZero() || p.Retain != keystore.RetainAuto.String() || err != nil {
		return time.Time{}
	}
	return l.to.Add(session + keystore.RetainMargin)
}

// short leaves out the units of a duration that are nought: 8h0m0s is 8h.
func short(duration string) string {
	text := duration
	for _, nought := range []struct{ unit, less string }{{"m0s", "m"}, {"h0m", "h"}} {
		if rest, ok := strings.CutSuffix(text, nought.unit); ok {
			text = rest + nought.less
		}
	}
	return text
}

// refused says why a rollover is not allowed now.
func (r *ringView) refused(why *adminapi.Problem) {
	interval, err := time.ParseDuration(r.Ring.Policy.MinInterval)
	if why.Name() == "rollover-too-soon" && !r.Since.IsZero() && err == nil {
		r.Soonest = moment{r.Since.t.Add(interval), r.Since.now}
		return
	}
	r.Refused = strings.TrimPrefix(why.Detail, "ring "+r.Name+": ")
}
