package hub_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keytide/keytide/agentfeed/hub"
	"github.com/keytide/keytide/agentfeed/internal/wire"
	"github.com/keytide/keytide/keystore"
)

// said is what an agent of web-1 says, having ring sso at a version.
func said(run int, version keystore.Version, transport string, failures ...wire.ReportFailure) wire.Report {
	return wire.Report{Run: fmt.Sprintf("%016x", run), V: fmt.Sprintf("1.%d-1.2", version+1), Agent: "test", State: "fresh", Transport: transport,
		Rings: []wire.ReportRing{{Name: "sso", Epoch: 1, Version: version}, {Name: "not-granted", Epoch: 1, Version: 9}}, Failures: failures}
}

// posting is a POST of a body by web-1, whose MAC covers another one where covered is given.
func posting(t testing.TB, url string, body []byte, covered ...[]byte) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+wire.ReportTarget, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	a := wire.Authorization{Host: "web-1", KID: material(1).KID(), Time: time.Now().Unix(), Nonce: wire.NewNonce(), Body: wire.BodyHash(body)}
	for _, other := range covered {
		a.Body = wire.BodyHash(other)
	}
	if err := a.Sign(material(1), r.Method, wire.ReportTarget); err != nil {
		t.Fatal(err)
	}
	r.RequestURI = wire.ReportTarget
	r.Header.Set("Authorization", a.String())
	r.Header.Set("Content-Type", "application/json")
	return r
}

func encode(t testing.TB, r wire.Report) []byte {
	t.Helper()
	body, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func TestReport(t *testing.T) {
	overEach(t, func(t *testing.T, newBench func(...func(*hub.Config)) *bench) {
		b := newBench()
		post := func(r *http.Request) answer { r.RequestURI = ""; return read(t, b.do(r)) }
		good := encode(t, said(1, 1, "poll", wire.ReportFailure{Output: "web", Error: "exit status 1"}))
		if a := post(posting(t, b.URL, good)); a.StatusCode != http.StatusNoContent || a.body != "" {
			t.Fatalf("a good report: status %d, %q", a.StatusCode, a.body)
		}
		reports := b.hub.Reports()
		for i := range reports {
			reports[i].At = time.Time{}
		}
		want := []hub.Report{{Host: "web-1", Run: fmt.Sprintf("%016x", 1), Agent: "test", State: "fresh", Transport: "poll", Epoch: 1, N: 2, Late: true,
			Rings: []hub.RingVersion{{Name: "sso", Epoch: 1, Version: 1}}, Failures: []hub.Failure{{Output: "web", Error: "exit status 1"}}}}
		if diff := cmp.Diff(want, reports); diff != "" {
			t.Errorf("Reports (-want +got):\n%s", diff)
		}
		twice := posting(t, b.URL, good)
		post(twice)
		twice.Body = io.NopCloser(bytes.NewReader(good))
		for what, c := range map[string]struct {
			request *http.Request
			problem string
		}{
			"other body than the MAC's":  {posting(t, b.URL, good, []byte("{}")), wire.BadMAC},
			"a second time":              {twice, wire.Replayed},
			"no JSON":                    {posting(t, b.URL, []byte("{")), wire.BadRequest},
			"too long":                   {posting(t, b.URL, bytes.Repeat([]byte(" "), wire.MaxReport+1)), wire.BadRequest},
			"control characters":         {posting(t, b.URL, bytes.Replace(good, []byte("exit"), []byte(`\u001b`), 1)), wire.BadRequest},
			"a state that there is not":  {posting(t, b.URL, bytes.Replace(good, []byte("fresh"), []byte("happy"), 1)), wire.BadRequest},
			"a position that is no such": {posting(t, b.URL, bytes.Replace(good, []byte("1.2-1.2"), []byte("1.2"), 1)), wire.BadRequest},
		} {
			if a := post(c.request); a.problem != c.problem {
				t.Errorf("%s: status %d, problem %q; want %q", what, a.StatusCode, a.problem, c.problem)
			}
		}
		if got := len(b.hub.Reports()); got != 1 {
			t.Errorf("%d reports, want 1", got)
		}
	})
}

// A recorder takes an answer without a network.
type recorder struct {
	header http.Header
	status int
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(p []byte) (int, error) { return len(p), nil }

// report has web-1 report, and wants the status.
func report(t testing.TB, h *hub.Hub, want int, r wire.Report) {
	t.Helper()
	w := &recorder{header: http.Header{}, status: http.StatusOK}
	request := posting(t, "https://ps-1", encode(t, r))
	request.RemoteAddr = "192.0.2.1:1"
	h.ServeHTTP(w, request)
	if w.status != want {
		t.Fatalf("a report: status %d, want %d", w.status, want)
	}
}

// TestBehindByReport: an agent is behind when it does not say in time that it has a
// version, or that an output fails; a run that says nothing any more is forgotten.
func TestBehindByReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource()
		h, err := hub.New(hub.Config{Source: s, Server: "ps-1"})
		if err != nil {
			t.Fatal(err)
		}
		defer h.Close(context.Background())
		agents := func(when string, connected, behind int) {
			t.Helper()
			if c, b := h.Agents(); c != connected || b != behind {
				t.Errorf("%s: %d agents, %d of them behind; want %d and %d", when, c, b, connected, behind)
			}
		}
		agents("at first", 0, 0)
		report(t, h, http.StatusNoContent, said(1, 1, "poll"))
		report(t, h, http.StatusNoContent, said(2, 1, "longpoll"))
		agents("two agents", 2, 0)
		if got := h.Applied([]string{"web-1", "late"}, 1); !cmp.Equal(got, map[string]keystore.N{"web-1": 2}) {
			t.Errorf("Applied = %v, want event 2 of web-1", got)
		}
		s.change(func(s *source) {
			s.state.V, s.state.Rings = "1.3-1.2", map[keystore.RingName]*keystore.KeySet{"sso": set("sso", 2)}
		})
		agents("just rolled over", 2, 0)
		report(t, h, http.StatusNoContent, said(1, 2, "poll"))
		for range 10 {
			time.Sleep(20 * time.Second)
			h.Agents() // as for the server's record
		}
		agents("one has not said so in time", 2, 1)
		if got := h.Applied([]string{"web-1"}, 1)["web-1"]; got != 2 {
			t.Errorf("Applied = %d with one agent at event 2 and one at 3, want 2", got)
		}
		report(t, h, http.StatusNoContent, said(2, 2, "poll"))
		agents("it has", 2, 0)
		report(t, h, http.StatusNoContent, said(2, 2, "poll", wire.ReportFailure{Output: "web", Error: "exit status 1"}))
		agents("its output fails", 2, 1)
		if got := h.Applied([]string{"web-1"}, 1)["web-1"]; got != 0 {
			t.Errorf("Applied = %d with an output that fails, want 0", got)
		}
		if got := h.Applied([]string{"web-1"}, 2)["web-1"]; got != 0 {
			t.Errorf("Applied = %d of another epoch, want 0", got)
		}
		time.Sleep(8 * time.Minute)
		if got := h.Applied([]string{"web-1"}, 1); len(got) != 0 {
			t.Errorf("Applied = %v of agents that have said nothing for 8 min, want nothing", got)
		}
		agents("nobody says anything", 0, 0)
		report(t, h, http.StatusNoContent, said(3, 2, "stream"))
		if got := h.Applied([]string{"web-1"}, 1); len(got) != 0 {
			t.Errorf("Applied = %v of an agent whose stream is gone, want nothing", got)
		}
	})
}

// TestReportsAreBounded: a host has as many reports as it may have streams, the newest,
// and all hosts together have a bound.
func TestReportsAreBounded(t *testing.T) {
	h, err := hub.New(hub.Config{Source: newSource(), Server: "ps-1", MaxStreams: 3})
	if err != nil {
		t.Fatal(err)
	}
	for run := range 10 {
		report(t, h, http.StatusNoContent, said(run+1, 1, "poll"))
	}
	reports := h.Reports()
	if len(reports) != 3 || reports[0].Run != fmt.Sprintf("%016x", 8) {
		t.Errorf("%d reports, the first of run %s; want the newest 3", len(reports), reports[0].Run)
	}
	report(t, h, http.StatusNoContent, said(11, 1, "stream"))
	if got, _ := h.Agents(); got != 2 {
		t.Errorf("%d agents; want 2 that poll, and none for a report of a stream that is not here", got)
	}
}

func FuzzReport(f *testing.F) {
	f.Add(encode(f, said(1, 1, "poll", wire.ReportFailure{Output: "web", Error: "exit status 1"})))
	f.Add([]byte(`{"run":"0000000000000001","v":"1.1-1.1","state":"fresh","transport":"poll","rings":null}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := wire.ParseReport(body)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "report: ") {
				t.Errorf("error %v", err)
			}
			return
		}
		again, err := r.Encode()
		if err != nil {
			t.Fatalf("%+v does not encode: %v", r, err)
		}
		back, err := wire.ParseReport(again)
		if err != nil {
			t.Fatalf("%s: %v", again, err)
		}
		want, _ := json.Marshal(r)
		got, _ := json.Marshal(back)
		if r.Rings != nil && !bytes.Equal(want, got) {
			t.Errorf("%s reads back as %s", want, got)
		}
	})
}
