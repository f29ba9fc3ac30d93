package agentfeed

import (
	"context"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keytide/keytide/agentfeed/hub"
	"github.com/keytide/keytide/keystore"
)

// seals reports whether a client could seal with its ring, and fails if it could not
// open with it.
func seals(t *testing.T, c *Client) bool {
	t.Helper()
	set := c.Ring("sso").Snapshot()
	if set == nil || len(set.Keys) == 0 {
		t.Fatal("the keys are gone")
	}
	if _, ok := set.Key(set.Keys[0].KID); !ok {
		t.Fatal("the key does not open")
	}
	_, ok := set.Sealing()
	return ok
}

func TestExpiredRingsOpenButDoNotSeal(t *testing.T) {
	for name, serve := range map[string]bool{"frozen server": true, "no server": false} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				n, s := newPipeNet(), newSource(t)
				h := newHubOf(t, hub.Config{Source: s, MaxStale: time.Hour})
				stop := n.serve("ps-1", h)
				client, end := n.client(t, "ps-1")
				time.Sleep(5 * time.Hour)
				synctest.Wait()
				before := client.Ring("sso").Snapshot()
				if got := client.Status(); got.State != StateFresh || !seals(t, client) {
					t.Errorf("Status = %+v, want fresh and sealing", got)
				}
				updates := make(chan *keystore.KeySet, 8)
				ctx, cancel := context.WithCancel(t.Context())
				go func() {
					for set := range client.Ring("sso").Updates(ctx) {
						updates <- set
					}
				}()
				if s.freeze(true); !serve {
					stop()
				}
				time.Sleep(time.Hour - 16*time.Second)
				synctest.Wait()
				if got := client.Status(); got.State != StateStale || client.Ring("sso").Snapshot() != before {
					t.Errorf("Status = %+v, want stale with the same keys", got)
				}
				time.Sleep(17 * time.Second)
				synctest.Wait()
				if got := client.Status(); got.State != StateExpired || seals(t, client) {
					t.Errorf("Status = %+v, want expired, not sealing", got)
				}
				if _, ok := before.Sealing(); !ok {
					t.Error("a set that was given out has changed")
				}
				if s.freeze(false); !serve {
					stop = n.serve("ps-1", h)
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				if got := client.Status(); got.State != StateFresh || client.Ring("sso").Snapshot() != before {
					t.Errorf("Status = %+v, want fresh again, with the same keys", got)
				}
				cancel()
				if got := len(updates); got != 3 {
					t.Errorf("%d updates, want the keys, those that only open, and the keys again", got)
				}
				stop()
				end()
			})
		})
	}
}

func TestStateWithoutMaxStaleNeverExpires(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		n, s := newPipeNet(), newSource(t)
		stop := n.serve("ps-1", newHub(t, s))
		client, end := n.client(t, "ps-1")
		time.Sleep(time.Second)
		stop()
		time.Sleep(2 * 24 * time.Hour)
		if got := client.Status(); got.State != StateStale || !seals(t, client) {
			t.Errorf("Status = %+v, want stale and sealing", got)
		}
		end()
	})
}

func TestCacheExpires(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		n, s, file := newPipeNet(), newSource(t), filepath.Join(t.TempDir(), "cache")
		stop := n.serve("ps-1", newHubOf(t, hub.Config{Source: s, MaxStale: time.Hour}))
		_, end := n.cachedClient(t, file, "ps-1")
		time.Sleep(time.Minute)
		end()
		stop()
		for _, c := range []struct {
			sleep time.Duration
			want  State
			seals bool
		}{{30 * time.Minute, StateCached, true}, {31 * time.Minute, StateExpired, false}} {
			time.Sleep(c.sleep)
			client, end := n.cachedClient(t, file, "ps-1")
			if got := client.Status(); got.State != c.want || seals(t, client) != c.seals || got.Age < 30*time.Minute {
				t.Errorf("Status = %+v, want %s", got, c.want)
			}
			end()
		}
	})
}
