package console

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
)

// cookieName's prefix makes browsers take the cookie over HTTPS alone, for this
// host and the whole of it.
const cookieName = "__Host-keytide-console"

// A signInPage is what the form shows.
type signInPage struct{ Build, Error string }

// signedIn returns whose session the request belongs to.
func (c *console) signedIn(r *http.Request) (actor string, ok bool) {
	cookie, err := r.Cookie(cookieName)
	if err != nil {
		return "", false
	}
	return c.sessions.use(cookie.Value, time.Now())
}

// signIn takes an admin token and gives a session for it.
func (c *console) signIn(w http.ResponseWriter, r *http.Request) {
	now := time.Now()
	if wait := c.limiter.wait(r.RemoteAddr, now); wait > 0 {
		seconds := int(wait/time.Second) + 1
		w.Header().Set("Retry-After", strconv.Itoa(seconds))
		c.refuse(w, http.StatusTooManyRequests, fmt.Sprintf("Too many wrong tokens from your address. Try again in %d s.", seconds))
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		c.refuse(w, http.StatusBadRequest, "The form did not arrive whole.")
		return
	}
	actor, ok := c.Tokens.Actor(strings.TrimSpace(r.PostForm.Get("token")))
	if !ok {
		c.limiter.wrong(r.RemoteAddr, now)
		c.Refusals.Note(c.Logger.With("by", "console"), r, adminhttp.UnknownToken)
		c.refuse(w, http.StatusForbidden, "This server does not know the token.")
		return
	}
	c.end(r) // a browser has one session
	c.Logger.Info("console sign-in", "actor", actor, "remote", r.RemoteAddr)
	http.SetCookie(w, sessionCookie(c.sessions.begin(actor, now), int(sessionLife/time.Second)))
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func (c *console) signOut(w http.ResponseWriter, r *http.Request) {
	if actor, ok := c.signedIn(r); ok {
		c.Logger.Info("console sign-out", "actor", actor, "remote", r.RemoteAddr)
	}
	c.end(r)
	http.SetCookie(w, sessionCookie("", -1))
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func (c *console) end(r *http.Request) {
	if cookie, err := r.Cookie(cookieName); err == nil {
		c.sessions.end(cookie.Value)
	}
}

func (c *console) refuse(w http.ResponseWriter, status int, why string) {
	c.write(w, status, "signin", signInPage{Build: c.build, Error: why})
}

// sessionCookie carries a session id for some seconds; fewer than 0 take it away.
func sessionCookie(id string, seconds int) *http.Cookie {
	return &http.Cookie{
		Name: cookieName, Value: id, Path: "/", MaxAge: seconds,
		Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode,
	}
}
