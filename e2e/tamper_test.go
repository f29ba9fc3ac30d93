package e2e

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// TestHistoryTellsTheTruth is promise 6 from outside: somebody with access to the
// bus tries to change what happened. The stream refuses what it can; what it cannot
// refuse is found, named, and not believed, and work goes on.
func TestHistoryTellsTheTruth(t *testing.T) {
	s := startSite(t)
	s.keytide(t, "ring", "set", "sso", "--min-interval", "0s", "--yes")
	s.keytide(t, "rollover", "sso", "--yes")
	before := s.keytide(t, "ring", "show", "sso", "-o", "json")
	js := connect(t, s.nats)
	const subject = "$KV.keytide_keys_main_e1."

	for name, wipe := range map[string]func(context.Context) error{
		"a roll-up of the bucket": func(ctx context.Context) error {
			msg := nats.NewMsg(subject + "log.2")
			msg.Header.Set("Nats-Rollup", "all")
			_, err := js.PublishMsg(ctx, msg)
			return err
		},
		"a purge": func(ctx context.Context) error {
			stream, err := js.Stream(ctx, "KV_keytide_keys_main_e1")
			if err != nil {
				return nil // reported below: a wipe that is not refused
			}
			return stream.Purge(ctx)
		},
		"the deletion of an event": func(ctx context.Context) error {
			stream, err := js.Stream(ctx, "KV_keytide_keys_main_e1")
			if err != nil {
				return nil
			}
			return stream.DeleteMsg(ctx, 1)
		},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		if err := wipe(ctx); err == nil {
			t.Errorf("%s was not refused", name)
		}
		cancel()
	}
	for _, key := range []string{"log.2", "ring.sso", "head", "beacon"} {
		if _, err := js.Publish(context.Background(), subject+key, []byte("what never happened")); err != nil {
			t.Fatalf("%s: %v", key, err)
		}
	}
	// The next beacon puts the beacon right; that it was changed is told all the same.
	s.awaitAlarms(t, "log.2", "ring.sso", "head", "beacon")
	if after := s.keytide(t, "ring", "show", "sso", "-o", "json"); string(after) != string(before) {
		t.Errorf("the ring was\n%s\nand after tampering is\n%s", before, after)
	}
	s.keytide(t, "rollover", "sso", "--wait", "--yes")
	if ring := s.ring(t); ring.Version != 3 {
		t.Errorf("after another rollover the ring is at version %d, want 3", ring.Version)
	}
	s.kill()
	s.restart(t)
	s.awaitAlarms(t, "log.2")
	if ring := s.ring(t); ring.Version != 3 {
		t.Errorf("after a restart the ring is at version %d, want 3", ring.Version)
	}
}

func connect(t *testing.T, address string) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect("nats://" + address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

type alarmView struct {
	Kind string `json:"kind"`
	Key  string `json:"key"`
}

// awaitAlarms waits until status names each of the KV keys in an alarm.
func (s *site) awaitAlarms(t *testing.T, keys ...string) {
	t.Helper()
	eventually(t, "alarms", func() error {
		out, err := s.try("status", "-o", "json")
		if err != nil {
			return err
		}
		status := decode[struct {
			Alarms []alarmView `json:"alarms"`
		}](t, out)
		for _, key := range keys {
			if !slices.ContainsFunc(status.Alarms, func(a alarmView) bool { return a.Key == key }) {
				return fmt.Errorf("no alarm names %s: %+v", key, status.Alarms)
			}
		}
		return nil
	})
}
