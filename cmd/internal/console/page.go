package console

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

const (
	ringsAPage = 12
	eventsShow = 12
	// agesEvery is how often a page is made anew though nothing has changed but
	// ages; the page without a script reloads as often.
	agesEvery = 10 * time.Second
)

// page shows the console, or to a browser that is not signed in the form.
func (c *console) page(w http.ResponseWriter, r *http.Request) {
	actor, ok := c.signedIn(r)
	if !ok {
		c.write(w, http.StatusOK, "signin", signInPage{Build: c.build})
		return
	}
	v, err := c.read(r, actor)
	if err != nil {
		status, text := c.fault(err)
		http.Error(w, text, status)
		return
	}
	c.write(w, http.StatusOK, "page", v)
}

// live answers the script with the page's content when it is not the one that the
// script has, by its entity tag.
func (c *console) live(w http.ResponseWriter, r *http.Request) {
	actor, ok := c.signedIn(r)
	if !ok {
		http.Error(w, "not signed in", http.StatusUnauthorized)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), readLimit)
	defer cancel()
	status, err := c.Reader.Status(ctx)
	if err == nil {
		tag := tagOf(status, time.Now())
		w.Header().Set("ETag", tag)
		if r.Header.Get("If-None-Match") == tag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		var v *view
		if v, err = c.read(r, actor); err == nil {
			w.Header().Set("ETag", v.Tag)
			c.write(w, http.StatusOK, "main", v)
			return
		}
	}
	w.Header().Del("ETag")
	code, text := c.fault(err)
	http.Error(w, text, code)
}

// fault logs what the page could not be made for.
func (c *console) fault(err error) (status int, text string) {
	if errors.Is(err, context.Canceled) { // the browser has given up
		return http.StatusServiceUnavailable, "cancelled"
	}
	incident := ulid.Make().String()
	c.Logger.Error("console page failed", "incident", incident, "err", err)
	return http.StatusInternalServerError, "The server could not read its state. Its log says more under incident " + incident + "."
}

// tagOf changes with all that the page shows of a status but ages; these count in
// steps.
func tagOf(s adminapi.Status, now time.Time) string {
	s.Servers = slices.Clone(s.Servers)
	for i := range s.Servers {
		s.Servers[i].AgeMS, s.Servers[i].ClockOffsetMS, s.Servers[i].Why = 0, 0, ""
	}
	text, _ := json.Marshal(s) // plain values only
	hash := sha256.Sum256(append(text, now.Truncate(agesEvery).UTC().Format(time.RFC3339)...))
	return `"` + hex.EncodeToString(hash[:12]) + `"`
}

// read collects what the page shows. The tag is that of the status, which is read
// first: a change while the rest is read makes another tag.
func (c *console) read(r *http.Request, actor string) (*view, error) {
	ctx, cancel := context.WithTimeout(r.Context(), readLimit)
	defer cancel()
	now := time.Now()
	status, err := c.Reader.Status(ctx)
	if err != nil {
		return nil, err
	}
	rings, err := c.Reader.Rings(ctx)
	if err != nil {
		return nil, err
	}
	v := &view{
		Build: c.build, Actor: actor, Server: c.Server, Store: status.Store, Epoch: status.Epoch, N: status.N,
		Tag: tagOf(status, now), Live: "/console/live", At: moment{now, now},
		Servers: serversView(status), Alarms: alarmsView(status.Alarms, now),
	}
	shown := v.choose(rings.Rings, r.URL.Query().Get("from"))
	var events []eventView
	for _, ring := range shown {
		rv, err := c.readRing(ctx, ring, now)
		if err != nil {
			return nil, err
		}
		rv.HeldBy = heldBy(status, ring.Name, now)
		v.Rings = append(v.Rings, rv)
		events = append(events, rv.events...)
	}
	slices.SortFunc(events, func(a, b eventView) int { return int(b.N) - int(a.N) })
	v.Events = events[:min(len(events), eventsShow)]
	v.Verdict = verdictOf(status)
	return v, nil
}

// choose takes the rings of one page: those from a name on.
func (v *view) choose(rings []adminapi.Ring, from string) []adminapi.Ring {
	v.RingCount = len(rings)
	first := slices.IndexFunc(rings, func(r adminapi.Ring) bool { return r.Name >= from })
	if first < 0 {
		first = 0
	}
	if first > 0 {
		v.Live += "?" + url.Values{"from": {from}}.Encode()
		v.Previous = rings[max(0, first-ringsAPage)].Name
	}
	last := min(first+ringsAPage, len(rings))
	if last < len(rings) {
		v.Next = rings[last].Name
	}
	v.First, v.Last = first+1, last
	return rings[first:last]
}

// readRing adds to a ring what the other answers say of it.
func (c *console) readRing(ctx context.Context, ring adminapi.Ring, now time.Time) (ringView, error) {
	name := keystore.RingName(ring.Name)
	past, err := c.archive.past(ctx, c.Reader, ring)
	if err != nil {
		return ringView{}, err
	}
	preview, err := c.Reader.Preview(ctx, name, adminapi.Rollover{})
	if err != nil {
		return ringView{}, err
	}
	reach, err := c.Reader.Reach(ctx, name, ring.LastEvent.N)
	if err != nil {
		return ringView{}, err
	}
	rv := makeRing(ring, past, now)
	rv.Reach, rv.Allowed = reach, preview.Allowed
	if preview.Refused != nil {
		rv.refused(preview.Refused)
	}
	return rv, nil
}

// heldBy names the servers that hold a ring's next rollover, and by how much they are
// behind.
func heldBy(s adminapi.Status, name string, now time.Time) (holders []string) {
	i := slices.IndexFunc(s.Rings, func(r adminapi.RingStatus) bool { return r.Name == name })
	if i < 0 {
		return nil
	}
	for _, server := range s.Rings[i].HeldBy {
		for _, b := range s.Rings[i].Behind {
			if b.Server == server && !b.Since.IsZero() {
				server += fmt.Sprintf(", %s behind since %s", count(int(b.By), "event", "events"), moment{b.Since, now})
				break
			}
		}
		holders = append(holders, server)
	}
	return holders
}

func render(t *template.Template, name string, data any) ([]byte, error) {
	var out bytes.Buffer
	err := t.ExecuteTemplate(&out, name, data)
	return out.Bytes(), err
}
