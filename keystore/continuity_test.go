package keystore_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keytide/keytide/keystore"
)

// A world is a key store, its policy servers, and one web agent behind each.
//
// Servers lag as they like. An agent may lag behind its server for less than
// RetainMargin, and never by two rollovers: this is what a fresh agent is.
type world struct {
	rt     *rapid.T
	tb     testing.TB
	now    time.Time
	nextID int
	rings  []keystore.Ring // every version there was, the newest last
	sites  []*site
	tokens []token
	known  map[keystore.KID]keystore.Material
	plan   keystore.Plan // of the policy's schedule; nil: it has none
}

// A site is a policy server with its agent.
type site struct {
	applied   keystore.N
	confirmed map[keystore.N]time.Time // when the server confirmed each event
	set       *keystore.KeySet         // what the agent holds
	setN      keystore.N               // the event of set
}

// A token is a sealed cookie: which key sealed it, and when.
type token struct {
	kid    keystore.KID
	since  keystore.Version // agents before it need not have the key: a fresh or emergency rollover made it current
	sealed time.Time
	lives  time.Time // it must open until here
}

func newWorld(rt *rapid.T, tb testing.TB, p keystore.Policy, sites int) *world {
	w := &world{rt: rt, tb: tb, now: start, nextID: 5, known: map[keystore.KID]keystore.Material{}}
	for i := 1; i < w.nextID; i++ {
		w.known[material(tb, i).KID()] = material(tb, i)
	}
	w.rings = []keystore.Ring{newRing(tb, p)}
	for range sites {
		s := &site{confirmed: map[keystore.N]time.Time{}}
		w.serverCatchesUp(s)
		w.agentCatchesUp(s)
		w.sites = append(w.sites, s)
	}
	return w
}

func (w *world) head() keystore.Ring { return w.rings[len(w.rings)-1] }

// at is the ring as it stood after event n.
func (w *world) at(n keystore.N) keystore.Ring {
	i := slices.IndexFunc(w.rings, func(r keystore.Ring) bool { return r.Last.N > n })
	if i < 0 {
		i = len(w.rings)
	}
	return w.rings[i-1]
}

func (w *world) commit(c keystore.Change) {
	r := w.head()
	w.rings = append(w.rings, apply(w.tb, r, c, ref(r.Last.N+1, w.now)))
}

func (w *world) serverCatchesUp(s *site) {
	for n := s.applied + 1; n <= w.head().Last.N; n++ {
		s.confirmed[n] = w.now
	}
	s.applied = w.head().Last.N
}

func (w *world) agentCatchesUp(s *site) {
	set, err := w.at(s.applied).KeySet(1, func(kid keystore.KID) (keystore.Material, error) { return w.known[kid], nil })
	if err != nil {
		w.rt.Fatalf("KeySet: %v", err)
	}
	s.set, s.setN = set, s.applied
}

// confirmed is the guard: when all servers had confirmed event n.
func (w *world) confirmed(n keystore.N) (time.Time, bool) {
	var last time.Time
	for _, s := range w.sites {
		at, ok := s.confirmed[n]
		if !ok {
			return time.Time{}, false
		}
		if at.After(last) {
			last = at
		}
	}
	return last, true
}

// rollover tries one, with new keys for every role that its trigger makes.
func (w *world) rollover(trigger keystore.Trigger) func(*rapid.T) {
	return func(*rapid.T) {
		r := w.head()
		req := keystore.Rollover{Trigger: trigger, Future: w.key(), Now: w.now, Plan: w.plan}
		if trigger == keystore.Fresh || trigger == keystore.Emergency {
			req.Current = w.key()
		}
		behind := 0
		for _, s := range w.sites {
			req.Servers = append(req.Servers, keystore.Confirmation{Server: "ps", Region: "eu", Applied: s.applied})
			if s.applied < r.Changed {
				behind++
			}
		}
		soon := !r.Rolled.IsZero() && w.now.Sub(r.Rolled) < r.Policy.MinInterval
		c, err := r.Rollover(req)
		if _, full := errors.AsType[*keystore.FullError](err); full {
			return
		}
		if want := (behind > 0 || soon) && trigger != keystore.Emergency; (err != nil) != want {
			w.rt.Fatalf("%s rollover with %d servers behind and too soon %v = %v", trigger, behind, soon, err)
		}
		if err != nil {
			return
		}
		w.noAgentLagsByTwo()
		w.commit(c)
		w.tokens = slices.DeleteFunc(w.tokens, func(t token) bool {
			return trigger == keystore.Emergency && slices.Contains(c.Destroyed, t.kid)
		})
	}
}

// key makes a key that the world knows.
func (w *world) key() keystore.NewKey {
	k := newKey(w.tb, w.nextID, w.now)
	w.known[k.KID] = material(w.tb, w.nextID)
	w.nextID++
	return k
}

// noAgentLagsByTwo has those agents catch up that would lag by two rollovers: that do
// not hold the key which is about to be current.
func (w *world) noAgentLagsByTwo() {
	for _, s := range w.sites {
		if _, ok := s.set.Key(w.head().ByRole(keystore.Future)[0].KID); !ok {
			w.agentCatchesUp(s)
		}
	}
}

// undo makes the former current key current again, whoever lags.
func (w *world) undo(*rapid.T) {
	r := w.head()
	c, err := r.Undo()
	former, held := r.Key(r.Former)
	if (err == nil) != held {
		w.rt.Fatalf("Undo = %v with the former current key held %t", err, held)
	}
	if err != nil {
		return
	}
	w.commit(c)
	if sealing, _ := w.head().Seals(); sealing.KID != former.KID {
		w.rt.Fatalf("after the undo %s seals, want %s", sealing.KID, former.KID)
	}
}

func (w *world) destroy(*rapid.T) {
	due := w.head().Due(w.now, w.confirmed)
	if len(due) == 0 {
		return
	}
	c, err := w.head().Destroy(due)
	if err != nil {
		w.rt.Fatalf("Destroy: %v", err)
	}
	w.commit(c)
}

// setPolicy sets another max_session.
func (w *world) setPolicy(rt *rapid.T) {
	p := w.head().Policy
	p.MaxSession = time.Duration(rapid.IntRange(1, 600).Draw(rt, "new session minutes")) * time.Minute
	c, err := w.head().SetPolicy(keystore.PolicyRequest{Policy: p, Plan: w.plan, Now: w.now})
	if err != nil {
		rt.Fatalf("SetPolicy: %v", err)
	}
	w.commit(c)
}

func (w *world) pass(rt *rapid.T) {
	w.passTime(time.Duration(rapid.Int64Range(0, int64(w.head().Policy.MaxSession)).Draw(rt, "pass")))
}

// passTime lets d pass. An agent that would lag for RetainMargin catches up first.
func (w *world) passTime(d time.Duration) {
	for _, s := range w.sites {
		if s.setN < s.applied && w.now.Add(d).Sub(s.confirmed[s.setN+1]) >= keystore.RetainMargin {
			w.agentCatchesUp(s)
		}
	}
	w.now = w.now.Add(d)
}

func (w *world) seal(rt *rapid.T) {
	s := rapid.SampledFrom(w.sites).Draw(rt, "agent")
	k, ok := s.set.Sealing()
	if !ok {
		rt.Fatalf("an agent cannot seal")
	}
	lives := w.now.Add(w.head().Policy.MaxSession)
	if w.head().Policy.Retain != keystore.RetainAuto {
		// A number of keys keeps a key for max_session after the rollover only, not
		// after the last agent heard of it.
		if key, ok := w.head().Key(k.KID); ok && key.Retired != 0 {
			lives = key.RetiredAt.Add(w.head().Policy.MaxSession)
		}
	}
	since := keystore.Version(0)
	if first := w.rings[slices.IndexFunc(w.rings, func(r keystore.Ring) bool { _, ok := r.Key(k.KID); return ok })]; first.Version > 1 {
		if made, _ := first.Key(k.KID); made.Role == keystore.Current {
			since = first.Version
		}
	}
	if _, ok := w.head().Key(k.KID); !ok {
		return // an emergency rollover destroyed it, and this agent has not heard of it yet
	}
	w.tokens = append(w.tokens, token{kid: k.KID, since: since, sealed: w.now, lives: lives})
}

// check is promise 1: what any agent sealed, every agent opens.
func (w *world) check(rt *rapid.T) {
	w.tokens = slices.DeleteFunc(w.tokens, func(t token) bool { return !w.now.Before(t.lives) })
	for _, t := range w.tokens {
		for i, s := range w.sites {
			k, ok := s.set.Key(t.kid)
			if !ok && s.set.Version < t.since {
				continue
			}
			if !ok {
				rt.Fatalf("agent %d at version %d (newest %d) refuses a cookie of %v ago under key %s",
					i, s.set.Version, w.head().Version, w.now.Sub(t.sealed), t.kid)
			}
			if k.Material.KID() != t.kid {
				rt.Fatalf("agent %d holds other bytes under kid %s", i, t.kid)
			}
		}
	}
}

func (w *world) actions() map[string]func(*rapid.T) {
	some := func(do func(*site)) func(*rapid.T) {
		return func(rt *rapid.T) { do(rapid.SampledFrom(w.sites).Draw(rt, "site")) }
	}
	return map[string]func(*rapid.T){
		"rollover": w.rollover(keystore.Manual), "fresh": w.rollover(keystore.Fresh), "undo": w.undo, "destroy": w.destroy, "pass": w.pass, "seal": w.seal,
		"server catches up": some(w.serverCatchesUp),
		"agent catches up":  some(w.agentCatchesUp),
		"all catch up": func(*rapid.T) {
			for _, s := range w.sites {
				w.serverCatchesUp(s)
			}
		},
		"": w.check,
	}
}

// TestContinuity is the promise that a cookie sealed at any agent opens at every
// other one for the max_session of its time, through random rollovers, lags, changes of
// policy and destructions; and that a key whose retention is over is gone.
func TestContinuity(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(rt, t, keystore.Policy{
			MaxSession:  time.Duration(rapid.IntRange(1, 600).Draw(rt, "session minutes")) * time.Minute,
			MinInterval: time.Duration(rapid.IntRange(0, 60).Draw(rt, "interval minutes")) * time.Minute,
		}, rapid.IntRange(1, 4).Draw(rt, "sites"))
		actions := w.actions()
		actions["set policy"] = w.setPolicy
		actions["emergency"] = w.rollover(keystore.Emergency)
		rt.Repeat(actions)
		for _, s := range w.sites {
			w.serverCatchesUp(s)
			w.agentCatchesUp(s)
		}
		w.passTime(600*time.Minute + keystore.RetainMargin) // the longest session that there ever was
		w.destroy(rt)
		for i, s := range w.sites {
			w.serverCatchesUp(s)
			w.agentCatchesUp(s)
			if n := len(s.set.Keys); n != 3 {
				rt.Fatalf("agent %d holds %d keys after all retention is over, want current, future and static", i, n)
			}
		}
	})
}

// TestContinuityWithRetainNumber is the same promise for the policies that keep a
// number of old keys, counted from the rollover.
func TestContinuityWithRetainNumber(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := keystore.Policy{
			MaxSession: time.Duration(rapid.IntRange(1, 600).Draw(rt, "session minutes")) * time.Minute,
			Retain:     keystore.Retain(rapid.IntRange(1, 5).Draw(rt, "retain")),
		}
		p.MinInterval = (p.MaxSession + time.Duration(p.Retain) - 1) / time.Duration(p.Retain)
		w := newWorld(rt, t, p, rapid.IntRange(1, 4).Draw(rt, "sites"))
		rt.Repeat(w.actions())
	})
}
