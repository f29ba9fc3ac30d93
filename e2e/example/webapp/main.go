// Command webapp is an example of an application whose sessions live in sealed
// cookies alone: log in, count, log out. Any number of instances, on different
// trusted hosts of one ring, share its sessions without sharing anything else.
//
// Usage: webapp --host-file web-1.yaml [--ring sso] [--listen 127.0.0.1:8001] [--secure]
// [--cache FILE] [--poll-interval 30s]
//
// It prints "webapp ready url=..." once it serves with keys, and says at /healthz how
// current they are. It is no model for
// logging in: any name will do, and nobody asks for a password.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/keystore"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// options are the command line's.
type options struct {
	listen, hostFile, ring, cache string
	secure                        bool
	poll                          time.Duration
}

func parse(args []string, stderr io.Writer) (o options, err error) {
	flags := flag.NewFlagSet("webapp", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.listen, "listen", "127.0.0.1:8001", "`address` to serve on")
	flags.StringVar(&o.hostFile, "host-file", "", "`path` of the file that keytide host register wrote")
	flags.StringVar(&o.ring, "ring", "sso", "`name` of the ring that seals the sessions")
	flags.BoolVar(&o.secure, "secure", false, "mark the cookie Secure: browsers then send it over HTTPS alone")
	flags.StringVar(&o.cache, "cache", "", "`path` of a file that keeps the ring, sealed, for a start without a policy server (default: none)")
	flags.DurationVar(&o.poll, "poll-interval", 0, "time between polls where streams do not get through (default 30s)")
	if err := flags.Parse(args); err != nil {
		return options{}, err
	}
	if flags.NArg() > 0 {
		return options{}, fmt.Errorf("unexpected arguments %q", flags.Args())
	}
	if o.hostFile == "" {
		return options{}, errors.New("--host-file is missing")
	}
	_, err = keystore.ParseRingName(o.ring)
	return o, err
}

// run returns the exit code: 0 done, 1 failed, 2 misuse.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		fmt.Fprintln(stderr, "error:", err)
		return 2
	}
	if err := serve(ctx, o, stdout, slog.New(slog.NewTextHandler(stderr, nil))); err != nil {
		fmt.Fprintln(stderr, "error:", err)
		return 1
	}
	return 0
}

// serve answers from the beginning, without keys with 503, until ctx ends.
func serve(ctx context.Context, o options, stdout io.Writer, logger *slog.Logger) error {
	client, err := agentfeed.New(agentfeed.Config{HostFile: o.hostFile, CacheFile: o.cache, PollInterval: o.poll, Logger: logger})
	if err != nil {
		return err
	}
	defer client.Close()
	handler, err := newApp(client.Ring(keystore.RingName(o.ring)), client.Status, o.secure, logger)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", o.listen)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()

	err = client.WaitReady(ctx)
	if err == nil {
		fmt.Fprintf(stdout, "webapp ready url=http://%s/ ring=%s\n", listener.Addr(), o.ring)
		select {
		case err = <-served: // the listener died
		case <-ctx.Done():
		}
	}
	if ctx.Err() != nil {
		err = nil // asked to stop
	}
	deadline, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return errors.Join(err, server.Shutdown(deadline))
}
