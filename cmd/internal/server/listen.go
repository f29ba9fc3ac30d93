package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/keytide/keytide/agentfeed/hub"
)

const (
	headerTimeout = 10 * time.Second // for a TLS handshake, and for a request's header
	idleTimeout   = 2 * time.Minute
	maxHeader     = 16 << 10
	maxFeedBody   = 64 << 10
	// adminAnswer bounds an answer of the admin API: a verification of a million
	// events takes a minute.
	adminAnswer = 2 * time.Minute
)

// A listener is one port with its server.
type listener struct {
	name   string
	socket net.Listener
	server *http.Server
}

// listen opens all ports, so that one in use is found before anything has started.
// Handlers come later.
func (s *site) listen() error {
	if s.cfg.generated() {
		if err := ensureCertificate(s.cfg.Dir, s.cfg.Admin.Listen, s.cfg.Feed.Listen); err != nil {
			return err
		}
	}
	admin, err := s.certificate("admin", s.cfg.Admin.Cert, s.cfg.Admin.Key, "h2", "http/1.1")
	if err != nil {
		return err
	}
	// HTTP/1.1 first: a stream costs half the CPU and a quarter of the memory there.
	feed, err := s.certificate("feed", s.cfg.Feed.Cert, s.cfg.Feed.Key, "http/1.1", "h2")
	if err != nil {
		return err
	}
	if s.feed, err = s.open("feed", s.cfg.Feed.Listen, feed); err != nil {
		return err
	}
	door := hub.NewDoor(s.feed.socket, silentAgents(s.log))
	door.Guard(s.feed.server)
	s.feed.socket = door
	if s.admin, err = s.open("admin", s.cfg.Admin.Listen, admin); err != nil {
		return err
	}
	// The feed has no WriteTimeout: the hub sets a deadline for each write.
	s.admin.server.ReadTimeout, s.admin.server.WriteTimeout = 30*time.Second, adminAnswer
	if s.cfg.Metrics.Listen != "" {
		metrics, err := s.open("metrics", s.cfg.Metrics.Listen, nil)
		if err != nil {
			return err
		}
		metrics.server.ReadTimeout, metrics.server.WriteTimeout = 30*time.Second, 30*time.Second
	}
	return nil
}

func (s *site) certificate(listener, cert, key string, protocols ...string) (*tls.Config, error) {
	if cert == "" {
		cert, key = filepath.Join(s.cfg.Dir, certFile), filepath.Join(s.cfg.Dir, certKeyFile)
	}
	c := &certificate{listener: listener, cert: cert, key: key, log: s.log}
	if err := c.load(); err != nil {
		return nil, err
	}
	s.certificates = append(s.certificates, c)
	return c.config(protocols...), nil
}

func (s *site) open(name, address string, conf *tls.Config) (*listener, error) {
	socket, err := net.Listen("tcp", address)
	if err != nil {
		return nil, &hinted{
			error: fmt.Errorf("%s listener: %w", name, err),
			hint:  "is another server running? choose another address for the " + name + " listener",
		}
	}
	s.later(func() error {
		if err := socket.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	l := &listener{name: name, socket: socket, server: &http.Server{
		TLSConfig: conf, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(quietHandler{s.log.Handler()}, slog.LevelDebug),
	}}
	s.listeners = append(s.listeners, l)
	return l, nil
}

func (s *site) metricsListener() *listener {
	for _, l := range s.listeners {
		if l.name == "metrics" {
			return l
		}
	}
	return nil
}

func (l *listener) handle(h http.Handler) {
	l.server.Handler = http.MaxBytesHandler(h, maxFeedBody)
}

func (l *listener) address() string { return l.socket.Addr().String() }

// url is where others reach the listener.
func (l *listener) url() string { return urlOf(l.address(), machine()) }

// serve answers requests until stop.
func (l *listener) serve() error {
	var err error
	if l.server.TLSConfig != nil {
		err = l.server.ServeTLS(l.socket, "", "")
	} else {
		err = l.server.Serve(l.socket)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("%s listener: %w", l.name, err)
}

// stop takes no more requests and waits for those that are being answered; at the
// deadline it cuts them.
func (l *listener) stop(deadline context.Context) error {
	if err := l.server.Shutdown(deadline); err != nil {
		return errors.Join(fmt.Errorf("%s listener: requests were cut: %w", l.name, err), l.server.Close())
	}
	return nil
}

// quietHandler takes net/http's own lines: a panic is an error, all the others are
// about single connections.
type quietHandler struct{ slog.Handler }

func (h quietHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h quietHandler) Handle(ctx context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "panic") {
		r.Level = slog.LevelError
	}
	if !h.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

// urlOf is the base URL of an address; anyHost stands in where the address is all
// of the machine's.
func urlOf(address, anyHost string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "https://" + address
	}
	if allAddresses(host) {
		host = anyHost
	}
	return "https://" + net.JoinHostPort(host, port)
}

func allAddresses(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || ip != nil && ip.IsUnspecified()
}

// machine is the name by which others reach this machine; the generated
// certificate has it where a listener wants it.
func machine() string {
	name, err := os.Hostname()
	if err != nil {
		return "localhost"
	}
	return name
}
