package main

import (
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/agentfeed/cookie"
	"github.com/keytide/keytide/keystore"
)

const (
	cookieName = "session"
	maxUser    = 64 // characters of a name
)

// A session is all that there is about a user. It is nowhere but in the cookie.
type session struct {
	User  string `json:"user"`
	Count int    `json:"count"`
}

// An app is the web application.
type app struct {
	ring     cookie.Ring
	status   func() agentfeed.Status // of what feeds the ring
	sessions *cookie.Cookie[session]
	log      *slog.Logger
}

func newApp(ring cookie.Ring, status func() agentfeed.Status, secure bool, log *slog.Logger) (http.Handler, error) {
	sessions, err := cookie.NewCookie[session](cookie.HTTPConfig{
		Config:   cookie.Config{Ring: ring, Name: cookieName, Context: "webapp"},
		Insecure: !secure,
	})
	if err != nil {
		return nil, err
	}
	a := &app{ring: ring, status: status, sessions: sessions, log: log}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", a.show)
	mux.HandleFunc("POST /login", a.login)
	mux.HandleFunc("POST /count", a.count)
	mux.HandleFunc("POST /logout", a.logout)
	mux.HandleFunc("GET /healthz", a.health)
	return http.NewCrossOriginProtection().Handler(sessions.Middleware(mux)), nil
}

// A view is what an answer shows, as JSON or as a page.
type view struct {
	session
	LoggedIn bool         `json:"logged_in"`
	Issued   time.Time    `json:"issued,omitzero"`    // when the session began
	Expires  time.Time    `json:"expires,omitzero"`   // when it ends
	OpenedBy keystore.KID `json:"opened_by,omitzero"` // the key of the cookie that came
	SealedBy keystore.KID `json:"sealed_by,omitzero"` // the key of the cookie that the browser has now
	Resealed bool         `json:"resealed"`           // because the ring had rolled over
	Ring     ringView     `json:"ring"`
	Error    string       `json:"error,omitempty"`
}

type ringView struct {
	Name    keystore.RingName `json:"name"`
	Epoch   keystore.Epoch    `json:"epoch"`
	Version keystore.Version  `json:"version"`
	Sealing keystore.KID      `json:"sealing,omitzero"` // the key that seals now
}

func (a *app) ringView() ringView {
	set := a.ring.Snapshot()
	if set == nil {
		return ringView{}
	}
	v := ringView{Name: set.Ring, Epoch: set.Epoch, Version: set.Version}
	if k, ok := set.Sealing(); ok {
		v.Sealing = k.KID
	}
	return v
}

// viewOf shows the session. A cookie whose key no longer seals was sealed anew by the
// middleware: the session goes on, and ends when it would have.
func viewOf(h cookie.Held[session]) view {
	return view{session: h.Value, LoggedIn: true, Issued: h.Issued, Expires: h.Expires,
		OpenedBy: h.OpenedBy, SealedBy: h.SealedBy, Resealed: h.Resealed}
}

func (a *app) show(w http.ResponseWriter, r *http.Request) {
	held, err := a.sessions.Get(r)
	a.answer(w, r, held, err)
}

func (a *app) login(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 4096)
	user := strings.TrimSpace(r.PostFormValue("user"))
	if user == "" || len(user) > maxUser {
		a.write(w, r, http.StatusBadRequest, view{Error: "a name has 1 to 64 characters"})
		return
	}
	held, err := a.sessions.Set(w, r, session{User: user})
	a.answer(w, r, held, err)
}

// count changes the session, which keeps its end.
func (a *app) count(w http.ResponseWriter, r *http.Request) {
	held, err := a.sessions.Get(r)
	if err == nil {
		held.Value.Count++
		held, err = a.sessions.Update(w, r, held.Value)
	}
	a.answer(w, r, held, err)
}

func (a *app) logout(w http.ResponseWriter, r *http.Request) {
	if err := a.sessions.Clear(w, r); err != nil {
		a.refuse(w, r, err)
		return
	}
	a.reply(w, r, view{})
}

// health says whether sessions can be opened and sealed.
// A healthView says which keys there are, and whether they are known to be current.
// An application with keys is well however old they are: it opens and seals.
type healthView struct {
	ringView
	State     agentfeed.State     `json:"state"`
	Transport agentfeed.Transport `json:"transport,omitempty"`
	AgeMS     int64               `json:"age_ms"` // since the ring was last known to be current
	Error     string              `json:"error,omitempty"`
}

// health answers load balancers and the curious. It must not be reachable for users.
func (a *app) health(w http.ResponseWriter, _ *http.Request) {
	feed, code := a.status(), http.StatusOK
	v := healthView{ringView: a.ringView(), State: feed.State, Transport: feed.Transport, AgeMS: feed.Age.Milliseconds()}
	if err := errors.Join(feed.Err, feed.CacheErr); err != nil {
		v.Error = err.Error()
	}
	if v.Sealing == (keystore.KID{}) {
		code = http.StatusServiceUnavailable
	}
	writeJSON(w, code, v)
}
