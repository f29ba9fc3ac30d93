package bus_test

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/keytide/keytide/replication/bus"
	"github.com/keytide/keytide/replication/wan"
)

// TestApart shares one core on links that are cut.
func TestApart(t *testing.T) {
	net := wan.NewNet(5 * time.Millisecond)
	t.Cleanup(func() { net.Close() })
	c := startCoreOver(t, 3, net)
	admin := c.dial(0, nil)
	c.bucket(admin, "b")
	if err := put(admin, "$KV.b.k"); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]func(*testing.T){
		"reset":          func(t *testing.T) { c.testCutOff(t, wan.Reset) },
		"half-open":      func(t *testing.T) { c.testCutOff(t, wan.Hold) },
		"one way":        func(t *testing.T) { c.testCutOff(t, wan.HoldBack) },
		"all apart":      c.testAllApart,
		"stop while so":  c.testStopApart,
		"start while so": c.testStartApart,
		"a link of its":  c.testGoesHome,
	} {
		t.Run(name, test)
	}
}

// awaitServed waits until the core takes a write at every server.
func (c *core) awaitServed(t *testing.T) {
	t.Helper()
	for i := range c.servers {
		eventually(t, func() error {
			if c.servers[i].Apart() {
				return fmt.Errorf("server %d is apart", i+1)
			}
			return nil
		})
		inner := *c
		inner.t = t
		l := inner.dial(i, func(d *bus.DialConfig) { d.URLs = d.URLs[:1] })
		eventually(t, func() error { return put(l, "$KV.b.k") })
	}
	eventually(t, func() error {
		for i, b := range c.servers {
			if !maps.Equal(b.Terms(), c.servers[0].Terms()) {
				return fmt.Errorf("server %d has terms %v, the first %v", i+1, b.Terms(), c.servers[0].Terms())
			}
		}
		return nil
	})
}

func (c *core) awaitApart(t *testing.T, servers ...int) {
	t.Helper()
	for _, i := range servers {
		eventually(t, func() error {
			if !c.servers[i].Apart() {
				return fmt.Errorf("server %d is not apart", i+1)
			}
			return nil
		})
	}
}

// follower is a server that leads nothing, as soon as there is one.
func (c *core) follower(t *testing.T) (found int) {
	t.Helper()
	eventually(t, func() error {
		for i, b := range c.servers {
			if b.LeadsAny() {
				continue
			}
			found = i
			return nil
		}
		return errors.New("every server leads something")
	})
	return found
}

// testCutOff: a follower that was cut off makes the others elect nobody, neither then
// nor when it is back.
func (c *core) testCutOff(t *testing.T, fault wan.Fault) {
	c.awaitServed(t)
	cut := c.follower(t)
	rest := (cut + 1) % 3
	before := c.servers[rest].Terms()
	if err := c.net.Cut(region(cut), fault); err != nil {
		t.Fatal(err)
	}
	c.awaitApart(t, cut)
	inner := *c
	inner.t = t
	l := inner.dial(rest, nil)
	for range 5 {
		if err := put(l, "$KV.b.k"); err != nil {
			t.Error(err)
		}
	}
	if err := c.net.Heal(region(cut)); err != nil {
		t.Fatal(err)
	}
	c.awaitServed(t)
	if after := c.servers[cut].Terms(); !maps.Equal(before, after) {
		t.Errorf("terms %v before the cut, %v after it: a leader was elected", before, after)
	}
}

// testAllApart: none can wait for another that runs.
func (c *core) testAllApart(t *testing.T) {
	c.awaitServed(t)
	for i := range c.servers {
		if err := c.net.Cut(region(i), wan.Reset); err != nil {
			t.Fatal(err)
		}
	}
	c.awaitApart(t, 0, 1, 2)
	for i := range c.servers {
		if err := c.net.Heal(region(i)); err != nil {
			t.Fatal(err)
		}
	}
	c.awaitServed(t)
}

func (c *core) testStopApart(t *testing.T) {
	c.awaitServed(t)
	if err := c.net.Cut(region(1), wan.Hold); err != nil {
		t.Fatal(err)
	}
	c.awaitApart(t, 1)
	c.stop(1)
	if err := c.net.Heal(region(1)); err != nil {
		t.Fatal(err)
	}
	c.start(1)
	c.awaitServed(t)
}

// testStartApart: a server that starts while it is cut off waits, and comes when it can.
func (c *core) testStartApart(t *testing.T) {
	c.awaitServed(t)
	if err := c.net.Cut(region(2), wan.Reset); err != nil {
		t.Fatal(err)
	}
	c.stop(2)
	c.start(2)
	c.awaitApart(t, 2)
	if err := c.net.Heal(region(2)); err != nil {
		t.Fatal(err)
	}
	c.awaitServed(t)
}

// testGoesHome: a link that has left its own server, because that one was apart, goes
// back to it.
func (c *core) testGoesHome(t *testing.T) {
	c.awaitServed(t)
	inner := *c
	inner.t = t
	own := c.urls(0)[0]
	l := inner.dial(0, func(d *bus.DialConfig) {
		d.Own, d.OwnAddress = c.servers[0], strings.TrimPrefix(own, "tls://")
	})
	eventually(t, l.Fault)
	if !l.Own() {
		t.Fatalf("connected to %s", l.Server())
	}
	if err := c.net.Cut(region(0), wan.Reset); err != nil {
		t.Fatal(err)
	}
	awaitAt := func(own bool) {
		t.Helper()
		eventually(t, func() error {
			if err := l.Fault(); err != nil || l.Own() != own {
				return fmt.Errorf("connected to %s: %v", l.Server(), err)
			}
			return nil
		})
	}
	awaitAt(false)
	if err := c.net.Heal(region(0)); err != nil {
		t.Fatal(err)
	}
	awaitAt(true)
}
