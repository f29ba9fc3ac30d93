package cookie_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/agentfeed/cookie"
	"github.com/keytide/keytide/agentfeed/feedtest"
)

// An exampleTB lets an example, which has no testing.T, run a feedtest.Server.
type exampleTB struct {
	testing.TB
	cleanups []func()
}

func (tb *exampleTB) Helper()                           {}
func (tb *exampleTB) Cleanup(f func())                  { tb.cleanups = append(tb.cleanups, f) }
func (tb *exampleTB) Fatal(args ...any)                 { panic(fmt.Sprint(args...)) }
func (tb *exampleTB) Errorf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

// exampleFeed stands for a policy server with the ring sso.
func exampleFeed() (feed *feedtest.Server, stop func()) {
	tb := new(exampleTB)
	feed = feedtest.NewServer(tb, "sso")
	return feed, func() {
		for i := len(tb.cleanups) - 1; i >= 0; i-- {
			tb.cleanups[i]()
		}
	}
}

// must ends the example: a program would return the error.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// account is what the application wants to know of a user who is logged in.
type account struct {
	User   string
	Visits int
}

// An application whose sessions are in the cookie alone: it has two instances, each
// with a client of its own, and a user who hops between them. The ring rolls over in
// the middle of the session, and nobody notices.
func Example() {
	feed, stop := exampleFeed()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	var clients []*agentfeed.Client
	var urls []string
	for range 2 {
		client, err := agentfeed.New(feed.Config()) // in a program: agentfeed.Config{HostFile: "web-1.yaml"}
		must(err)
		defer client.Close()
		must(client.WaitReady(ctx))
		sessions, err := cookie.NewCookie[account](cookie.HTTPConfig{
			Config: cookie.Config{Ring: client.Ring("sso"), Name: "__Host-session"},
		})
		must(err)

		mux := http.NewServeMux()
		mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
			if _, err := sessions.Set(w, r, account{User: "ann"}); err != nil {
				http.Error(w, "cannot log in now", http.StatusServiceUnavailable)
			}
		})
		mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
			held, err := sessions.Get(r)
			switch {
			case errors.Is(err, cookie.ErrNoCookie):
				http.Error(w, "log in first", http.StatusUnauthorized)
				return
			case err != nil: // no keys yet: the cookie may be good
				http.Error(w, "try again", http.StatusServiceUnavailable)
				return
			}
			held.Value.Visits++
			if held, err = sessions.Update(w, r, held.Value); err != nil {
				http.Error(w, "try again", http.StatusServiceUnavailable)
				return
			}
			fmt.Printf("visit %d of %s, sealed anew: %v\n", held.Value.Visits, held.Value.User, held.Resealed)
		})
		server := httptest.NewTLSServer(sessions.Middleware(mux))
		defer server.Close()
		clients, urls = append(clients, client), append(urls, server.URL)
	}

	jar, err := cookiejar.New(nil)
	must(err)
	browser := &http.Client{Jar: jar, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // of two test servers
	}}
	visit := func(method, url string) {
		r, err := http.NewRequestWithContext(ctx, method, url, nil)
		must(err)
		resp, err := browser.Do(r)
		must(err)
		must(resp.Body.Close())
		if resp.StatusCode != http.StatusOK {
			fmt.Println(resp.Status)
		}
	}
	visit("GET", urls[0]+"/")
	visit("POST", urls[0]+"/login")
	visit("GET", urls[0]+"/")
	visit("GET", urls[1]+"/")
	rolled := feed.Rollover("sso")
	for _, client := range clients {
		for keys := range client.Ring("sso").Updates(ctx) {
			if keys.Version == rolled.Version {
				break
			}
		}
	}
	visit("GET", urls[0]+"/")
	visit("GET", urls[1]+"/")
	// Output:
	// 401 Unauthorized
	// visit 1 of ann, sealed anew: false
	// visit 2 of ann, sealed anew: false
	// visit 3 of ann, sealed anew: true
	// visit 4 of ann, sealed anew: false
}

// A Codec seals what does not travel as a cookie, such as the token of a link that is
// good for an hour.
func ExampleCodec() {
	feed, stop := exampleFeed()
	defer stop()
	client, err := agentfeed.New(feed.Config())
	must(err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	must(client.WaitReady(ctx))

	links, err := cookie.New(cookie.Config{Ring: client.Ring("sso"), Name: "reset-link", MaxAge: time.Hour})
	must(err)
	token, err := links.Seal(nil, []byte("ann"))
	must(err)

	opened, err := links.Open(nil, token)
	must(err)
	fmt.Printf("%s, for %v\n", opened.Payload, opened.MaxAge)

	others, err := cookie.New(cookie.Config{Ring: client.Ring("sso"), Name: "session"})
	must(err)
	_, err = others.Open(nil, token) // sealed for another use
	fmt.Println(err)
	// Output:
	// ann, for 1h0m0s
	// cookie: bad token
}
