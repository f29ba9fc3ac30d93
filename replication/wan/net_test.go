package wan_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/keytide/keytide/replication/wan"
)

// world is three regions with a target each, and a link and a connection for each
// ordered pair of them.
type world struct {
	*wan.Net
	near, far map[string]*net.TCPConn // by "from-to"
}

var regions = []string{"ap", "eu", "us"}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{Net: wan.NewNet(time.Millisecond), near: map[string]*net.TCPConn{}, far: map[string]*net.TCPConn{}}
	t.Cleanup(func() { must(t, w.Close()) })
	for _, to := range regions {
		target := newTarget(t)
		for _, from := range regions {
			link, err := w.Link(from, to, target.Addr().String())
			must(t, err)
			w.near[from+"-"+to] = dial(t, link.Addr())
			w.far[from+"-"+to] = target.accept(t)
		}
	}
	return w
}

// flows checks which of the connections carry bytes from their near end to the far.
func (w *world) flows(t *testing.T, held ...string) {
	t.Helper()
	for name, near := range w.near {
		send(t, near, name)
	}
	for name, far := range w.far {
		if slices.Contains(held, name) {
			silent(t, far)
		} else {
			expect(t, far, name)
		}
	}
}

func TestNetCutsARegion(t *testing.T) {
	w := newWorld(t)
	if got := w.Regions(); !slices.Equal(got, regions) {
		t.Errorf("regions %v", got)
	}
	w.flows(t)
	must(t, w.Cut("ap", wan.HoldForward)) // what leaves ap, on links that others opened too
	w.flows(t, "ap-eu", "ap-us")
	send(t, w.far["eu-ap"], "leaves ap")
	silent(t, w.near["eu-ap"])
	must(t, w.Cut("eu", wan.Hold))
	must(t, w.Heal("ap"))
	expect(t, w.far["ap-us"], "ap-us")
	w.flows(t, "ap-eu", "us-eu", "eu-ap", "eu-us")
	if got := w.Fault("eu"); got != wan.Hold {
		t.Errorf("eu has fault %v", got)
	}
	must(t, w.Heal("eu"))
	expect(t, w.far["ap-eu"], "ap-euap-eu")
	expect(t, w.near["eu-ap"], "leaves ap")
}

func TestNetResets(t *testing.T) {
	w := newWorld(t)
	must(t, w.Cut("us", wan.Reset))
	wantReset(t, w.near["us-eu"], w.far["us-eu"], w.near["ap-us"])
	send(t, w.near["ap-eu"], "goes on")
	expect(t, w.far["ap-eu"], "goes on")
	send(t, w.near["us-us"], "within the region")
	expect(t, w.far["us-us"], "within the region")
	target := newTarget(t)
	link, err := w.Link("eu", "us", target.Addr().String())
	must(t, err)
	if _, err := net.Dial("tcp", link.Addr()); err == nil {
		t.Error("a link that was made to a region that is cut accepts")
	}
	must(t, w.Heal("us"))
	dial(t, link.Addr())
	must(t, w.Close())
	if _, err := w.Link("eu", "us", target.Addr().String()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("link of a closed net: %v", err)
	}
}

// TestStorm: whatever is cut, held, severed and healed while many connections carry
// numbered lines, each gets the beginning of what was sent, in order and whole; and
// when all is healed, new ones work.
func TestStorm(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	target := newTarget(t)
	link := open(t, wan.Config{Target: target.Addr().String(), Latency: time.Millisecond})
	go func() { // until the target closes
		for c := range target.conns {
			go func() {
				io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	stop := make(chan struct{})
	var users, meddlers sync.WaitGroup
	for range 8 {
		users.Go(func() { chat(t, link.Addr(), stop) })
	}
	for i := range uint64(4) {
		meddlers.Go(func() { meddle(link, rand.New(rand.NewPCG(seed, i))) })
	}
	meddlers.Wait()
	must(t, link.Heal())
	close(stop)
	users.Wait()
	near := dial(t, link.Addr())
	send(t, near, "works")
	expect(t, near, "works")
}

func meddle(link *wan.Link, r *rand.Rand) {
	faults := []wan.Fault{0, wan.Hold, wan.HoldForward, wan.HoldBack, wan.Reset}
	for range 60 {
		if r.IntN(5) == 0 {
			link.Sever()
		} else {
			link.Cut(faults[r.IntN(len(faults))])
		}
		time.Sleep(time.Duration(r.IntN(3000)) * time.Microsecond) // some of it in the middle of a line
	}
}

// chat sends numbered lines and wants them back, over as many connections as it takes.
func chat(t *testing.T, address string, stop chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		c, err := net.Dial("tcp", address)
		if err != nil {
			continue // cut
		}
		for i := range 20 {
			line := fmt.Sprintf("line %d\n", i)
			if _, err := io.WriteString(c, line); err != nil {
				break
			}
			got := make([]byte, len(line))
			c.SetReadDeadline(time.Now().Add(5 * moment)) // another user's fault may hold it
			n, err := io.ReadFull(c, got)
			if string(got[:n]) != line[:n] {
				t.Errorf("got %q for %q", got[:n], line)
			}
			if err != nil {
				break
			}
		}
		c.Close()
	}
}
