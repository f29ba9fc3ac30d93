package console

import (
	"strconv"
	"time"

	"github.com/keytide/keytide/keystore/adminapi"
)

// Line gives the spans of a ring's keys by kid, as "kind from-to" in whole per cent,
// and the labels of its ticks.
func Line(ring adminapi.Ring, history []adminapi.HistoryEvent, now time.Time) (spans map[string][]string, ticks []string) {
	v := makeRing(ring, pastOf(ring, history), now)
	spans = make(map[string][]string)
	for _, k := range v.Keys {
		for _, s := range k.Spans {
			spans[k.KID] = append(spans[k.KID], s.Kind+" "+round(s.From)+"-"+round(s.To))
		}
	}
	for _, t := range v.Ticks {
		ticks = append(ticks, t.Label)
	}
	return spans, ticks
}

func round(x float64) string { return strconv.Itoa(int(x + 0.5)) }

// When is a time as the page at now shows it.
func When(t, now time.Time) string { return moment{t, now}.String() }
