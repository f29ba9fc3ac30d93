package keystore_test

import (
	"testing"
	"time"

	"github.com/keytide/keytide/keystore"
)

// TestAnsweredSlotIsNeverCommittedAgain: a server answers a slot; an administrator, just
// afterwards, asks another one, whose clock says that the slot is yet to come.
func TestAnsweredSlotIsNeverCommittedAgain(t *testing.T) {
	hourly, halfHourly := every(time.Hour), every(30*time.Minute)
	p := scheduled(t, time.Hour)
	p.MinInterval = 0
	c, err := keystore.Ring{}.Create(keystore.Creation{Name: "sso", Policy: p, Keys: firstKeys(t), Now: start, Plan: hourly})
	if err != nil {
		t.Fatal(err)
	}
	created := apply(t, keystore.Ring{}, c, ref(10, start))
	slot := created.NextSlot
	if c, err = created.Rollover(answer(t, created, hourly, 5, slot)); err != nil {
		t.Fatal(err)
	}
	answered := apply(t, created, c, ref(11, slot))
	behind := slot.Add(-2 * time.Second)

	byHand := request(t, answered, 6, behind)
	byHand.Plan, byHand.Force = hourly, true
	if c, err = answered.Rollover(byHand); err != nil {
		t.Fatal(err)
	}
	if !c.NextSlot.After(slot) {
		t.Errorf("rollover by hand: NextSlot = %v, and %v was answered", c.NextSlot, slot)
	}

	other := scheduled(t, 30*time.Minute)
	other.MinInterval = 0
	for name, ring := range map[string]keystore.Ring{"at once": answered, "after the rollover by hand": apply(t, answered, c, ref(12, behind))} {
		c, err := ring.SetPolicy(keystore.PolicyRequest{Policy: other, Now: behind, Plan: halfHourly})
		if err != nil {
			t.Fatal(err)
		}
		if !c.NextSlot.After(slot) {
			t.Errorf("another schedule %s: NextSlot = %v, and %v was answered", name, c.NextSlot, slot)
		}
	}
}
