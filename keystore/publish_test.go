package keystore_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keytide/keytide/keystore"
)

const day = 24 * time.Hour

// one is the publication of one key.
func one(tb testing.TB, role keystore.Role, key int, overlap time.Duration) keystore.Publication {
	tb.Helper()
	return keystore.Publication{Overlap: overlap, Keys: []keystore.PublishedKey{{Key: newKey(tb, key, start), Role: role}}}
}

// must is a change that a rule decided, applied one event later.
func must(tb testing.TB, r keystore.Ring, at time.Time, c keystore.Change, err error) keystore.Ring {
	tb.Helper()
	if err != nil {
		tb.Fatalf("refused: %v", err)
	}
	return apply(tb, r, c, ref(r.Last.N+1, at))
}

func confirmed(n keystore.N) []keystore.Confirmation {
	return []keystore.Confirmation{{Server: "ps-1", Region: "eu", Applied: n}, {Server: "ps-2", Region: "us", Applied: n}}
}

// kids lists the keys of a role, with what they do.
func kids(r keystore.Ring, role keystore.Role) string {
	var words []string
	for _, k := range r.ByRole(role) {
		word := k.KID.String()[:4]
		switch {
		case k.Pending:
			word += " pending"
		case k.Retired != 0:
			word += " former"
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}

// TestStaticKeyIsPublishedFirst walks a static key through its life: pending, active
// once every server has confirmed it, former for the overlap, gone.
func TestStaticKeyIsPublishedFirst(t *testing.T) {
	r := newRing(t, keystore.DefaultPolicy())
	old, next := material(t, 3).KID().String()[:4], material(t, 20).KID().String()[:4]
	c, err := r.Publish(one(t, keystore.Static, 20, 30*day))
	published := must(t, r, start, c, err)
	if got := kids(published, keystore.Static); got != old+", "+next+" pending" || published.Version != 2 {
		t.Errorf("published: version %d, %s", published.Version, got)
	}
	late := confirmed(published.Last.N)
	late[1].Applied--
	var waits *keystore.UnconfirmedError
	if _, err := published.Activate(late); !errors.As(err, &waits) || len(waits.Behind) != 1 || waits.Behind[0].Server != "ps-2" {
		t.Errorf("Activate while ps-2 is behind = %v", err)
	}
	if _, err := published.Activate(nil); !errors.As(err, &waits) {
		t.Errorf("Activate without any confirmation = %v", err)
	}
	late[1].Excluded = true
	if _, err := published.Activate(late); err != nil {
		t.Errorf("Activate while ps-2 is excluded = %v", err)
	}
	c, err = published.Activate(confirmed(published.Last.N))
	active := must(t, published, start.Add(time.Minute), c, err)
	if got := kids(active, keystore.Static); got != next+", "+old+" former" {
		t.Errorf("active: %s", got)
	}
	if _, err := active.Activate(confirmed(active.Last.N)); !errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("Activate with nothing published = %v, want ErrNotFound", err)
	}
	over := start.Add(30*day + keystore.RetainMargin)
	if due := active.Due(over.Add(-time.Second), everybody(start)); len(due) != 0 {
		t.Errorf("due within the overlap: %v", due)
	}
	due := active.Due(over, everybody(start))
	c, err = active.Destroy(due)
	gone := must(t, active, over, c, err)
	if got := kids(gone, keystore.Static); got != next {
		t.Errorf("after the overlap: %s", got)
	}
	for _, kid := range []keystore.KID{material(t, 20).KID(), material(t, 1).KID()} {
		if _, err := active.Destroy([]keystore.KID{kid}); !errors.Is(err, keystore.ErrInvalid) {
			t.Errorf("Destroy of key %s, which seals = %v", kid, err)
		}
	}
	if _, err := published.Destroy([]keystore.KID{material(t, 20).KID()}); !errors.Is(err, keystore.ErrInvalid) {
		t.Errorf("Destroy of a pending key = %v", err)
	}
}

// TestOpenOnly: a key that another store seals with never seals here, and ends.
func TestOpenOnly(t *testing.T) {
	r := newRing(t, keystore.DefaultPolicy())
	req := one(t, keystore.Static, 20, 7*day)
	req.Keys[0].OpenOnly = true
	c, err := r.Publish(req)
	r = must(t, r, start, c, err)
	if got, want := kids(r, keystore.Static), material(t, 3).KID().String()[:4]+", "+material(t, 20).KID().String()[:4]+" former"; got != want {
		t.Errorf("published: %s, want %s", got, want)
	}
	if _, err := r.Activate(confirmed(r.Last.N)); !errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("Activate = %v, want ErrNotFound", err)
	}
	if due := r.Due(start.Add(7*day+keystore.RetainMargin), everybody(start)); len(due) != 1 {
		t.Errorf("due: %v, want the one", due)
	}
}

func TestPublishRefuses(t *testing.T) {
	r := newRing(t, keystore.DefaultPolicy())
	c, err := r.Publish(one(t, keystore.Static, 20, day))
	pending := must(t, r, start, c, err)
	full := r
	for i := range keystore.MaxFormer {
		req := one(t, keystore.SessionTicket, 30+i, day)
		req.Keys[0].OpenOnly = true
		c, err := full.Publish(req)
		full = must(t, full, start, c, err)
	}
	static := r
	static.Mode = keystore.ModeStatic
	both := one(t, keystore.Static, 21, day)
	both.Keys = append(both.Keys, keystore.PublishedKey{Key: newKey(t, 22, start), Role: keystore.Static})
	tests := []struct {
		name string
		ring keystore.Ring
		req  keystore.Publication
		want string
	}{
		{"one is pending", pending, one(t, keystore.Static, 21, day), "is published and not active yet"},
		{"too many", full, one(t, keystore.SessionTicket, 21, day), "would hold 9 session_ticket keys that only open"},
		{"tickets would end", r, one(t, keystore.SessionTicket, 21, time.Hour), "less than max_session 8h0m0s"},
		{"sessions would end", static, one(t, keystore.Static, 21, time.Hour), "less than max_session 8h0m0s"},
		{"negative overlap", r, one(t, keystore.Static, 21, -1), "overlap -1ns"},
		{"long overlap", r, one(t, keystore.Static, 21, 367*day), "want 0s to 8784h0m0s"},
		{"a dynamic key", r, one(t, keystore.Future, 21, day), "publishes a future key"},
		{"the same key", r, one(t, keystore.Static, 3, day), "is in the ring already"},
		{"two at once", r, both, "2 pending static keys"},
		{"nothing", r, keystore.Publication{}, "new keys"},
		{"no ring", keystore.Ring{}, one(t, keystore.Static, 21, day), "not found"},
	}
	for _, tt := range tests {
		if c, err := tt.ring.Publish(tt.req); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %+v, %v; want %q", tt.name, c, err, tt.want)
		}
	}
	forced := one(t, keystore.SessionTicket, 21, 0)
	forced.Force = true
	if c, err := r.Publish(forced); err != nil || !c.Forced {
		t.Errorf("forced: %+v, %v", c, err)
	}
	if c, err := r.Publish(one(t, keystore.Static, 21, 0)); err != nil || c.Forced {
		t.Errorf("a static key without overlap in dynamic mode: %+v, %v", c, err)
	}
}

// TestModeIsPublishedFirst walks a ring into static mode and back.
func TestModeIsPublishedFirst(t *testing.T) {
	r := newRing(t, keystore.DefaultPolicy())
	current, static := material(t, 1).KID(), material(t, 3).KID()
	check := func(r keystore.Ring, what string, mode keystore.Mode, seals keystore.KID, opens bool) {
		t.Helper()
		if k, _ := r.Seals(); r.Mode != mode || k.KID != seals || r.OpensStatic() != opens {
			t.Errorf("%s: %s mode, seals with %s, static opens %t; want %s, %s, %t", what, r.Mode, k.KID, r.OpensStatic(), mode, seals, opens)
		}
	}
	check(r, "new", keystore.ModeDynamic, current, false)
	c, err := r.SetMode(keystore.ModeRequest{Mode: keystore.ModeStatic})
	published := must(t, r, start, c, err)
	check(published, "static is published", keystore.ModeDynamic, current, true)
	if _, err := published.SetMode(keystore.ModeRequest{Mode: keystore.ModeStatic}); !errors.Is(err, keystore.ErrInvalid) {
		t.Errorf("static published twice = %v", err)
	}
	c, err = published.SetMode(keystore.ModeRequest{Mode: keystore.ModeDynamic})
	check(must(t, published, start, c, err), "taken back", keystore.ModeDynamic, current, false)

	c, err = published.Activate(confirmed(published.Last.N))
	r = must(t, published, start, c, err)
	check(r, "static", keystore.ModeStatic, static, true)
	var short *keystore.OverlapError
	if _, err := r.SetMode(keystore.ModeRequest{Mode: keystore.ModeDynamic, Overlap: time.Hour}); !errors.As(err, &short) {
		t.Errorf("dynamic with a short overlap = %v", err)
	}
	c, err = r.SetMode(keystore.ModeRequest{Mode: keystore.ModeDynamic, Overlap: 8 * time.Hour})
	r = must(t, r, start, c, err)
	check(r, "dynamic is published", keystore.ModeStatic, static, true)
	c, err = r.Activate(confirmed(r.Last.N))
	r = must(t, r, start, c, err)
	check(r, "within the overlap", keystore.ModeDynamic, current, true)
	over := start.Add(8*time.Hour + keystore.RetainMargin)
	if _, err := r.EndOverlap(over.Add(-time.Second), everybody(start)); !errors.Is(err, keystore.ErrNotFound) {
		t.Errorf("EndOverlap within it = %v", err)
	}
	c, err = r.EndOverlap(over, everybody(start))
	check(must(t, r, over, c, err), "after it", keystore.ModeDynamic, current, false)
}

// TestLongerSessionsLengthenOverlaps: a policy that lets sessions live longer keeps
// what opens them, but for what was forced to be shorter.
func TestLongerSessionsLengthenOverlaps(t *testing.T) {
	r := newRing(t, keystore.DefaultPolicy())
	for _, overlap := range []time.Duration{8 * time.Hour, time.Minute} {
		key := 20 + int(overlap/time.Minute)
		req := one(t, keystore.SessionTicket, key, overlap)
		req.Keys[0].OpenOnly = true
		c, err := r.Publish(req)
		r = must(t, r, start, c, err)
	}
	policy := keystore.DefaultPolicy()
	policy.MaxSession = 48 * time.Hour
	c, err := r.SetPolicy(keystore.PolicyRequest{Policy: policy, Now: start})
	r = must(t, r, start, c, err)
	var got []time.Duration
	for _, k := range r.ByRole(keystore.SessionTicket)[1:] {
		got = append(got, k.Session)
	}
	if want := []time.Duration{time.Minute, 48 * time.Hour}; !slices.Equal(got, want) {
		t.Errorf("overlaps = %v, want %v", got, want)
	}
}

func TestEntered(t *testing.T) {
	random := make([]byte, 32)
	material(t, 99).Use(func(secret []byte) error { copy(random, secret); return nil })
	if m, err := keystore.NewEntered(random); err != nil || m.KID() != material(t, 99).KID() {
		t.Errorf("a random key: %v", err)
	}
	counted := make([]byte, 32)
	for i := range counted {
		counted[i] = byte(200 + 3*i)
	}
	for name, tt := range map[string]struct {
		secret []byte
		want   string
	}{
		"short":     {random[:31], "it has 31 bytes; want 32"},
		"long":      {append(slices.Clone(random), 1), "it has 33 bytes; want 32"},
		"empty":     {nil, "it has 0 bytes"},
		"zero":      {make([]byte, 32), "all zero"},
		"one byte":  {bytes.Repeat([]byte{7}, 32), "each of its bytes follows"},
		"halves":    {bytes.Repeat(random[:16], 2), "repeats its first 16 bytes"},
		"quarters":  {bytes.Repeat(random[:8], 4), "repeats its first 8 bytes"},
		"text":      {[]byte("correct horse battery staple 42!"), "printable text"},
		"hex":       {[]byte("00112233445566778899aabbccddeeff"), "printable text"},
		"counted":   {counted, "each of its bytes follows"},
		"few bytes": {append(bytes.Repeat([]byte{1, 200, 3}, 10), 9, 10), "only 5 different bytes"},
	} {
		_, err := keystore.NewEntered(tt.secret)
		weak, ok := errors.AsType[*keystore.WeakKeyError](err)
		if !ok || !errors.Is(err, keystore.ErrInvalid) || !strings.Contains(err.Error(), tt.want) || weak.Hint() == "" {
			t.Errorf("%s: %v, want a WeakKeyError with %q", name, err, tt.want)
		}
	}
}

// A place is a region in TestContinuityOfModes: the ring as far as it has applied.
type place struct {
	name    string
	applied int // index into the history
}

// A sealed is a cookie, or a ticket, sealed at some site.
type sealed struct {
	kid    keystore.KID
	ticket bool
	until  time.Time
	by     string
}

// A life is a ring's life over sites that apply events late.
type life struct {
	t       *rapid.T
	tb      testing.TB
	now     time.Time
	history []keystore.Ring // the ring after each event
	sites   []place
	held    []sealed
	all     map[keystore.N]time.Time // when every site had applied event n
	keys    int
}

// TestContinuityOfModes: whatever is published, activated, taken back, rolled over and
// destroyed, and however late sites apply it, a cookie or ticket that one site sealed
// opens at every other, for max_session.
func TestContinuityOfModes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		policy := keystore.DefaultPolicy()
		policy.MinInterval = 0
		l := &life{t: rt, tb: t, now: start, all: map[keystore.N]time.Time{}, keys: 100,
			history: []keystore.Ring{newRing(t, policy)}, sites: []place{{"eu", 0}, {"us", 0}, {"ap", 0}}}
		l.note()
		for range rapid.IntRange(5, 60).Draw(rt, "steps") {
			l.step(t)
			l.check()
		}
	})
}

func (l *life) ring() keystore.Ring { return l.history[len(l.history)-1] }

// decided takes over what a rule decided; a refusal changes nothing.
func (l *life) decided(c keystore.Change, err error) {
	if err != nil {
		if !errors.Is(err, keystore.ErrRefused) && !errors.Is(err, keystore.ErrNotFound) && !errors.Is(err, keystore.ErrInvalid) {
			l.t.Fatalf("%v", err)
		}
		return
	}
	r := l.ring()
	l.history = append(l.history, apply(l.tb, r, c, ref(r.Last.N+1, l.now)))
	l.note()
}

func (l *life) confirmations() []keystore.Confirmation {
	servers := make([]keystore.Confirmation, len(l.sites))
	for i, s := range l.sites {
		servers[i] = keystore.Confirmation{Server: s.name, Region: s.name, Applied: l.history[s.applied].Last.N}
	}
	return servers
}

// note remembers when every site had applied an event.
func (l *life) note() {
	least := len(l.history)
	for _, s := range l.sites {
		least = min(least, s.applied)
	}
	for _, r := range l.history[:least+1] {
		if _, ok := l.all[r.Last.N]; !ok {
			l.all[r.Last.N] = l.now
		}
	}
}

func (l *life) confirmed(n keystore.N) (time.Time, bool) { at, ok := l.all[n]; return at, ok }

func (l *life) step(tb testing.TB) {
	r := l.ring()
	l.keys++
	overlap := time.Duration(rapid.IntRange(1, 48).Draw(l.t, "overlap")) * time.Hour
	switch rapid.SampledFrom([]string{"apply", "apply", "apply", "seal", "seal", "wait", "static", "ticket", "mode", "activate", "roll", "retire", "undo", "policy"}).Draw(l.t, "step") {
	case "apply":
		s := &l.sites[rapid.IntRange(0, len(l.sites)-1).Draw(l.t, "site")]
		s.applied = min(s.applied+1, len(l.history)-1)
		l.note()
	case "seal":
		s := l.sites[rapid.IntRange(0, len(l.sites)-1).Draw(l.t, "site")]
		view := l.history[s.applied]
		k, _ := view.Seals()
		l.held = append(l.held, sealed{k.KID, false, l.now.Add(view.Policy.MaxSession), s.name},
			sealed{view.ByRole(keystore.SessionTicket)[0].KID, true, l.now.Add(view.Policy.MaxSession), s.name})
	case "wait":
		l.now = l.now.Add(time.Duration(rapid.IntRange(1, 600).Draw(l.t, "minutes")) * time.Minute)
	case "static":
		l.decided(r.Publish(one(tb, keystore.Static, l.keys, overlap)))
	case "ticket":
		l.decided(r.Publish(one(tb, keystore.SessionTicket, l.keys, overlap)))
	case "mode":
		l.decided(r.SetMode(keystore.ModeRequest{Mode: keystore.Mode(rapid.IntRange(1, 2).Draw(l.t, "mode")), Overlap: overlap}))
	case "activate":
		l.decided(r.Activate(l.confirmations()))
	case "roll":
		l.decided(r.Rollover(keystore.Rollover{Trigger: keystore.Manual, Future: newKey(tb, l.keys, l.now), Now: l.now, Servers: l.confirmations()}))
	case "undo":
		l.decided(r.Undo())
	case "policy":
		p := r.Policy
		p.MaxSession = time.Duration(rapid.IntRange(1, 24).Draw(l.t, "max_session")) * time.Hour
		l.decided(r.SetPolicy(keystore.PolicyRequest{Policy: p, Now: l.now}))
	case "retire":
		l.decided(r.EndOverlap(l.now, l.confirmed))
		if due := l.ring().Due(l.now, l.confirmed); len(due) > 0 {
			l.decided(l.ring().Destroy(due))
		}
	}
}

// check opens everything that is alive at every site.
func (l *life) check() {
	for _, s := range l.sites {
		view := l.history[s.applied]
		for _, c := range l.held {
			if l.now.Before(c.until) && !opensAt(view, c) {
				l.t.Fatalf("%s, at version %d in %s mode, does not open what %s sealed with %s:\n%s", s.name, view.Version, view.Mode, c.by, c.kid, l.story())
			}
		}
	}
}

func opensAt(view keystore.Ring, c sealed) bool {
	k, ok := view.Key(c.kid)
	if !ok || c.ticket != (k.Role == keystore.SessionTicket) {
		return false
	}
	return k.Role != keystore.Static || view.OpensStatic()
}

func (l *life) story() string {
	var b strings.Builder
	for i, r := range l.history {
		fmt.Fprintf(&b, "%d: version %d, %s %+v, static %s, ticket %s, %d keys\n", i, r.Version, r.Mode, r.NewMode,
			kids(r, keystore.Static), kids(r, keystore.SessionTicket), len(r.Keys))
	}
	return b.String()
}
