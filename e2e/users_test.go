package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// An appView is what the example application answers.
type appView struct {
	User     string `json:"user"`
	Count    int    `json:"count"`
	LoggedIn bool   `json:"logged_in"`
	SealedBy string `json:"sealed_by"`
	Error    string `json:"error"`
}

// A crowd is users with one session each, who hop between the instances of an
// application for as long as the crowd lasts, and count.
type crowd struct {
	instances []string
	newest    atomic.Uint64 // the ring's version that every agent is known to have

	mu       sync.Mutex // guards the fields below
	requests int
	refused  []string     // what no user should ever see
	seals    []sealedWith // of every new cookie

	stop chan struct{}
	done sync.WaitGroup
}

// A sealedWith says which key sealed a cookie, and the version that every agent had
// before the request began.
type sealedWith struct {
	kid   string
	least uint64
}

// think is how long a user looks at a page before the next request.
const think = 2 * time.Millisecond

func startCrowd(t *testing.T, users int, instances ...string) *crowd {
	t.Helper()
	c := &crowd{instances: instances, stop: make(chan struct{})}
	seed := rand.Uint64()
	t.Logf("users hop by seed %d", seed)
	for i := range users {
		c.done.Go(func() { c.user(fmt.Sprintf("user-%d", i), rand.New(rand.NewPCG(seed, uint64(i)))) })
	}
	t.Cleanup(c.end)
	return c
}

// end lets the users go home.
func (c *crowd) end() {
	select {
	case <-c.stop:
	default:
		close(c.stop)
	}
	c.done.Wait()
}

// served returns how many requests were answered.
func (c *crowd) served() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.requests
}

// user logs in once and then counts: the count is in the cookie, so it shows
// whether the session of the request before was opened, whichever instance it hit.
func (c *crowd) user(name string, r *rand.Rand) {
	client := &http.Client{Timeout: patience, Transport: &http.Transport{MaxIdleConnsPerHost: 1}}
	defer client.CloseIdleConnections()
	var cookie *http.Cookie
	for count := -1; ; count++ {
		select {
		case <-c.stop:
			return
		case <-time.After(think):
		}
		path, form := "count", url.Values{}
		if count < 0 {
			path, form = "login", url.Values{"user": {name}}
		}
		least := c.newest.Load()
		instance := c.instances[r.IntN(len(c.instances))]
		view, fresh, err := post(client, instance+path, form, cookie)
		switch {
		case err != nil:
			c.complain("%s: %v", name, err)
			return
		case !view.LoggedIn || view.User != name || view.Count != count+1:
			c.complain("%s at %s lost the session: %+v after count %d", name, instance, view, count)
			return
		case fresh == nil:
			c.complain("%s at %s got no new cookie", name, instance)
			return
		}
		cookie = fresh
		c.mu.Lock()
		c.requests++
		c.seals = append(c.seals, sealedWith{view.SealedBy, least})
		c.mu.Unlock()
	}
}

func (c *crowd) complain(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refused = append(c.refused, fmt.Sprintf(format, args...))
}

func post(client *http.Client, target string, form url.Values, cookie *http.Cookie) (appView, *http.Cookie, error) {
	req, err := http.NewRequest(http.MethodPost, target, strings.NewReader(form.Encode()))
	if err != nil {
		return appView{}, nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	if cookie != nil {
		req.AddCookie(cookie)
	}
	resp, err := client.Do(req)
	if err != nil {
		return appView{}, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return appView{}, nil, err
	}
	var view appView
	if err := json.Unmarshal(body, &view); err != nil {
		return appView{}, nil, fmt.Errorf("status %d: %w", resp.StatusCode, err)
	}
	for _, fresh := range resp.Cookies() {
		return view, fresh, nil
	}
	return view, nil, nil
}

// check fails the test for each user who was refused, and for each cookie that was
// sealed with an older key than every agent had by then. version tells the ring's
// version in which a key became current.
func (c *crowd) check(t *testing.T, version map[string]uint64) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, complaint := range c.refused {
		t.Error(complaint)
	}
	for _, s := range c.seals {
		if at, ok := version[s.kid]; !ok || at < s.least {
			t.Errorf("a cookie was sealed with %s, current since version %d, when every agent had version %d", s.kid, at, s.least)
		}
	}
	t.Logf("%d requests by users, %d complaints", c.requests, len(c.refused))
}
