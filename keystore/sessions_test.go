package keystore_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keytide/keytide/keystore"
)

// A shorter max_session is for sessions to come: a key is kept for those that it
// sealed while they were allowed to live longer, whatever the policy says by then.
func TestShorterMaxSessionKeepsKeysOfLongerSessions(t *testing.T) {
	long := keystore.Policy{MaxSession: 8 * time.Hour, MinInterval: 0}
	short := keystore.Policy{MaxSession: time.Hour, MinInterval: time.Hour}
	number := short
	number.Retain = 1
	k1 := material(t, 1).KID()
	for name, tt := range map[string]struct {
		policy keystore.Policy
		before bool // the policy is set before key 1 is retired
		force  bool // of the second rollover
	}{
		"auto, set after":           {policy: short},
		"auto, set before":          {policy: short, before: true},
		"a number, set after":       {policy: number},
		"a number, set before":      {policy: number, before: true},
		"a number, forced rollover": {policy: number, force: true},
	} {
		t.Run(name, func(t *testing.T) {
			set := func(r keystore.Ring) keystore.Ring {
				c, err := r.SetPolicy(keystore.PolicyRequest{Policy: tt.policy})
				if err != nil {
					t.Fatal(err)
				}
				return apply(t, r, c, ref(r.Last.N+1, start))
			}
			r := newRing(t, long)
			if tt.before {
				r = set(r)
			}
			r = rolled(t, r, 5, start) // retires key 1
			if !tt.before {
				r = set(r)
			}
			now := start.Add(2 * time.Hour)
			if tt.force {
				now = start.Add(time.Minute)
			}
			req := request(t, r, 6, now)
			req.Force = tt.force
			c, err := r.Rollover(req)
			if err != nil || len(c.Destroyed) != 0 {
				t.Fatalf("Rollover = destroys %v, %v; want key 1 kept", c.Destroyed, err)
			}
			r = apply(t, r, c, ref(r.Last.N+1, now))
			kept := 8*time.Hour + keystore.RetainMargin
			if due := r.Due(start.Add(kept-time.Second), everybody(start)); slices.Contains(due, k1) {
				t.Errorf("Due = %v a second early, want key 1 not in it", due)
			}
			if due := r.Due(start.Add(kept), everybody(start)); !slices.Contains(due, k1) {
				t.Errorf("Due = %v, want key 1 in it", due)
			}
		})
	}
}

// A number of keys that protects sessions at the policy's own interval may come
// after rollovers in quicker succession: those keys end by age.
func TestRetainNumberAfterQuickRolloversKeepsSessions(t *testing.T) {
	r := newRing(t, keystore.Policy{MaxSession: 8 * time.Hour, MinInterval: time.Hour})
	for i := range 4 {
		r = rolled(t, r, 10+i, start.Add(time.Duration(i)*time.Hour)) // retires keys 1, 2, 10, 11
	}
	c, err := r.SetPolicy(keystore.PolicyRequest{Policy: keystore.Policy{MaxSession: 8 * time.Hour, MinInterval: 4 * time.Hour, Retain: 2}})
	if err != nil {
		t.Fatal(err)
	}
	r = apply(t, r, c, ref(r.Last.N+1, start))
	c, err = r.Rollover(request(t, r, 20, start.Add(8*time.Hour)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]keystore.KID{material(t, 1).KID()}, c.Destroyed); diff != "" {
		t.Errorf("destroyed 8 h after the first of four hourly rollovers (-want +got):\n%s", diff)
	}
}

// A late agent seals with a retired key while max_session is raised for a while: those
// sessions count as well.
func TestRaisedMaxSessionCountsForRetiredKeys(t *testing.T) {
	short := keystore.Policy{MaxSession: time.Hour}
	r := rolled(t, newRing(t, short), 5, start) // retires key 1
	for _, session := range []time.Duration{8 * time.Hour, time.Hour} {
		c, err := r.SetPolicy(keystore.PolicyRequest{Policy: keystore.Policy{MaxSession: session}})
		if err != nil {
			t.Fatal(err)
		}
		r = apply(t, r, c, ref(r.Last.N+1, start))
	}
	if due := r.Due(start.Add(8*time.Hour), everybody(start)); len(due) != 0 {
		t.Errorf("Due after 8 h = %v, want none before the margin is over", due)
	}
	if due := r.Due(start.Add(8*time.Hour+keystore.RetainMargin), everybody(start)); len(due) != 1 {
		t.Errorf("Due = %v, want key 1", due)
	}
}
