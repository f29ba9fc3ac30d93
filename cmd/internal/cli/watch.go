package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

const (
	watchPeriod   = time.Second
	watchPatience = 5 * time.Second // with one answer
)

// A watch shows the status until the command is interrupted: on a terminal as a page
// that is painted anew, elsewhere one line for each change.
type watch struct {
	*app
	out    *output
	region string
	facts  []fact // as they were printed last
}

// A fact is one thing that the status says. What changes all the time, such as an
// age, is none.
type fact struct {
	what, is string
	why      string // changes without the fact's changing
}

func (f fact) String() string {
	if f.why == "" {
		return f.is
	}
	return f.is + ": " + f.why
}

func (w *watch) run(ctx context.Context, client *adminhttp.Client) error {
	ticker := time.NewTicker(watchPeriod)
	defer ticker.Stop()
	for {
		status, err := w.ask(ctx, client)
		if ctx.Err() != nil {
			return nil // being told to stop is how it ends
		}
		if problem := (*adminapi.Error)(nil); errors.As(err, &problem) || errors.Is(err, keystore.ErrNotFound) {
			return err // such as a refused token: waiting does not change it
		}
		if err := w.show(status, err); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (w *watch) ask(ctx context.Context, client *adminhttp.Client) (adminapi.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, watchPatience)
	defer cancel()
	status, err := client.Status(ctx)
	if err != nil {
		return status, err
	}
	return inRegion(status, w.region)
}

func (w *watch) show(status adminapi.Status, err error) error {
	switch {
	case *w.out == "json":
		return w.document(status, err)
	case w.Screen:
		w.paint(status, err)
	default:
		w.lines(status, err)
	}
	return nil
}

// paint clears the screen and writes the page anew, in one write so that it does not
// flicker.
func (w *watch) paint(status adminapi.Status, err error) {
	var page strings.Builder
	page.WriteString("\x1b[H\x1b[2J")
	fmt.Fprintf(&page, "%s  every %v, Ctrl-C ends\n\n", stamp(time.Now()), watchPeriod)
	if err != nil {
		fmt.Fprintf(&page, "%v\n", err)
	} else {
		printStatus(&page, status)
	}
	fmt.Fprint(w.Stdout, page.String())
}

// lines writes what has changed. While nobody answers, what was known before stays:
// it may not have changed.
func (w *watch) lines(status adminapi.Status, err error) {
	now := stamp(time.Now())
	next := append([]fact{{what: "server", is: "answers"}}, factsOf(status)...)
	if err != nil {
		next = append([]fact{{what: "server", is: "does not answer", why: err.Error()}}, w.facts[min(1, len(w.facts)):]...)
	}
	for _, line := range changes(w.facts, next) {
		fmt.Fprintf(w.Stdout, "%s  %s\n", now, line)
	}
	w.facts = next
}

// changes tells of every fact of after that before does not have, and of those that
// are gone.
func changes(before, after []fact) (lines []string) {
	for _, f := range after {
		i := slices.IndexFunc(before, func(b fact) bool { return b.what == f.what })
		switch {
		case i < 0:
			lines = append(lines, f.what+"  "+f.String())
		case before[i].is != f.is:
			lines = append(lines, fmt.Sprintf("%s  %s (was: %s)", f.what, f, before[i].is))
		}
	}
	for _, b := range before {
		if !slices.ContainsFunc(after, func(f fact) bool { return f.what == b.what }) {
			lines = append(lines, b.what+"  is gone")
		}
	}
	return lines
}

func factsOf(s adminapi.Status) []fact {
	facts := []fact{{what: "store " + s.Store, is: fmt.Sprintf("epoch %d, event %d", s.Epoch, s.N)}}
	for _, v := range s.Servers {
		facts = append(facts,
			fact{what: "server " + v.ID + " (" + v.Region + ")", is: v.State, why: v.Why},
			fact{what: "server " + v.ID + " agents", is: fmt.Sprintf("%d, %d of them behind", v.Agents, v.AgentsBehind)})
	}
	for _, r := range s.Rings {
		facts = append(facts, fact{what: "ring " + r.Name, is: fmt.Sprintf("version %d, %s", r.Version, heldBy(r.HeldBy))})
	}
	for _, a := range s.Alarms {
		word := "stands"
		if !a.Ended.IsZero() {
			word = "ended"
		}
		facts = append(facts, fact{what: strings.TrimSpace(fmt.Sprintf("alarm %s %s %s", a.Kind, a.Ledger, a.Key)), is: word, why: a.Text})
	}
	return facts
}

func heldBy(servers []string) string {
	if len(servers) == 0 {
		return "confirmed by every server"
	}
	return "the next rollover is held by " + list(servers)
}

// document writes a line of JSON for each change.
func (w *watch) document(status adminapi.Status, err error) error {
	var v any = status
	next := factsOf(status)
	if err != nil {
		v, next = map[string]string{"error": err.Error()}, []fact{{what: "server", is: "does not answer", why: err.Error()}}
	}
	if w.facts != nil && len(changes(w.facts, next)) == 0 {
		return nil
	}
	w.facts = next
	enc := json.NewEncoder(w.Stdout)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// inRegion leaves the servers of one region; "" is all of them.
func inRegion(s adminapi.Status, region string) (adminapi.Status, error) {
	if region == "" {
		return s, nil
	}
	var regions []string
	all := s.Servers
	s.Servers = []adminapi.Server{}
	for _, v := range all {
		if v.Region == region {
			s.Servers = append(s.Servers, v)
		}
		if !slices.Contains(regions, v.Region) {
			regions = append(regions, v.Region)
		}
	}
	if len(s.Servers) == 0 {
		return s, hint(fmt.Errorf("region %s: %w: no policy server is there", region, keystore.ErrNotFound), "there are regions:  %s", list(regions))
	}
	return s, nil
}
