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
	register(a, operation(http.MethodPost, "/v1/servers/{server}/invite", "invite-server", "Let a policy server join, once"),
		func(ctx context.Context, in *struct {
			ServerPath
			Body adminapi.InviteServer
		}) (adminapi.ServerInvited, error) {
			id, err := in.name()
			if err != nil {
				return adminapi.ServerInvited{}, err
			}
			return a.Service.InviteServer(ctx, actorOf(ctx), id, in.Body)
		})
	register(a, operation(http.MethodPost, joinPath, "join", "Join as an invited policy server; the bearer token is the invitation's"),
		func(ctx context.Context, in *struct{ Body adminapi.Join }) (adminapi.Joined, error) {
			return a.Service.JoinServer(ctx, invitationOf(ctx), in.Body)
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

// joinPath is the one operation whose bearer token is an invitation's.
const joinPath = "/v1/join"

type invitationKey struct{}

func invitationOf(ctx context.Context) string {
	token, _ := ctx.Value(invitationKey{}).(string)
	return token
}

// Join asks to join, with a client whose token is the invitation's.
func (c *Client) Join(ctx context.Context, req adminapi.Join) (adminapi.Joined, error) {
	return send[adminapi.Joined](ctx, c, http.MethodPost, joinPath, req)
}

// InviteServer lets a policy server join, once.
func (c *Client) InviteServer(ctx context.Context, id string, req adminapi.InviteServer) (adminapi.ServerInvited, error) {
	return send[adminapi.ServerInvited](ctx, c, http.MethodPost, serverURL(id, "/invite"), req)
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
