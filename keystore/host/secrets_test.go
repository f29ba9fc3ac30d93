package host_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/host"
)

func instance(id byte, at time.Time, generation uint64) host.Instance {
	return host.Instance{ID: host.InstanceID{id}, Seen: at, Generation: generation, Keeps: true}
}

func see(tb testing.TB, h host.Host, seen ...host.Instance) host.Host {
	tb.Helper()
	c, err := h.See(seen)
	if err != nil {
		tb.Fatalf("See: %v", err)
	}
	return apply(tb, h, c, ref(h.Last.N+1))
}

func offer(tb testing.TB, h host.Host, i byte, at time.Time) host.Host {
	tb.Helper()
	c, err := h.Offer(keystore.NewKey{KID: secret(i).KID, Created: at}, at)
	if err != nil {
		tb.Fatalf("Offer: %v", err)
	}
	return apply(tb, h, c, ref(h.Last.N+1))
}

func TestRollover(t *testing.T) {
	h := see(t, registered(t), instance(1, start, 1), instance(2, start, 1))
	h = offer(t, h, 7, start)
	if len(h.Secrets) != 2 || h.Secrets[0].Generation != 2 || h.Secrets[1].KID != secret(1).KID {
		t.Fatalf("secrets = %+v, want the new one before the first", h.Secrets)
	}
	refused := func(err error, want string) {
		t.Helper()
		var roll *host.RollError
		if !errors.As(err, &roll) || !errors.Is(err, keystore.ErrRefused) || !strings.Contains(roll.Why, want) {
			t.Errorf("error %v, want a RollError with %q", err, want)
		}
	}
	refused(h.Rollable(start), "has not ended")
	_, err := h.Retire(start)
	refused(err, "not every instance")
	h = see(t, h, instance(1, start, 2))
	_, err = h.Retire(start)
	refused(err, "not every instance")
	lost := see(t, see(t, h, instance(2, start, 2)), instance(1, start, 1))
	_, err = lost.Retire(start)
	refused(err, "not every instance") // the first has lost the new secret again

	absent := start.Add(host.Recent)
	if _, err := see(t, h, instance(1, absent, 2)).Retire(absent); err != nil {
		t.Errorf("Retire with an instance that was not seen for %v = %v", host.Recent, err)
	}
	_, err = h.Retire(absent)
	refused(err, "not every instance") // none was seen lately

	h = see(t, h, instance(2, start, 2))
	c, err := h.Retire(start)
	if err != nil {
		t.Fatalf("Retire: %v", err)
	}
	h = apply(t, h, c, ref(h.Last.N+1))
	if len(h.Secrets) != 1 || h.Secrets[0].KID != secret(7).KID || h.Rolling() {
		t.Errorf("secrets = %+v, want the new one alone", h.Secrets)
	}
	_, err = h.Retire(start)
	refused(err, "no rollover is under way")
}

func TestRollableRefuses(t *testing.T) {
	h := registered(t)
	cannot := instance(1, start, 1)
	cannot.Keeps = false
	crowd := h
	for i := range byte(host.MaxInstances) {
		crowd = see(t, crowd, instance(i+1, start, 1))
	}
	crowd = see(t, crowd, instance(200, start, 1))
	for _, tt := range []struct {
		host host.Host
		want string
	}{
		{h, "no agent of it was seen lately"},
		{see(t, h, cannot, instance(2, start, 1)), "instance 0100000000000000 cannot keep a new one"},
		{crowd, "more than 32 instances"},
		{see(t, h, instance(1, start.Add(-host.Recent), 1)), "no agent of it was seen lately"},
	} {
		if err := tt.host.Rollable(start); !errors.Is(err, keystore.ErrRefused) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Rollable = %v, want ErrRefused with %q", err, tt.want)
		}
	}
	if err := see(t, h, cannot, instance(2, start, 1)).Rollable(start.Add(host.Recent)); !strings.Contains(err.Error(), "no agent") {
		t.Errorf("Rollable = %v, want it refused for want of agents", err)
	}
}

func TestMarksAreCoarse(t *testing.T) {
	h := see(t, registered(t), instance(1, start, 1))
	later := func(d time.Duration, edit func(*host.Instance)) host.Instance {
		i := instance(1, start.Add(d), 1)
		if edit != nil {
			edit(&i)
		}
		return i
	}
	for _, tt := range []struct {
		name string
		seen host.Instance
		want bool
	}{
		{"again", later(0, nil), false},
		{"within a day", later(23*time.Hour, nil), false},
		{"after a day", later(24*time.Hour, nil), true},
		{"with a new secret", later(0, func(i *host.Instance) { i.Generation = 2 }), true},
		{"that cannot keep one any more", later(0, func(i *host.Instance) { i.Keeps = false }), true},
		{"another", instance(2, start, 1), true},
	} {
		if got := h.Marks(tt.seen); got != tt.want {
			t.Errorf("an instance %s: Marks = %v, want %v", tt.name, got, tt.want)
		}
	}
	h.Ephemeral = time.Hour
	if !h.Marks(later(15*time.Minute, nil)) || h.Marks(later(14*time.Minute, nil)) {
		t.Error("an ephemeral host of an hour wants a mark each quarter")
	}
}

func TestForgottenInstancesMakeRoom(t *testing.T) {
	h := registered(t)
	for i := range byte(host.MaxInstances) {
		h = see(t, h, instance(i+1, start.Add(time.Duration(i)*time.Minute), 1))
	}
	h = see(t, h, instance(200, start.Add(host.Recent), 1))
	if _, first := h.Instance(host.InstanceID{1}); first || h.Crowded || len(h.Instances) != host.MaxInstances {
		t.Errorf("%d instances, the oldest among them: %v, crowded: %v; want it dropped", len(h.Instances), first, h.Crowded)
	}
}

func TestSecretPolicy(t *testing.T) {
	p := host.SecretPolicy{Every: 10 * 24 * time.Hour}
	h := see(t, registered(t), instance(1, start.Add(9*24*time.Hour), 1))
	end := start.Add(p.Every)
	if p.Due(h, end) {
		t.Error("a host that does not allow it is due")
	}
	h.AllowRoll = true
	if p.Due(h, start.Add(9*24*time.Hour-time.Minute)) || !p.Due(h, end) {
		t.Error("want it due within the last tenth")
	}
	if (host.SecretPolicy{}).Due(h, end) {
		t.Error("without a policy it is due")
	}
	due := map[int]int{}
	for i := range 1000 {
		h.Name = "web-" + string(rune('a'+i%26)) + strings.Repeat("x", i/26)
		for hour := 0; hour <= 24; hour += 6 {
			if p.Due(h, end.Add(time.Duration(hour-24)*time.Hour)) {
				due[hour]++
			}
		}
	}
	for hour := 6; hour <= 18; hour += 6 {
		if share := due[hour] - due[hour-6]; share < 150 || share > 350 {
			t.Errorf("%d of 1000 hosts are due within 6 hours, want about a quarter: %v", share, due)
		}
	}
	for every, ok := range map[time.Duration]bool{0: true, time.Hour: true, time.Hour - 1: false, host.MaxSecretAge + 1: false} {
		if err := (host.SecretPolicy{Every: every}).Check(); (err == nil) != ok {
			t.Errorf("Check of every %v = %v", every, err)
		}
	}
}

// TestSecretsProperty offers, sees and retires at random: a host that is registered
// always has one or two secrets, what an instance showed last stays valid while it is
// recent, and no step changes the host before it.
func TestSecretsProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		h, now := registered(t), start
		shown := map[byte]uint64{}
		for i := range rapid.IntRange(1, 40).Draw(rt, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 48).Draw(rt, "hours")) * time.Hour)
			var c host.Change
			var err error
			switch rapid.IntRange(0, 2).Draw(rt, "step") {
			case 0:
				c, err = h.Offer(keystore.NewKey{KID: secret(byte(100 + i)).KID, Created: now}, now)
			case 1:
				id := byte(rapid.IntRange(1, 3).Draw(rt, "instance"))
				valid := h.Secrets[rapid.IntRange(0, len(h.Secrets)-1).Draw(rt, "secret")].Generation
				c, err = h.See([]host.Instance{instance(id, now, valid)})
				shown[id] = valid
			case 2:
				c, err = h.Retire(now)
			}
			if err != nil {
				continue
			}
			secrets, instances := slices.Clone(h.Secrets), slices.Clone(h.Instances)
			next := apply(t, h, c, ref(h.Last.N+1))
			if !slices.Equal(secrets, h.Secrets) || !slices.Equal(instances, h.Instances) {
				rt.Fatalf("Apply changed its receiver")
			}
			h = next
			if len(h.Secrets) < 1 || len(h.Secrets) > 2 {
				rt.Fatalf("%d secrets", len(h.Secrets))
			}
			for _, i := range h.Instances {
				valid := func(s host.Secret) bool { return s.Generation == shown[i.ID[0]] }
				if now.Sub(i.Seen) < host.Recent && !slices.ContainsFunc(h.Secrets, valid) {
					rt.Fatalf("instance %s showed secret %d, which is valid no more: %+v", i.ID, shown[i.ID[0]], h)
				}
			}
		}
	})
}
