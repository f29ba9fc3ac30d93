package adminhttp

import (
	"context"
	"net/http"

	"github.com/keytide/keytide/keystore/adminapi"
)

func (a *api) doctor() {
	register(a, operation(http.MethodGet, "/v1/doctor", "doctor", "Examine the key store, as this server sees it"),
		func(ctx context.Context, _ *none) (adminapi.Diagnosis, error) { return a.Service.Doctor(ctx) })
	register(a, operation(http.MethodPost, "/v1/doctor/mend", "mend", "Put entries of the buckets right from this server's replica"),
		func(ctx context.Context, in *struct{ Body adminapi.Mend }) (adminapi.Mended, error) {
			return a.Service.Mend(ctx, actorOf(ctx), in.Body)
		})
}

// Each returns a client for each server of the profile.
func (c *Client) Each() []*Client {
	each := make([]*Client, len(c.servers))
	for i, server := range c.servers {
		each[i] = &Client{servers: []string{server}, token: c.token, http: c.http}
	}
	return each
}

// Address is the base URL of the first server.
func (c *Client) Address() string { return c.servers[0] }

// Doctor asks for an examination.
func (c *Client) Doctor(ctx context.Context) (adminapi.Diagnosis, error) {
	return get[adminapi.Diagnosis](ctx, c, "/v1/doctor")
}

// Mend puts entries of the buckets right.
func (c *Client) Mend(ctx context.Context, req adminapi.Mend) (adminapi.Mended, error) {
	return send[adminapi.Mended](ctx, c, http.MethodPost, "/v1/doctor/mend", req)
}
