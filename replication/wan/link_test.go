package wan_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keytide/keytide/replication/wan"
)

func TestBytesAndEndsPass(t *testing.T) {
	for _, latency := range []time.Duration{0, 5 * time.Millisecond} {
		t.Run(latency.String(), func(t *testing.T) {
			link, near, far := joined(t, wan.Config{Latency: latency})
			send(t, near, "there")
			expect(t, far, "there")
			send(t, far, "back")
			expect(t, near, "back")
			must(t, near.CloseWrite())
			must(t, end(t, far))
			send(t, far, "after the half-close")
			expect(t, near, "after the half-close")
			must(t, far.CloseWrite())
			must(t, end(t, near))
			eventually(t, "the link lets go", func() bool { return link.Connections() == 0 })
		})
	}
}

func TestResetPasses(t *testing.T) {
	_, near, far := joined(t, wan.Config{})
	must(t, far.SetLinger(0))
	far.Close()
	wantReset(t, near)

	_, near, far = joined(t, wan.Config{})
	must(t, near.SetLinger(0))
	near.Close()
	wantReset(t, far)
}

// TestGoneReceiver: a sender whose receiver has ended its own bytes, and then is gone,
// learns it by writing.
func TestGoneReceiver(t *testing.T) {
	_, near, far := joined(t, wan.Config{})
	must(t, far.CloseWrite())
	must(t, end(t, near))
	far.Close()
	eventually(t, "a write fails", func() bool {
		_, err := io.WriteString(near, "anybody there?")
		return err != nil
	})
}

func TestTargetThatRefuses(t *testing.T) {
	gone := newTarget(t)
	gone.Close()
	link := open(t, wan.Config{Target: gone.Addr().String()})
	dialReset(t, link)
}

// TestLatency: one byte's way there and back takes twice the latency at least, and so
// does each later one; much at once takes no longer for it. A proxy that slept for
// each of the 2,048 parcels would need 80 s.
func TestLatency(t *testing.T) {
	const latency = 40 * time.Millisecond
	_, near, far := joined(t, wan.Config{Latency: latency})
	for range 2 {
		began := time.Now()
		send(t, near, "?")
		expect(t, far, "?")
		send(t, far, "!")
		expect(t, near, "!")
		if took := time.Since(began); took < 2*latency {
			t.Errorf("a round trip took %v, want %v or more", took, 2*latency)
		}
	}
	const size = 64 << 20
	sent := make(chan error, 1)
	go func() {
		_, err := near.Write(make([]byte, size))
		near.CloseWrite()
		sent <- err
	}()
	must(t, far.SetReadDeadline(time.Now().Add(patience)))
	if n, err := io.Copy(io.Discard, far); n != size || err != nil {
		t.Errorf("%d bytes arrived, %v; want %d", n, err, size)
	}
	must(t, <-sent)
}

func TestCutByReset(t *testing.T) {
	link, near, far := joined(t, wan.Config{})
	must(t, link.Cut(wan.Reset))
	if n := link.Connections(); n != 0 {
		t.Errorf("%d connections after a reset", n)
	}
	wantReset(t, near, far)
	refused := func() {
		t.Helper()
		if c, err := net.Dial("tcp", link.Addr()); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("dial = %v, %v; want refused", c, err)
		}
	}
	refused()
	for range 200 { // whoever wants any port gets another
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(t, err)
		defer l.Close()
	}
	refused()
	must(t, link.Heal())
	dial(t, link.Addr())
}

func TestHoldAndFlowOn(t *testing.T) {
	link, near, far := joined(t, wan.Config{})
	must(t, link.Cut(wan.Hold))
	send(t, near, "held there")
	send(t, far, "held back")
	silent(t, near, far)
	must(t, near.CloseWrite())
	silent(t, far)
	must(t, link.Heal())
	expect(t, far, "held there")
	expect(t, near, "held back")
	must(t, end(t, far))
}

func TestHoldHoldsEnds(t *testing.T) {
	link, near, far := joined(t, wan.Config{})
	must(t, link.Cut(wan.Hold))
	must(t, far.SetLinger(0))
	far.Close()
	silent(t, near)
	send(t, near, "to nobody")
	silent(t, near)
	must(t, link.Heal())
	wantReset(t, near)
}

func TestHoldAndDie(t *testing.T) {
	link, near, far := joined(t, wan.Config{})
	must(t, link.Cut(wan.Hold))
	send(t, near, "never arrives")
	must(t, link.Cut(wan.Reset))
	must(t, link.Heal())
	wantReset(t, near)
	must(t, far.SetReadDeadline(time.Now().Add(patience)))
	if got, _ := io.ReadAll(far); len(got) != 0 {
		t.Errorf("%q arrived", got)
	}
}

func TestNewConnectionsOfAHeldLink(t *testing.T) {
	for _, fault := range []wan.Fault{wan.Hold, wan.HoldForward, wan.HoldBack} {
		t.Run(fault.String(), func(t *testing.T) {
			target := newTarget(t)
			link := open(t, wan.Config{Target: target.Addr().String()})
			must(t, link.Cut(fault))
			near := dial(t, link.Addr())
			send(t, near, "early")
			target.untouched(t)
			silent(t, near)
			must(t, link.Heal())
			far := target.accept(t)
			expect(t, far, "early")
			send(t, far, "late")
			expect(t, near, "late")
		})
	}
}

func TestOneWay(t *testing.T) {
	link, near, far := joined(t, wan.Config{})
	must(t, link.Cut(wan.HoldForward))
	send(t, near, "held")
	silent(t, far)
	send(t, far, "flows")
	expect(t, near, "flows")
	must(t, link.Cut(wan.HoldBack))
	expect(t, far, "held")
	send(t, far, "held too")
	silent(t, near)
	must(t, link.Heal())
	expect(t, near, "held too")
}

// TestHoldInTheMiddleOfAWrite: a hold stops a write that the receiver keeps waiting,
// at any byte, and the rest follows after it.
func TestHoldInTheMiddleOfAWrite(t *testing.T) {
	link, near, far := joined(t, wan.Config{})
	want := make([]byte, 16<<20)
	for i := range want {
		want[i] = byte(rand.Uint32())
	}
	go func() {
		near.Write(want)
		near.CloseWrite()
	}()
	got := make([]byte, 1<<20)
	must(t, far.SetReadDeadline(time.Now().Add(patience)))
	if _, err := io.ReadFull(far, got); err != nil {
		t.Fatal(err)
	}
	must(t, link.Cut(wan.HoldForward))
	var buffered bytes.Buffer
	must(t, far.SetReadDeadline(time.Now().Add(10*moment)))
	if _, err := io.Copy(&buffered, far); err == nil {
		t.Fatal("all arrived in spite of the hold")
	}
	silent(t, far)
	must(t, link.Heal())
	must(t, far.SetReadDeadline(time.Now().Add(patience)))
	rest, err := io.ReadAll(far)
	must(t, err)
	if got = append(append(got, buffered.Bytes()...), rest...); !bytes.Equal(got, want) {
		t.Errorf("%d bytes arrived, not the %d that were sent", len(got), len(want))
	}
}

func TestSeverEvery(t *testing.T) {
	target := newTarget(t)
	link := open(t, wan.Config{Target: target.Addr().String(), SeverEvery: 10 * time.Millisecond})
	for range 3 {
		dialReset(t, link)
	}
}

func TestClose(t *testing.T) {
	for _, fault := range []wan.Fault{0, wan.Hold, wan.Reset} {
		link, near, far := joined(t, wan.Config{Latency: time.Millisecond})
		must(t, link.Cut(fault))
		must(t, link.Close())
		must(t, link.Close())
		wantReset(t, near, far)
		if err := link.Heal(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("heal after close: %v", err)
		}
		l, err := net.Listen("tcp", link.Addr())
		must(t, err)
		l.Close()
	}
}

// TestCloseInALongWay: closing waits for no latency.
func TestCloseInALongWay(t *testing.T) {
	link := open(t, wan.Config{Target: newTarget(t).Addr().String(), Latency: time.Hour})
	send(t, dial(t, link.Addr()), "on its way for an hour")
	eventually(t, "the link has it", func() bool { return link.Connections() == 1 })
	must(t, link.Close())
}

func TestFaultyConfig(t *testing.T) {
	_, err := wan.Open(wan.Config{Listen: "192.0.2.1:80", Target: "nowhere", Latency: -1})
	for _, want := range []string{"192.0.2.1:80", "nowhere", "negative"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not name %q", err, want)
		}
	}
	busy := newTarget(t)
	if _, err := wan.Open(wan.Config{Listen: busy.Addr().String(), Target: "127.0.0.1:1"}); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("opening on a port in use: %v", err)
	}
}

func TestFaultNames(t *testing.T) {
	for fault, want := range map[wan.Fault]string{
		0: "none", wan.Reset: "reset", wan.Hold: "hold", wan.HoldForward: "hold-forward", wan.HoldBack: "hold-back",
		wan.Reset | wan.HoldBack: "reset+hold-back",
	} {
		if got := fmt.Sprint(fault); got != want {
			t.Errorf("%08b is %q, want %q", uint8(fault), got, want)
		}
		if got, err := wan.ParseFault(want); strings.Contains(want, "+") != (err != nil) || err == nil && got != fault {
			t.Errorf("%q reads as %v, %v", want, got, err)
		}
	}
}
