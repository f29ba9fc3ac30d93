package hub

import (
	"testing"
	"time"
)

// TestTicketsAreMetered: a host may have a burst, and then as many a second as the rate
// says, whatever other hosts do.
func TestTicketsAreMetered(t *testing.T) {
	var m tickets
	now := time.Date(2026, 11, 24, 9, 0, 0, 0, time.UTC)
	take := func(host string, n int) bool { return m.take(host, n, now) }
	if !take("a", ticketBurst) || take("a", 1) {
		t.Error("a burst is not what a host may have at once")
	}
	if !take("b", 1) {
		t.Error("another host has to wait")
	}
	now = now.Add(time.Second)
	if !take("a", ticketRate) || take("a", 1) {
		t.Error("the rate is not what a host may have in a second")
	}
	now = now.Add(-time.Hour)
	if take("a", 1) {
		t.Error("a clock that was set back gives tickets")
	}
	now = now.Add(24 * time.Hour)
	if !take("a", ticketBurst) || take("a", 1) {
		t.Error("a day gives more than a burst")
	}
}
