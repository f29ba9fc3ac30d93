package adminhttp

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

// ServerPath is the part of an operation's input that names the policy server.
type ServerPath struct {
	Server string `path:"server" doc:"the policy server's id"`
}

func (p ServerPath) name() (string, error) {
	if err := keystore.CheckName(p.Server); err != nil {
		return "", fmt.Errorf("server id %q: %w", p.Server, err)
	}
	return p.Server, nil
}

func (a *api) servers() {
	register(a, operation(http.MethodGet, "/v1/servers/{server}", "show-server", "Show a policy server, and what it costs to leave it out"),
		func(ctx context.Context, in *ServerPath) (adminapi.ServerShown, error) {
			id, err := in.name()
			if err != nil {
				return adminapi.ServerShown{}, err
			}
			return a.Service.ServerShown(ctx, id)
		})
	a.leaveOut("exclude", "Exclude a policy server until it returns", a.Service.ExcludeServer)
	a.leaveOut("forget", "Forget a policy server for good", a.Service.ForgetServer)
}

func (a *api) leaveOut(verb, summary string, do func(context.Context, string, string, adminapi.LeaveOut) (adminapi.LeftOut, error)) {
	register(a, operation(http.MethodPost, "/v1/servers/{server}/"+verb, verb+"-server", summary),
		func(ctx context.Context, in *struct {
			ServerPath
			Body adminapi.LeaveOut
		}) (adminapi.LeftOut, error) {
			id, err := in.name()
			if err != nil {
				return adminapi.LeftOut{}, err
			}
			return do(ctx, actorOf(ctx), id, in.Body)
		})
}

func serverURL(id, rest string) string { return "/v1/servers/" + url.PathEscape(id) + rest }

// Server shows one policy server, and what it costs to leave it out.
func (c *Client) Server(ctx context.Context, id string) (adminapi.ServerShown, error) {
	return get[adminapi.ServerShown](ctx, c, serverURL(id, ""))
}

// ExcludeServer excludes a policy server until it returns.
func (c *Client) ExcludeServer(ctx context.Context, id string, req adminapi.LeaveOut) (adminapi.LeftOut, error) {
	return send[adminapi.LeftOut](ctx, c, http.MethodPost, serverURL(id, "/exclude"), req)
}

// ForgetServer forgets a policy server for good.
func (c *Client) ForgetServer(ctx context.Context, id string, req adminapi.LeaveOut) (adminapi.LeftOut, error) {
	return send[adminapi.LeftOut](ctx, c, http.MethodPost, serverURL(id, "/forget"), req)
}
