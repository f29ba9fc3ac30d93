package bus

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// A server that is cut off from the rest of its core would stand for election again and
// again, with a higher term each time, and the others would have to elect a leader anew
// when it is back. So it leaves: it stops while it hears from no majority, and comes back
// as the follower that it was. What it has on its disk stays as it is.

const (
	callSubject  = "keytide.core.call"
	judgeEvery   = 100 * time.Millisecond
	probeEvery   = 200 * time.Millisecond
	probeLimit   = 2 * time.Second
	innerLimit   = 10 * time.Second // a connection in memory takes no time, but for a machine that is overrun
	restartFirst = time.Second
	restartMost  = 15 * time.Second
)

// apartGreeting answers whoever connects to the routes port of a server that has left:
// NATS servers read it as an error and try again later, ours as a sign of life.
const apartGreeting = "-ERR 'apart from the core, waiting for a majority'\r\n"

// A saying logs what fails again and again once for each way in which it does.
type saying struct {
	log  *slog.Logger
	last string
}

func (s *saying) once(level slog.Level, what string, err error) {
	if text := err.Error(); text != s.last {
		s.last = text
		s.log.Log(context.Background(), level, what, "err", err)
	}
}

// attend keeps the server among the others of its core while it hears from a majority,
// until ctx ends.
func (b *Bus) attend(ctx context.Context) {
	s := newSight(b.cfg.ServerName, b.cfg.Core.Peers)
	for srv := b.server(); ctx.Err() == nil; srv = b.server() {
		if srv == nil {
			return // it has stopped by itself
		}
		said := saying{log: b.log}
		for err := b.hear(ctx, srv, s); err != nil && srv.Running(); err = b.hear(ctx, srv, s) {
			said.once(slog.LevelError, "the other servers of the core cannot be heard", err)
			if !pause(ctx, restartFirst) {
				return
			}
		}
		if ctx.Err() != nil || !srv.Running() || !b.leave(srv) {
			return
		}
		s.leaves(time.Now())
		b.await(ctx, s)
		b.comeBack(ctx)
		s.reset()
	}
}

// hear calls the other servers and listens to their calls until a majority has been
// silent for too long, or ctx ends.
func (b *Bus) hear(ctx context.Context, srv *server.Server, s *sight) error {
	nc, err := nats.Connect("", nats.InProcessServer(srv), nats.Name("core"), nats.Token(b.gate.inner), nats.NoReconnect(),
		nats.Timeout(innerLimit))
	if err != nil {
		return err
	}
	defer nc.Close()
	calls := make(chan *nats.Msg, 64)
	sub, err := nc.ChanSubscribe(callSubject, calls)
	if err != nil {
		return err
	}
	defer sub.Unsubscribe()
	call, judge := time.NewTicker(callEvery), time.NewTicker(judgeEvery)
	defer call.Stop()
	defer judge.Stop()
	for started := time.Now(); ; {
		select {
		case m := <-calls:
			s.hear(string(m.Data), time.Now())
		case <-call.C:
			if err := nc.Publish(callSubject, []byte(b.cfg.ServerName)); err != nil {
				return err
			}
		case <-judge.C:
			// Calls that have come are heard first.
			if len(calls) == 0 && s.leave(time.Now(), started, leadsAll(srv)) {
				return nil
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// leave stops the server; false: it has stopped by itself.
func (b *Bus) leave(srv *server.Server) bool {
	b.mu.Lock()
	if b.srv != srv {
		b.mu.Unlock()
		return false
	}
	b.srv = nil
	b.mu.Unlock()
	b.log.Warn("this core server hears from no majority of the core: it leaves until it does")
	srv.Shutdown()
	srv.WaitForShutdown()
	return true
}

// await returns when a majority answers, or ctx ends. Meanwhile it answers others that
// wait as well.
func (b *Bus) await(ctx context.Context, s *sight) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var aside sync.WaitGroup
	defer aside.Wait()
	defer cancel()
	aside.Go(func() { b.greet(ctx) })
	alive := make(chan string)
	for _, p := range b.cfg.Core.Peers {
		if p.Server != b.cfg.ServerName {
			aside.Go(func() { b.cfg.Core.probe(ctx, p, alive) })
		}
	}
	for judge := time.NewTicker(judgeEvery); ; {
		select {
		case other := <-alive:
			s.hear(other, time.Now())
		case <-judge.C:
		case <-ctx.Done():
			judge.Stop()
			return
		}
		if s.back(time.Now()) {
			judge.Stop()
			return
		}
	}
}

// probe tells of every time that a server answers at the address of its routes.
func (c *Core) probe(ctx context.Context, p Peer, alive chan<- string) {
	for ctx.Err() == nil {
		if c.answers(ctx, p.Routes) {
			select {
			case alive <- p.Server:
			case <-ctx.Done():
			}
		}
		pause(ctx, probeEvery)
	}
}

// pause waits, and reports whether ctx still lasts.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// answers reports whether a server of the core is at an address: one that runs, or one
// that has left and waits.
func (c *Core) answers(ctx context.Context, address string) bool {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	conn, err := (&tls.Dialer{Config: c.routesTLS()}).DialContext(ctx, "tcp", address)
	if err != nil {
		return false
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	greeting := make([]byte, 1) // only who has taken our certificate says anything
	_, err = conn.Read(greeting)
	return err == nil
}

const cannotFind = "other core servers that wait cannot find this one"

// greet answers at the address of the routes until ctx ends.
func (b *Bus) greet(ctx context.Context) {
	said := saying{log: b.log}
	l, err := net.Listen("tcp", b.cfg.Core.Routes)
	for ; err != nil; l, err = net.Listen("tcp", b.cfg.Core.Routes) {
		said.once(slog.LevelWarn, cannotFind, err)
		if !pause(ctx, restartFirst) {
			return
		}
	}
	b.greetAt(ctx, l)
}

func (b *Bus) greetAt(ctx context.Context, l net.Listener) {
	said := saying{log: b.log}
	defer context.AfterFunc(ctx, func() { l.Close() })()
	defer l.Close()
	var answering sync.WaitGroup
	defer answering.Wait()
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // of one connection; or there is no file descriptor left for any
			said.once(slog.LevelWarn, cannotFind, err)
			if !pause(ctx, judgeEvery) {
				return
			}
			continue
		}
		answering.Go(func() {
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			conn.SetDeadline(time.Now().Add(probeLimit))
			tls.Server(conn, b.cfg.Core.routesTLS()).Write([]byte(apartGreeting)) // whoever has gone does not want it
		})
	}
}

// comeBack starts the server again. What stands in the way may end; so it goes on trying
// until ctx ends.
func (b *Bus) comeBack(ctx context.Context) {
	said := saying{log: b.log}
	for wait := restartFirst; ctx.Err() == nil; wait = min(2*wait, restartMost) {
		srv, err := startServer(ctx, b.cfg, b.gate)
		if err == nil {
			b.runs(srv)
			b.log.Info("this core server is back: it hears from the others")
			return
		}
		if ctx.Err() != nil {
			return
		}
		said.once(slog.LevelError, "this core server cannot come back; trying again", fmt.Errorf("store directory %s: %w", b.cfg.StoreDir, err))
		pause(ctx, wait)
	}
}
