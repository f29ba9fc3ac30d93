package keystore_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keytide/keytide/keystore"
)

// every is a plan with a slot each so often, counted from the start of the tests: as a
// calendar's, its slots do not depend on where one looks from.
type every time.Duration

func (e every) Following(last, now time.Time) (time.Time, bool) {
	if last.After(now) {
		now = last
	}
	return e.Next(now)
}

func (e every) Shortest() time.Duration { return time.Duration(e) }

func (e every) Next(after time.Time) (time.Time, bool) {
	since := after.Sub(start)
	return start.Add((since/time.Duration(e) + 1) * time.Duration(e)), true
}

// scheduled is a policy that rolls over each d.
func scheduled(tb testing.TB, d time.Duration) keystore.Policy {
	tb.Helper()
	p := keystore.DefaultPolicy()
	var err error
	if p.Schedule, err = keystore.ParseSchedule("every "+d.String(), ""); err != nil {
		tb.Fatal(err)
	}
	return p
}

// scheduledRing is ring sso, made by event 10 at start, which rolls over each d.
func scheduledRing(tb testing.TB, d time.Duration) keystore.Ring {
	tb.Helper()
	c, err := keystore.Ring{}.Create(keystore.Creation{
		Name: "sso", Policy: scheduled(tb, d), Keys: firstKeys(tb), Now: start, Plan: every(d),
	})
	if err != nil {
		tb.Fatal(err)
	}
	return apply(tb, keystore.Ring{}, c, ref(10, start))
}

// answer is the request that answers r's slot at now.
func answer(tb testing.TB, r keystore.Ring, plan keystore.Plan, key int, now time.Time) keystore.Rollover {
	req := request(tb, r, key, now)
	req.Trigger, req.Slot, req.Plan = keystore.Scheduled, r.NextSlot, plan
	return req
}

func TestScheduledRolloverAnswersItsSlotAndCommitsTheNext(t *testing.T) {
	r := scheduledRing(t, 3*time.Hour)
	if want := start.Add(3 * time.Hour); !r.NextSlot.Equal(want) {
		t.Fatalf("NextSlot of a new ring = %v, want %v", r.NextSlot, want)
	}
	now := r.NextSlot.Add(time.Second)
	c, err := r.Rollover(answer(t, r, every(3*time.Hour), 5, now))
	if err != nil {
		t.Fatal(err)
	}
	if !c.Slot.Equal(r.NextSlot) || !c.NextSlot.Equal(start.Add(6*time.Hour)) || c.Missed != 0 {
		t.Errorf("change = %+v, want its slot, and the next one three hours later", c)
	}
	after := apply(t, r, c, ref(11, now))
	if _, err := after.Rollover(answer(t, r, every(3*time.Hour), 6, now)); !errors.Is(err, keystore.ErrInvalid) {
		t.Errorf("the slot answered once more = %v, want ErrInvalid", err)
	}
	if got := keystore.SlotID("sso", c.Slot); got != "sso/2026-11-23T05:30:00Z" {
		t.Errorf("SlotID = %q", got)
	}
}

// An hourly slot is answered a moment late each time, and none is skipped for
// min_interval's sake.
func TestHourlySlotsDoNotDrift(t *testing.T) {
	r := scheduledRing(t, time.Hour)
	for i := range 100 {
		now := r.NextSlot.Add(900 * time.Millisecond)
		c, err := r.Rollover(answer(t, r, every(time.Hour), 10+i, now))
		if err != nil {
			t.Fatal(err)
		}
		r = apply(t, r, c, ref(r.Last.N+1, now))
		if kids := r.Due(now, everybody(now.Add(-9*time.Hour))); len(kids) > 0 {
			c, err := r.Destroy(kids)
			if err != nil {
				t.Fatal(err)
			}
			r = apply(t, r, c, ref(r.Last.N+1, now))
		}
		if want := start.Add(time.Duration(i+2) * time.Hour); !r.NextSlot.Equal(want) {
			t.Fatalf("NextSlot after slot %d = %v, want %v", i+1, r.NextSlot, want)
		}
	}
}

func TestSlotsThatAreMissedCollapse(t *testing.T) {
	plan := every(3 * time.Hour)
	r := scheduledRing(t, 3*time.Hour)
	for _, tt := range []struct {
		late         time.Duration // after the first slot
		missed       int
		expired      bool
		next, newest time.Duration // after the start
	}{
		{0, 0, false, 6 * time.Hour, 3 * time.Hour},
		{3*time.Hour - 1, 0, false, 9 * time.Hour, 3 * time.Hour}, // min_interval forbids the one a moment later
		{3 * time.Hour, 1, false, 9 * time.Hour, 6 * time.Hour},
		{24 * time.Hour, 8, false, 30 * time.Hour, 27 * time.Hour},
		{25 * time.Hour, 8, false, 30 * time.Hour, 27 * time.Hour}, // what is older than the window counts as one
	} {
		now := r.NextSlot.Add(tt.late)
		due, ok := r.DueSlot(now, plan)
		if !ok || !due.Slot.Equal(r.NextSlot) || due.Missed != tt.missed || due.Expired != tt.expired || !due.Newest.Equal(start.Add(tt.newest)) {
			t.Errorf("DueSlot %v late = %+v, %v, want %d missed", tt.late, due, ok, tt.missed)
		}
		c, err := r.Rollover(answer(t, r, plan, 5, now))
		if err != nil || c.Missed != tt.missed || !c.NextSlot.Equal(start.Add(tt.next)) {
			t.Errorf("Rollover %v late = %+v, %v; want %d missed, next slot %v", tt.late, c, err, tt.missed, start.Add(tt.next))
		}
	}
	if _, ok := r.DueSlot(r.NextSlot.Add(-1), plan); ok {
		t.Error("a slot is due before its time")
	}
}

func TestSlotThatIsTooOldIsSkipped(t *testing.T) {
	const week = 7 * 24 * time.Hour
	plan := every(week)
	r := scheduledRing(t, week)
	late := r.NextSlot.Add(24*time.Hour + time.Second)
	if _, err := r.Rollover(answer(t, r, plan, 5, late)); !errors.Is(err, keystore.ErrInvalid) {
		t.Errorf("Rollover a day late = %v, want ErrInvalid", err)
	}
	c, err := r.SkipSlot(r.NextSlot, late, plan)
	if err != nil {
		t.Fatal(err)
	}
	after := apply(t, r, c, ref(11, late))
	if !after.NextSlot.Equal(start.Add(2*week)) || after.Version != r.Version || after.Changed != r.Changed {
		t.Errorf("ring = %+v, want the slot of the week after and the same keys", after)
	}
	if _, err := r.SkipSlot(r.NextSlot, r.NextSlot.Add(24*time.Hour), plan); !errors.Is(err, keystore.ErrInvalid) {
		t.Errorf("SkipSlot within a day = %v, want ErrInvalid", err)
	}
	// Who said to wait longer for a region that is cut off has the slot wait longer.
	r.Policy.MaxHold = 48 * time.Hour
	if due, ok := r.DueSlot(r.NextSlot.Add(49*time.Hour), plan); !ok || due.Expired {
		t.Errorf("DueSlot after 49 h with max_hold 48 h = %+v, want it not to be skipped", due)
	}
}

// A rollover by hand takes the place of the slots that are due, and of one that
// min_interval forbids after it.
func TestManualRolloverTakesTheSlotsPlace(t *testing.T) {
	plan := every(3 * time.Hour)
	r := scheduledRing(t, 3*time.Hour)
	for _, tt := range []struct {
		at, next time.Duration
		missed   int
	}{
		{time.Hour, 3 * time.Hour, 0},
		{2*time.Hour + 30*time.Minute, 6 * time.Hour, 0},
		{3*time.Hour + time.Minute, 6 * time.Hour, 1},
		{6*time.Hour + time.Minute, 9 * time.Hour, 2},
	} {
		req := request(t, r, 5, start.Add(tt.at))
		req.Plan = plan
		c, err := r.Rollover(req)
		if err != nil || !c.NextSlot.Equal(start.Add(tt.next)) || c.Missed != tt.missed {
			t.Errorf("manual rollover after %v = %+v, %v; want next slot after %v, %d missed", tt.at, c, err, tt.next, tt.missed)
		}
	}
	req := request(t, r, 5, start)
	if _, err := r.Rollover(req); !errors.Is(err, keystore.ErrInvalid) {
		t.Errorf("Rollover without the schedule's plan = %v, want ErrInvalid", err)
	}
}

func TestHolds(t *testing.T) {
	plan := every(3 * time.Hour)
	r := scheduledRing(t, 3*time.Hour)
	now := r.NextSlot
	behind := []keystore.Confirmation{{Server: "ps-1", Applied: r.Changed}, {Server: "ps-2", Region: "ap", Applied: 1}}
	all := []keystore.Confirmation{{Server: "ps-1", Applied: r.Changed}}
	req := answer(t, r, plan, 5, now)
	req.Servers = behind
	if _, err := r.Rollover(req); !errors.As(err, new(*keystore.HeldError)) {
		t.Fatalf("Rollover = %v, want a HeldError", err)
	}
	if _, err := r.HoldSlot(r.NextSlot, now, plan, all); !errors.Is(err, keystore.ErrInvalid) {
		t.Errorf("HoldSlot of what nothing holds = %v, want ErrInvalid", err)
	}
	c, err := r.HoldSlot(r.NextSlot, now, plan, behind)
	if err != nil || !slices.Equal(c.HeldBy, []string{"ps-2"}) {
		t.Fatalf("HoldSlot = %+v, %v; want it held by ps-2", c, err)
	}
	held := apply(t, r, c, ref(11, now))
	if held.Hold.IsZero() || !held.Holds(behind) || held.Holds(all) || held.Version != r.Version || held.Changed != r.Changed {
		t.Errorf("ring = %+v, want a hold and the same keys", held)
	}
	if _, err := held.HoldSlot(r.NextSlot, now, plan, behind); !errors.Is(err, keystore.ErrInvalid) {
		t.Errorf("a second HoldSlot = %v, want ErrInvalid", err)
	}
	if _, err := held.EndHold(behind); !errors.Is(err, keystore.ErrInvalid) {
		t.Errorf("EndHold of what is held = %v, want ErrInvalid", err)
	}
	c, err = held.EndHold(all)
	if err != nil {
		t.Fatal(err)
	}
	if ended := apply(t, held, c, ref(12, now)); !ended.Hold.IsZero() {
		t.Errorf("hold = %+v, want none", ended.Hold)
	}
	// A forced rollover takes the slot's place, and the hold ends whoever is behind.
	req = request(t, held, 5, now)
	req.Plan, req.Servers, req.Force = plan, behind, true
	if c, err = held.Rollover(req); err != nil {
		t.Fatal(err)
	}
	rolled := apply(t, held, c, ref(12, now))
	if c, err = rolled.EndHold(behind); err != nil || !c.Slot.Equal(r.NextSlot) {
		t.Errorf("EndHold after another rollover = %+v, %v", c, err)
	}
}

func TestPolicyOfASchedule(t *testing.T) {
	for _, tt := range []struct {
		name      string
		gap       time.Duration
		edit      func(*keystore.Policy)
		want      string // part of the refusal; "": accepted
		hints     []string
		forceable bool
	}{
		{name: "daily", gap: 24 * time.Hour, edit: func(*keystore.Policy) {}},
		{name: "under an hour", gap: 30 * time.Minute, edit: func(*keystore.Policy) {},
			want: `schedule "every 30m" rolls over again after 30m0s, sooner than min_interval 1h0m0s allows`, hints: []string{"--min-interval 30m0s"}},
		{name: "under an hour, allowed", gap: 30 * time.Minute, edit: func(p *keystore.Policy) { p.MinInterval = 30 * time.Minute }},
		{name: "too many keys", gap: 7 * time.Minute, edit: func(p *keystore.Policy) { p.MinInterval = time.Minute },
			want:  `retain auto keeps an old key for 8h5m0s (max_session 8h0m0s and 5m0s), and schedule "every 7m" makes one every 7m0s: 70 old keys, and 64 is the most`,
			hints: []string{"a schedule with 8m0s or more", "--max-session 7h22m59s"}},
		{name: "the most keys", gap: 8 * time.Minute, edit: func(p *keystore.Policy) { p.MinInterval = time.Minute }},
		{name: "too few keys", gap: 3 * time.Hour, edit: func(p *keystore.Policy) { p.Retain = 2 },
			want:  "retain 2 keeps an old key for as little as 6h0m0s (2 × the schedule's shortest gap 3h0m0s), less than max_session 8h0m0s",
			hints: []string{"--retain auto", "--retain 3", "--max-session 6h0m0s", "a schedule with 4h0m0s or more", "SiteMinder's rule, session ≤ 2 × interval, allows sessions of 6h0m0s"}, forceable: true},
		{name: "SiteMinder's rule is not enough", gap: 4 * time.Hour, edit: func(p *keystore.Policy) { p.Retain = 1 },
			want: "as little as 4h0m0s", hints: []string{"allows sessions of 8h0m0s"}, forceable: true},
		{name: "enough keys", gap: 4 * time.Hour, edit: func(p *keystore.Policy) { p.Retain = 2 }},
		{name: "hold too short", gap: 4 * time.Hour, edit: func(p *keystore.Policy) { p.MaxHold = time.Second }, want: "max_hold 1s: want none, or 1m0s to"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := scheduled(t, tt.gap)
			tt.edit(&p)
			err := p.Check(every(tt.gap))
			if tt.want == "" {
				if err != nil {
					t.Errorf("Check = %v, want nil", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("Check = %v, want %q", err, tt.want)
			}
			var refusal keystore.Refusal
			if !errors.As(err, &refusal) {
				return
			}
			for _, hint := range tt.hints {
				if !strings.Contains(refusal.Hint(), hint) {
					t.Errorf("hint = %q, want %q in it", refusal.Hint(), hint)
				}
			}
			r := newRing(t, keystore.DefaultPolicy())
			_, err = r.SetPolicy(keystore.PolicyRequest{Policy: p, Plan: every(tt.gap), Now: start, Force: true})
			if (err == nil) != tt.forceable {
				t.Errorf("SetPolicy by force = %v, want it taken: %t", err, tt.forceable)
			}
		})
	}
}

// A change of policy moves a slot only with the schedule, or where min_interval now
// forbids it; a slot that is due stays due.
func TestPolicyKeepsTheSlot(t *testing.T) {
	r := scheduledRing(t, 3*time.Hour)
	set := func(r keystore.Ring, p keystore.Policy, plan keystore.Plan, now time.Time) keystore.Ring {
		t.Helper()
		c, err := r.SetPolicy(keystore.PolicyRequest{Policy: p, Plan: plan, Now: now})
		if err != nil {
			t.Fatal(err)
		}
		return apply(t, r, c, ref(r.Last.N+1, now))
	}
	p := r.Policy
	p.MaxSession = time.Hour
	late := r.NextSlot.Add(time.Minute)
	if got := set(r, p, every(3*time.Hour), late).NextSlot; !got.Equal(r.NextSlot) {
		t.Errorf("NextSlot = %v, want the one that is due, %v", got, r.NextSlot)
	}
	if got := set(r, scheduled(t, 4*time.Hour), every(4*time.Hour), late).NextSlot; !got.Equal(start.Add(4 * time.Hour)) {
		t.Errorf("NextSlot of another schedule = %v, want %v", got, start.Add(4*time.Hour))
	}
	if got := set(r, keystore.DefaultPolicy(), nil, late).NextSlot; !got.IsZero() {
		t.Errorf("NextSlot without a schedule = %v, want none", got)
	}
	req := request(t, r, 5, start.Add(time.Minute))
	req.Plan = every(3 * time.Hour)
	c, err := r.Rollover(req)
	if err != nil {
		t.Fatal(err)
	}
	r = apply(t, r, c, ref(11, req.Now))
	p.MinInterval = 3 * time.Hour
	if got := set(r, p, every(3*time.Hour), req.Now).NextSlot; !got.Equal(start.Add(3 * time.Hour)) {
		t.Errorf("NextSlot a minute short of min_interval = %v, want %v", got, start.Add(3*time.Hour))
	}
	r.Rolled = r.Rolled.Add(time.Minute)
	if got := set(r, p, every(3*time.Hour), req.Now).NextSlot; !got.Equal(start.Add(6 * time.Hour)) {
		t.Errorf("NextSlot within min_interval = %v, want %v", got, start.Add(6*time.Hour))
	}
}

// Servers race for slots, each with a clock of its own; one pauses between deciding and
// writing, another crashes and does so again. The log takes what was decided on its
// newest event alone. No slot is ever answered twice, and the slots that are answered
// only rise.
func TestOneRolloverASlot(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		gap := time.Duration(rapid.SampledFrom([]int{60, 180, 1440}).Draw(rt, "gap")) * time.Minute
		plan := every(gap)
		r := scheduledRing(t, gap)
		type draft struct {
			change keystore.Change
			on     keystore.N
		}
		var paused []draft
		answered := map[string]bool{}
		var last time.Time
		now := start
		commit := func(d draft) {
			if d.on != r.Last.N {
				return // the log refuses what was decided on an older event
			}
			if d.change.Kind == keystore.RolledOver {
				id := keystore.SlotID("sso", d.change.Slot)
				if answered[id] || !d.change.Slot.After(last) {
					rt.Fatalf("slot %s is answered twice, or after %v", id, last)
				}
				answered[id], last = true, d.change.Slot
			}
			r = apply(t, r, d.change, ref(r.Last.N+1, now))
			if !r.NextSlot.After(last) {
				rt.Fatalf("the next slot %v does not come after %v", r.NextSlot, last)
			}
		}
		for i := range 60 {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(gap)).Draw(rt, "pass")))
			off := time.Duration(rapid.Int64Range(-5, 5).Draw(rt, "clock")) * time.Second
			due, ok := r.DueSlot(now.Add(off), plan)
			if !ok {
				continue
			}
			var c keystore.Change
			var err error
			if due.Expired {
				c, err = r.SkipSlot(due.Slot, now.Add(off), plan)
			} else {
				c, err = r.Rollover(answer(t, r, plan, 100+i, now.Add(off)))
			}
			if full, ok := errors.AsType[*keystore.FullError](err); ok {
				rt.Fatalf("full: %v", full)
			}
			if err != nil {
				rt.Fatalf("a slot that is due: %v", err)
			}
			paused = append(paused, draft{c, r.Last.N})
			if rapid.Bool().Draw(rt, "writes") {
				commit(rapid.SampledFrom(paused).Draw(rt, "which"))
			}
			if kids := r.Due(now, everybody(now.Add(-9*time.Hour))); len(kids) > 0 {
				c, err := r.Destroy(kids)
				if err != nil {
					rt.Fatal(err)
				}
				commit(draft{c, r.Last.N})
			}
		}
	})
}
