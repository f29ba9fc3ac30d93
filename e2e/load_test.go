package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
)

// loadRing is rolled over by a load as fast as it goes, whoever is behind: no agent
// has it.
const loadRing = "load"

// A load is administrators at work at every server of a deployment at once: rollovers
// of ring load, new trusted hosts, and now and then a rollover of ring sso, which users
// depend on. Who gets no answer asks again, with the same request id, at another server,
// until one answers.
type load struct {
	d      *deployment
	admins map[string]*admin // by region
	limit  time.Duration     // for one change to be answered; then it is a complaint

	stop chan struct{}
	done sync.WaitGroup

	mu         sync.Mutex // guards the fields below
	asked      map[string]*change
	answered   int
	complaints []string
}

// A change is one thing that an administrator wants done, once.
type change struct {
	Request string `json:"request"`
	Reason  string `json:"reason"` // the request id once more: histories tell the reason
	path    string
	body    map[string]any
	ring    string // of a rollover
	got     receipt
	done    bool // it was answered with got
	unknown bool // an answer did not come, at least once
	refused bool // for good
}

// An admin is the admin API of one server.
type admin struct {
	url, token string
	http       *http.Client
}

func (d *deployment) admin(t *testing.T, region string) *admin {
	t.Helper()
	s := d.sites[region]
	ca, err := os.ReadFile(filepath.Join(s.dir, "tls", "ca.pem"))
	must(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	token, err := os.ReadFile(filepath.Join(d.sites["eu"].dir, "..", "admin", "admin.token"))
	if region == "sa" {
		token, err = os.ReadFile(filepath.Join(s.dir, "admin.token"))
	}
	must(t, err)
	a := &admin{url: "https://" + s.admin, token: strings.TrimSpace(string(token)), http: &http.Client{
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, TLSHandshakeTimeout: 5 * time.Second},
	}}
	t.Cleanup(a.http.CloseIdleConnections)
	return a
}

// An httpError is an answer other than yes.
type httpError struct {
	status int
	body   string
}

func (e *httpError) Error() string { return fmt.Sprintf("status %d: %s", e.status, e.body) }

// ask sends a change. The answer may hold a secret, so it goes nowhere but into the
// receipt.
func (a *admin) ask(ctx context.Context, c *change) (receipt, error) {
	body := map[string]any{"request": c.Request, "reason": c.Reason}
	for k, v := range c.body {
		body[k] = v
	}
	text, err := json.Marshal(body)
	if err != nil {
		return receipt{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.url+c.path, bytes.NewReader(text))
	if err != nil {
		return receipt{}, err
	}
	req.Header.Set("Authorization", "Bearer "+a.token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := a.http.Do(req)
	if err != nil {
		return receipt{}, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return receipt{}, err
	}
	if resp.StatusCode/100 != 2 {
		return receipt{}, &httpError{resp.StatusCode, string(answer)}
	}
	var got receipt
	return got, json.Unmarshal(answer, &got)
}

// newLoad makes the ring that is rolled over, and nothing else yet.
func newLoad(t *testing.T, d *deployment) *load {
	t.Helper()
	l := &load{d: d, admins: map[string]*admin{}, limit: 3 * time.Minute, asked: map[string]*change{}}
	for _, region := range allRegions {
		l.admins[region] = d.admin(t, region)
	}
	d.sites["eu"].keytide(t, "ring", "create", loadRing, "--min-interval", "0s", "--retain", "1", "--force", "--reason", "a ring without agents", "--yes")
	return l
}

// run lets the administrators work until end.
func (l *load) run(r *rand.Rand) {
	l.stop = make(chan struct{})
	for _, region := range allRegions {
		seed := r.Uint64()
		l.done.Go(func() { l.work(region, rand.New(rand.NewPCG(seed, 0))) })
	}
}

// end waits until what has been asked for is answered.
func (l *load) end() {
	close(l.stop)
	l.done.Wait()
}

func (l *load) work(region string, r *rand.Rand) {
	for {
		select {
		case <-l.stop:
			return
		default:
		}
		c := l.draw(r)
		l.settle(c, region, r)
	}
}

// draw makes up the next change.
func (l *load) draw(r *rand.Rand) *change {
	id := ulid.Make().String()
	c := &change{Request: id, Reason: id}
	if r.IntN(5) == 0 {
		c.path, c.body = "/v1/hosts", map[string]any{"name": "web-" + strings.ToLower(id), "rings": []string{loadRing}}
	} else {
		c.path, c.ring, c.body = "/v1/rings/"+loadRing+"/rollover", loadRing, map[string]any{"force": true}
	}
	l.add(c)
	return c
}

func (l *load) add(c *change) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked[c.Request] = c
}

// rollSSO asks for a rollover of ring sso at a server, beside the rest.
func (l *load) rollSSO(r *rand.Rand) {
	id := ulid.Make().String()
	c := &change{Request: id, Reason: id, path: "/v1/rings/sso/rollover", ring: "sso"}
	l.add(c)
	region, seed := allRegions[r.IntN(len(allRegions))], r.Uint64()
	l.done.Go(func() { l.settle(c, region, rand.New(rand.NewPCG(seed, 0))) })
}

// settle asks for a change until it is answered, first at one region's server and then
// at any.
func (l *load) settle(c *change, region string, r *rand.Rand) {
	for end := time.Now().Add(l.limit); ; {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		got, err := l.admins[region].ask(ctx, c)
		cancel()
		if l.note(c, got, err) {
			return
		}
		if time.Now().After(end) {
			l.complain("%s %s: no answer within %v: %v", c.path, c.Request, l.limit, err)
			return
		}
		<-time.After(50 * time.Millisecond)
		region = allRegions[r.IntN(len(allRegions))]
	}
}

// note keeps what came of asking, and reports whether that is the end of it.
func (l *load) note(c *change, got receipt, err error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	var answer *httpError
	switch {
	case err == nil:
		c.got, c.done = got, true
		l.answered++
	case errors.As(err, &answer) && answer.status == http.StatusConflict && c.ring == "sso":
		c.refused = true // the guard waits for somebody
	case errors.As(err, &answer) && answer.status/100 == 4 && answer.status != http.StatusConflict:
		l.complaints = append(l.complaints, fmt.Sprintf("%s %s: %v", c.path, c.Request, err))
		return true
	case errors.As(err, &answer) && answer.status != http.StatusGatewayTimeout:
		// surely not done: 409 lost a race too often, 503 has no core
	default:
		c.unknown = true
	}
	return c.done || c.refused
}

func (l *load) complain(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.complaints = append(l.complaints, fmt.Sprintf(format, args...))
}

func (l *load) answers() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.answered
}

// awaitAnswers waits until so many more changes have been acknowledged.
func (l *load) awaitAnswers(t *testing.T, more int) {
	t.Helper()
	want := l.answers() + more
	eventuallyWithin(t, l.limit, "changes are acknowledged", func() error {
		if got := l.answers(); got < want {
			return fmt.Errorf("%d of %d", got, want)
		}
		return nil
	})
}

// A pastEvent is one line of a ring's history.
type pastEvent struct {
	receipt
	Version uint64 `json:"version"`
	Reason  string `json:"reason"`
	Made    []struct {
		KID string `json:"kid"`
	} `json:"made"`
}

func (s *site) past(t *testing.T, ring string) []pastEvent {
	t.Helper()
	return decode[struct {
		Events []pastEvent `json:"events"`
	}](t, s.keytide(t, "history", ring, "-o", "json")).Events
}

// check compares what was answered with a region's history: each rollover that was
// acknowledged is there once, with its n and id; each that was refused is not there,
// unless an earlier try of it got no answer; the versions have no gap.
func (l *load) check(t *testing.T, region string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, complaint := range l.complaints {
		t.Error(complaint)
	}
	l.complaints = nil
	seen := map[string]receipt{}
	for _, ring := range []string{loadRing, "sso"} {
		var last uint64
		for _, ev := range l.d.sites[region].past(t, ring) {
			if ev.Version != last && ev.Version != last+1 {
				t.Errorf("%s: ring %s goes from version %d to %d at event %d", region, ring, last, ev.Version, ev.N)
			}
			last = ev.Version
			if l.asked[ev.Reason] == nil {
				continue
			}
			if before, twice := seen[ev.Reason]; twice {
				t.Errorf("%s: request %s has made events %d and %d", region, ev.Reason, before.N, ev.N)
			}
			seen[ev.Reason] = ev.receipt
		}
	}
	for id, c := range l.asked {
		got, there := seen[id]
		switch {
		case c.ring == "":
		case c.done && got != c.got:
			t.Errorf("%s: request %s was acknowledged as %+v; the history has %+v", region, id, c.got, got)
		case !c.done && !c.unknown && there:
			t.Errorf("%s: request %s was refused, and is event %d", region, id, got.N)
		}
	}
}

// askAgain sends some requests that were answered once more, to any server: the answers
// are the same.
func (l *load) askAgain(t *testing.T, r *rand.Rand, most int) {
	t.Helper()
	l.mu.Lock()
	var again []*change
	for _, c := range l.asked { // in no order
		if c.done && len(again) < most {
			again = append(again, c)
		}
	}
	l.mu.Unlock()
	for _, c := range again {
		region := allRegions[r.IntN(len(allRegions))]
		eventually(t, "the same request again", func() error {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			got, err := l.admins[region].ask(ctx, c)
			if err == nil && got != c.got {
				t.Fatalf("request %s was answered with %+v, and again at %s with %+v", c.Request, c.got, region, got)
			}
			return err
		})
	}
}

// tally counts the changes that were asked for, and what came of them.
func (l *load) tally() (asked, answered, refused int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.asked {
		if c.refused {
			refused++
		}
	}
	return len(l.asked), l.answered, refused
}
