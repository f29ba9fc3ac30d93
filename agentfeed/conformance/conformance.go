// Package conformance checks from outside that a server of the agent feed keeps
// agentfeed/SPEC.md, also through whatever proxies stand before it.
//
// It acts as one trusted host, with that host's secret, changes nothing, and leaves
// nothing behind but a report of an agent named keytide-conformance, for some minutes. What only an administrator can bring about is not checked: a
// rollover, a revoked host, a secret that was retired, a server that shuts down.
package conformance

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/agentfeed/internal/wire"
)

const target = "/v1/feed"

// maxBody bounds what is read of an answer, in bytes.
const maxBody = wire.MaxEvent

// patience bounds one check; a heartbeat may be a minute away.
const patience = 3 * time.Minute

// A Result is the outcome of one check.
type Result struct {
	Section int    `json:"section"` // of agentfeed/SPEC.md
	Check   string `json:"check"`   // what the server must do
	Fault   string `json:"fault"`   // what it did instead; "" if it did what it must
}

// Run checks the server at url (https://host:port) as the trusted host that host
// describes; of its servers none is asked. It calls each with the result of every
// check as it ends, and returns how many faults there were. The error says why there
// was nothing to check: host is not valid, or ctx ended.
func Run(ctx context.Context, url string, host agentfeed.HostFile, each func(Result)) (faults int, err error) {
	url = strings.TrimSuffix(url, "/")
	host.Servers = []string{url}
	if err := host.Check(); err != nil {
		return 0, err
	}
	p := &probe{url: url, host: host, roots: x509.NewCertPool()}
	p.roots.AppendCertsFromPEM(host.CA)
	p.client = p.dial("http/1.1", "h2")
	defer p.client.CloseIdleConnections()
	for _, c := range checks {
		limited, cancel := context.WithTimeout(ctx, patience)
		err := c.run(limited, p)
		cancel()
		if ctx.Err() != nil {
			return faults, ctx.Err()
		}
		result := Result{Section: c.section, Check: c.must}
		if err != nil {
			faults++
			result.Fault = err.Error()
		}
		each(result)
	}
	return faults, nil
}

// A check is one thing that a server must do.
type check struct {
	section int
	must    string
	run     func(context.Context, *probe) error
}

var checks = []check{
	{1, "speak TLS 1.3 and nothing older", oldTLS},
	{1, "prefer HTTP/1.1, and serve h2 to those who want only that", protocols},
	{1, "tell the time and the versions without authentication", clock},
	{1, "answer GET and HEAD of /healthz", health},
	{2, "ask for authentication", anonymous},
	{2, "refuse a header with a parameter that is not known, or one missing", malformed},
	{2, "refuse a wrong secret, and an unknown host with the same answer", strangers},
	{2, "refuse a MAC of another target", otherTarget},
	{2, "refuse a clock that is too far off, and tell the time", skewed},
	{2, "refuse a request that comes a second time", replayed},
	{7, "refuse versions of the feed that it does not speak, and name those that it does", versions},
	{6, "answer a poll with the whole state, sealed", poll},
	{6, "prove with a 304 that the state is current", unchanged},
	{6, "hold a long poll, and say for how long", longPoll},
	{4, "stream hello, then the state, then heartbeats, each as it comes", stream},
	{12, "take a report, and refuse one whose body is not the one that its MAC covers", reporting},
	{3, "draw a new server nonce for every response", freshNonces},
}

// A probe is the agent that asks.
type probe struct {
	url    string
	host   agentfeed.HostFile
	roots  *x509.CertPool
	client *http.Client
}

// dial makes a client that offers these protocols and follows no redirection.
func (p *probe) dial(alpn ...string) *http.Client {
	protocols := new(http.Protocols)
	for _, name := range alpn {
		protocols.SetHTTP1(protocols.HTTP1() || name == "http/1.1")
		protocols.SetHTTP2(protocols.HTTP2() || name == "h2")
	}
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: p.roots, MinVersion: tls.VersionTLS13, NextProtos: alpn},
			Protocols:       protocols, DisableCompression: true,
		},
	}
}

// A question is one request.
type question struct {
	method, path string // if empty, GET and /v1/feed
	header       http.Header
	auth         *wire.Authorization // if nil, none
	body         string
}

// authorize signs as of now plus skew.
func (p *probe) authorize(skew time.Duration) *wire.Authorization {
	a := &wire.Authorization{Host: p.host.Host, KID: p.host.KID, Time: time.Now().Add(skew).Unix(), Nonce: wire.NewNonce()}
	_ = a.Sign(p.host.Secret, http.MethodGet, target) // fails without a secret, and there is one
	return a
}

// open sends the question and leaves the body to the caller.
func (p *probe) open(ctx context.Context, client *http.Client, q question) (*http.Response, error) {
	if q.method == "" {
		q.method = http.MethodGet
	}
	if q.path == "" {
		q.path = target
	}
	r, err := http.NewRequestWithContext(ctx, q.method, p.url+q.path, strings.NewReader(q.body))
	if err != nil {
		return nil, err
	}
	for name, values := range q.header {
		r.Header[name] = values
	}
	if q.auth != nil {
		r.Header.Set("Authorization", q.auth.String())
	}
	return client.Do(r)
}

// An answer is a response that was read to its end.
type answer struct {
	*http.Response
	body []byte
}

func (p *probe) ask(ctx context.Context, q question) (answer, error) {
	response, err := p.open(ctx, p.client, q)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody+1))
	if err == nil && len(body) > maxBody {
		err = fmt.Errorf("an answer of more than %d bytes", maxBody)
	}
	return answer{response, body}, err
}

// wants returns an error unless the answer is this problem, with its status.
func (a answer) wants(name string, status int) (wire.Problem, error) {
	var problem wire.Problem
	if media := a.Header.Get("Content-Type"); a.StatusCode != status || !strings.HasPrefix(media, "application/problem+json") {
		return problem, fmt.Errorf("status %d with %q, want %d with application/problem+json", a.StatusCode, media, status)
	}
	if json.Unmarshal(a.body, &problem) != nil {
		return problem, errors.New("the problem is no JSON")
	}
	if problem.Type != wire.ProblemPrefix+name || problem.Title == "" || problem.Status != status {
		return problem, fmt.Errorf("problem %q, title %q, status %d; want %s%s and %d",
			problem.Type, problem.Title, problem.Status, wire.ProblemPrefix, name, status)
	}
	return problem, nil
}
