package keystore_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/keytide/keytide/keystore"
)

func TestApplyRefuses(t *testing.T) {
	r := rolled(t, newRing(t, keystore.DefaultPolicy()), 5, start) // version 2, event 11
	p := keystore.DefaultPolicy()
	future := keystore.MadeKey{KID: material(t, 6).KID(), Role: keystore.Future, Created: start}
	static := future
	static.Role = keystore.Static
	old := r.ByRole(keystore.Old)[0].KID
	tests := []struct {
		name   string
		ring   keystore.Ring
		change keystore.Change
		n      keystore.N
	}{
		{"event not later", r, keystore.Change{Kind: keystore.PolicySet, Ring: "sso", Version: 2, Policy: &p}, 11},
		{"another ring", r, keystore.Change{Kind: keystore.PolicySet, Ring: "app", Version: 2, Policy: &p}, 12},
		{"created twice", r, keystore.Change{Kind: keystore.Created, Ring: "sso", Version: 3, Policy: &p}, 12},
		{"not created", keystore.Ring{}, keystore.Change{Kind: keystore.PolicySet, Ring: "sso", Policy: &p}, 12},
		{"created empty", keystore.Ring{}, keystore.Change{Kind: keystore.Created, Ring: "sso", Version: 1, Policy: &p}, 12},
		{"unknown kind", r, keystore.Change{Kind: 14, Ring: "sso", Version: 3}, 12},
		{"reserved kind", r, keystore.Change{Kind: 6, Ring: "sso", Version: 3}, 12},
		{"version skipped", r, keystore.Change{Kind: keystore.KeysDestroyed, Ring: "sso", Version: 4, Destroyed: []keystore.KID{old}}, 12},
		{"version repeated", r, keystore.Change{Kind: keystore.KeysDestroyed, Ring: "sso", Version: 2, Destroyed: []keystore.KID{old}}, 12},
		{"policy raises version", r, keystore.Change{Kind: keystore.PolicySet, Ring: "sso", Version: 3, Policy: &p}, 12},
		{"policy missing", r, keystore.Change{Kind: keystore.PolicySet, Ring: "sso", Version: 2}, 12},
		{"policy with a key", r, keystore.Change{Kind: keystore.PolicySet, Ring: "sso", Version: 2, Policy: &p, Made: []keystore.MadeKey{future}}, 12},
		{"rollover without key", r, keystore.Change{Kind: keystore.RolledOver, Ring: "sso", Version: 3}, 12},
		{"rollover to static", r, keystore.Change{Kind: keystore.RolledOver, Ring: "sso", Version: 3, Made: []keystore.MadeKey{static}}, 12},
		{"rollover destroys its key", r, keystore.Change{Kind: keystore.RolledOver, Ring: "sso", Version: 3, Made: []keystore.MadeKey{future}, Destroyed: []keystore.KID{future.KID}}, 12},
		{"rollover makes the key that it destroys", r, keystore.Change{Kind: keystore.RolledOver, Ring: "sso", Version: 3, Made: []keystore.MadeKey{{KID: old, Role: keystore.Future, Created: start}}, Destroyed: []keystore.KID{old}}, 12},
		{"destroys nothing", r, keystore.Change{Kind: keystore.KeysDestroyed, Ring: "sso", Version: 3}, 12},
		{"destroys twice", r, keystore.Change{Kind: keystore.KeysDestroyed, Ring: "sso", Version: 3, Destroyed: []keystore.KID{old, old}}, 12},
		{"destroys and makes", r, keystore.Change{Kind: keystore.KeysDestroyed, Ring: "sso", Version: 3, Destroyed: []keystore.KID{old}, Made: []keystore.MadeKey{future}}, 12},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			next, err := tt.ring.Apply(tt.change, ref(tt.n, start))
			if !errors.Is(err, keystore.ErrInvalid) || !next.IsZero() {
				t.Errorf("Apply = %+v, %v; want the zero ring and ErrInvalid", next, err)
			}
		})
	}
}

// TestApplyKeepsInvariants applies random changes, most of them decided by a rule
// and some spoilt, and checks after each what must always hold.
func TestApplyKeepsInvariants(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := keystore.Policy{MaxSession: time.Hour, Retain: keystore.Retain(rapid.IntRange(0, 3).Draw(rt, "retain"))}
		if p.Retain != keystore.RetainAuto {
			p.MinInterval = time.Hour
		}
		ring := newRing(t, p)
		now, key := start, 10
		for range rapid.IntRange(1, 30).Draw(rt, "steps") {
			now, key = now.Add(time.Hour), key+1
			c := drawChange(rt, t, ring, key, now)
			before := ring
			before.Keys = slices.Clone(ring.Keys)
			next, err := ring.Apply(c, ref(ring.Last.N+1, now))
			if diff := cmp.Diff(before, ring); diff != "" {
				rt.Fatalf("Apply of %+v changed its receiver (-want +got):\n%s", c, diff)
			}
			if err != nil {
				continue
			}
			checkInvariants(rt, ring, next, c)
			ring = next
		}
	})
}

func drawChange(rt *rapid.T, tb testing.TB, r keystore.Ring, key int, now time.Time) keystore.Change {
	var c keystore.Change
	var err error
	old := r.ByRole(keystore.Old)
	switch {
	case len(old) > 0 && rapid.IntRange(0, 2).Draw(rt, "op") == 0:
		c, err = r.Destroy([]keystore.KID{rapid.SampledFrom(old).Draw(rt, "old").KID})
	default:
		c, err = r.Rollover(request(tb, r, key, now))
	}
	if err != nil {
		rt.Fatalf("decide: %v", err)
	}
	switch rapid.IntRange(0, 9).Draw(rt, "spoil") {
	case 0:
		c.Destroyed = append(c.Destroyed, rapid.SampledFrom(r.Keys).Draw(rt, "destroyed").KID)
	case 1:
		c.Version += keystore.Version(rapid.IntRange(0, 2).Draw(rt, "version"))
	case 2:
		known := rapid.SampledFrom(r.Keys).Draw(rt, "made")
		c.Made = []keystore.MadeKey{{KID: known.KID, Role: keystore.Future, Created: now}}
	}
	return c
}

func checkInvariants(rt *rapid.T, before, after keystore.Ring, c keystore.Change) {
	if after.Version != before.Version+1 {
		rt.Fatalf("version %d follows %d", after.Version, before.Version)
	}
	seen := map[keystore.KID]bool{}
	for i, k := range after.Keys {
		if seen[k.KID] {
			rt.Fatalf("kid %s is there twice", k.KID)
		}
		seen[k.KID] = true
		if i > 0 && k.Role == keystore.Old && after.Keys[i-1].Role == keystore.Old && after.Keys[i-1].Retired <= k.Retired {
			rt.Fatalf("old keys are not newest first: %+v", after.Keys)
		}
	}
	for _, role := range []keystore.Role{keystore.Current, keystore.Future, keystore.Static, keystore.SessionTicket} {
		if n := len(after.ByRole(role)); n != 1 {
			rt.Fatalf("%d %s keys", n, role)
		}
	}
	for _, kid := range c.Destroyed {
		if seen[kid] {
			rt.Fatalf("destroyed key %s is still there", kid)
		}
	}
	if n := len(after.ByRole(keystore.Old)); after.Policy.Retain != keystore.RetainAuto && n > int(after.Policy.Retain) {
		rt.Fatalf("%d old keys with retain %v", n, after.Policy.Retain)
	}
	if c.Kind == keystore.RolledOver && after.ByRole(keystore.Current)[0].KID != before.ByRole(keystore.Future)[0].KID {
		rt.Fatalf("the future key did not become current")
	}
}

func TestStaticModeSealsWithStatic(t *testing.T) {
	r := newRing(t, keystore.DefaultPolicy())
	r.Mode = keystore.ModeStatic
	set, err := r.KeySet(1, materials(t, 10))
	if err != nil {
		t.Fatalf("KeySet: %v", err)
	}
	sealing, ok := set.Sealing()
	if !ok || sealing.Role != keystore.Static || set.Keys[0].KID != sealing.KID || len(set.Keys) != 3 {
		t.Errorf("set = %+v, want 3 keys, the static one first and sealing", set)
	}
	r.Keys = slices.Clone(r.Keys)
	r.Keys[2].Pending = true
	if k, ok := r.Seals(); ok {
		t.Errorf("Seals = %v, want none: the static key is pending", k.KID)
	}
	if _, err := r.KeySet(1, materials(t, 10)); !errors.Is(err, keystore.ErrInvalid) {
		t.Errorf("KeySet = %v, want ErrInvalid: nothing seals", err)
	}
}

func TestKeySetRefusesOtherBytes(t *testing.T) {
	r := newRing(t, keystore.DefaultPolicy())
	other := func(keystore.KID) (keystore.Material, error) { return material(t, 99), nil }
	if _, err := r.KeySet(1, other); !errors.Is(err, keystore.ErrInvalid) {
		t.Errorf("KeySet with another key's bytes = %v, want ErrInvalid", err)
	}
	none := func(keystore.KID) (keystore.Material, error) { return keystore.Material{}, keystore.ErrNotFound }
	if _, err := r.KeySet(1, none); !errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("KeySet without bytes = %v, want ErrNotFound", err)
	}
}

// materials knows the keys 1 to n of a test.
func materials(tb testing.TB, n int) func(keystore.KID) (keystore.Material, error) {
	tb.Helper()
	known := map[keystore.KID]keystore.Material{}
	for i := 1; i <= n; i++ {
		m := material(tb, i)
		known[m.KID()] = m
	}
	return func(kid keystore.KID) (keystore.Material, error) {
		if m, ok := known[kid]; ok {
			return m, nil
		}
		return keystore.Material{}, keystore.ErrNotFound
	}
}

// A key without a role of this program's is nobody's to place: it is refused where
// it enters.
func TestApplyRefusesKeysWithoutARole(t *testing.T) {
	c, err := keystore.Create("sso", keystore.DefaultPolicy(), firstKeys(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range []keystore.Role{0, 6, 255} {
		more := c
		more.Made = append([]keystore.MadeKey{{KID: material(t, 9).KID(), Role: role, Created: start}}, c.Made...)
		if r, err := (keystore.Ring{}).Apply(more, ref(1, start)); !errors.Is(err, keystore.ErrInvalid) {
			t.Errorf("Apply with a key of role %d = %+v, %v; want ErrInvalid", role, r, err)
		}
	}
}
