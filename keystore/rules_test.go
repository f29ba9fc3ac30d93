package keystore_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keytide/keytide/keystore"
)

type roleOf struct {
	Key  int
	Role keystore.Role
}

// roles lists a ring's keys by their numbers in the test.
func roles(tb testing.TB, r keystore.Ring) []roleOf {
	tb.Helper()
	var got []roleOf
	for _, k := range r.Keys {
		for i := 1; i < 200; i++ {
			if material(tb, i).KID() == k.KID {
				got = append(got, roleOf{i, k.Role})
				break
			}
		}
	}
	return got
}

func TestCreate(t *testing.T) {
	r := newRing(t, keystore.DefaultPolicy())
	want := []roleOf{{1, keystore.Current}, {2, keystore.Future}, {3, keystore.Static}, {4, keystore.SessionTicket}}
	if diff := cmp.Diff(want, roles(t, r)); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	if r.Version != 1 || r.Mode != keystore.ModeDynamic || r.Changed != 10 || !r.Created.Equal(start) || !r.Rolled.IsZero() {
		t.Errorf("ring = %+v, want version 1, dynamic, changed by event 10, not rolled", r)
	}
	if k, ok := r.Seals(); !ok || k.KID != material(t, 1).KID() {
		t.Errorf("Seals = %v, %v, want key 1", k, ok)
	}
}

func TestCreateRefuses(t *testing.T) {
	same := firstKeys(t)
	same.Static = same.Future
	none := firstKeys(t)
	none.Future = keystore.NewKey{}
	undated := firstKeys(t)
	undated.Future.Created = time.Time{}
	short := keystore.DefaultPolicy()
	short.Retain = 1
	tests := []struct {
		name   string
		ring   keystore.RingName
		policy keystore.Policy
		keys   keystore.FirstKeys
		want   string
	}{
		{"name", "Sso", keystore.DefaultPolicy(), firstKeys(t), `ring name "Sso": invalid`},
		{"policy", "sso", keystore.Policy{}, firstKeys(t), "max_session 0s"},
		{"retain", "sso", short, firstKeys(t), "retain 1 keeps an old key for as little as 1h0m0s"},
		{"same key twice", "sso", keystore.DefaultPolicy(), same, "is in the ring twice"},
		{"no key", "sso", keystore.DefaultPolicy(), none, "the future key has no kid"},
		{"no creation time", "sso", keystore.DefaultPolicy(), undated, "has no creation time"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := keystore.Create(tt.ring, tt.policy, tt.keys)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Create = %v, want an error with %q", err, tt.want)
			}
		})
	}
}

func TestRollover(t *testing.T) {
	r0 := newRing(t, keystore.DefaultPolicy())
	at := start.Add(2 * time.Hour)
	r1 := rolled(t, r0, 5, at)
	want := []roleOf{{2, keystore.Current}, {1, keystore.Old}, {5, keystore.Future}, {3, keystore.Static}, {4, keystore.SessionTicket}}
	if diff := cmp.Diff(want, roles(t, r1)); diff != "" {
		t.Errorf("keys after one rollover (-want +got):\n%s", diff)
	}
	if r1.Version != 2 || r1.Changed != 11 || !r1.Rolled.Equal(at) {
		t.Errorf("ring = version %d, changed %d, rolled %v; want 2, 11, %v", r1.Version, r1.Changed, r1.Rolled, at)
	}
	if old := r1.ByRole(keystore.Old)[0]; old.Retired != 11 || !old.RetiredAt.Equal(at) || old.Generation != 1 {
		t.Errorf("old key = %+v, want retired by event 11 at %v, of generation 1", old, at)
	}
	if future := r1.ByRole(keystore.Future)[0]; future.Generation != 2 {
		t.Errorf("future key has generation %d, want 2", future.Generation)
	}
	r2 := rolled(t, r1, 6, at.Add(time.Hour))
	want = []roleOf{{5, keystore.Current}, {2, keystore.Old}, {1, keystore.Old}, {6, keystore.Future}, {3, keystore.Static}, {4, keystore.SessionTicket}}
	if diff := cmp.Diff(want, roles(t, r2)); diff != "" {
		t.Errorf("keys after two rollovers (-want +got):\n%s", diff)
	}
}

func TestRolloverRefusals(t *testing.T) {
	r := rolled(t, newRing(t, keystore.DefaultPolicy()), 5, start.Add(time.Hour)) // event 11
	now := start.Add(3 * time.Hour)
	servers := func(cs ...keystore.Confirmation) func(*keystore.Rollover) {
		return func(req *keystore.Rollover) { req.Servers = cs }
	}
	fine := keystore.Confirmation{Server: "ps-1", Region: "eu", Applied: 11}
	tests := []struct {
		name      string
		edit      func(*keystore.Rollover)
		want      string // "" = accepted
		hint      string
		forceable bool
	}{
		{name: "all confirmed", edit: servers(fine)},
		{name: "ahead", edit: servers(keystore.Confirmation{Server: "ps-1", Region: "eu", Applied: 40})},
		{name: "exactly min_interval", edit: func(req *keystore.Rollover) { req.Now = start.Add(2 * time.Hour) }},
		{name: "too soon", edit: func(req *keystore.Rollover) { req.Now = start.Add(90 * time.Minute) },
			want: "ring sso: rollover refused: the last one was 30m0s ago, and min_interval is 1h0m0s",
			hint: "wait 30m0s, until 2026-11-23T04:30:00Z", forceable: true},
		{name: "clock behind", edit: func(req *keystore.Rollover) { req.Now = start.Add(59 * time.Minute) },
			want: "ring sso: rollover refused: the last one is dated 1m0s after this server's clock", hint: "wait 1h1m0s", forceable: true},
		{name: "one behind", edit: servers(fine, keystore.Confirmation{Server: "ps-2", Region: "ap", Applied: 10}),
			want: "ring sso: rollover held at version 2: server ps-2 in region ap is 1 event behind (at 10, needs 11)",
			hint: "agents of ps-2 refuse cookies", forceable: true},
		{name: "two behind", edit: servers(fine, keystore.Confirmation{Server: "ps-2", Region: "ap", Applied: 9},
			keystore.Confirmation{Server: "ps-3", Region: "us"}),
			want: "ring sso: rollover held at version 2: server ps-2 in region ap is 2 events behind (at 9, needs 11); " +
				"server ps-3 in region us has confirmed nothing yet (needs event 11)",
			hint: "keytide status", forceable: true},
		{name: "excluded", edit: servers(fine, keystore.Confirmation{Server: "ps-2", Region: "ap", Applied: 9, Excluded: true})},
		{name: "stopped in order", edit: servers(fine, keystore.Confirmation{Server: "ps-2", Region: "ap", Applied: 9, Stopped: true})},
		{name: "only stopped ones", edit: servers(keystore.Confirmation{Server: "ps-1", Applied: 11, Stopped: true}),
			want: "no policy server is known to have version 2", hint: "keytide status", forceable: true},
		{name: "forgotten", edit: servers(fine, keystore.Confirmation{Server: "ps-2", Region: "ap", Forgotten: true})},
		{name: "nobody", edit: servers(), want: "no policy server is known to have version 2", hint: "keytide status", forceable: true},
		{name: "nobody counts", edit: servers(keystore.Confirmation{Server: "ps-1", Applied: 11, Excluded: true}),
			want: "no policy server is known to have version 2", hint: "keytide status", forceable: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := request(t, r, 6, now)
			tt.edit(&req)
			_, err := r.Rollover(req)
			if tt.want == "" {
				if err != nil {
					t.Fatalf("Rollover = %v, want it accepted", err)
				}
				return
			}
			var refusal keystore.Refusal
			if !errors.As(err, &refusal) || !errors.Is(err, keystore.ErrRefused) || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("Rollover = %v, want a refusal with %q", err, tt.want)
			}
			if !strings.Contains(refusal.Hint(), tt.hint) || refusal.Forceable() != tt.forceable {
				t.Errorf("hint = %q (forceable %v), want %q in it (forceable %v)", refusal.Hint(), refusal.Forceable(), tt.hint, tt.forceable)
			}
			req.Force = true
			if c, err := r.Rollover(req); err != nil || !c.Forced {
				t.Errorf("Rollover by force = forced %v, %v; want it marked as forced", c.Forced, err)
			}
		})
	}
}

func TestForceThatWasNotNeededIsNotMarked(t *testing.T) {
	r := newRing(t, keystore.DefaultPolicy())
	req := request(t, r, 5, start)
	req.Force = true
	if c, err := r.Rollover(req); err != nil || c.Forced {
		t.Errorf("Rollover = forced %v, %v; want it accepted without the mark", c.Forced, err)
	}
}

func TestHeldErrorNumbers(t *testing.T) {
	r := newRing(t, keystore.DefaultPolicy())
	req := request(t, r, 5, start)
	req.Servers = []keystore.Confirmation{{Server: "ps-2", Region: "ap", Applied: 7}}
	_, err := r.Rollover(req)
	held, ok := errors.AsType[*keystore.HeldError](err)
	if !ok {
		t.Fatalf("Rollover = %v, want a HeldError", err)
	}
	want := &keystore.HeldError{Ring: "sso", Version: 1, Behind: []keystore.Behind{{Server: "ps-2", Region: "ap", Applied: 7, Needs: 10}}}
	if diff := cmp.Diff(want, held); diff != "" {
		t.Errorf("HeldError (-want +got):\n%s", diff)
	}
	if by := held.Behind[0].By(); by != 3 {
		t.Errorf("By = %d, want 3", by)
	}
}

func TestRolloverInvalid(t *testing.T) {
	r := newRing(t, keystore.DefaultPolicy())
	tests := []struct {
		name string
		edit func(*keystore.Rollover)
		want string
	}{
		{"no trigger", func(req *keystore.Rollover) { req.Trigger = 0 }, "rollover by trigger(0)"},
		{"unknown trigger", func(req *keystore.Rollover) { req.Trigger = 5 }, "rollover by trigger(5)"},
		{"manual with slot", func(req *keystore.Rollover) { req.Slot = start }, "manual rollover with slot"},
		{"scheduled without slot", func(req *keystore.Rollover) { req.Trigger = keystore.Scheduled }, "scheduled rollover with slot"},
		{"no time", func(req *keystore.Rollover) { req.Now = time.Time{} }, "without the time"},
		{"no kid", func(req *keystore.Rollover) { req.Future.KID = keystore.KID{} }, "the future key has no kid"},
		{"known kid", func(req *keystore.Rollover) { req.Future.KID = r.Keys[3].KID }, "is in the ring already"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			req := request(t, r, 5, start)
			tt.edit(&req)
			_, err := r.Rollover(req)
			if !errors.Is(err, keystore.ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Rollover = %v, want ErrInvalid with %q", err, tt.want)
			}
		})
	}
	if _, err := (keystore.Ring{}).Rollover(request(t, r, 5, start)); !errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("Rollover of no ring = %v, want ErrNotFound", err)
	}
}

func TestRetainNumber(t *testing.T) {
	p := keystore.Policy{MaxSession: 2 * time.Hour, Retain: 2, MinInterval: time.Hour}
	r := newRing(t, p)
	for i := range 4 {
		r = rolled(t, r, 10+i, start.Add(time.Duration(i+1)*time.Hour))
	}
	want := []roleOf{{12, keystore.Current}, {11, keystore.Old}, {10, keystore.Old}, {13, keystore.Future}, {3, keystore.Static}, {4, keystore.SessionTicket}}
	if diff := cmp.Diff(want, roles(t, r)); diff != "" {
		t.Errorf("keys after four rollovers (-want +got):\n%s", diff)
	}
}

func TestFull(t *testing.T) {
	p := keystore.Policy{MaxSession: 8 * time.Hour, MinInterval: time.Minute}
	r := newRing(t, p)
	for i := range keystore.MaxOld {
		r = rolled(t, r, 10+i, start.Add(time.Duration(i)*time.Minute))
	}
	req := request(t, r, 100, start.Add(65*time.Minute))
	req.Force = true
	_, err := r.Rollover(req)
	full, ok := errors.AsType[*keystore.FullError](err)
	if !ok || full.Forceable() || full.Old != keystore.MaxOld {
		t.Fatalf("Rollover = %v, want a FullError that force does not override", err)
	}
	if want := start.Add(8*time.Hour + keystore.RetainMargin); !full.Free.Equal(want) {
		t.Errorf("Free = %v, want %v", full.Free, want)
	}
	if !strings.Contains(full.Hint(), "2026-11-23T10:35:00Z") {
		t.Errorf("hint = %q, want the time in it", full.Hint())
	}
}

func TestDue(t *testing.T) {
	p := keystore.Policy{MaxSession: time.Hour, MinInterval: 0}
	r := newRing(t, p)
	r = rolled(t, r, 5, start)                  // event 11 retires key 1
	r = rolled(t, r, 6, start.Add(time.Minute)) // event 12 retires key 2
	kept := time.Hour + keystore.RetainMargin
	k1, k2 := material(t, 1).KID(), material(t, 2).KID()
	confirmed := map[keystore.N]time.Time{11: start.Add(time.Second), 12: start.Add(2 * time.Minute)}
	lookup := func(n keystore.N) (time.Time, bool) { at, ok := confirmed[n]; return at, ok }
	tests := []struct {
		name      string
		now       time.Time
		confirmed func(keystore.N) (time.Time, bool)
		want      []keystore.KID
	}{
		{"none yet", start.Add(kept), lookup, nil},
		{"the older", start.Add(kept + time.Second), lookup, []keystore.KID{k1}},
		{"both, newest first", start.Add(kept + 2*time.Minute), lookup, []keystore.KID{k2, k1}},
		{"not confirmed", start.Add(1000 * time.Hour), func(keystore.N) (time.Time, bool) { return time.Time{}, false }, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, r.Due(tt.now, tt.confirmed)); diff != "" {
				t.Errorf("Due (-want +got):\n%s", diff)
			}
		})
	}
	r.Policy.Retain = 1
	if diff := cmp.Diff([]keystore.KID{k1}, r.Due(start.Add(1000*time.Hour), everybody(start))); diff != "" {
		t.Errorf("Due with retain 1 (-want +got):\n%s", diff)
	}
}

func TestDestroy(t *testing.T) {
	r := rolled(t, rolled(t, newRing(t, keystore.DefaultPolicy()), 5, start), 6, start.Add(time.Hour))
	k1, k2 := material(t, 1).KID(), material(t, 2).KID()
	c, err := r.Destroy([]keystore.KID{k1, k2})
	if err != nil || c.Version != 4 || !cmp.Equal(c.Destroyed, []keystore.KID{k2, k1}) {
		t.Fatalf("Destroy = %+v, %v; want version 4 and both keys in the ring's order", c, err)
	}
	next := apply(t, r, c, ref(20, start))
	if len(next.ByRole(keystore.Old)) != 0 || next.Changed != 20 {
		t.Errorf("ring = %+v, want no old key, changed by event 20", next)
	}
	for _, k := range r.Keys {
		if k.Role == keystore.Old {
			continue
		}
		if _, err := r.Destroy([]keystore.KID{k.KID}); !errors.Is(err, keystore.ErrInvalid) {
			t.Errorf("Destroy of the %s key = %v, want ErrInvalid", k.Role, err)
		}
	}
	for _, kids := range [][]keystore.KID{nil, {k1, k1}, {material(t, 99).KID()}} {
		if _, err := r.Destroy(kids); !errors.Is(err, keystore.ErrInvalid) {
			t.Errorf("Destroy(%v) = %v, want ErrInvalid", kids, err)
		}
	}
}

func TestSetPolicyKeepsVersionAndKeys(t *testing.T) {
	r := newRing(t, keystore.DefaultPolicy())
	p := keystore.Policy{MaxSession: time.Hour, Retain: 3, MinInterval: 30 * time.Minute}
	c, err := r.SetPolicy(keystore.PolicyRequest{Policy: p})
	if err != nil {
		t.Fatalf("SetPolicy: %v", err)
	}
	next := apply(t, r, c, ref(11, start))
	if next.Version != 1 || next.Changed != 10 || next.Last.N != 11 || next.Policy != p {
		t.Errorf("ring = %+v, want version 1, changed 10, last event 11, the new policy", next)
	}
	if diff := cmp.Diff(r.Keys, next.Keys); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
}

func TestSetPolicyByForce(t *testing.T) {
	r := newRing(t, keystore.DefaultPolicy())
	p := keystore.DefaultPolicy()
	p.Retain = 1
	if _, err := r.SetPolicy(keystore.PolicyRequest{Policy: p}); !errors.Is(err, keystore.ErrRefused) {
		t.Errorf("SetPolicy = %v, want ErrRefused", err)
	}
	c, err := r.SetPolicy(keystore.PolicyRequest{Policy: p, Force: true})
	if err != nil || !c.Forced {
		t.Fatalf("ForcePolicy = %+v, %v; want it marked as forced", c, err)
	}
	apply(t, r, c, ref(11, start))
	p.MaxSession = -1
	if _, err := r.SetPolicy(keystore.PolicyRequest{Policy: p, Force: true}); !errors.Is(err, keystore.ErrInvalid) {
		t.Errorf("ForcePolicy of a negative session = %v, want ErrInvalid", err)
	}
}
