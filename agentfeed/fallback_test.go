package agentfeed

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// A heldResponse keeps an answer back.
type heldResponse struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *heldResponse) Header() http.Header              { return r.header }
func (r *heldResponse) WriteHeader(status int)           { r.status = status }
func (r *heldResponse) Write(p []byte) (int, error)      { return r.body.Write(p) }
func (r *heldResponse) Flush()                           {}
func (r *heldResponse) SetWriteDeadline(time.Time) error { return nil }

func (r *heldResponse) send(w http.ResponseWriter) {
	for name, values := range r.header {
		w.Header()[name] = values
	}
	w.WriteHeader(r.status)
	w.Write(r.body.Bytes())
}

// buffering passes an answer on when it has ended, as a proxy does that buffers.
func buffering(h http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		held := &heldResponse{header: make(http.Header), status: http.StatusOK}
		h.ServeHTTP(held, r)
		if r.Context().Err() == nil {
			held.send(w)
		}
	}
}

// kept is an answer whose connection nobody can take over.
type kept struct {
	http.ResponseWriter
	control *http.ResponseController
}

func (k kept) Flush()                              { k.control.Flush() }
func (k kept) SetWriteDeadline(at time.Time) error { return k.control.SetWriteDeadline(at) }

// cutting ends every request after a time, as a proxy does that is impatient:
// streams at once in the middle, others without an answer.
func cutting(h http.Handler, after time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), after)
		defer cancel()
		if r.Header.Get("Accept") != "text/event-stream" {
			held := &heldResponse{header: make(http.Header), status: http.StatusOK}
			h.ServeHTTP(held, r.WithContext(ctx))
			if ctx.Err() == nil {
				held.send(w)
				return
			}
		} else {
			h.ServeHTTP(kept{w, http.NewResponseController(w)}, r.WithContext(ctx))
		}
		panic(http.ErrAbortHandler)
	}
}

func TestFallBackAndReturn(t *testing.T) {
	for name, c := range map[string]struct {
		proxy func(http.Handler) http.Handler
		want  Transport
		gap   time.Duration // within which a rollover arrives, once settled
		age   time.Duration // which the rings never reach
	}{
		"nothing in between": {func(h http.Handler) http.Handler { return h }, TransportStream, time.Second, 16 * time.Second},
		"buffering proxy":    {func(h http.Handler) http.Handler { return buffering(h) }, TransportLongPoll, time.Second, 60 * time.Second},
		"cuts every 20 s":    {func(h http.Handler) http.Handler { return cutting(h, 20*time.Second) }, TransportLongPoll, time.Second, 60 * time.Second},
		"cuts every 8 s":     {func(h http.Handler) http.Handler { return cutting(h, 8*time.Second) }, TransportPoll, 37 * time.Second, 60 * time.Second},
		"buffers and cuts":   {func(h http.Handler) http.Handler { return cutting(buffering(h), 4*time.Second) }, TransportPoll, 37 * time.Second, 60 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				n, s := newPipeNet(), newSource(t)
				h := newHub(t, s)
				stop := n.serve("ps-1", c.proxy(h))
				client, end := n.client(t, "ps-1")
				time.Sleep(2 * time.Minute)
				synctest.Wait()
				if got := client.Status(); got.Transport != c.want || got.State != StateFresh || got.Server != "ps-1" || got.URL != "http://ps-1" {
					t.Fatalf("Status = %+v, want fresh by %s", got, c.want)
				}
				var oldest time.Duration
				for range 25 * 60 { // long enough to try a stream again, twice
					time.Sleep(time.Second)
					oldest = max(oldest, client.Status().Age)
				}
				if oldest > c.age {
					t.Errorf("the rings were %v old, want under %v", oldest, c.age)
				}
				until := time.Now().Add(time.Minute) // past an attempt to stream
				for client.Status().Transport != c.want && time.Now().Before(until) {
					time.Sleep(time.Second)
				}
				if c.want == TransportLongPoll {
					time.Sleep(300 * time.Millisecond) // not between two polls
				}
				s.set(t, "1.2-1.1", 2)
				time.Sleep(c.gap)
				synctest.Wait()
				if got := client.Ring("sso").Snapshot().Version; got != 2 {
					t.Errorf("version %d after %v, want 2; %+v", got, c.gap, client.Status())
				}
				stop()
				if c.want != TransportStream { // the proxy goes
					stop = n.serve("ps-1", h)
					time.Sleep(11 * time.Minute)
					synctest.Wait()
					if got := client.Status(); got.Transport != TransportStream || got.State != StateFresh {
						t.Errorf("Status = %+v, want a stream again", got)
					}
					stop()
				}
				end()
			})
		})
	}
}

// TestPollProvesItsState: only what a poll has sealed counts as proof.
func TestPollProvesItsState(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		n, s := newPipeNet(), newSource(t)
		stop := n.serve("ps-1", buffering(newHub(t, s)))
		client, end := n.client(t, "ps-1")
		time.Sleep(time.Minute)
		s.freeze(true)
		time.Sleep(61 * time.Second)
		synctest.Wait()
		if got := client.Status(); got.State != StateStale || got.Err != nil || got.Transport != TransportLongPoll {
			t.Errorf("Status = %+v, want stale by polls of a frozen server", got)
		}
		s.freeze(false)
		time.Sleep(26 * time.Second)
		synctest.Wait()
		if got := client.Status(); got.State != StateFresh {
			t.Errorf("Status = %+v, want fresh again", got)
		}
		stop()
		bare := n.serve("ps-1", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNotModified) }))
		time.Sleep(61 * time.Second)
		synctest.Wait()
		if got := client.Status(); got.State != StateStale || got.Err == nil {
			t.Errorf("Status = %+v, want stale: a bare 304 proves nothing", got)
		}
		bare()
		end()
	})
}

func TestLearningOfAServer(t *testing.T) {
	now := time.Now()
	s := &server{}
	want := func(when string, transport Transport, wait time.Duration) {
		t.Helper()
		if got := s.transport(now); got != transport || s.longest() != wait {
			t.Errorf("%s: %s with %v, want %s with %v", when, got, s.longest(), transport, wait)
		}
	}
	want("new", TransportStream, longWait)
	if s.died(now) {
		t.Error("one stream that died is enough")
	}
	want("one died", TransportStream, longWait)
	if !s.died(now) {
		t.Error("two streams that died are not enough")
	}
	want("two died", TransportLongPoll, longWait)
	s.cut(20 * time.Second)
	want("cut after 20 s", TransportLongPoll, 15*time.Second)
	s.cut(9 * time.Second)
	s.answered(true)
	s.cut(9 * time.Second)
	want("cut after 9 s, and not twice in a row", TransportLongPoll, 15*time.Second)
	s.cut(25 * time.Second)
	want("cut twice in a row", TransportPoll, 15*time.Second)
	now = now.Add(noStreams)
	want("after ten minutes", TransportStream, 15*time.Second)
	if !s.died(now) {
		t.Error("a second attempt that died is not enough")
	}
	want("in vain", TransportPoll, 15*time.Second)
}

func TestPollsAreSpread(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		c := &Client{config: Config{PollInterval: 10 * time.Second}}
		s := session{client: c, follower: &follower{random: rand.New(rand.NewPCG(1, 1))}, watchdog: time.AfterFunc(time.Hour, func() {})}
		for range 200 {
			start := time.Now()
			if err := s.pause(t.Context(), false, false); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took < 8*time.Second || took > 12*time.Second {
				t.Fatalf("%v between two polls, want 8 to 12 s", took)
			}
		}
		s.sent = time.Now()
		if s.pause(t.Context(), true, false); time.Since(s.sent) < time.Second {
			t.Error("a long poll that was answered at once, with nothing new, was followed by another at once")
		}
	})
}

// TestLongPollsComeBackSpread: a server that dies ends all long polls at once.
func TestLongPollsComeBackSpread(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		n, s := newPipeNet(), newSource(t)
		h := newHub(t, s)
		stop := n.serve("ps-1", buffering(h))
		var clients []*Client
		var ends []func()
		for range 50 {
			c, end := n.client(t, "ps-1")
			clients, ends = append(clients, c), append(ends, end)
		}
		time.Sleep(5 * time.Minute)
		stop()
		stop = n.serve("ps-1", buffering(h)) // at once
		back := func() (count int) {
			synctest.Wait()
			for _, c := range clients {
				if c.Status().Err == nil {
					count++
				}
			}
			return count
		}
		time.Sleep(time.Second)
		if got := back(); got > 20 {
			t.Errorf("%d of 50 agents are back after 1 s, want them spread over 5 s", got)
		}
		time.Sleep(5 * time.Second)
		if got := back(); got != 50 {
			t.Errorf("%d of 50 agents are back after 6 s", got)
		}
		for _, end := range ends {
			end()
		}
		stop()
	})
}
