package main

import (
	"encoding/json"
	"errors"
	"html/template"
	"net/http"
	"strings"

	"github.com/keytide/keytide/agentfeed/cookie"
)

// refuse answers a request without a session, or one for which there is no key. In
// the second case the cookie stays: it may be good.
func (a *app) refuse(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case errors.Is(err, cookie.ErrNoCookie):
		if reason := cookie.ReasonOf(err); reason != 0 {
			a.log.Debug("cookie refused", "reason", reason.String())
			if err := a.sessions.Clear(w, r); err != nil {
				a.log.Error("cookie not cleared", "err", err)
			}
		}
		status := http.StatusUnauthorized
		if r.Method == http.MethodGet && !wantsJSON(r) {
			status = http.StatusOK // the page with the form
		}
		a.write(w, r, status, view{Error: "not logged in"})
	case errors.Is(err, cookie.ErrNoKey):
		w.Header().Set("Retry-After", "1")
		a.write(w, r, http.StatusServiceUnavailable, view{Error: "no keys yet"})
	default:
		a.log.Error("request failed", "path", r.URL.Path, "err", err)
		a.write(w, r, http.StatusInternalServerError, view{Error: "internal error"})
	}
}

// answer shows the session, or says why there is none.
func (a *app) answer(w http.ResponseWriter, r *http.Request, held cookie.Held[session], err error) {
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	a.reply(w, r, viewOf(held))
}

// reply shows v; to a browser that sent a form, after it has been sent to the page.
func (a *app) reply(w http.ResponseWriter, r *http.Request, v view) {
	if r.Method == http.MethodPost && !wantsJSON(r) {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	a.write(w, r, http.StatusOK, v)
}

// write writes v as the client wants it.
func (a *app) write(w http.ResponseWriter, r *http.Request, status int, v view) {
	v.Ring = a.ringView()
	w.Header().Set("Cache-Control", "no-store")
	if wantsJSON(r) {
		writeJSON(w, status, v)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	if err := page.Execute(w, v); err != nil {
		a.log.Debug("page not written", "err", err)
	}
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client is gone: nobody to tell
}

func wantsJSON(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Accept"), "application/json")
}

var page = template.Must(template.New("page").Parse(`<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Keytide example</title>
<style>
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 40rem; margin: 3rem auto; padding: 0 1rem; }
dt { opacity: .7; } dd { margin: 0 0 .5rem; } code { font-size: .95em; } form { display: inline; }
</style>
<h1>Keytide example</h1>
{{if .LoggedIn}}
<p>Hello <b>{{.User}}</b>. You have counted to <b>{{.Count}}</b>.</p>
<form method="post" action="/count"><button>Count</button></form>
<form method="post" action="/logout"><button>Log out</button></form>
<dl>
<dt>Session</dt><dd>since {{.Issued.Format "2006-01-02 15:04:05 MST"}}, until {{.Expires.Format "2006-01-02 15:04:05 MST"}}</dd>
<dt>Your cookie came sealed with key</dt><dd><code>{{.OpenedBy}}</code></dd>
<dt>It is now sealed with key</dt><dd><code>{{.SealedBy}}</code>{{if .Resealed}} (sealed anew: the ring has rolled over){{end}}</dd>
{{else}}
{{with .Error}}<p>{{.}}</p>{{end}}
<form method="post" action="/login">
<label>Name <input name="user" required maxlength="64" autofocus></label> <button>Log in</button>
</form>
<dl>
{{end}}
<dt>Ring</dt><dd>{{with .Ring}}{{if .Version}}{{.Name}}, epoch {{.Epoch}}, version {{.Version}}, sealing with <code>{{.Sealing}}</code>{{else}}no keys yet{{end}}{{end}}</dd>
</dl>
</html>
`))
