package agentfeed

import (
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keytide/keytide/agentfeed/internal/wire"
)

// reportLog counts the reports that a server got, by second.
type reportLog struct {
	http.Handler
	began time.Time

	mu      sync.Mutex // guards the fields below
	seconds map[int]int
	total   int
}

func (l *reportLog) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == wire.ReportTarget {
		l.mu.Lock()
		l.seconds[int(time.Since(l.began)/time.Second)]++
		l.total++
		l.mu.Unlock()
	}
	l.Handler.ServeHTTP(w, r)
}

// take returns how many reports there were, and the most within one second, and begins
// anew.
func (l *reportLog) take() (total, most int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.seconds {
		most = max(most, n)
	}
	total = l.total
	l.total, l.began = 0, time.Now()
	clear(l.seconds)
	return total, most
}

// TestReportsAreNoStorm: after a rollover every agent says within a minute that it has
// applied it, each at a time of its own; then each every five minutes; and one whose
// outputs fail says that, too.
func TestReportsAreNoStorm(t *testing.T) {
	const agents = 60
	inBubble(t, func(t *testing.T) {
		n, s := newPipeNet(), newSource(t)
		h := newHub(t, s)
		log := &reportLog{Handler: h, began: time.Now(), seconds: make(map[int]int)}
		stop := n.serve("ps-1", log)
		var clients []*Client
		var ends []func()
		for range agents {
			client, end := n.client(t, "ps-1")
			clients, ends = append(clients, client), append(ends, end)
		}
		spread := func(when string) {
			t.Helper()
			time.Sleep(reportSpread + time.Second)
			synctest.Wait()
			total, most := log.take()
			if total != agents || most > agents/6 {
				t.Errorf("%s: %d reports in a minute, %d of them in one second; want %d, and %d at most", when, total, most, agents, agents/6)
			}
		}
		spread("when they begin")
		s.set(t, "1.2-1.1", 2)
		spread("after a rollover")
		if got := h.Applied([]string{"web-1"}, 1)["web-1"]; got != 2 {
			t.Errorf("Applied = %d, want event 2 of every agent", got)
		}
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		if total, most := log.take(); total < agents || total > 2*agents || most > agents/6 {
			t.Errorf("%d reports in 6 quiet minutes, %d in one second; want one or two of each of %d agents", total, most, agents)
		}
		clients[0].SetFailures(Failure{Output: "web", Error: "exit status 1\n"})
		time.Sleep(reportSpread + time.Second)
		synctest.Wait()
		failing := 0
		for _, r := range h.Reports() {
			failing += len(r.Failures)
		}
		if _, behind := h.Agents(); failing != 1 || behind != 1 {
			t.Errorf("%d failures and %d agents behind, want the one", failing, behind)
		}
		stop()
		for _, end := range ends {
			end()
		}
	})
}
