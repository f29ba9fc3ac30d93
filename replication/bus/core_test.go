package bus_test

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/keytide/keytide/replication/bus"
)

func TestCoreSizes(t *testing.T) {
	for size, want := range map[int]string{1: "", 2: "any cut", 3: "", 4: "as three do", 5: "", 6: "slower", 0: "want 1, 3 or 5"} {
		err := bus.CheckSize(size)
		if want == "" {
			if err != nil {
				t.Errorf("%d: %v", size, err)
			}
			continue
		}
		refusal, ok := errors.AsType[*bus.SizeError](err)
		if !ok || !strings.Contains(refusal.Error()+refusal.Hint(), want) {
			t.Errorf("%d: %v, want %q", size, err, want)
		}
	}
}

func TestCoreConfigNamesEveryFault(t *testing.T) {
	_, err := bus.Start(bus.Config{StoreDir: t.TempDir(), ServerName: "c-1", Core: &bus.Core{
		Peers: []bus.Peer{{Server: "c-2", Routes: "10.0.0.2"}, {Server: "c-2", Routes: "10.0.0.2:7423"}},
	}})
	if err == nil {
		t.Fatal("Start of a broken core: no error")
	}
	for _, want := range []string{"2 servers", "no name", "listen", "certificate", "routes", "c-2: routes", "c-2 stands there twice", "c-1 itself"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not name %q", err, want)
		}
	}
}

// TestCoreOfThree shares one core among what does not need one of its own: forming
// it takes seconds.
func TestCoreOfThree(t *testing.T) {
	c := startCore(t, 3)
	admin := c.dial(0, nil)
	c.bucket(admin, "b")
	c.bucket(admin, "other")
	if err := put(admin, "$KV.b.k"); err != nil {
		t.Fatal(err)
	}
	t.Run("states", c.testStates)
	t.Run("strangers", c.testStrangers)
	t.Run("permissions", c.testPermissions)
	t.Run("users", c.testUsers)
	t.Run("addresses", c.testAddresses)
	t.Run("foreign server", c.testForeignServer)
	t.Run("loss", c.testLoss)
}

// testStrangers: each is told what is wrong, and none gets in.
func (c *core) testStrangers(t *testing.T) {
	seed, _ := newUser(t)
	for name, test := range map[string]struct {
		change func(*bus.DialConfig)
		want   string
	}{
		"another CA":           {func(d *bus.DialConfig) { d.CAs = newAuthority(t).pool }, "certificate signed by unknown authority"},
		"an nkey of nobody's":  {func(d *bus.DialConfig) { d.Credentials.Seed = seed }, "Authorization Violation"},
		"no credentials":       {func(d *bus.DialConfig) { d.Credentials = bus.Credentials{} }, "Authorization Violation"},
		"a user's name":        {func(d *bus.DialConfig) { d.Credentials = bus.Credentials{User: "admin", Password: "x"} }, "Authorization Violation"},
		"nobody at an address": {func(d *bus.DialConfig) { d.URLs = []string{"tls://" + closedPort(t)} }, "no servers available"},
	} {
		t.Run(name, func(t *testing.T) {
			inner := *c
			inner.t = t
			l := inner.dial(0, test.change)
			eventually(t, func() error {
				if err := l.Fault(); err == nil || !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(test.want)) {
					return fmt.Errorf("Fault = %v, want %q", err, test.want)
				}
				return nil
			})
			if l.Server() != "" {
				t.Errorf("connected to %s", l.Server())
			}
			if err := put(l, "$KV.b.k"); err == nil {
				t.Error("it may write")
			}
		})
	}
	// Without TLS there is not even an INFO of use: the server wants TLS.
	nc, err := nats.Connect("nats://"+c.doors[0][0].Addr().String(), nats.NoReconnect())
	if err == nil {
		nc.Close()
		t.Error("a client connects without TLS")
	}
}

func closedPort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// testPermissions: a user does what is listed, sees its own answers, and nothing else.
func (c *core) testPermissions(t *testing.T) {
	seed, nkey := newUser(t)
	user := bus.User{Nkey: nkey, Publish: []string{"$KV.b.>", "$JS.API.STREAM.INFO.KV_b"}}
	for _, b := range c.servers {
		if err := b.SetUsers(append(c.users, user)); err != nil {
			t.Fatal(err)
		}
	}
	inner := *c
	inner.t, inner.seed = t, seed
	l := inner.dial(1, nil)
	eventually(t, func() error { return put(l, "$KV.b.k") })
	js := l.JetStream()
	if _, err := js.Stream(within(t), "KV_b"); err != nil {
		t.Errorf("its own bucket: %v", err)
	}
	denied(t, l, "$KV.other.k")
	for _, subject := range []string{"$JS.API.STREAM.DELETE.KV_b", "$JS.API.STREAM.PURGE.KV_b", "$JS.API.STREAM.INFO.KV_other", "$JS.API.STREAM.CREATE.KV_x"} {
		denied(t, l, subject)
	}
	if _, err := js.Conn().SubscribeSync("_INBOX.>"); err != nil {
		t.Error(err)
	}
	if err := js.Conn().FlushWithContext(within(t)); err != nil {
		t.Error(err)
	}
	if err := js.Conn().LastError(); !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), "Subscription") {
		t.Errorf("listening to everybody's answers: %v", err)
	}
	// A reader: no subject of the bucket.
	for _, b := range c.servers {
		if err := b.SetUsers(append(c.users, bus.User{Nkey: nkey, Publish: user.Publish[1:]})); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, func() error {
		ctx, cancel := contextOf(nats.DefaultTimeout)
		defer cancel()
		_, err := js.Stream(ctx, "KV_b")
		return err
	})
	denied(t, l, "$KV.b.k")
}

// denied sends something that must not be permitted.
func denied(t *testing.T, l *bus.Link, subject string) {
	t.Helper()
	nc := l.JetStream().Conn()
	ctx, cancel := contextOf(300 * time.Millisecond)
	defer cancel()
	if reply, err := nc.RequestWithContext(ctx, subject, []byte("{}")); err == nil {
		t.Errorf("%s is answered: %s", subject, reply.Data)
	}
	if err := nc.LastError(); !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), subject) {
		t.Errorf("%s: the server says %v", subject, err)
	}
}

// testUsers: who is taken away is cut off at once, and cannot come back.
func (c *core) testUsers(t *testing.T) {
	seed, nkey := newUser(t)
	set := func(users []bus.User) {
		for _, b := range c.servers {
			if err := b.SetUsers(users); err != nil {
				t.Fatal(err)
			}
		}
	}
	inner := *c
	inner.t, inner.seed = t, seed
	l := inner.dial(2, nil)
	if l.Fault() == nil {
		t.Fatal("a user who is not there is let in")
	}
	user := bus.User{Nkey: nkey, Publish: []string{"$KV.b.>"}}
	set(append(c.users, user))
	eventually(t, func() error { return put(l, "$KV.b.k") })
	set(append(c.users, user)) // as it was: nobody is cut off
	if err := put(l, "$KV.b.k"); err != nil {
		t.Errorf("after the same users again: %v", err)
	}
	set(c.users)
	eventually(t, func() error {
		if err := l.Fault(); err == nil || !strings.Contains(strings.ToLower(err.Error()), "authorization violation") {
			return fmt.Errorf("Fault = %v", err)
		}
		return nil
	})
	if err := put(l, "$KV.b.k"); err == nil {
		t.Error("who was taken away may write")
	}
}

// testAddresses: every address that a server or client dials is one that it was
// configured with. So each route goes through a door.
func (c *core) testAddresses(t *testing.T) {
	doors := make(map[int]bool)
	for _, d := range slices.Concat(c.doors...) {
		d.mu.Lock()
		doors[d.Addr().(*net.TCPAddr).Port] = true
		for _, port := range d.from {
			doors[port] = true
		}
		d.mu.Unlock()
	}
	for i, b := range c.servers {
		routes, err := b.Routes()
		if err != nil {
			t.Fatal(err)
		}
		if len(routes.Routes) == 0 {
			t.Errorf("server %d has no routes", i+1)
		}
		for _, r := range routes.Routes {
			if !doors[r.Port] {
				t.Errorf("server %d has a route with port %d of %s, which no configuration names", i+1, r.Port, r.RemoteName)
			}
		}
	}
	if got := c.dial(0, nil).JetStream().Conn().DiscoveredServers(); len(got) > 0 {
		t.Errorf("a client is told of %v", got)
	}
}

// testForeignServer: a certificate of another CA makes no member.
func (c *core) testForeignServer(t *testing.T) {
	foreign := newAuthority(t)
	foreign.pool.AddCert(c.ca.cert) // it would trust the core; the core must not trust it
	cfg := c.configs[0]
	core := *cfg.Core
	core.Certificate, core.CAs = foreign.issue(t), foreign.pool
	core.Peers = append([]bus.Peer{{Server: "x"}}, c.configs[0].Core.Peers[1:]...)
	cfg.Core, cfg.ServerName, cfg.StoreDir = &core, "x", storeDir(t)
	b, err := bus.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	eventually(t, func() error {
		for _, line := range strings.Split(c.log.String(), "\n") {
			if strings.Contains(line, "route") && strings.Contains(line, "certificate signed by unknown authority") {
				return nil
			}
		}
		return errors.New("it has not been refused yet")
	})
	// The core goes on meanwhile, and has heard of nobody.
	for range 3 {
		if err := put(c.dial(1, nil), "$KV.b.k"); err != nil {
			t.Error(err)
		}
	}
	for i, b := range c.servers {
		routes, err := b.Routes()
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range routes.Routes {
			if r.RemoteName == "x" {
				t.Errorf("server %d has taken the foreign one in", i+1)
			}
		}
	}
	if routes, err := b.Routes(); err != nil || len(routes.Routes) > 0 {
		t.Errorf("the foreign server has routes: %+v, %v", routes, err)
	}
}

// testLoss: one server less is no matter; two less stop writes, and what was
// acknowledged is there when they are back.
func (c *core) testLoss(t *testing.T) {
	inner := *c
	inner.t = t
	c = &inner
	l := c.dial(0, nil)
	c.stop(0)
	eventually(t, func() error { return put(l, "$KV.b.one") })
	if l.Server() == c.urls(0)[0] {
		t.Errorf("still connected to %s", l.Server())
	}
	c.stop(1)
	eventually(t, func() error {
		if err := put(l, "$KV.b.two"); err == nil {
			return errors.New("one server of three takes writes")
		}
		return nil
	})
	for i := range 2 {
		c.start(i)
	}
	eventually(t, func() error { return put(l, "$KV.b.three") })
	// The word of who leads the core may come later than the stream's.
	for _, key := range []string{"k", "one", "three"} {
		eventually(t, func() error {
			ctx, cancel := contextOf(3 * time.Second)
			defer cancel()
			stream, err := l.JetStream().Stream(ctx, "KV_b")
			if err == nil {
				_, err = stream.GetLastMsgForSubject(ctx, "$KV.b."+key)
			}
			return err
		})
	}
}

func TestCoreOfOne(t *testing.T) {
	c := startCore(t, 1)
	l := c.dial(0, func(d *bus.DialConfig) {
		d.Own, d.OwnAddress = c.servers[0], "127.0.0.1:1" // where nobody is
		d.URLs = []string{"tls://127.0.0.1:1"}
	})
	c.bucket(l, "b")
	if err := put(l, "$KV.b.k"); err != nil {
		t.Error(err)
	}
	if c.servers[0].RoutesAddr() != "" {
		t.Error("it waits for other servers")
	}
	c.stop(0)
	c.start(0)
	other := c.dial(0, nil)
	eventually(t, func() error { return put(other, "$KV.b.k") })
}
