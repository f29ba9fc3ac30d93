package hub_test

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keytide/keytide/agentfeed/hub"
	"github.com/keytide/keytide/agentfeed/internal/wire"
	"github.com/keytide/keytide/keystore"
)

func TestStreamTellsTheHostsRings(t *testing.T) {
	overEach(t, func(t *testing.T, newBench func(...func(*hub.Config)) *bench) {
		b := newBench()
		s := b.stream(web1())
		state := s.state()
		if state.V != "1.2-1.2" || state.StaleAfter != 60 || len(state.Rings) != 1 || state.Rings[0].Name != "sso" {
			t.Fatalf("state = %+v, want ring sso", state)
		}
		if diff := cmp.Diff([]string{"https://ps-1:7443"}, state.Servers); diff != "" {
			t.Errorf("servers (-want +got):\n%s", diff)
		}
		for _, k := range state.Rings[0].Keys {
			if k.Role == keystore.SessionTicket {
				t.Error("a session ticket key reached an agent")
			}
			if k.K.KID() != k.KID {
				t.Errorf("key %s has other bytes", k.KID)
			}
		}
		if state.AsOf.After(state.IssuedAt) || time.Since(state.AsOf) > patience {
			t.Errorf("as_of %v, issued_at %v", state.AsOf, state.IssuedAt)
		}
		b.source.change(func(s *source) {
			s.state.V, s.state.Rings = "1.3-1.2", map[keystore.RingName]*keystore.KeySet{"sso": set("sso", 2)}
		})
		if state := s.state(); state.V != "1.3-1.2" || state.Rings[0].Version != 2 {
			t.Errorf("state = %+v, want version 2", state)
		}
		if connected, behind := b.hub.Agents(); connected != 1 || behind > 1 {
			t.Errorf("Agents = %d, %d", connected, behind)
		}
	})
}

func TestStreamOverHTTP2(t *testing.T) {
	b := newBenchOver(t, "h2", func(c *hub.Config) { c.Heartbeat = 20 * time.Millisecond })
	r := b.request(web1())
	if response := b.do(r); response.ProtoMajor != 2 {
		t.Fatalf("%s, want HTTP/2", response.Proto)
	}
	s := b.stream(web1())
	s.state()
	for range 5 {
		s.open(wire.EventBeat, new(wire.Beat))
	}
}

func TestChangeOfOthersComesWithTheHeartbeat(t *testing.T) {
	overEach(t, func(t *testing.T, newBench func(...func(*hub.Config)) *bench) {
		b := newBench(func(c *hub.Config) { c.Heartbeat = 50 * time.Millisecond })
		s := b.stream(web1())
		s.state()
		b.source.change(func(s *source) {
			s.state.V = "1.3-1.3"
			rings := map[keystore.RingName]*keystore.KeySet{"sso": s.state.Rings["sso"], "intranet": set("intranet", 2)}
			s.state.Rings = rings
		})
		for {
			var beat wire.Beat
			if e := s.open(wire.EventBeat, &beat); e.V == "1.3-1.3" {
				break
			}
		}
		b.source.change(func(s *source) {
			h := s.hosts["web-1"]
			h.Rings = append(h.Rings, "intranet")
			s.hosts["web-1"], s.state.V = h, "1.3-1.4"
		})
		for {
			var envelope wire.Envelope
			e, err := s.events.Next()
			if err != nil {
				t.Fatal(err)
			}
			if json.Unmarshal(e.Data, &envelope) != nil {
				t.Fatal(string(e.Data))
			}
			var state wire.State
			if err := s.channel.Open(e.Name, envelope, &state); err != nil {
				t.Fatal(err)
			}
			if e.Name == wire.EventRing {
				if len(state.Rings) != 2 {
					t.Errorf("rings %v, want both after the host was given the right", state.Rings)
				}
				break
			}
		}
	})
}

func TestSlowAgentSkipsStates(t *testing.T) {
	overEach(t, func(t *testing.T, newBench func(...func(*hub.Config)) *bench) {
		b := newBench()
		s := b.stream(web1())
		s.state()
		const last = 200
		for v := keystore.Version(2); v <= last; v++ {
			b.source.change(func(s *source) {
				s.state.V, s.state.Rings = fmt.Sprintf("1.%d-1.2", v+1), map[keystore.RingName]*keystore.KeySet{"sso": set("sso", v)}
			})
		}
		for before := keystore.Version(1); before != last; {
			state := s.state()
			if got := state.Rings[0].Version; got <= before {
				t.Fatalf("version %d after %d", got, before)
			}
			before = state.Rings[0].Version
		}
	})
}

func TestProblems(t *testing.T) {
	header := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	for name, c := range map[string]struct {
		edit   func(*ask)
		stale  bool
		status int
		want   string
		extra  string // in the body
	}{
		"no header":       {edit: func(a *ask) { a.edit = func(r *http.Request) { r.Header.Del("Authorization") } }, status: 401, want: "auth-required"},
		"other scheme":    {edit: func(a *ask) { a.edit = header("Authorization", "Bearer x") }, status: 401, want: "auth-required"},
		"two headers":     {edit: func(a *ask) { a.edit = func(r *http.Request) { r.Header.Add("Authorization", "x") } }, status: 401, want: "auth-required"},
		"wrong secret":    {edit: func(a *ask) { a.kid, a.secret = a.secret.KID(), material(9) }, status: 401, want: "bad-mac"},
		"unknown kid":     {edit: func(a *ask) { a.secret = material(9) }, status: 401, want: "bad-mac"},
		"unknown host":    {edit: func(a *ask) { a.host = "nobody" }, status: 401, want: "bad-mac"},
		"other host":      {edit: func(a *ask) { a.host, a.kid, a.secret = "gone", material(2).KID(), material(1) }, status: 401, want: "bad-mac"},
		"other target":    {edit: func(a *ask) { a.edit = func(r *http.Request) { r.URL.RawQuery = "ring=intranet" } }, status: 401, want: "bad-mac"},
		"clock behind":    {edit: func(a *ask) { a.skew = -10 * time.Minute }, status: 401, want: "clock-skew", extra: `"now":"20`},
		"clock ahead":     {edit: func(a *ask) { a.skew = 10 * time.Minute }, status: 401, want: "clock-skew", extra: `"now":"20`},
		"revoked":         {edit: func(a *ask) { a.host, a.secret = "gone", material(2) }, status: 403, want: "host-revoked"},
		"retired secret":  {edit: func(a *ask) { a.host, a.secret = "late", material(3) }, status: 401, want: "secret-retired", extra: material(4).KID().String()},
		"other version":   {edit: func(a *ask) { a.edit = header("Keytide-Feed-Accept", "2, 3") }, status: 406, want: "unsupported-version", extra: `"supported":[1]`},
		"stale, kid":      {edit: func(a *ask) { a.secret = material(9) }, stale: true, status: 503, want: "not-current"},
		"stale, host":     {edit: func(a *ask) { a.host = "nobody" }, stale: true, status: 503, want: "not-current"},
		"stale, revoked":  {edit: func(a *ask) { a.host, a.secret = "gone", material(2) }, stale: true, status: 403, want: "host-revoked"},
		"stale, but fine": {edit: func(*ask) {}, stale: true, status: 200},
		"fine":            {edit: func(a *ask) { a.edit = header("Keytide-Feed-Accept", "2, 1"); a.applied = "1.1-1.1" }, status: 200},
		"clock 4 min off": {edit: func(a *ask) { a.skew = 4 * time.Minute }, status: 200},
		"newer secret":    {edit: func(a *ask) { a.host, a.secret = "late", material(4) }, status: 200},
	} {
		for _, accept := range []string{"application/json", "text/event-stream"} {
			b := newBench(t)
			b.source.stale = c.stale
			a := web1()
			c.edit(&a)
			r := b.request(a)
			r.Header.Set("Accept", accept)
			response := b.do(r)
			if c.status == http.StatusOK {
				if response.StatusCode != c.status {
					t.Errorf("%s: %s", name, response.Status)
				}
				continue
			}
			got := read(t, response)
			if got.StatusCode != c.status || got.problem != c.want || !strings.Contains(got.body, c.extra) {
				t.Errorf("%s, %s: %s %s, want %d %s", name, accept, got.Status, got.body, c.status, c.want)
			}
			if (c.status == 503) != (got.Header.Get("Retry-After") != "") || (c.status == 401) != (got.Header.Get("WWW-Authenticate") != "") {
				t.Errorf("%s: header %v", name, got.Header)
			}
			if !strings.Contains(b.log.String(), c.want) {
				t.Errorf("%s: the log says %q", name, b.log.String())
			}
		}
	}
}

// TestNoOracle: what strangers are answered does not depend on what exists.
func TestNoOracle(t *testing.T) {
	b := newBench(t)
	wrong := b.poll(ask{host: "web-1", kid: material(1).KID(), secret: material(9)})
	for name, a := range map[string]ask{
		"unknown host": {host: "nobody", secret: material(9)},
		"unknown kid":  {host: "web-1", secret: material(9)},
		"revoked":      {host: "gone", secret: material(9)},
		"old clock":    {host: "nobody", secret: material(9), skew: -time.Hour},
		"retired":      {host: "late", kid: material(3).KID(), secret: material(9)},
	} {
		if got := b.poll(a); got.body != wrong.body || got.StatusCode != wrong.StatusCode {
			t.Errorf("%s: %d %s, want as for a wrong secret: %s", name, got.StatusCode, got.body, wrong.body)
		}
	}
}

func TestReplayedRequest(t *testing.T) {
	b := newBench(t)
	a := web1()
	r := b.request(a)
	first := read(t, b.do(r))
	if got := read(t, b.do(r.Clone(t.Context()))); first.StatusCode != 200 || got.StatusCode != 409 || got.problem != "replayed" {
		t.Errorf("%s, then %s %s; want 200 and then replayed", first.Status, got.Status, got.body)
	}
	other := ask{host: "late", secret: material(4), nonce: a.nonce}
	if got := b.poll(other); got.StatusCode != 200 {
		t.Errorf("%s: another host's nonce counts as this one's", got.body)
	}
	bad := ask{host: "web-1", kid: material(1).KID(), secret: material(9), nonce: wire.NewNonce()}
	b.poll(bad)
	good := web1()
	good.nonce = bad.nonce
	if got := b.poll(good); got.StatusCode != 200 {
		t.Errorf("%s: a forged request used a nonce up", got.body)
	}
}

func TestPoll(t *testing.T) {
	b := newBench(t)
	a := web1()
	got := b.poll(a)
	var envelope wire.Envelope
	if err := json.Unmarshal([]byte(got.body), &envelope); err != nil || got.StatusCode != 200 || got.Header.Get("ETag") != `"1.2-1.2"` {
		t.Fatalf("%s %v %s", got.Status, got.Header, got.body)
	}
	var state wire.State
	openPoll(t, a, envelope, wire.EventRing, &state)
	if len(state.Rings) != 1 || state.V != "1.2-1.2" {
		t.Errorf("state %+v, want ring sso", state)
	}
	a = web1()
	a.edit = func(r *http.Request) { r.Header.Set("If-None-Match", `"1.1-1.1", "1.2-1.2"`) }
	got = b.poll(a)
	if got.StatusCode != http.StatusNotModified || got.body != "" {
		t.Fatalf("%s %s, want 304", got.Status, got.body)
	}
	envelope = wire.Envelope{}
	if err := json.Unmarshal([]byte(got.Header.Get("Keytide-Heartbeat")), &envelope); err != nil {
		t.Fatal(err)
	}
	openPoll(t, a, envelope, wire.EventBeat, new(wire.Beat))
}

func openPoll(t *testing.T, a ask, e wire.Envelope, event string, v any) {
	t.Helper()
	server, err := wire.ParseNonce(e.SN)
	if err != nil {
		t.Fatal(err)
	}
	channel, err := wire.NewChannel(a.secret, a.host, a.nonce, server)
	if err != nil {
		t.Fatal(err)
	}
	if err := channel.Open(event, e, v); err != nil {
		t.Fatal(err)
	}
}

func TestHostThatIsRevokedIsCutOff(t *testing.T) {
	overEach(t, func(t *testing.T, newBench func(...func(*hub.Config)) *bench) {
		for want, f := range map[string]func(*source){
			"host-revoked": func(s *source) { h := s.hosts["web-1"]; h.Revoked = true; s.hosts["web-1"] = h },
			"secret-retired": func(s *source) {
				h := s.hosts["web-1"]
				h.Secrets = []hub.Secret{{KID: material(7).KID(), Material: material(7)}}
				s.hosts["web-1"] = h
			},
			"host-revoked ": func(s *source) { delete(s.hosts, "web-1") },
		} {
			b := newBench()
			s := b.stream(web1())
			s.state()
			b.source.change(f)
			var p wire.Problem
			s.next(wire.EventProblem, &p)
			if p.Type != wire.ProblemPrefix+strings.TrimSpace(want) {
				t.Errorf("problem %+v, want %s", p, want)
			}
			if _, err := s.events.Next(); err == nil {
				t.Error("the stream goes on after a problem")
			}
		}
	})
}

func TestStreamsOfOneHostAreBounded(t *testing.T) {
	overEach(t, func(t *testing.T, newBench func(...func(*hub.Config)) *bench) {
		b := newBench(func(c *hub.Config) { c.MaxStreams = 2 })
		b.stream(web1()).state()
		second := b.stream(web1())
		second.state()
		a := web1()
		a.edit = func(r *http.Request) { r.Header.Set("Accept", "text/event-stream") }
		if got := b.poll(a); got.problem != "too-many-streams" || got.Header.Get("Retry-After") == "" {
			t.Errorf("%s %s, want too-many-streams", got.Status, got.body)
		}
		b.stream(ask{host: "late", secret: material(4), nonce: wire.NewNonce()}).state()
		second.body.Close()
		for b.refusedStream(web1()) { // its place is free as soon as it is needed
			if t.Context().Err() != nil {
				t.Fatal("the stream that was closed still counts")
			}
		}
	})
}

func TestHeartbeatsFindThoseWhoHungUp(t *testing.T) {
	overEach(t, func(t *testing.T, newBench func(...func(*hub.Config)) *bench) {
		b := newBench(func(c *hub.Config) { c.Heartbeat = 50 * time.Millisecond })
		first, second := b.stream(web1()), b.stream(web1())
		first.state()
		second.state()
		first.body.Close()
		for connected := 2; connected != 1; connected, _ = b.hub.Agents() {
			if t.Context().Err() != nil {
				t.Fatal("the stream that was closed still counts")
			}
		}
		second.open(wire.EventBeat, new(wire.Beat))
	})
}

func TestCloseDrains(t *testing.T) {
	overEach(t, func(t *testing.T, newBench func(...func(*hub.Config)) *bench) {
		b := newBench()
		s := b.stream(web1())
		s.state()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := b.hub.Close(ctx); err != nil {
			t.Fatal(err)
		}
		var bye wire.Bye
		s.next(wire.EventBye, &bye)
		if bye.Reason != "draining" || bye.ReconnectMS[1] == 0 {
			t.Errorf("bye = %+v", bye)
		}
		if got := b.poll(web1()); got.problem != "draining" {
			t.Errorf("%s, want draining", got.body)
		}
		if connected, behind := b.hub.Agents(); connected != 0 || behind != 0 {
			t.Errorf("Agents = %d, %d after Close", connected, behind)
		}
		if err := b.hub.Close(ctx); err != nil {
			t.Errorf("a second Close: %v", err)
		}
	})
}

func TestNoStateYet(t *testing.T) {
	b := newBench(t)
	b.source.change(func(s *source) { s.state = nil })
	for _, accept := range []string{"", "text/event-stream"} {
		a := web1()
		a.edit = func(r *http.Request) { r.Header.Set("Accept", accept) }
		if got := b.poll(a); got.problem != "no-state" {
			t.Errorf("%s, want no-state", got.body)
		}
	}
}

func TestOtherResources(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct {
		method, path string
		status       int
		body         string
	}{
		{"GET", "/healthz", 200, "ok"}, {"HEAD", "/healthz", 200, ""}, {"GET", "/v1/feed/time", 200, `"versions":[1]`},
		{"POST", "/v1/feed", 405, ""}, {"HEAD", "/v1/feed", 405, ""}, {"PUT", "/v1/feed/time", 405, ""}, {"GET", "/v2/feed", 404, ""}, {"GET", "/", 404, ""},
	} {
		r, err := http.NewRequest(c.method, b.URL+c.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := read(t, b.do(r)); got.StatusCode != c.status || !strings.Contains(got.body, c.body) {
			t.Errorf("%s %s: %s %s, want %d %s", c.method, c.path, got.Status, got.body, c.status, c.body)
		}
	}
}

func TestNoSecretsInLogsAndProblems(t *testing.T) {
	b := newBench(t)
	var seen strings.Builder
	for _, a := range []ask{web1(), {host: "web-1", kid: material(1).KID(), secret: material(9)}, {host: "late", secret: material(3)},
		{host: "gone", secret: material(2)}, {host: "web-1", secret: material(1), skew: time.Hour}} {
		got := b.poll(a)
		seen.WriteString(got.body + fmt.Sprint(got.Header))
	}
	s := b.stream(web1())
	s.state()
	seen.WriteString(b.log.String() + fmt.Sprintf("%+v %+v", b.source.hosts, b.source.state))
	for first := range 255 {
		raw := append([]byte{byte(first)}, strings.Repeat("\xab", 31)...)
		for _, form := range []string{string(raw), hex.EncodeToString(raw), base64.RawURLEncoding.EncodeToString(raw)[2:], base64.StdEncoding.EncodeToString(raw)[2:40], "171 171 171"} {
			if strings.Contains(seen.String(), form) {
				t.Fatalf("key bytes of %d in %s", first, seen.String())
			}
		}
	}
}

func TestRefusalsInTheLogAreBounded(t *testing.T) {
	b := newBench(t)
	for range 200 {
		b.poll(ask{host: "nobody", secret: material(9)})
	}
	if lines := strings.Count(b.log.String(), "feed request refused"); lines == 0 || lines > 150 {
		t.Errorf("%d lines for 200 refusals", lines)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for _, c := range []hub.Config{{}, {Source: newSource()}, {Source: newSource(), Server: "ps-1", Heartbeat: -1}, {Source: newSource(), Server: "ps-1", MaxStale: -1}, {Source: newSource(), Server: "ps-1", MaxStale: time.Second}} {
		if _, err := hub.New(c); err == nil {
			t.Errorf("New(%+v) returned a hub", c)
		}
	}
}
