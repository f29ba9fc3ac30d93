package hub

import (
	"cmp"
	"io"
	"mime"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/keytide/keytide/agentfeed/internal/wire"
	"github.com/keytide/keytide/keystore"
)

const (
	// reportLife is how long a report counts: agents report every 5 min give or take a
	// minute, and within a minute of a change.
	reportLife = 7*time.Minute + 30*time.Second
	// maxReports bounds what is remembered, some 500 bytes each.
	maxReports = 1 << 16
	// reportGrace is how old a version may be for agents that have not reported it to be
	// behind: they say so within a minute.
	reportGrace = 90 * time.Second
	bodyTimeout = 10 * time.Second // until the body of a report is here
)

// A Report is what an agent last said of itself.
type Report struct {
	Host      string
	Run       string // this start of the agent
	Agent     string // the program and its version
	State     string
	Transport string
	Epoch     keystore.Epoch // of the key store, as the agent holds it
	N         keystore.N     // the event of the key store that it holds
	Rings     []RingVersion
	Failures  []Failure // outputs that do not follow the rings
	At        time.Time // when it came
	Late      bool      // it lacks a version that is older than its time to say so
}

// A RingVersion is a version of a ring that an agent uses.
type RingVersion struct {
	Name    keystore.RingName
	Epoch   keystore.Epoch
	Version keystore.Version
}

// A Failure is an output that does not follow the rings.
type Failure struct{ Output, Error string }

// reports holds the newest report of each run of each host's agents.
type reports struct {
	mu    sync.Mutex // guards the fields below
	hosts map[string][]Report
	count int
	due   line // what agents must have reported by now
}

// A line is the versions that agents must have: those of a state that is older than
// reportGrace. It holds no keys.
type line struct {
	settled, next map[keystore.RingName]RingVersion
	since         time.Time // when next was the newest
}

// move brings the line up to now.
func (l *line) move(state *State, now time.Time) {
	if state == nil || l.next != nil && now.Sub(l.since) < reportGrace {
		return
	}
	l.settled, l.since = l.next, now
	l.next = make(map[keystore.RingName]RingVersion, len(state.Rings))
	for name, set := range state.Rings {
		l.next[name] = RingVersion{name, set.Epoch, set.Version}
	}
}

// late reports whether an agent uses less than it must by now.
func (l *line) late(r Report) bool {
	return len(r.Failures) > 0 || slices.ContainsFunc(r.Rings, func(has RingVersion) bool {
		must, ok := l.settled[has.Name]
		return ok && (must.Epoch > has.Epoch || must.Epoch == has.Epoch && must.Version > has.Version)
	})
}

// put takes a report in place of the former one of its run. It returns false if there
// are too many.
func (rs *reports) put(r Report, perHost int) bool {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.hosts == nil {
		rs.hosts = make(map[string][]Report)
	}
	rs.purge(r.Host, r.At)
	of := slices.DeleteFunc(rs.hosts[r.Host], func(o Report) bool { return o.Run == r.Run })
	if len(of) >= perHost {
		of = slices.Delete(of, 0, 1) // the oldest
	}
	rs.count += len(of) - len(rs.hosts[r.Host])
	if rs.hosts[r.Host] = of; rs.count >= maxReports {
		for host := range rs.hosts {
			rs.purge(host, r.At)
		}
	}
	if rs.count >= maxReports {
		return false
	}
	rs.hosts[r.Host] = append(rs.hosts[r.Host], r)
	rs.count++
	return true
}

// purge forgets those of a host that do not count any more. It needs mu.
func (rs *reports) purge(host string, now time.Time) {
	before := len(rs.hosts[host])
	left := slices.DeleteFunc(rs.hosts[host], func(r Report) bool { return now.Sub(r.At) > reportLife })
	rs.count += len(left) - before
	if rs.hosts[host] = left; len(left) == 0 {
		delete(rs.hosts, host)
	}
}

// counted are the reports of a host that count, the oldest first: those of agents that
// poll, and of others the newest, as many as the host has streams here. So an agent that
// was started anew, or has gone elsewhere, is not waited for.
func counted(all []Report, streams int, now time.Time) []Report {
	var list []Report
	for _, r := range slices.Backward(all) {
		switch {
		case now.Sub(r.At) > reportLife:
		case r.Transport != "stream":
			list = append(list, r)
		case streams > 0:
			streams--
			list = append(list, r)
		}
	}
	slices.Reverse(list)
	return list
}

// A tally is what is known of one host's agents here.
type tally struct {
	streams, behind int // open, and not given the newest state
	reports         []Report
}

// tallies are those of all hosts that have streams or reports.
func (h *Hub) tallies() map[string]*tally {
	state, _ := h.config.Source.Watch()
	now := time.Now()
	hosts := make(map[string]*tally)
	of := func(host string) *tally {
		if hosts[host] == nil {
			hosts[host] = new(tally)
		}
		return hosts[host]
	}
	h.slots.each(func(s *stream) {
		t := of(s.grant.host)
		t.streams++
		if s.behind(state) {
			t.behind++
		}
	})
	rs := &h.reports
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.due.move(state, now)
	for host := range rs.hosts {
		rs.purge(host, now)
		t := of(host)
		t.reports = counted(rs.hosts[host], t.streams, now)
		for i := range t.reports {
			t.reports[i].Late = rs.due.late(t.reports[i])
		}
	}
	return hosts
}

// late counts the agents of a host that are behind by their own word.
func (t *tally) late() (n int) {
	for _, r := range t.reports {
		if r.Late {
			n++
		}
	}
	return n
}

// Agents counts the agents that are fed here, by their streams, or by their reports
// where they poll; and those of them that are behind: that have not been given the
// newest state, or lack by their own word what they had the time for, or have outputs
// that fail.
func (h *Hub) Agents() (connected, behind int) {
	for _, t := range h.tallies() {
		connected += max(t.streams, len(t.reports))
		behind += max(t.behind, t.late())
	}
	return connected, behind
}

// Reports lists the reports that count, by host.
func (h *Hub) Reports() (list []Report) {
	for _, t := range h.tallies() {
		list = append(list, t.reports...)
	}
	slices.SortStableFunc(list, func(a, b Report) int { return cmp.Compare(a.Host, b.Host) })
	return list
}

// Applied says of each of these hosts which event of the key store all its agents that
// are fed here have applied, by their own word: 0 where one has outputs that fail, or
// has not reported while others have. A host of which nothing is known here is left out.
func (h *Hub) Applied(hosts []string, epoch keystore.Epoch) map[string]keystore.N {
	if len(hosts) == 0 {
		return nil
	}
	known := h.tallies()
	applied := make(map[string]keystore.N)
	for _, host := range hosts {
		t := known[host]
		if t == nil || t.streams == 0 && len(t.reports) == 0 {
			continue // its agents are gone from here: what they said proves nothing of where they are now
		}
		least := ^keystore.N(0)
		for _, r := range t.reports {
			if r.Epoch != epoch || len(r.Failures) > 0 {
				least = 0
			}
			least = min(least, r.N)
		}
		if len(t.reports) < t.streams {
			least = 0
		}
		applied[host] = least
	}
	return applied
}

// serveReport takes in what an agent says of itself.
func (h *Hub) serveReport(w http.ResponseWriter, r *http.Request) {
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
	defer http.NewResponseController(w).SetReadDeadline(time.Time{})
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, wire.MaxReport))
	if err != nil {
		h.refuse(w, r, nil, *badRequest("its body cannot be read, or is too long"))
		return
	}
	g := &grant{body: wire.BodyHash(body)}
	if p := h.admitAs(r, g); p != nil {
		h.turnAway(w, r, g, *p)
		return
	}
	prove(r)
	if p := h.report(g, r, body); p != nil {
		h.refuse(w, r, g, *p)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (h *Hub) report(g *grant, r *http.Request, body []byte) *wire.Problem {
	if media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); media != "application/json" {
		return badRequest("want Content-Type: application/json")
	}
	said, err := wire.ParseReport(body)
	if err != nil {
		return badRequest(err.Error())
	}
	host, p := h.hostOf(g)
	if p != nil {
		return p
	}
	report, err := reported(host, said)
	if err != nil {
		return badRequest(err.Error())
	}
	if !h.reports.put(report, h.config.MaxStreams) {
		return problem(wire.TooManyRequests)
	}
	return nil
}

// reported keeps of a report what is about rings that the host has.
func reported(host Host, said wire.Report) (Report, error) {
	at, err := wire.ParsePosition(said.V)
	if err != nil {
		return Report{}, err
	}
	r := Report{Host: host.Name, Run: said.Run, Agent: said.Agent, State: said.State, Transport: said.Transport, Epoch: at.Keys.Epoch, N: at.Keys.N, At: time.Now()}
	for _, ring := range said.Rings {
		if i := slices.Index(host.Rings, ring.Name); i >= 0 {
			r.Rings = append(r.Rings, RingVersion{host.Rings[i], ring.Epoch, ring.Version})
		}
	}
	for _, f := range said.Failures {
		r.Failures = append(r.Failures, Failure(f))
	}
	return r, nil
}

func badRequest(detail string) *wire.Problem {
	p := problem(wire.BadRequest)
	p.Detail = detail
	return p
}
