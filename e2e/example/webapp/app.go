package main

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"time"

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
	ring   cookie.Ring
	codec  *cookie.Codec
	secure bool
	log    *slog.Logger
}

func newApp(ring cookie.Ring, secure bool, log *slog.Logger) (http.Handler, error) {
	codec, err := cookie.New(cookie.Config{Ring: ring, Name: cookieName, Context: "webapp"})
	if err != nil {
		return nil, err
	}
	a := &app{ring: ring, codec: codec, secure: secure, log: log}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", a.show)
	mux.HandleFunc("POST /login", a.login)
	mux.HandleFunc("POST /count", a.count)
	mux.HandleFunc("POST /logout", a.logout)
	mux.HandleFunc("GET /healthz", a.health)
	return http.NewCrossOriginProtection().Handler(mux), nil
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

// errNoSession: the request has no cookie, or none that counts.
var errNoSession = errors.New("not logged in")

// open returns the session that the request's cookie holds.
func (a *app) open(r *http.Request) (session, cookie.Opened, error) {
	c, err := r.Cookie(cookieName)
	if err != nil {
		return session{}, cookie.Opened{}, errNoSession
	}
	opened, err := a.codec.OpenString(nil, c.Value)
	if errors.Is(err, cookie.ErrBadToken) {
		a.log.Debug("cookie refused", "reason", cookie.ReasonOf(err).String())
		return session{}, cookie.Opened{}, errNoSession
	}
	if err != nil {
		return session{}, cookie.Opened{}, err
	}
	var s session
	if err := json.Unmarshal(opened.Payload, &s); err != nil {
		return session{}, cookie.Opened{}, errNoSession
	}
	return s, opened, nil
}

// show shows the session. A cookie whose key no longer seals is sealed anew on the
// way: the session goes on, and ends when it would have.
func (a *app) show(w http.ResponseWriter, r *http.Request) {
	s, opened, err := a.open(r)
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	v := view{session: s, OpenedBy: opened.KID, SealedBy: opened.KID, Resealed: opened.Reseal}
	if opened.Reseal {
		if v.SealedBy, err = a.reseal(w, opened); err != nil {
			a.refuse(w, r, err)
			return
		}
	}
	a.answer(w, r, v.of(opened))
}

func (v view) of(opened cookie.Opened) view {
	v.LoggedIn, v.Issued = true, opened.Issued
	v.Expires, _ = opened.Expires()
	return v
}

func (a *app) login(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 4096)
	user := strings.TrimSpace(r.PostFormValue("user"))
	if user == "" || len(user) > maxUser {
		a.write(w, r, http.StatusBadRequest, view{Error: "a name has 1 to 64 characters"})
		return
	}
	s := session{User: user}
	payload, err := json.Marshal(s)
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	token, err := a.codec.Seal(nil, payload)
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	opened, err := a.codec.Open(nil, token) // its times, as every agent will see them
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	a.set(w, token, opened)
	a.answer(w, r, view{session: s, SealedBy: opened.KID}.of(opened))
}

// count changes the session: the same token with another payload, and so the same
// end.
func (a *app) count(w http.ResponseWriter, r *http.Request) {
	s, opened, err := a.open(r)
	if err != nil {
		a.refuse(w, r, err)
		return
	}
	v := view{OpenedBy: opened.KID, Resealed: opened.Reseal}
	s.Count++
	if opened.Payload, err = json.Marshal(s); err != nil {
		a.refuse(w, r, err)
		return
	}
	if v.SealedBy, err = a.reseal(w, opened); err != nil {
		a.refuse(w, r, err)
		return
	}
	v.session = s
	a.answer(w, r, v.of(opened))
}

func (a *app) logout(w http.ResponseWriter, r *http.Request) {
	a.forget(w)
	a.answer(w, r, view{})
}

// health says whether sessions can be opened and sealed.
func (a *app) health(w http.ResponseWriter, _ *http.Request) {
	v, status := a.ringView(), http.StatusOK
	if v.Sealing == (keystore.KID{}) {
		status = http.StatusServiceUnavailable
	}
	writeJSON(w, status, v)
}

// reseal sets the cookie anew and returns the key that sealed it.
func (a *app) reseal(w http.ResponseWriter, opened cookie.Opened) (keystore.KID, error) {
	token, err := a.codec.Reseal(nil, opened)
	if err != nil {
		return keystore.KID{}, err
	}
	explained, err := cookie.Explain(string(token))
	if err != nil {
		return keystore.KID{}, err
	}
	a.set(w, token, opened)
	return explained.KID, nil
}

func (a *app) set(w http.ResponseWriter, token []byte, opened cookie.Opened) {
	c := a.cookie(string(token))
	c.Expires, _ = opened.Expires()
	http.SetCookie(w, c)
}

func (a *app) forget(w http.ResponseWriter) {
	c := a.cookie("")
	c.MaxAge = -1
	http.SetCookie(w, c)
}

func (a *app) cookie(value string) *http.Cookie {
	return &http.Cookie{
		Name: cookieName, Value: value, Path: "/",
		HttpOnly: true, Secure: a.secure, SameSite: http.SameSiteLaxMode,
	}
}
