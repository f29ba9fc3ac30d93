package console_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func (b *browser) isIn() bool {
	b.tb.Helper()
	resp, _ := b.get("/console/live")
	return resp.StatusCode == http.StatusOK
}

func TestSignInAndOut(t *testing.T) {
	b := newBrowser(t, rolledOver(time.Now()))
	resp := b.signIn("  " + goodToken + "\n")
	b.want(resp, http.StatusSeeOther)
	c := b.cookie
	if !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" || !strings.HasPrefix(c.Name, "__Host-") {
		t.Errorf("the session's cookie is %s", c)
	}
	if c.MaxAge <= 0 || c.MaxAge > 8*60*60 || len(c.Value) < 43 {
		t.Errorf("the session lives %d s, its id has %d characters", c.MaxAge, len(c.Value))
	}
	if !b.isIn() {
		t.Fatal("the cookie does not sign in")
	}
	b.want(b.do(http.MethodPost, "/console/sign-out", url.Values{}), http.StatusSeeOther)
	if b.cookie.MaxAge >= 0 {
		t.Error("the cookie stays in the browser")
	}
	b.cookie = c
	if b.isIn() {
		t.Error("the session outlives its end")
	}
	for _, want := range []string{`msg="console sign-in" actor=alice remote=192.0.2.1:4711`, `msg="console sign-out" actor=alice`} {
		if !strings.Contains(b.log.String(), want) {
			t.Errorf("the log lacks %s:\n%s", want, b.log)
		}
	}
	for _, secret := range []string{goodToken, c.Value} {
		if strings.Contains(b.log.String(), secret) {
			t.Error("the log holds a secret")
		}
	}
}

func TestSigningInAnewEndsTheOldSession(t *testing.T) {
	b := signedIn(t, rolledOver(time.Now()))
	old := b.cookie
	b.want(b.signIn(goodToken), http.StatusSeeOther)
	if b.cookie.Value == old.Value {
		t.Error("two sign-ins got one session")
	}
	b.cookie = old
	if b.isIn() {
		t.Error("the old session lives on")
	}
}

func TestSessionsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := signedIn(t, rolledOver(time.Now()))
		time.Sleep(15*time.Minute - time.Second)
		if !b.isIn() {
			t.Fatal("the session ended before a quarter of an hour without use")
		}
		time.Sleep(15 * time.Minute)
		if b.isIn() {
			t.Fatal("the session lives on a quarter of an hour after its last use")
		}
		b.want(b.signIn(goodToken), http.StatusSeeOther)
		for begun := time.Now(); time.Since(begun) < 8*time.Hour-10*time.Minute; time.Sleep(10 * time.Minute) {
			if !b.isIn() {
				t.Fatalf("the session ended after %v", time.Since(begun))
			}
		}
		time.Sleep(10 * time.Minute)
		if b.isIn() {
			t.Error("the session lives longer than eight hours")
		}
	})
}

// TestSessionsAreBounded: the one used least recently makes room.
func TestSessionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := signedIn(t, rolledOver(time.Now()))
		second := first.other("192.0.2.2:1")
		for i := range 64 {
			b := first.other(fmt.Sprintf("192.0.2.3:%d", i+1))
			if i == 0 {
				b = second
			}
			time.Sleep(time.Second)
			b.want(b.signIn(goodToken), http.StatusSeeOther)
		}
		if first.isIn() {
			t.Error("65 browsers are signed in")
		}
		if !second.isIn() {
			t.Error("a session was taken that was used more recently than another")
		}
	})
}

func TestWrongTokensAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBrowser(t, rolledOver(time.Now()))
		for range 5 {
			resp := b.signIn("keytide_admin_wrong")
			b.want(resp, http.StatusForbidden)
			if page := body(t, resp); !strings.Contains(page, "does not know the token") || strings.Contains(page, "keytide_admin_wrong") {
				t.Errorf("the form says %s", text(page))
			}
			time.Sleep(time.Second) // the log takes one a second
		}
		resp := b.signIn(goodToken)
		b.want(resp, http.StatusTooManyRequests)
		if resp.Header.Get("Retry-After") == "" {
			t.Error("nothing says how long to wait")
		}
		neighbour := b.other("192.0.2.2:4711")
		neighbour.want(neighbour.signIn(goodToken), http.StatusSeeOther)
		if got := strings.Count(b.log.String(), `msg="admin request refused" by=console why=unknown_token remote=192.0.2.1:4711`); got != 5 {
			t.Errorf("the log has %d refusals, want 5:\n%s", got, b.log)
		}
		if strings.Contains(b.log.String(), "keytide_admin") {
			t.Error("the log holds a token")
		}
		time.Sleep(5 * time.Second)
		b.want(b.signIn(goodToken), http.StatusSeeOther)
	})
}

// TestLimitHoldsForWholeSites: an IPv6 site has more addresses than can be counted.
func TestLimitHoldsForWholeSites(t *testing.T) {
	b := newBrowser(t, &fake{})
	for i := range 5 {
		site := b.other(fmt.Sprintf("[2001:db8::%d]:1", i+1))
		site.want(site.signIn("wrong"), http.StatusForbidden)
	}
	site, other := b.other("[2001:db8::ffff]:1"), b.other("[2001:db8:0:1::1]:1")
	site.want(site.signIn("wrong"), http.StatusTooManyRequests)
	other.want(other.signIn("wrong"), http.StatusForbidden)
}

// TestRememberedAddressesAreBounded: whoever comes from many addresses makes the
// server forget the oldest, and nothing else.
func TestRememberedAddressesAreBounded(t *testing.T) {
	b := newBrowser(t, &fake{})
	for i := range 1500 {
		one := b.other(fmt.Sprintf("10.1.%d.%d:1", i/250, i%250))
		one.want(one.signIn("wrong"), http.StatusForbidden)
	}
	last := b.other("10.1.5.249:1")
	for range 4 {
		last.want(last.signIn("wrong"), http.StatusForbidden)
	}
	last.want(last.signIn("wrong"), http.StatusTooManyRequests)
}

func TestOtherOriginsAreRefused(t *testing.T) {
	b := newBrowser(t, rolledOver(time.Now()))
	for name, value := range map[string]string{"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.test"} {
		b.header = http.Header{name: {value}}
		b.want(b.signIn(goodToken), http.StatusForbidden)
		if b.cookie != nil {
			t.Errorf("a form of another origin (%s) signed in", name)
		}
	}
	b.header = http.Header{"Sec-Fetch-Site": {"same-origin"}, "Origin": {"https://keytide.test"}}
	b.want(b.signIn(goodToken), http.StatusSeeOther)
}

func TestFormsAreBounded(t *testing.T) {
	b := newBrowser(t, &fake{})
	b.want(b.signIn(strings.Repeat("x", 5<<10)), http.StatusBadRequest)
}
