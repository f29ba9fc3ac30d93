package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// pictures names the folder that the console's pictures are written to; without it
// they go with the test's own.
const pictures = "KEYTIDE_PICTURES"

var looks = []struct {
	width  int64
	scheme string
}{{1400, "light"}, {1400, "dark"}, {400, "light"}, {400, "dark"}}

// TestConsole signs in with a real browser, follows rollovers on a page that is
// never reloaded, and loses the server.
func TestConsole(t *testing.T) {
	s := startSite(t)
	b := startBrowser(t, s)
	b.do(chromedp.Navigate("https://" + s.admin + "/"))
	b.until(`document.querySelector("#token")`)
	b.lookAtAll(t, "sign-in")
	token, err := os.ReadFile(filepath.Join(s.dir, "admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	b.do(chromedp.SendKeys(chromedp.CSS("#token"), strings.TrimSpace(string(token))), chromedp.Click(chromedp.CSS("form button")))
	b.until(version(1))
	b.until(`document.querySelector("#connection").dataset.state === "live"`)
	b.until(`document.querySelector("#verdict h2").innerText === "All is well"`)

	eval[bool](b, "window.sameDocument = true")
	startWebapp(t, s.output, s.host(t, "web-1"))
	agent := startSidecar(t, s.output, s.host(t, "web-2"))
	b.until(`document.querySelector("#ring-sso .facts").innerText.includes("2 connected, all up to date")`)
	s.keytide(t, "rollover", "sso", "--yes", "--reason", "a key that a laptop held is lost")
	b.until(version(2))
	s.keytide(t, "ring", "create", "partners", "--yes")
	b.until(`document.querySelector("#ring-partners")`)
	b.until(`[...document.querySelectorAll("main > section")].map((s) => s.id).join() === "verdict,ring-partners,ring-sso,servers,events"`)
	s.keytide(t, "rollover", "sso", "--yes", "--force")
	b.until(version(3))
	b.until(`document.querySelector("#announce").innerText === "Ring sso is now at version 3."`)
	ring := s.ring(t)
	if got := eval[string](b, `document.querySelector("#ring-sso tr.current code").innerText`); got != ring.current() {
		t.Errorf("the page says that %s is current, and keytide that %s is", got, ring.current())
	}
	if !eval[bool](b, "window.sameDocument === true") {
		t.Error("the page was reloaded")
	}
	b.lookAtAll(t, "console")
	agent.collect(t, 3)
	b.showsNoSecret(t, s.output, string(token), agent.secrets)
	b.heldWhileSelected(t, s)
	b.restsWhileHidden(t, s)
	b.worksWithoutScript(t)
	for _, fault := range b.complaints() {
		t.Error(fault)
	}
	b.noticesViolations(t)
	b.losesServer(t, s)
}

// version is true of a page that shows ring sso at a version.
func version(n int) string {
	return fmt.Sprintf(`document.querySelector("#ring-sso[data-version='%d'] .version strong")?.innerText === "%d"`, n, n)
}

// lookAtAll takes pictures, and finds what is too wide or too pale.
func (b *browser) lookAtAll(t *testing.T, name string) {
	t.Helper()
	dir := os.Getenv(pictures)
	if dir == "" {
		dir = t.TempDir()
	}
	for _, l := range looks {
		b.look(l.width, l.scheme)
		if wide := eval[int](b, "document.documentElement.scrollWidth"); wide > int(l.width) {
			t.Errorf("%s: %d wide on a screen of %d", name, wide, l.width)
		}
		for _, pale := range eval[[]string](b, paleTexts) {
			t.Errorf("%s, %s: contrast below 4.5: %s", name, l.scheme, pale)
		}
		b.picture(filepath.Join(dir, fmt.Sprintf("%s-%d-%s.png", name, l.width, l.scheme)))
	}
}

// paleTexts lists the texts whose colour is too near to what is behind them
// (WCAG 2.2, 1.4.3).
const paleTexts = `(() => {
	const parse = (c) => { const n = c.match(/[\d.]+/g).map(Number); return n.length === 3 ? [...n, 1] : n; };
	const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
		.reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
	const behind = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c[3] === 1) return c; } return [255, 255, 255, 1]; };
	const pale = [];
	const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	while (walker.nextNode()) {
		const e = walker.currentNode.parentElement, style = getComputedStyle(e);
		if (!walker.currentNode.data.trim() || !e.getClientRects().length || e.closest(".unseen, noscript, script")) continue;
		const a = light(parse(e.closest("svg") ? style.fill : style.color)), b = light(behind(e));
		const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
		if (ratio < 4.5) pale.push(ratio.toFixed(2) + " " + walker.currentNode.data.trim());
	}
	return pale;
})()`

// showsNoSecret: neither the page nor a log has the bytes of a key that an agent
// holds, or the token.
func (b *browser) showsNoSecret(t *testing.T, output *transcript, token string, keys map[string][]byte) {
	t.Helper()
	page := eval[string](b, "document.documentElement.outerHTML")
	if len(keys) < 3 || !strings.Contains(page, "ring-sso") {
		t.Fatalf("there is nothing to search, or nothing to search for: %d keys", len(keys))
	}
	for _, text := range []string{page, output.String()} {
		if strings.Contains(text, strings.TrimSpace(token)) {
			t.Error("the admin token is shown")
		}
		for kid, key := range keys {
			for form, spelling := range spellings(key) {
				if strings.Contains(text, string(spelling)) {
					t.Errorf("the bytes of key %s are shown, in spelling %d", kid, form)
				}
			}
		}
	}
}

// heldWhileSelected: what an operator is about to copy does not change below the
// mouse.
func (b *browser) heldWhileSelected(t *testing.T, s *site) {
	t.Helper()
	eval[chromedp.Void](b, `getSelection().selectAllChildren(document.querySelector("#ring-sso tr.current code"))`)
	s.keytide(t, "rollover", "sso", "--yes", "--force")
	b.until(`document.querySelector("#events td").innerText === "` + fmt.Sprint(s.events(t)) + `"`)
	b.until(`document.querySelector("#age").innerText.includes("text is selected")`)
	if !eval[bool](b, version(3)) {
		t.Error("a selected part was exchanged")
	}
	eval[chromedp.Void](b, `getSelection().removeAllRanges()`)
	b.until(version(4))
}

// restsWhileHidden: a page that nobody sees asks for nothing, and catches up when
// it is seen again.
func (b *browser) restsWhileHidden(t *testing.T, s *site) {
	t.Helper()
	visible := func(state string) {
		eval[chromedp.Void](b, `Object.defineProperty(document, "visibilityState", {value: "`+state+`", configurable: true});
			document.dispatchEvent(new Event("visibilitychange"))`)
	}
	visible("hidden")
	s.keytide(t, "rollover", "sso", "--yes", "--force")
	if !eval[bool](b, version(4)) {
		t.Error("a hidden page goes on asking")
	}
	visible("visible")
	b.until(version(5))
	b.until(`document.querySelector("#connection").dataset.state === "live"`)
}

// events is the number of the newest event.
func (s *site) events(t *testing.T) uint64 {
	t.Helper()
	return decode[statusView](t, s.keytide(t, "status", "-o", "json")).N
}

func (b *browser) worksWithoutScript(t *testing.T) {
	t.Helper()
	call(b, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	b.do(chromedp.Reload())
	words, err := chromedp.Run(b.ctx, chromedp.Text(chromedp.CSS("body")))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Ring sso", "version 5", "again every 10 s", "All is well"} {
		if !strings.Contains(words, want) {
			t.Errorf("without a script the page does not say %q: %s", want, words)
		}
	}
	call(b, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{})
	b.do(chromedp.Reload())
	b.until(`document.querySelector("#connection").dataset.state === "live"`)
}

// noticesViolations shows that a policy that is violated is noticed, and so that
// none was before.
func (b *browser) noticesViolations(t *testing.T) {
	t.Helper()
	eval[chromedp.Void](b, `document.body.setAttribute("style", "color: red")`)
	eventually(t, "a violation", func() error {
		if found, _ := json.Marshal(b.complaints()); strings.Contains(string(found), "Content Security Policy") {
			return nil
		}
		return fmt.Errorf("complaints: %q", b.complaints())
	})
}

// losesServer: the page says so at once, stays readable, says how old it is, and
// what to do when the server is back and has forgotten who was signed in.
func (b *browser) losesServer(t *testing.T, s *site) {
	t.Helper()
	s.kill()
	b.until(`document.querySelector("#connection").dataset.state === "lost"`)
	b.until(`/The policy server does not answer.*stood at [0-9:]{8} UTC; it is [0-9]+ s old/.test(document.querySelector("#lost").innerText)`)
	if !eval[bool](b, version(5)) {
		t.Error("the page does not show the last that it knew")
	}
	b.lookAtAll(t, "lost")
	s.restart(t)
	b.until(`document.querySelector("#connection").dataset.state === "ended"`)
	b.do(chromedp.Click(chromedp.CSS("#again")))
	b.until(`document.querySelector("#token")`)
}
