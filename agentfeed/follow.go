package agentfeed

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"
)

// A follower keeps a client fed, from one server or another. One goroutine runs it.
type follower struct {
	client  *Client
	random  *rand.Rand
	backoff backoff
	servers map[string]*server // by URL: those that were asked
	at      string             // the server that is, or was last, asked
	http    *http.Client
	ca      string // the bundle that http trusts besides the host file's
	lost    string // the last loss that was logged
}

// run asks one server after the other until ctx ends.
func (f *follower) run(ctx context.Context) {
	defer func() {
		if f.http != nil {
			f.http.CloseIdleConnections()
		}
	}()
	next := ""
	for ctx.Err() == nil {
		servers, ca := f.client.known()
		if f.at = next; !slices.Contains(servers, next) {
			f.at = servers[0]
		}
		f.trust(ca)
		s := session{follower: f, client: f.client, http: f.http, server: f.server(f.at)}
		err := s.run(ctx)
		if ctx.Err() != nil {
			return
		}
		servers, _ = f.client.known() // the session may have been told of more
		if next = f.next(servers, s.outcome); s.outcome.again || s.outcome.better != "" {
			f.client.log.Info("feed taken up anew", "from", f.at, "at", next, "why", err)
			continue
		}
		wait := f.backoff.wait(s.outcome, len(servers), f.random)
		f.report(err, len(servers), wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// server is what is remembered of the server at url.
func (f *follower) server(url string) *server {
	if f.servers == nil {
		f.servers = make(map[string]*server)
	}
	if f.servers[url] == nil {
		f.servers[url] = &server{url: url}
	}
	return f.servers[url]
}

// next is the server to ask after an attempt that ended so. When streams get
// through from none, the one that can be polled is as good as the others.
func (f *follower) next(servers []string, o outcome) string {
	polled := func(url string) bool { return f.server(url).transport(time.Now()) != TransportStream }
	switch {
	case o.better != "":
		return o.better
	case o.again, o.marked && !slices.ContainsFunc(servers, func(url string) bool { return !polled(url) }):
		return f.at
	}
	return following(servers, f.at)
}

// report tells of a lost server: once, not at each attempt that ends alike.
func (f *follower) report(err error, servers int, wait time.Duration) {
	var p *ProblemError
	refused := errors.As(err, &p) && p.Refused() && f.backoff.refusals >= servers
	f.client.lost(err, refused)
	f.http.CloseIdleConnections()
	switch text := err.Error(); {
	case refused:
		f.client.log.Error("every policy server refuses this host", "err", err, "hint", p.Hint(), "retry_in", wait)
	case text != f.lost:
		f.client.log.Warn("feed lost", "server", f.at, "err", err, "retry_in", wait)
		f.lost = text
	}
}

// trust makes the HTTP client for a bundle of CA certificates from the state.
func (f *follower) trust(ca string) {
	if f.http != nil && f.ca == ca {
		return
	}
	if f.http != nil {
		f.http.CloseIdleConnections()
	}
	f.http, f.ca = f.client.httpClient(ca), ca
}

// httpClient trusts the host file's certificates and those of a bundle.
func (c *Client) httpClient(ca string) *http.Client {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(c.host.CA)
	roots.AppendCertsFromPEM([]byte(ca))
	return &http.Client{
		Transport: &http.Transport{
			Proxy:               c.config.Proxy,
			TLSClientConfig:     &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13},
			TLSHandshakeTimeout: headTimeout,
			MaxIdleConns:        2, // polls keep their connection; a glance at another server has one too
			IdleConnTimeout:     90 * time.Second,
			DisableCompression:  true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// following returns the server after last, or the first.
func following(servers []string, last string) string {
	return servers[(slices.Index(servers, last)+1)%len(servers)]
}

// lost notes that no server feeds the client, and why.
func (c *Client) lost(err error, refused bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.feeding = Status{Err: err}
	c.refused = refused && !c.ready
	c.notify()
}
