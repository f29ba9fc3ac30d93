package adminhttp

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore/adminapi"
)

const (
	// callTimeout bounds one request: the longest, a verification of a million
	// events, takes a minute.
	callTimeout = 2 * time.Minute
	// maxAnswer bounds an answer, in bytes: a history of a million events.
	maxAnswer = 512 << 20
	// rounds is how often every server of the profile is tried.
	rounds = 3
	// pause is the longest wait before the second round; it doubles.
	pause = 250 * time.Millisecond
)

// Client speaks the admin API to any of a key store's servers. It is safe for
// concurrent use.
type Client struct {
	servers []string
	token   string
	http    *http.Client
}

// ClientConfig is what a profile says. All fields must be set.
type ClientConfig struct {
	Servers []string // base URLs, tried in this order
	CA      *x509.CertPool
	Token   string
}

// NewClient returns a client. It connects when it is used.
func NewClient(cfg ClientConfig) *Client {
	transport := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		TLSClientConfig:       &tls.Config{RootCAs: cfg.CA, MinVersion: tls.VersionTLS13},
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: callTimeout,
		ForceAttemptHTTP2:     true,
	}
	return &Client{servers: cfg.Servers, token: cfg.Token, http: &http.Client{
		Transport: transport, Timeout: callTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// An UnreachableError says that no server of the profile answered.
type UnreachableError struct {
	Servers []string
	Err     error // of the last one tried
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("no answer from %s: %v", strings.Join(e.Servers, ", "), e.Err)
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// Hint says what to look at.
func (e *UnreachableError) Hint() string {
	var unknown x509.UnknownAuthorityError
	if errors.As(e.Err, &unknown) {
		return "the server's certificate is not from the profile's CA: take ca_file from that server's directory"
	}
	return "is the server running, and is its address the one in the profile (servers)?"
}

// call sends one request until a server has answered it, and decodes the answer
// into out. Requests are safe to repeat: changes carry a request id.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	var last error
	for round := range rounds {
		if round > 0 && !wait(ctx, pause<<(round-1)) {
			break
		}
		for _, server := range c.servers {
			err := c.once(ctx, method, server+path, body, out)
			if err == nil || !retry(err) {
				return c.unreachable(err)
			}
			last = err
		}
	}
	return c.unreachable(last)
}

// unreachable wraps what is neither success nor a server's answer.
func (c *Client) unreachable(err error) error {
	if problem := (*adminapi.Error)(nil); err == nil || errors.As(err, &problem) {
		return err
	}
	return &UnreachableError{Servers: c.servers, Err: err}
}

// retry reports whether another try may help: after no answer at all, and after
// an answer that leaves the outcome open.
func retry(err error) bool {
	var problem *adminapi.Error
	if errors.As(err, &problem) {
		return errors.Is(err, events.ErrUnknown)
	}
	var certificate *tls.CertificateVerificationError
	return !errors.As(err, &certificate)
}

// wait sleeps for up to limit, chosen at random, and reports false if ctx ended.
func wait(ctx context.Context, limit time.Duration) bool {
	timer := time.NewTimer(limit/2 + rand.N(limit/2))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func (c *Client) once(ctx context.Context, method, address string, body []byte, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.http.Do(req)
	if err != nil {
		if inner := (*url.Error)(nil); errors.As(err, &inner) {
			err = inner.Err
		}
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return err
	}
	if res.StatusCode/100 != 2 {
		return problemIn(res, answer)
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("%s answered what is not Keytide's admin API: %w", address, err)
	}
	return nil
}

// problemIn reads the problem of an answer; an answer without one comes from
// something else than Keytide.
func problemIn(res *http.Response, answer []byte) error {
	kind, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	var p adminapi.Problem
	if kind != "application/problem+json" || json.Unmarshal(answer, &p) != nil {
		p = adminapi.Problem{
			Type: "about:blank", Title: http.StatusText(res.StatusCode), Status: res.StatusCode,
			Detail: fmt.Sprintf("%s answered %s", res.Request.URL.Host, res.Status),
			Hint:   "the address in the profile may not be Keytide's admin API",
		}
	}
	return ErrorOf(p)
}
