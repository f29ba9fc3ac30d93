package keystore_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keytide/keytide/keystore"
)

// harsh is a request for a rollover that makes two new keys and more.
func harsh(tb testing.TB, r keystore.Ring, trigger keystore.Trigger, key int, now time.Time) keystore.Rollover {
	req := request(tb, r, key, now)
	req.Trigger, req.Current = trigger, newKey(tb, key+1, now)
	return req
}

func TestFreshRolloverNeedsNoKeyThatWasKnown(t *testing.T) {
	r := rolled(t, newRing(t, keystore.DefaultPolicy()), 5, start) // current 2, old 1, future 5
	now := start.Add(2 * time.Hour)
	c, err := r.Rollover(harsh(t, r, keystore.Fresh, 10, now))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]keystore.KID{material(t, 5).KID()}, c.Destroyed); diff != "" {
		t.Errorf("destroyed (-want +got): the former future key alone\n%s", diff)
	}
	next := apply(t, r, c, ref(12, now))
	want := []roleOf{{11, keystore.Current}, {2, keystore.Old}, {1, keystore.Old}, {10, keystore.Future}, {3, keystore.Static}, {4, keystore.SessionTicket}}
	if diff := cmp.Diff(want, roles(t, next)); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	req := harsh(t, r, keystore.Fresh, 10, now)
	req.Servers[0].Applied = 1
	if _, err := r.Rollover(req); !errors.As(err, new(*keystore.HeldError)) {
		t.Errorf("fresh rollover with a server behind = %v, want a HeldError", err)
	}
	req = harsh(t, r, keystore.Fresh, 10, start.Add(time.Minute))
	if _, err := r.Rollover(req); !errors.As(err, new(*keystore.TooSoonError)) {
		t.Errorf("fresh rollover a minute later = %v, want a TooSoonError", err)
	}
}

func TestEmergencyRolloverLeavesNoOlderKey(t *testing.T) {
	r := rolled(t, newRing(t, keystore.DefaultPolicy()), 5, start)
	for _, tt := range []struct {
		name string
		edit func(*keystore.Rollover)
		want []roleOf
	}{
		{"dynamic keys", func(*keystore.Rollover) {}, []roleOf{{11, keystore.Current}, {10, keystore.Future}, {3, keystore.Static}, {4, keystore.SessionTicket}}},
		{"static too", func(r *keystore.Rollover) { r.Static = newKey(t, 12, start) }, []roleOf{{11, keystore.Current}, {10, keystore.Future}, {12, keystore.Static}, {4, keystore.SessionTicket}}},
		{"all", func(r *keystore.Rollover) { r.Static, r.SessionTicket = newKey(t, 12, start), newKey(t, 13, start) },
			[]roleOf{{11, keystore.Current}, {10, keystore.Future}, {12, keystore.Static}, {13, keystore.SessionTicket}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req := harsh(t, r, keystore.Emergency, 10, start.Add(time.Second)) // within min_interval
			req.Servers = nil                                                  // and nobody has confirmed
			tt.edit(&req)
			c, err := r.Rollover(req)
			if err != nil || c.Forced {
				t.Fatalf("Rollover = %+v, %v; want it accepted, and not by force", c, err)
			}
			next := apply(t, r, c, ref(12, req.Now))
			if diff := cmp.Diff(tt.want, roles(t, next)); diff != "" {
				t.Errorf("keys (-want +got):\n%s", diff)
			}
			if next.Incident != ref(12, req.Now) {
				t.Errorf("incident = %+v, want it open since event 12", next.Incident)
			}
			if _, err := next.Undo(); !errors.As(err, new(*keystore.UndoError)) {
				t.Errorf("Undo = %v, want an UndoError: what it would restore is destroyed", err)
			}
		})
	}
}

func TestIncidentIsOpenUntilAllHaveConfirmed(t *testing.T) {
	r := newRing(t, keystore.DefaultPolicy())
	c, err := r.Rollover(harsh(t, r, keystore.Emergency, 10, start))
	if err != nil {
		t.Fatal(err)
	}
	r = apply(t, r, c, ref(11, start))
	fine := keystore.Confirmation{Server: "ps-1", Applied: 11}
	for _, tt := range []struct {
		name            string
		servers         []keystore.Confirmation
		behind, lacking int
		closes          bool
	}{
		{"nobody", nil, 0, 0, false},
		{"one", []keystore.Confirmation{fine}, 0, 0, true},
		{"a server is behind", []keystore.Confirmation{fine, {Server: "ps-2", Applied: 10, Lacking: 5}}, 1, 0, false},
		{"an agent is behind", []keystore.Confirmation{fine, {Server: "ps-2", Applied: 11, Lacking: 5}}, 0, 5, false},
		{"who is behind is excluded", []keystore.Confirmation{fine, {Server: "ps-2", Applied: 10, Excluded: true}}, 0, 0, true},
		{"who is behind is forgotten", []keystore.Confirmation{fine, {Server: "ps-2", Forgotten: true}}, 0, 0, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if behind, lacking := r.Unconfirmed(tt.servers); len(behind) != tt.behind || lacking != tt.lacking {
				t.Errorf("Unconfirmed = %v, %d; want %d servers, %d agents", behind, lacking, tt.behind, tt.lacking)
			}
			c, err := r.CloseIncident(tt.servers)
			if (err == nil) != tt.closes {
				t.Fatalf("CloseIncident = %v, want it closed: %t", err, tt.closes)
			}
			if !tt.closes {
				return
			}
			closed := apply(t, r, c, ref(12, start))
			if closed.Incident.N != 0 || closed.Version != r.Version {
				t.Errorf("ring = %+v, want no incident at the same version", closed)
			}
			if _, err := closed.CloseIncident(tt.servers); !errors.Is(err, keystore.ErrNotFound) {
				t.Errorf("CloseIncident once more = %v, want ErrNotFound", err)
			}
		})
	}
}

func TestUndo(t *testing.T) {
	r0 := newRing(t, keystore.DefaultPolicy())
	if _, err := r0.Undo(); !errors.As(err, new(*keystore.UndoError)) || !strings.Contains(err.Error(), "has not rolled over yet") {
		t.Errorf("Undo of a new ring = %v, want an UndoError", err)
	}
	r1 := rolled(t, r0, 5, start)
	c, err := r1.Undo()
	if err != nil || c.Restored != material(t, 1).KID() {
		t.Fatalf("Undo = %+v, %v; want key 1 restored", c, err)
	}
	later := start.Add(time.Minute)
	r2 := apply(t, r1, c, ref(12, later))
	want := []roleOf{{1, keystore.Current}, {2, keystore.Old}, {5, keystore.Future}, {3, keystore.Static}, {4, keystore.SessionTicket}}
	if diff := cmp.Diff(want, roles(t, r2)); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	if k, _ := r2.Key(material(t, 1).KID()); k.Retired != 0 || !k.RetiredAt.IsZero() {
		t.Errorf("the restored key = %+v, want it not retired", k)
	}
	if k, _ := r2.Key(material(t, 2).KID()); k.Retired != 12 || !k.RetiredAt.Equal(later) || k.Session != r2.Policy.MaxSession {
		t.Errorf("the key that it replaces = %+v, want it retired by event 12, kept for its sessions", k)
	}
	if _, err := r2.Undo(); !errors.As(err, new(*keystore.UndoError)) {
		t.Errorf("a second Undo = %v, want an UndoError", err)
	}
	r3 := rolled(t, r2, 6, start.Add(2*time.Hour))
	want = []roleOf{{5, keystore.Current}, {1, keystore.Old}, {2, keystore.Old}, {6, keystore.Future}, {3, keystore.Static}, {4, keystore.SessionTicket}}
	if diff := cmp.Diff(want, roles(t, r3)); diff != "" {
		t.Errorf("keys after the next rollover (-want +got):\n%s", diff)
	}
	c, err = r1.Destroy([]keystore.KID{material(t, 1).KID()})
	if err != nil {
		t.Fatal(err)
	}
	if gone := apply(t, r1, c, ref(12, later)); gone.Former != (keystore.KID{}) {
		t.Error("a destroyed key can be restored")
	}
}

func TestDelete(t *testing.T) {
	r := rolled(t, newRing(t, keystore.DefaultPolicy()), 5, start)
	_, err := r.Delete([]string{"web-1"}, false)
	granted, ok := errors.AsType[*keystore.GrantedError](err)
	if !ok || !granted.Forceable() || !strings.Contains(err.Error(), "a trusted host is granted it: web-1") {
		t.Fatalf("Delete = %v, want a GrantedError that names web-1", err)
	}
	c, err := r.Delete([]string{"web-1"}, true)
	if err != nil || !c.Forced || len(c.Destroyed) != 5 {
		t.Fatalf("Delete by force = %+v, %v; want all five keys destroyed", c, err)
	}
	gone := apply(t, r, c, ref(12, start))
	if !gone.Deleted || len(gone.Keys) != 0 || gone.Version != 3 || gone.Name != "sso" {
		t.Errorf("ring = %+v, want its name and version alone", gone)
	}
	for name, refused := range map[string]func() error{
		"Rollover":  func() error { _, err := gone.Rollover(request(t, gone, 9, start)); return err },
		"SetPolicy": func() error { _, err := gone.SetPolicy(keystore.PolicyRequest{Policy: r.Policy}); return err },
		"Undo":      func() error { _, err := gone.Undo(); return err },
		"Delete":    func() error { _, err := gone.Delete(nil, true); return err },
		"Destroy":   func() error { _, err := gone.Destroy(nil); return err },
	} {
		if err := refused(); !errors.Is(err, keystore.ErrNotFound) {
			t.Errorf("%s of a deleted ring = %v, want ErrNotFound", name, err)
		}
	}
	// A ring of that name goes on counting.
	keys := firstKeys(t)
	keys.Current, keys.Future = newKey(t, 20, start), newKey(t, 21, start)
	keys.Static, keys.SessionTicket = newKey(t, 22, start), newKey(t, 23, start)
	c, err = gone.Create(keystore.Creation{Name: "sso", Policy: r.Policy, Keys: keys})
	if err != nil || c.Version != 4 {
		t.Fatalf("Create = %+v, %v; want version 4", c, err)
	}
	if again := apply(t, gone, c, ref(13, start)); again.Deleted || len(again.Keys) != 4 || again.Changed != 13 {
		t.Errorf("ring = %+v, want a new one", again)
	}
	if _, err := r.Create(keystore.Creation{Name: "sso", Policy: r.Policy, Keys: keys}); !errors.Is(err, keystore.ErrExists) {
		t.Errorf("Create of a ring that is there = %v, want ErrExists", err)
	}
}

func TestRolloverRequestsThatFitNoTrigger(t *testing.T) {
	r := newRing(t, keystore.DefaultPolicy())
	for name, edit := range map[string]func(*keystore.Rollover){
		"a manual one with a current key":   func(req *keystore.Rollover) { req.Current = newKey(t, 6, start) },
		"a manual one with a static key":    func(req *keystore.Rollover) { req.Static = newKey(t, 6, start) },
		"a fresh one with a session ticket": func(req *keystore.Rollover) { req.Trigger, req.SessionTicket = keystore.Fresh, newKey(t, 6, start) },
		"a fresh one without a current key": func(req *keystore.Rollover) { req.Trigger = keystore.Fresh },
		"an emergency with one key twice": func(req *keystore.Rollover) {
			req.Trigger, req.Current = keystore.Emergency, req.Future
		},
	} {
		req := request(t, r, 5, start)
		edit(&req)
		if _, err := r.Rollover(req); !errors.Is(err, keystore.ErrInvalid) {
			t.Errorf("%s = %v, want ErrInvalid", name, err)
		}
	}
}

// A static key that is published and not sealed with yet may be as known as the others:
// an emergency rollover of static keys leaves none of them, whatever state they are in.
func TestEmergencyEndsPendingKeys(t *testing.T) {
	r := newRing(t, keystore.DefaultPolicy())
	c, err := r.Publish(keystore.Publication{
		Keys:    []keystore.PublishedKey{{Key: newKey(t, 20, start), Role: keystore.Static}, {Key: newKey(t, 21, start), Role: keystore.Static, OpenOnly: true}},
		Overlap: 8 * time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	r = apply(t, r, c, ref(11, start))
	for _, with := range []bool{true, false} {
		req := harsh(t, r, keystore.Emergency, 10, start)
		want := []roleOf{{11, keystore.Current}, {10, keystore.Future}, {12, keystore.Static}, {4, keystore.SessionTicket}}
		if with {
			req.Static = newKey(t, 12, start)
		} else {
			want = []roleOf{{11, keystore.Current}, {10, keystore.Future}, {3, keystore.Static}, {21, keystore.Static}, {20, keystore.Static}, {4, keystore.SessionTicket}}
		}
		c, err := r.Rollover(req)
		if err != nil {
			t.Fatal(err)
		}
		next := apply(t, r, c, ref(12, start))
		if diff := cmp.Diff(want, roles(t, next)); diff != "" {
			t.Errorf("keys with static %t (-want +got):\n%s", with, diff)
		}
		if k, ok := next.Seals(); !ok || k.KID != material(t, 11).KID() {
			t.Errorf("seals %v, want the new current key", k.KID)
		}
	}
}
