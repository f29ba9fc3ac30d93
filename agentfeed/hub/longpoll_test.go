package hub_test

import (
	"context"
	"crypto/fips140"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"github.com/keytide/keytide/agentfeed/hub"
	"github.com/keytide/keytide/agentfeed/internal/wire"
	"github.com/keytide/keytide/keystore"
)

// longPoll polls the handler itself, in virtual time: it returns a func that gives the
// answer, and how long it took.
func longPoll(t *testing.T, h *hub.Hub, a ask, prefer, tag string) func() (*httptest.ResponseRecorder, time.Duration) {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/v1/feed", nil).WithContext(t.Context())
	auth := wire.Authorization{Host: a.host, KID: a.secret.KID(), Time: time.Now().Unix(), Nonce: a.nonce}
	if err := auth.Sign(a.secret, r.Method, "/v1/feed"); err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", auth.String())
	r.Header.Set("Prefer", prefer)
	r.Header.Set("If-None-Match", tag)
	w, done, start := httptest.NewRecorder(), make(chan time.Duration, 1), time.Now()
	go func() { h.ServeHTTP(w, r); done <- time.Since(start) }()
	return func() (*httptest.ResponseRecorder, time.Duration) { return w, <-done }
}

// bubble runs a test of a hub in virtual time.
func bubble(t *testing.T, test func(t *testing.T, s *source, h *hub.Hub)) {
	if fips140.Enabled() { // the FIPS module's randomness needs real time
		cryptotest.SetGlobalRandom(t, 1)
	}
	synctest.Test(t, func(t *testing.T) {
		s := newSource()
		h, err := hub.New(hub.Config{Source: s, Server: "ps-1"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cut(h) })
		test(t, s, h)
	})
}

func proof(t *testing.T, a ask, w *httptest.ResponseRecorder) wire.Beat {
	t.Helper()
	var e wire.Envelope
	if err := json.Unmarshal([]byte(w.Header().Get("Keytide-Heartbeat")), &e); err != nil || w.Code != http.StatusNotModified {
		t.Fatalf("%d %v, %v; want 304 with a heartbeat", w.Code, w.Header(), err)
	}
	var beat wire.Beat
	openPoll(t, a, e, wire.EventBeat, &beat)
	return beat
}

func TestLongPollWaits(t *testing.T) {
	for prefer, want := range map[string]time.Duration{"wait=25": 25 * time.Second, `respond-async, Wait="7"; x`: 7 * time.Second,
		"wait=3600": 25 * time.Second, "wait=0": 0, "wait=x": 0, "wait=-1": 0, "": 0} {
		bubble(t, func(t *testing.T, s *source, h *hub.Hub) {
			a, start := web1(), time.Now()
			w, took := longPoll(t, h, a, prefer, `"1.2-1.2"`)()
			beat := proof(t, a, w)
			if took != want || (want > 0) != (w.Header().Get("Preference-Applied") != "") {
				t.Errorf("%q: answered after %v with %v, want %v", prefer, took, w.Header(), want)
			}
			if !beat.AsOf.Equal(start.Add(want).UTC()) || !beat.ReceivedAt.Equal(start.UTC()) {
				t.Errorf("%q: as_of %v, received_at %v; want the end and the start of the wait", prefer, beat.AsOf, beat.ReceivedAt)
			}
		})
	}
}

func TestLongPollEndsWithAChange(t *testing.T) {
	bubble(t, func(t *testing.T, s *source, h *hub.Hub) {
		a := web1()
		got := longPoll(t, h, a, "wait=25", `"1.2-1.2"`)
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if connected, behind := h.Agents(); connected != 1 || behind != 0 {
			t.Errorf("Agents = %d, %d while a poll waits", connected, behind)
		}
		s.change(func(s *source) {
			s.state.V, s.state.Rings = "1.3-1.2", map[keystore.RingName]*keystore.KeySet{"sso": set("sso", 2)}
		})
		w, took := got()
		var e wire.Envelope
		var state wire.State
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil {
			t.Fatal(err)
		}
		openPoll(t, a, e, wire.EventRing, &state)
		if took != 3*time.Second || state.V != "1.3-1.2" || state.Rings[0].Version != 2 || w.Header().Get("ETag") != `"1.3-1.2"` {
			t.Errorf("%+v after %v, want version 2 at once", state, took)
		}
		if w, took := longPoll(t, h, web1(), "wait=25", `"1.2-1.2"`)(); took != 0 || w.Code != http.StatusOK {
			t.Errorf("a poll of an older position was answered %d after %v, want the state at once", w.Code, took)
		}
	})
}

func TestLongPollSleepsThroughChangesOfOthers(t *testing.T) {
	bubble(t, func(t *testing.T, s *source, h *hub.Hub) {
		a := web1()
		got := longPoll(t, h, a, "wait=25", `"1.2-1.2"`)
		time.Sleep(3 * time.Second)
		s.change(func(s *source) {
			s.state.V = "1.3-1.2"
			s.state.Rings = map[keystore.RingName]*keystore.KeySet{"sso": s.state.Rings["sso"], "intranet": set("intranet", 2)}
		})
		w, took := got()
		proof(t, a, w)
		if took != 25*time.Second || w.Header().Get("ETag") != `"1.3-1.2"` {
			t.Errorf("%v after %v, want the new position at the end of the wait", w.Header(), took)
		}
	})
}

func TestLongPollIsEnded(t *testing.T) {
	for want, f := range map[string]func(*source, *hub.Hub){
		"host-revoked": func(s *source, _ *hub.Hub) {
			s.change(func(s *source) { h := s.hosts["web-1"]; h.Revoked = true; s.hosts["web-1"] = h })
		},
		"draining": func(_ *source, h *hub.Hub) { h.Close(context.Background()) },
	} {
		bubble(t, func(t *testing.T, s *source, h *hub.Hub) {
			got := longPoll(t, h, web1(), "wait=25", `"1.2-1.2"`)
			time.Sleep(time.Second)
			f(s, h)
			w, took := got()
			var p wire.Problem
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Type != wire.ProblemPrefix+want || took != time.Second {
				t.Errorf("%s after %v, want %s at once", w.Body, took, want)
			}
		})
	}
}

// FuzzPollHeaders: whatever a host that is let in asks for, it is answered, and waits
// no longer than a poll may.
func FuzzPollHeaders(f *testing.F) {
	f.Add("wait=25", `"1.2-1.2"`)
	f.Add(`respond-async, wait="7";x=y`, `W/"1.2-1.2", *`)
	f.Add("wait=99999999999999999999", "")
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // a poll that would wait ends at once
	f.Fuzz(func(t *testing.T, prefer, tag string) {
		h, err := hub.New(hub.Config{Source: newSource(), Server: "ps-1"}) // one remembers so many nonces only
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(http.MethodGet, "/v1/feed", nil).WithContext(ctx)
		a := web1()
		auth := wire.Authorization{Host: a.host, KID: a.secret.KID(), Time: time.Now().Unix(), Nonce: a.nonce}
		if err := auth.Sign(a.secret, r.Method, "/v1/feed"); err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", auth.String())
		r.Header.Set("Prefer", prefer)
		r.Header.Set("If-None-Match", tag)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusOK && w.Code != http.StatusNotModified {
			t.Errorf("%q, %q: status %d", prefer, tag, w.Code)
		}
		if text, ok := strings.CutPrefix(w.Header().Get("Preference-Applied"), "wait="); ok {
			if n, err := strconv.Atoi(text); err != nil || n < 1 || n > 25 {
				t.Errorf("%q: a wait of %s", prefer, text)
			}
		}
	})
}
