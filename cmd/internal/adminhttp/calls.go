package adminhttp

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

func get[O any](ctx context.Context, c *Client, path string) (out O, err error) {
	err = c.call(ctx, http.MethodGet, path, nil, &out)
	return out, err
}

func send[O any](ctx context.Context, c *Client, method, path string, in any) (out O, err error) {
	err = c.call(ctx, method, path, in, &out)
	return out, err
}

func hostURL(name, rest string) string { return "/v1/hosts/" + url.PathEscape(name) + rest }

func ringURL(name, rest string) string { return "/v1/rings/" + url.PathEscape(name) + rest }

// Status returns the state of the key store.
func (c *Client) Status(ctx context.Context) (adminapi.Status, error) {
	return get[adminapi.Status](ctx, c, "/v1/status")
}

// Rings lists the rings.
func (c *Client) Rings(ctx context.Context) (adminapi.Rings, error) {
	return get[adminapi.Rings](ctx, c, "/v1/rings")
}

// Ring shows one ring.
func (c *Client) Ring(ctx context.Context, name string) (adminapi.Ring, error) {
	return get[adminapi.Ring](ctx, c, ringURL(name, ""))
}

// CreateRing creates a ring.
func (c *Client) CreateRing(ctx context.Context, req adminapi.CreateRing) (adminapi.RingChanged, error) {
	return send[adminapi.RingChanged](ctx, c, http.MethodPost, "/v1/rings", req)
}

// SetPolicy changes a ring's policy.
func (c *Client) SetPolicy(ctx context.Context, name string, req adminapi.SetPolicy) (adminapi.RingChanged, error) {
	return send[adminapi.RingChanged](ctx, c, http.MethodPatch, ringURL(name, "/policy"), req)
}

// Preview says what a rollover would do now.
func (c *Client) Preview(ctx context.Context, name string, req adminapi.Rollover) (adminapi.Preview, error) {
	query := url.Values{}
	for flag, set := range map[string]bool{"force": req.Force, "fresh": req.Fresh, "emergency": req.Emergency, "undo": req.Undo} {
		if set {
			query.Set(flag, "true")
		}
	}
	if len(req.With) > 0 {
		query.Set("with", strings.Join(req.With, ","))
	}
	return get[adminapi.Preview](ctx, c, ringURL(name, "/rollover")+times(query, nil))
}

// Slots lists times of a ring's schedule: from a time on, or, if that is zero, from
// the next one on.
func (c *Client) Slots(ctx context.Context, name string, from time.Time, count int) (adminapi.Slots, error) {
	query := url.Values{"count": {strconv.Itoa(count)}}
	return get[adminapi.Slots](ctx, c, ringURL(name, "/slots")+times(query, map[string]time.Time{"from": from}))
}

// DeleteRing ends a ring.
func (c *Client) DeleteRing(ctx context.Context, name string, req adminapi.DeleteRing) (adminapi.RingDeleted, error) {
	return send[adminapi.RingDeleted](ctx, c, http.MethodPost, ringURL(name, "/delete"), req)
}

// Rollover rolls a ring over.
func (c *Client) Rollover(ctx context.Context, name string, req adminapi.Rollover) (adminapi.RolledOver, error) {
	return send[adminapi.RolledOver](ctx, c, http.MethodPost, ringURL(name, "/rollover"), req)
}

// Reach says which connected agents lack the ring's state as of event n.
func (c *Client) Reach(ctx context.Context, name string, n keystore.N) (adminapi.Reach, error) {
	return get[adminapi.Reach](ctx, c, ringURL(name, "/reach?n="+strconv.FormatUint(uint64(n), 10)))
}

// History lists a ring's events.
func (c *Client) History(ctx context.Context, name string, span Span) (adminapi.History, error) {
	return get[adminapi.History](ctx, c, ringURL(name, "/history")+times(url.Values{}, map[string]time.Time{
		"since": span.Since, "until": span.Until,
	}))
}

// Replay shows a ring as it was.
func (c *Client) Replay(ctx context.Context, name string, point Point) (adminapi.Ring, error) {
	query := url.Values{}
	if point.Version != 0 {
		query.Set("version", strconv.FormatUint(uint64(point.Version), 10))
	}
	return get[adminapi.Ring](ctx, c, ringURL(name, "/replay")+times(query, map[string]time.Time{"at": point.At}))
}

// Key tells what became of a key.
func (c *Client) Key(ctx context.Context, kid keystore.KID) (adminapi.KeyUses, error) {
	return get[adminapi.KeyUses](ctx, c, "/v1/keys/"+kid.String())
}

// Verify has the server recompute the whole chain.
func (c *Client) Verify(ctx context.Context) (adminapi.Verification, error) {
	return get[adminapi.Verification](ctx, c, "/v1/audit/verify")
}

// Hosts lists the trusted hosts.
func (c *Client) Hosts(ctx context.Context) (adminapi.Hosts, error) {
	return get[adminapi.Hosts](ctx, c, "/v1/hosts")
}

// Host shows one trusted host.
func (c *Client) Host(ctx context.Context, name string) (adminapi.HostShown, error) {
	return get[adminapi.HostShown](ctx, c, hostURL(name, ""))
}

// RevokeHost ends a trusted host.
func (c *Client) RevokeHost(ctx context.Context, name string, req adminapi.RevokeHost) (adminapi.Revoked, error) {
	return send[adminapi.Revoked](ctx, c, http.MethodPost, hostURL(name, "/revoke"), req)
}

// RegisterHost registers a trusted host.
func (c *Client) RegisterHost(ctx context.Context, req adminapi.RegisterHost) (adminapi.Registered, error) {
	return send[adminapi.Registered](ctx, c, http.MethodPost, "/v1/hosts", req)
}

// times adds those times that are set and returns the query with its "?".
func times(query url.Values, at map[string]time.Time) string {
	for name, t := range at {
		if !t.IsZero() {
			query.Set(name, t.UTC().Format(time.RFC3339Nano))
		}
	}
	if len(query) == 0 {
		return ""
	}
	return "?" + query.Encode()
}
