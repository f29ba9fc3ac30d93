package keystore_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keytide/keytide/keystore"
)

// A region is a policy server as the guard sees it, with the keys of its agent.
type region struct {
	keystore.Confirmation
	set *keystore.KeySet
}

// regions is a ring with every server that it was ever rolled over for.
type regions struct {
	tb      testing.TB
	rings   []keystore.Ring // every version, the newest last
	servers []region
	known   map[keystore.KID]keystore.Material
}

func newRegions(tb testing.TB, count int) *regions {
	w := &regions{tb: tb, known: map[keystore.KID]keystore.Material{}}
	w.rings = []keystore.Ring{newRing(tb, keystore.Policy{MaxSession: time.Hour})}
	for i := 1; i <= 4; i++ {
		w.know(i)
	}
	for i := range count {
		s := region{Confirmation: keystore.Confirmation{Server: fmt.Sprintf("ps-%d", i), Region: fmt.Sprintf("r%d", i)}}
		w.confirm(&s)
		w.servers = append(w.servers, s)
	}
	return w
}

func (w *regions) know(key int) { w.known[material(w.tb, key).KID()] = material(w.tb, key) }

func (w *regions) ring() keystore.Ring { return w.rings[len(w.rings)-1] }

// confirm has a server apply everything, and end its exclusion by that.
func (w *regions) confirm(s *region) {
	set, err := w.ring().KeySet(1, func(kid keystore.KID) (keystore.Material, error) { return w.known[kid], nil })
	if err != nil {
		w.tb.Fatal(err)
	}
	s.set, s.Applied, s.Excluded = set, w.ring().Last.N, false
}

// rollover tries one, and checks what the guard says against the servers.
func (w *regions) rollover(rt *rapid.T, force bool) {
	r, key := w.ring(), 10+len(w.rings)
	req := request(w.tb, r, key, start)
	req.Force, req.Servers = force, nil
	behind, confirmed := 0, 0
	for _, s := range w.servers {
		req.Servers = append(req.Servers, s.Confirmation)
		switch {
		case s.Excluded || s.Forgotten:
		case s.Applied < r.Changed:
			behind++
		default:
			confirmed++
		}
	}
	held := behind > 0 || confirmed == 0
	c, err := r.Rollover(req)
	if errors.As(err, new(*keystore.FullError)) {
		return
	}
	if got := errors.As(err, new(*keystore.HeldError)); got != (held && !force) {
		rt.Fatalf("Rollover with %d behind and %d confirmed, force %v = %v", behind, confirmed, force, err)
	}
	if err == nil {
		if c.Forced != held {
			rt.Fatalf("Rollover with %d behind and %d confirmed is marked forced %v", behind, confirmed, c.Forced)
		}
		w.know(key)
		w.rings = append(w.rings, apply(w.tb, r, c, ref(r.Last.N+1, start)))
	}
}

// opens checks that servers which are at most one version apart open what each
// other's agents seal.
func (w *regions) opens(rt *rapid.T) {
	for _, a := range w.servers {
		for _, b := range w.servers {
			if apart := int(a.set.Version) - int(b.set.Version); apart < -1 || apart > 1 {
				continue
			}
			sealing, _ := a.set.Sealing()
			if _, ok := b.set.Key(sealing.KID); !ok {
				rt.Fatalf("%s at version %d refuses a cookie of %s, which is at version %d", b.Server, b.set.Version, a.Server, a.set.Version)
			}
		}
	}
}

// TestNoRegionIsLeftBehind is the promise that a rollover waits for every registered
// region to have confirmed the one before, until it has or an administrator excludes
// it: however servers lag, are excluded or forgotten, no rollover is decided without
// force while one that counts has not confirmed. Nobody who counts is ever more than
// one version behind, and servers one version apart open each other's cookies.
func TestNoRegionIsLeftBehind(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newRegions(t, rapid.IntRange(1, 5).Draw(rt, "regions"))
		forced := false
		one := func(rt *rapid.T) *region {
			return &w.servers[rapid.IntRange(0, len(w.servers)-1).Draw(rt, "region")]
		}
		rt.Repeat(map[string]func(*rapid.T){
			"rollover": func(rt *rapid.T) { w.rollover(rt, false) },
			"forced rollover": func(rt *rapid.T) {
				if rapid.IntRange(0, 9).Draw(rt, "seldom") == 0 {
					w.rollover(rt, true)
					forced = true
				}
			},
			"confirm": func(rt *rapid.T) { w.confirm(one(rt)) },
			"exclude": func(rt *rapid.T) { one(rt).Excluded = true },
			"forget":  func(rt *rapid.T) { one(rt).Forgotten = true },
			"": func(rt *rapid.T) {
				w.opens(rt)
				for _, s := range w.servers {
					if counts := !s.Excluded && !s.Forgotten; counts && !forced && s.set.Version+1 < w.ring().Version {
						rt.Fatalf("%s is left behind at version %d; the ring is at %d", s.Server, s.set.Version, w.ring().Version)
					}
				}
			},
		})
	})
}
