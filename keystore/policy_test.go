package keystore_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/keytide/keytide/keystore"
)

func TestPolicyCheck(t *testing.T) {
	hours := func(h int) time.Duration { return time.Duration(h) * time.Hour }
	tests := []struct {
		name   string
		policy keystore.Policy
		want   []string // parts of the message; none = accepted
		is     error
	}{
		{"default", keystore.DefaultPolicy(), nil, nil},
		{"no floor", keystore.Policy{MaxSession: hours(8)}, nil, nil},
		{"retain just enough", keystore.Policy{MaxSession: hours(8), Retain: 8, MinInterval: hours(1)}, nil, nil},
		{"retain too few", keystore.Policy{MaxSession: hours(8), Retain: 7, MinInterval: hours(1)},
			[]string{"retain 7 keeps an old key for as little as 7h0m0s (7 × min_interval 1h0m0s), less than max_session 8h0m0s"}, keystore.ErrRefused},
		{"retain without floor", keystore.Policy{MaxSession: hours(8), Retain: 64}, []string{"as little as 0s"}, keystore.ErrRefused},
		{"all faults together", keystore.Policy{MaxSession: 0, Retain: 65, MinInterval: -1},
			[]string{"max_session 0s: want 1s to 8784h0m0s", "retain 65: want auto or a number", "min_interval -1ns: want 0s to"}, keystore.ErrInvalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.policy.Check(nil)
			if tt.want == nil {
				if err != nil {
					t.Errorf("Check = %v, want nil", err)
				}
				return
			}
			if !errors.Is(err, tt.is) {
				t.Fatalf("Check = %v, want %v", err, tt.is)
			}
			for _, part := range tt.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("Check = %q, want %q in it", err, part)
				}
			}
		})
	}
}

func TestRetainHintNamesPoliciesThatWork(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := keystore.Policy{
			MaxSession:  time.Duration(rapid.Int64Range(1, 400_000).Draw(t, "session")) * time.Second,
			Retain:      keystore.Retain(rapid.IntRange(1, keystore.MaxOld).Draw(t, "retain")),
			MinInterval: time.Duration(rapid.Int64Range(0, 100_000).Draw(t, "interval")) * time.Second,
		}
		e, ok := errors.AsType[*keystore.RetainError](p.Check(nil))
		if !ok {
			return
		}
		ways, _, _ := strings.Cut(e.Hint(), "\n")
		for _, way := range strings.Split(strings.TrimPrefix(ways, "policies that work:  "), "  or  ") {
			flag, value, _ := strings.Cut(way, " ")
			better := p
			var err error
			switch flag {
			case "--retain":
				err = better.Retain.UnmarshalText([]byte(value))
			case "--min-interval":
				better.MinInterval, err = time.ParseDuration(value)
			case "--max-session":
				better.MaxSession, err = time.ParseDuration(value)
			default:
				t.Fatalf("hint %q has an unknown way %q", ways, way)
			}
			if err == nil {
				err = better.Check(nil)
			}
			if err != nil {
				t.Fatalf("%+v: hint says %q, which is refused: %v", p, way, err)
			}
		}
	})
}

func TestPolicyJSON(t *testing.T) {
	got, err := json.Marshal(keystore.Policy{MaxSession: 8 * time.Hour, Retain: 3, MinInterval: 90 * time.Minute})
	want := `{"max_session":"8h0m0s","retain":"3","min_interval":"1h30m0s","schedule":"manual","tz":"UTC","blackout":[],"max_hold":"none","guard_agents":[]}`
	if err != nil || string(got) != want {
		t.Errorf("Marshal = %s, %v; want %s", got, err, want)
	}
	var p keystore.Policy
	if err := json.Unmarshal([]byte(`{"max_session":"4h"}`), &p); err != nil {
		t.Fatalf("Unmarshal: %v", err)
	}
	if want := (keystore.Policy{MaxSession: 4 * time.Hour, MinInterval: time.Hour}); p != want {
		t.Errorf("Unmarshal = %+v, want %+v", p, want)
	}
	err = json.Unmarshal([]byte(`{"max_session":"4","min_interval":"x","schedule":"daily","max_hold":"y"}`), &p)
	for _, part := range []string{`max_session "4"`, `min_interval "x"`, `schedule "daily"`, `max_hold "y"`} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("Unmarshal = %v, want %s in it", err, part)
		}
	}
}

func TestPolicyJSONRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := keystore.Policy{
			MaxSession:  time.Duration(rapid.Int64Min(0).Draw(t, "session")),
			Retain:      keystore.Retain(rapid.IntRange(0, keystore.MaxOld).Draw(t, "retain")),
			MinInterval: time.Duration(rapid.Int64Min(0).Draw(t, "interval")),
		}
		text, err := json.Marshal(p)
		if err != nil {
			t.Fatalf("Marshal: %v", err)
		}
		var back keystore.Policy
		if err := json.Unmarshal(text, &back); err != nil || back != p {
			t.Fatalf("Unmarshal(%s) = %+v, %v; want %+v", text, back, err, p)
		}
	})
}

func TestRetainText(t *testing.T) {
	for text, want := range map[string]keystore.Retain{"auto": keystore.RetainAuto, "1": 1, "64": 64} {
		var r keystore.Retain
		if err := r.UnmarshalText([]byte(text)); err != nil || r != want || r.String() != text {
			t.Errorf("UnmarshalText(%q) = %v, %v; want %v", text, r, err, want)
		}
	}
	for _, text := range []string{"", "0", "65", "-1", "+1", "01", "Auto", "1 "} {
		var r keystore.Retain
		if err := r.UnmarshalText([]byte(text)); !errors.Is(err, keystore.ErrInvalid) {
			t.Errorf("UnmarshalText(%q) = %v, want ErrInvalid", text, err)
		}
	}
}
