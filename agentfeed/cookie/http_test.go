package cookie_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keytide/keytide/agentfeed/cookie"
	"github.com/keytide/keytide/keystore"
)

type user struct {
	Name  string `json:"name"`
	Count int    `json:"count"`
}

type held = cookie.Held[user]

func newCookie(tb testing.TB, r cookie.Ring, more ...func(*cookie.HTTPConfig)) *cookie.Cookie[user] {
	tb.Helper()
	config := cookie.HTTPConfig{Config: cookie.Config{Ring: r, Name: "__Host-s"}}
	for _, change := range more {
		change(&config)
	}
	c, err := cookie.NewCookie[user](config)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// A visit sends a request with cookies to a handler and returns the response.
func visit(h http.Handler, cookies ...*http.Cookie) *http.Response {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	for _, c := range cookies {
		r.AddCookie(c)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

// login returns the cookie of a session that begins now.
func login(tb testing.TB, c *cookie.Cookie[user], name string) *http.Cookie {
	tb.Helper()
	return onlyCookie(tb, visit(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := c.Set(w, r, user{Name: name}); err != nil {
			tb.Errorf("Set: %v", err)
		}
	})))
}

func onlyCookie(tb testing.TB, resp *http.Response) *http.Cookie {
	tb.Helper()
	cookies := resp.Cookies()
	if len(cookies) != 1 {
		tb.Fatalf("%d cookies set: %v, want 1", len(cookies), cookies)
	}
	return cookies[0]
}

func mustGet(tb testing.TB, c *cookie.Cookie[user], r *http.Request, want user) held {
	tb.Helper()
	h, err := c.Get(r)
	if err != nil || h.Value != want {
		tb.Errorf("Get = %+v, %v; want %+v", h.Value, err, want)
	}
	return h
}

func TestCookieAttributes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, test := range map[string]struct {
			change func(*cookie.HTTPConfig)
			want   http.Cookie
		}{
			"default": {
				func(*cookie.HTTPConfig) {},
				http.Cookie{Name: "__Host-s", Path: "/", MaxAge: 28800, HttpOnly: true, Secure: true, SameSite: http.SameSiteLaxMode},
			},
			"all set": {
				func(c *cookie.HTTPConfig) {
					c.Name, c.Path, c.Domain, c.SameSite, c.Insecure, c.MaxAge = "s", "/app", "example.com", http.SameSiteStrictMode, true, time.Hour
				},
				http.Cookie{Name: "s", Path: "/app", Domain: "example.com", MaxAge: 3600, HttpOnly: true, SameSite: http.SameSiteStrictMode},
			},
			"no end": {
				func(c *cookie.HTTPConfig) { c.Purpose = cookie.Tracking },
				http.Cookie{Name: "__Host-s", Path: "/", MaxAge: 400 * 86400, HttpOnly: true, Secure: true, SameSite: http.SameSiteLaxMode},
			},
		} {
			got := login(t, newCookie(t, ringOf(dynamicSet(t, 5, 3)), test.change), "ann")
			test.want.Value, test.want.Raw, test.want.RawExpires = got.Value, got.Raw, got.RawExpires
			test.want.Expires = time.Now().UTC().Add(time.Duration(test.want.MaxAge) * time.Second)
			if diff := cmp.Diff(test.want, *got); diff != "" {
				t.Errorf("%s: (-want +got)\n%s", name, diff)
			}
		}
	})
}

func TestHTTPConfigFaults(t *testing.T) {
	r := ringOf(dynamicSet(t, 5, 3))
	for name, c := range map[string]cookie.HTTPConfig{
		"no ring":        {Config: cookie.Config{Name: "s"}},
		"host path":      {Config: cookie.Config{Ring: r, Name: "__Host-s"}, Path: "/app"},
		"host domain":    {Config: cookie.Config{Ring: r, Name: "__hOST-s"}, Domain: "example.com"},
		"host insecure":  {Config: cookie.Config{Ring: r, Name: "__Host-s"}, Insecure: true},
		"not secure":     {Config: cookie.Config{Ring: r, Name: "__Secure-s"}, Insecure: true},
		"none, insecure": {Config: cookie.Config{Ring: r, Name: "s"}, SameSite: http.SameSiteNoneMode, Insecure: true},
		"path":           {Config: cookie.Config{Ring: r, Name: "s"}, Path: "/a;b"},
		"relative path":  {Config: cookie.Config{Ring: r, Name: "s"}, Path: "a"},
		"domain":         {Config: cookie.Config{Ring: r, Name: "s"}, Domain: "a b"},
	} {
		if _, err := cookie.NewCookie[user](c); !errors.Is(err, keystore.ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
}

// TestSessionOutlivesRollovers: the browser's cookie is sealed anew after each
// rollover, once, and the session ends when it would have.
func TestSessionOutlivesRollovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := ringOf(dynamicSet(t, 1, 20))
		c := newCookie(t, r)
		began := time.Now()
		browser := login(t, c, "ann")
		var seen held
		show := c.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen = mustGet(t, c, r, user{Name: "ann"}) }))
		for v := 2; v <= 8; v++ {
			time.Sleep(55 * time.Minute)
			r.set.Store(dynamicSet(t, v, 20))
			fresh := onlyCookie(t, visit(show, browser))
			current := dynamicSet(t, v, 20).Keys[0].KID
			if !seen.Resealed || seen.SealedBy != current || seen.OpenedBy == current || !seen.Issued.Equal(began) {
				t.Fatalf("version %d: %+v, want it resealed by %v", v, seen, current)
			}
			if want := began.Add(8 * time.Hour); !fresh.Expires.Equal(want) || !seen.Expires.Equal(want) {
				t.Errorf("version %d: the session ends at %v, the cookie at %v, want %v", v, seen.Expires, fresh.Expires, want)
			}
			browser = fresh
			if again := visit(show, browser); len(again.Cookies()) != 0 || seen.Resealed {
				t.Errorf("version %d: sealed anew a second time", v)
			}
		}
		time.Sleep(95 * time.Minute)
		visit(c.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if _, err := c.Get(r); !errors.Is(err, cookie.ErrNoCookie) || cookie.ReasonOf(err) != cookie.Expired {
				t.Errorf("after 8 hours: %v, want it expired", err)
			}
		})), browser)
	})
}

// TestResealWays: the new cookie goes out with the head, whatever sends that.
func TestResealWays(t *testing.T) {
	r := ringOf(dynamicSet(t, 1, 3))
	c := newCookie(t, r)
	browser := login(t, c, "ann")
	r.set.Store(dynamicSet(t, 2, 3))
	for name, test := range map[string]struct {
		handler http.HandlerFunc
		caching string // Cache-Control of the response
		cookies int
	}{
		"nothing":  {func(http.ResponseWriter, *http.Request) {}, "private, no-cache", 1},
		"status":   {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }, "private, no-cache", 1},
		"body":     {func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "x") }, "private, no-cache", 1},
		"copy":     {func(w http.ResponseWriter, _ *http.Request) { io.Copy(w, strings.NewReader("x")) }, "private, no-cache", 1},
		"flush":    {func(w http.ResponseWriter, _ *http.Request) { w.(http.Flusher).Flush() }, "private, no-cache", 1},
		"control":  {func(w http.ResponseWriter, _ *http.Request) { http.NewResponseController(w).Flush() }, "private, no-cache", 1},
		"no-store": {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Cache-Control", "no-store") }, "no-store", 1},
		"public": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Cache-Control", "max-age=60, Public")
		}, "max-age=60, Public", 0},
		"s-maxage": {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Cache-Control", "s-maxage=60") }, "s-maxage=60", 0},
		"other cookie": {func(w http.ResponseWriter, _ *http.Request) {
			http.SetCookie(w, &http.Cookie{Name: "other", Value: "x"})
		}, "private, no-cache", 2},
		"set": {func(w http.ResponseWriter, r *http.Request) { c.Set(w, r, user{Name: "eve"}) }, "private, no-cache", 1},
		"set, though public": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "public")
			c.Set(w, r, user{Name: "eve"})
		}, "public", 1},
		"twice": {func(w http.ResponseWriter, r *http.Request) {
			c.Set(w, r, user{Name: "eve"})
			c.Update(w, r, user{Name: "eve", Count: 1})
		}, "private, no-cache", 1},
		"clear": {func(w http.ResponseWriter, r *http.Request) { c.Clear(w, r) }, "private, no-cache", 1},
	} {
		resp := visit(c.Middleware(test.handler), browser)
		if got := resp.Header.Get("Cache-Control"); len(resp.Cookies()) != test.cookies || got != test.caching {
			t.Errorf("%s: cookies %v and Cache-Control %q, want %d and %q", name, resp.Cookies(), got, test.cookies, test.caching)
		}
	}
}

// TestChangesInOneRequest: Get sees what Set, Update and Clear did, and each keeps or
// begins the session's time.
func TestChangesInOneRequest(t *testing.T) {
	for name, wrap := range map[string]func(*cookie.Cookie[user], http.Handler) http.Handler{
		"middleware": (*cookie.Cookie[user]).Middleware,
		"without":    func(_ *cookie.Cookie[user], h http.Handler) http.Handler { return h },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := ringOf(dynamicSet(t, 1, 3))
				c := newCookie(t, r)
				began := time.Now()
				browser := login(t, c, "ann")
				time.Sleep(time.Hour)
				r.set.Store(dynamicSet(t, 2, 3))
				browser = onlyCookie(t, visit(wrap(c, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					h, err := c.Update(w, r, user{"ann", 1})
					if err != nil || !h.Issued.Equal(began) || !h.Resealed || h.SealedBy == h.OpenedBy {
						t.Errorf("Update = %+v, %v; want the same session under another key", h, err)
					}
				})), browser))
				browser = onlyCookie(t, visit(wrap(c, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					mustGet(t, c, r, user{"ann", 1})
					h, err := c.Set(w, r, user{"bob", 7})
					if err != nil || !h.Issued.Equal(time.Now()) || h.OpenedBy != (keystore.KID{}) || h.Resealed {
						t.Errorf("Set = %+v, %v; want a new session", h, err)
					}
					if name == "middleware" {
						mustGet(t, c, r, user{"bob", 7})
					}
				})), browser))
				gone := onlyCookie(t, visit(wrap(c, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					mustGet(t, c, r, user{"bob", 7})
					if err := c.Clear(w, r); err != nil {
						t.Error(err)
					}
					if _, err := c.Get(r); name == "middleware" && !errors.Is(err, cookie.ErrNoCookie) {
						t.Errorf("Get after Clear: %v", err)
					}
				})), browser))
				if gone.Value != "" || gone.MaxAge >= 0 || gone.Path != "/" || !gone.Secure {
					t.Errorf("Clear sets %v", gone)
				}
			})
		})
	}
}

func TestTooLate(t *testing.T) {
	c := newCookie(t, ringOf(dynamicSet(t, 1, 3)))
	server := httptest.NewServer(c.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusEarlyHints) // is no head yet
		if _, err := c.Set(w, r, user{Name: "ann"}); err != nil {
			t.Errorf("Set after early hints: %v", err)
		}
		io.WriteString(w, "x")
		if _, err := c.Set(w, r, user{Name: "eve"}); !errors.Is(err, cookie.ErrBegun) {
			t.Errorf("Set after the head: %v, want ErrBegun", err)
		}
		if err := c.Clear(w, r); !errors.Is(err, cookie.ErrBegun) {
			t.Errorf("Clear after the head: %v, want ErrBegun", err)
		}
		mustGet(t, c, r, user{Name: "ann"})
	})))
	defer server.Close()
	resp, err := http.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	onlyCookie(t, resp)
}

// TestWithoutKeys: an agent that has no keys yet takes no session away.
func TestWithoutKeys(t *testing.T) {
	browser := login(t, newCookie(t, ringOf(dynamicSet(t, 1, 3))), "ann")
	c := newCookie(t, ringOf(nil))
	resp := visit(c.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := c.Get(r); !errors.Is(err, cookie.ErrNoKey) || errors.Is(err, cookie.ErrNoCookie) {
			t.Errorf("Get: %v, want ErrNoKey alone", err)
		}
		if _, err := c.Set(w, r, user{}); !errors.Is(err, cookie.ErrNoKey) {
			t.Errorf("Set: %v, want ErrNoKey", err)
		}
	})), browser)
	if len(resp.Cookies()) != 0 || resp.Header.Get("Cache-Control") != "" {
		t.Errorf("the head was touched: %v", resp.Header)
	}
}

func TestCookiesThatDoNotCount(t *testing.T) {
	r := ringOf(dynamicSet(t, 1, 3))
	c := newCookie(t, r)
	good := login(t, c, "ann")
	get := func(cookies ...*http.Cookie) (held, error) {
		req := httptest.NewRequest(http.MethodGet, "/", nil)
		for _, sent := range cookies {
			req.AddCookie(sent)
		}
		return c.Get(req)
	}
	bad := &http.Cookie{Name: good.Name, Value: string(changedAt([]byte(good.Value), 50))}
	if _, err := get(); !errors.Is(err, cookie.ErrNoCookie) || errors.Is(err, cookie.ErrBadToken) {
		t.Errorf("no cookie: %v", err)
	}
	if _, err := get(bad); !errors.Is(err, cookie.ErrNoCookie) || cookie.ReasonOf(err) != cookie.Unauthentic {
		t.Errorf("a forged cookie: %v", err)
	}
	if h, err := get(bad, bad, good); err != nil || h.Value.Name != "ann" {
		t.Errorf("a good one after two that another host set: %+v, %v", h, err)
	}
	if _, err := get(bad, bad, bad, bad, good); err == nil {
		t.Error("any number of cookies is tried")
	}
	credentials := newCookie(t, r, func(h *cookie.HTTPConfig) { h.Purpose = cookie.Credentials })
	if _, err := get(login(t, credentials, "ann")); !errors.Is(err, cookie.ErrNoCookie) {
		t.Errorf("a remembered login as a session: %v", err)
	}
	text := newCookie(t, r, func(h *cookie.HTTPConfig) {
		h.Marshal = func(v any) ([]byte, error) { return fmt.Appendf(nil, "not JSON: %v", v), nil }
	})
	if _, err := get(login(t, text, "ann")); !errors.Is(err, cookie.ErrNoCookie) {
		t.Errorf("a value that does not unmarshal: %v", err)
	}
}

func TestValueTooLong(t *testing.T) {
	c := newCookie(t, ringOf(dynamicSet(t, 1, 3)))
	resp := visit(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := c.Set(w, r, user{Name: strings.Repeat("x", 4000)}); !errors.Is(err, cookie.ErrTooLong) {
			t.Errorf("Set: %v, want ErrTooLong", err)
		}
	}))
	if len(resp.Cookies()) != 0 {
		t.Errorf("set %v", resp.Cookies())
	}
}

// TestWriterPassesThrough: a real server's writer keeps what it can do.
func TestWriterPassesThrough(t *testing.T) {
	c := newCookie(t, ringOf(dynamicSet(t, 1, 3)))
	server := httptest.NewServer(c.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if err := http.NewResponseController(w).SetWriteDeadline(time.Time{}); err != nil {
			t.Errorf("SetWriteDeadline: %v", err)
		}
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Errorf("Hijack: %v", err)
			return
		}
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\n\r\n")
		conn.Close()
	})))
	defer server.Close()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(line, "101") {
		t.Errorf("answer %q, %v", line, err)
	}
}
