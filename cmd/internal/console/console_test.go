package console_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keytide/keytide/cmd/internal/console"
	"github.com/keytide/keytide/keystore/adminapi"
)

func signedIn(t *testing.T, f *fake) *browser {
	t.Helper()
	b := newBrowser(t, f)
	b.want(b.signIn(goodToken), http.StatusSeeOther)
	return b
}

// text is a page's words alone.
func text(page string) string {
	words := regexp.MustCompile(`<[^>]*>`).ReplaceAllString(page, " ")
	return strings.Join(strings.Fields(words), " ")
}

func wantText(t *testing.T, page string, wants ...string) {
	t.Helper()
	words := text(page)
	for _, want := range wants {
		if !strings.Contains(words, want) {
			t.Errorf("the page does not say %q:\n%s", want, words)
		}
	}
}

func TestPageShowsEveryKeyByRole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, page := signedIn(t, rolledOver(time.Now())).get("/")
		wantText(t, page,
			"All is well 1 policy server fresh 2 agents connected, all with the newest keys no alarms",
			"Ring sso version 3 rolled over 60 min ago", "2 connected, all up to date", "manual, allowed now",
			"max session 8h", "min interval 1h",
			"future "+kid(6)+" made 31 Dec 23:00:00", "current seals "+kid(5)+" made 31 Dec 21:00:00",
			"old "+kid(2), "static "+kid(3), "session ticket "+kid(4), "destroyed "+kid(1),
			"end not before 07:05:00", "dev-1 local fresh", "manual rollover, forced, 1 key destroyed",
		)
		if strings.Contains(page, "<script>alert") {
			t.Error("a reason's markup is the page's")
		}
	})
}

func TestEveryPageIsGuarded(t *testing.T) {
	f := rolledOver(time.Now())
	b := newBrowser(t, f)
	inline := regexp.MustCompile(`(?i)<style|<script[^>]*>[^<]|\sstyle=|\son[a-z]+=|javascript:`)
	check := func(target string, status int) {
		resp, page := b.get(target)
		b.want(resp, status)
		if csp := resp.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
			t.Errorf("%s: Content-Security-Policy is %q", target, csp)
		}
		if resp.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s lacks nosniff", target)
		}
		if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") {
			if resp.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%s may be kept: %s", target, resp.Header.Get("Cache-Control"))
			}
			if found := inline.FindString(page); found != "" {
				t.Errorf("%s holds %q inline", target, found)
			}
		}
	}
	check("/", http.StatusOK)
	check("/console/live", http.StatusUnauthorized)
	b.want(b.signIn("wrong"), http.StatusForbidden)
	b.want(b.signIn(goodToken), http.StatusSeeOther)
	for _, target := range []string{"/", "/console/live", "/console/console.css", "/console/console.js", "/console/icon.svg"} {
		check(target, http.StatusOK)
	}
	check("/console/nothing", http.StatusNotFound)
	check("/console/sign-in", http.StatusMethodNotAllowed)
}

func TestNothingIsShownWithoutSession(t *testing.T) {
	b := newBrowser(t, rolledOver(time.Now()))
	for _, target := range []string{"/", "/console/live"} {
		if _, page := b.get(target); strings.Contains(page, kid(5)) || strings.Contains(page, "main") && target != "/" {
			t.Errorf("%s shows the key store to anybody", target)
		}
	}
}

func TestPageSaysWhatIsWrong(t *testing.T) {
	now := time.Now()
	f := rolledOver(now)
	f.status.N = 9
	f.status.Servers = []adminapi.Server{
		{ID: "dev-1", Region: "local", State: "stale", N: 9, AgeMS: 65_000, Agents: 2, AgentsBehind: 1, Why: "no beacon for 65 s"},
		{ID: "ap-1", Region: "ap", State: "fresh", N: 7, ClockOffsetMS: -2500},
	}
	f.status.Rings[0].HeldBy = []string{"ap-1"}
	f.status.Alarms = []adminapi.Alarm{
		{Ledger: "keys", Kind: "tampering", Key: "ring.sso", Text: "not the value that event 4 put", Since: now.Add(-time.Hour), Ended: now},
		{Ledger: "keys", Kind: "fork", Text: "two events 5", Since: now.Add(-time.Minute)},
	}
	f.lacking = strings.Fields("web-1 web-2 web-3 web-4 web-5 web-6 web-7 web-8")
	_, page := signedIn(t, f).get("/")
	wantText(t, page,
		"Somebody has to act 1 alarm stands server dev-1 is stale ring sso waits for ap-1 to confirm version 3 1 agent has not been given",
		"no beacon for 65 s", "last proof 65 s ago", "2 behind", "-2.5 s", "held by ap-1", "behind: web-1, web-2, web-3, web-4, web-5, web-6 and 2 more",
		"fork in ledger keys: two events 5", "tampering in ledger keys, ring.sso : not the value that event 4 put",
	)
	if strings.Index(page, "two events 5") > strings.Index(page, "not the value") {
		t.Error("an alarm that ended comes before one that stands")
	}
}

// TestServersThatAreAway: of one that ended in order, and of one that is excluded, an
// administrator knows; how far another is behind is told.
func TestServersThatAreAway(t *testing.T) {
	now := time.Now()
	f := rolledOver(now)
	since := now.Add(-2 * time.Minute)
	f.status.Servers = append(f.status.Servers,
		adminapi.Server{ID: "us-1", Region: "us", State: "stopped", N: 5, Why: "it ended in order"},
		adminapi.Server{ID: "ap-1", Region: "ap", State: "stale", N: 3, Why: "excluded by event 4", Excluded: true},
		adminapi.Server{ID: "sa-1", Region: "sa", State: "fresh", N: 3},
	)
	f.status.Rings[0].HeldBy = []string{"sa-1"}
	f.status.Rings[0].Behind = []adminapi.Behind{{Server: "sa-1", Region: "sa", Applied: 3, Needs: 5, By: 2, Since: since}}
	_, page := signedIn(t, f).get("/")
	wantText(t, page,
		"Worth a look server us-1 is stopped server ap-1 is stale, and excluded: rollovers do not wait for it ring sso waits for sa-1 to confirm version 3",
		"stale excluded", "held by sa-1, 2 events behind since "+console.When(since, now),
	)
}

func TestRefusedRolloverIsExplained(t *testing.T) {
	f := rolledOver(time.Now())
	f.refused = &adminapi.Problem{Type: adminapi.ProblemPrefix + "ring-full", Detail: "ring sso: 64 old keys"}
	_, page := signedIn(t, f).get("/")
	wantText(t, page, "manual, not now: 64 old keys")

	f.rings[0].Policy.MinInterval = "2h"
	f.refused = &adminapi.Problem{Type: adminapi.ProblemPrefix + "rollover-too-soon", Detail: "ring sso: rollover refused"}
	_, page = signedIn(t, f).get("/")
	wantText(t, page, "manual, not before "+console.When(f.history["sso"][2].At.Add(2*time.Hour), time.Now()))
}

func TestUnknownChangesTellNoTimes(t *testing.T) {
	f := rolledOver(time.Now())
	f.history["sso"] = append(f.history["sso"][:1:1], adminapi.HistoryEvent{N: 4, Type: "undone", At: time.Now(), Version: 3})
	_, page := signedIn(t, f).get("/")
	wantText(t, page, "current seals "+kid(5)+" made", "undone")
	if strings.Contains(text(page), "to now") {
		t.Error("the page tells since when a key is current, which the history does not say")
	}
}

// TestOldKeyBeyondItsTime: a server that lags keeps keys alive for longer.
func TestOldKeyBeyondItsTime(t *testing.T) {
	f := rolledOver(time.Now())
	f.rings[0].Policy.MaxSession = "30m"
	_, page := signedIn(t, f).get("/")
	wantText(t, page, "end not before "+console.When(f.history["sso"][2].At.Add(35*time.Minute), time.Now()))
}

func TestStoreWithoutRings(t *testing.T) {
	_, page := signedIn(t, &fake{status: adminapi.Status{Store: "main"}}).get("/")
	wantText(t, page, "There is no ring yet", "Nothing has happened yet")
}

func TestManyRingsComeInPages(t *testing.T) {
	f := rolledOver(time.Now())
	one := f.rings[0]
	f.rings = nil
	for i := range 30 {
		ring := one
		ring.Name = fmt.Sprintf("ring-%02d", i)
		f.rings = append(f.rings, ring)
	}
	b := signedIn(t, f)
	_, page := b.get("/")
	wantText(t, page, "Rings 1 to 12 of 30", "Ring ring-11")
	if strings.Contains(page, `href="/?from=ring-12"`) == strings.Contains(page, `id="ring-ring-12"`) {
		t.Error("the first page does not lead to the second")
	}
	_, page = b.get("/?from=ring-24")
	wantText(t, page, "Rings 25 to 30 of 30")
	if !strings.Contains(page, `data-live="/console/live?from=ring-24"`) || !strings.Contains(page, `href="/?from=ring-12"`) {
		t.Error("the third page does not follow itself, or does not lead back")
	}
	if n := f.histories.Load(); n != 18 {
		t.Errorf("walked the log %d times for 18 rings", n)
	}
}

func TestLiveAnswersWhatHasChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := rolledOver(time.Now())
		b := signedIn(t, f)
		resp, page := b.get("/console/live")
		b.want(resp, http.StatusOK)
		if strings.Contains(page, "<html") || !strings.HasPrefix(page, "<main") {
			t.Errorf("the answer is not the content alone: %.40s", page)
		}
		tag := resp.Header.Get("ETag")
		b.header.Set("If-None-Match", tag)
		f.status.Servers[0].AgeMS = 400
		resp, _ = b.get("/console/live")
		b.want(resp, http.StatusNotModified)

		f.status.Servers[0].AgentsBehind = 1
		resp, page = b.get("/console/live")
		b.want(resp, http.StatusOK)
		wantText(t, page, "1 agent has not been given")

		b.header.Set("If-None-Match", resp.Header.Get("ETag"))
		time.Sleep(10 * time.Second) // the bubble's: ages have changed by then
		resp, _ = b.get("/console/live")
		b.want(resp, http.StatusOK)
		if n := f.histories.Load(); n != 1 {
			t.Errorf("walked the log %d times although the ring has not changed", n)
		}
	})
}

// TestWalkOutlastsItsBrowser: a long history is read once, however often the script
// gives up on it.
func TestWalkOutlastsItsBrowser(t *testing.T) {
	f := rolledOver(time.Now())
	b := signedIn(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	b.ctx, f.walking = ctx, cancel
	b.get("/console/live")
	b.ctx, f.walking = t.Context(), nil
	_, page := b.get("/")
	wantText(t, page, "current seals "+kid(5))
	if n := f.histories.Load(); n != 1 {
		t.Errorf("walked the log %d times", n)
	}
}

func TestFaultsAreLoggedAndNotShown(t *testing.T) {
	f := rolledOver(time.Now())
	b := signedIn(t, f)
	f.err = errBroken
	for _, target := range []string{"/", "/console/live"} {
		resp, page := b.get(target)
		b.want(resp, http.StatusInternalServerError)
		if strings.Contains(page, errBroken.Error()) || resp.Header.Get("ETag") != "" {
			t.Errorf("%s answered %q with tag %q", target, page, resp.Header.Get("ETag"))
		}
	}
	if got := strings.Count(b.log.String(), errBroken.Error()); got != 2 {
		t.Errorf("the log has the fault %d times, want 2", got)
	}
}

// TestMountTakesItsPathsAlone: all else is another handler's.
func TestMountTakesItsPathsAlone(t *testing.T) {
	b := newBrowser(t, &fake{})
	b.handler.(*http.ServeMux).HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	for _, target := range []string{"/v1/status", "/favicon.ico", "/consoles"} {
		answer := httptest.NewRecorder()
		b.handler.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, target, nil))
		if answer.Code != http.StatusTeapot {
			t.Errorf("%s answered %d", target, answer.Code)
		}
	}
}
