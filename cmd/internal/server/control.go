package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/replication/wan"
)

const (
	controlFile  = "control.sock"
	controlLimit = 10 * time.Second // for a whole conversation
	maxControl   = 4 << 10          // bytes of a request or an answer
)

// A control has the links between the regions of a running development store cut and
// healed, by whoever may enter the store's directory: a socket in it that only its
// owner can open. A conversation is one line of JSON each way.
type control struct {
	dir    string
	net    *wan.Net
	listen *net.UnixListener
}

type controlRequest struct {
	Region string `json:"region"` // if empty, nothing changes
	Fault  string `json:"fault"`
}

type controlAnswer struct {
	Regions []RegionLinks `json:"regions"`
	Error   string        `json:"error,omitempty"`
	Unknown bool          `json:"unknown,omitempty"` // the region is not there
}

// RegionLinks says how a region's links to all others stand.
type RegionLinks struct {
	Region string `json:"region"`
	Links  string `json:"links"` // whole, or the name of what is wrong
}

// openControl begins to listen in the directory, which the caller has locked: a socket
// that is there was left behind.
func openControl(dir string, net *wan.Net) (*control, error) {
	path, done, err := socketPath(dir)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	listen, err := listenUnix(path)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	listen.SetUnlinkOnClose(false) // it would by path, which may be good for this call alone
	return &control{dir, net, listen}, nil
}

// run answers until ctx ends, and returns when every conversation has ended and the
// socket is gone.
func (c *control) run(ctx context.Context) error {
	defer os.Remove(filepath.Join(c.dir, controlFile))
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	work.Go(func() {
		<-ctx.Done()
		c.listen.Close()
	})
	for {
		conn, err := c.listen.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("control socket: %w", err)
		}
		work.Go(func() {
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			defer stop()
			c.serve(conn)
		})
	}
}

func (c *control) serve(conn net.Conn) {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(controlLimit))
	var request controlRequest
	var answer controlAnswer
	if err := json.NewDecoder(io.LimitReader(conn, maxControl)).Decode(&request); err != nil {
		answer.Error = "the request cannot be read"
	} else {
		answer = c.do(request)
	}
	json.NewEncoder(conn).Encode(answer) // whoever has gone does not want it
}

func (c *control) do(r controlRequest) (answer controlAnswer) {
	names := c.net.Regions()
	if r.Region != "" {
		fault, err := wan.ParseFault(r.Fault)
		if !slices.Contains(names, r.Region) {
			answer.Unknown = true
			err = fmt.Errorf("region %s: not found: the regions are %s", r.Region, strings.Join(names, ", "))
		}
		if err == nil {
			err = c.net.Cut(r.Region, fault)
		}
		if err != nil {
			answer.Error = err.Error()
		}
	}
	for _, name := range names {
		links := "whole"
		if f := c.net.Fault(name); f != 0 {
			links = f.String()
		}
		answer.Regions = append(answer.Regions, RegionLinks{name, links})
	}
	return answer
}

// SetLinks puts a fault, or none, on all links between a region of the development
// store that runs in dir and the others, and returns how all regions stand. With no
// region it only does that.
func SetLinks(ctx context.Context, dir, region string, fault wan.Fault) ([]RegionLinks, error) {
	path, done, err := socketPath(dir)
	if err != nil {
		return nil, err
	}
	defer done()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, &hinted{
			error: fmt.Errorf("development store %s: it does not run, or has one region alone", dir),
			hint:  "start it with several regions:  keytide dev --regions 3 --dir " + dir,
		}
	}
	if err != nil {
		return nil, fmt.Errorf("development store %s: %w", dir, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	conn.SetDeadline(time.Now().Add(controlLimit))
	var answer controlAnswer
	err = json.NewEncoder(conn).Encode(controlRequest{region, fault.String()})
	if err == nil {
		err = json.NewDecoder(io.LimitReader(conn, maxControl)).Decode(&answer)
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("development store %s: %w", dir, errors.Join(ctx.Err(), err))
	case answer.Unknown:
		return nil, fmt.Errorf("%w: %s", keystore.ErrNotFound, answer.Error)
	case answer.Error != "":
		return nil, errors.New(answer.Error)
	}
	return answer.Regions, nil
}

// socketPath names the socket by a path that is short enough for a socket's address,
// however deep the directory lies. done must be called when the path is not needed any
// more.
func socketPath(dir string) (path string, done func(), err error) {
	const longest = 100 // of 104 on some systems and 108 on others
	if path = filepath.Join(dir, controlFile); len(path) <= longest {
		return path, func() {}, nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), controlFile), func() { d.Close() }, nil
}

// listenUnix listens at a path that only this user can open, from the first moment.
func listenUnix(path string) (*net.UnixListener, error) {
	var config net.ListenConfig
	config.Control = func(_, _ string, socket syscall.RawConn) error {
		var err error
		return errors.Join(socket.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), 0o600) }), err)
	}
	listener, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	return listener.(*net.UnixListener), nil
}
