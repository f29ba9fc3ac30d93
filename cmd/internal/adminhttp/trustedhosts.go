package adminhttp

import (
	"context"
	"net/http"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

// TrustedHosts is what a Service does for trusted hosts beyond one at a time. As for
// Reader and Changer.
type TrustedHosts interface {
	HostTokens(ctx context.Context) (adminapi.HostTokens, error)
	CreateHostToken(ctx context.Context, actor string, req adminapi.CreateHostToken) (adminapi.HostTokenChanged, error)
	RevokeHostToken(ctx context.Context, actor string, id keystore.KID, req adminapi.RevokeHost) (adminapi.HostTokenChanged, error)
	RollHosts(ctx context.Context, actor string, req adminapi.RollHosts) (adminapi.HostsRolled, error)
	SecretPolicy(ctx context.Context) (adminapi.SecretPolicy, error)
	SetSecretPolicy(ctx context.Context, actor string, req adminapi.SetSecretPolicy) (adminapi.SecretPolicyChanged, error)
}

func (a *api) hostSecrets() {
	register(a, operation(http.MethodPost, "/v1/host-secrets/roll", "roll-hosts", "Roll over shared secrets"),
		func(ctx context.Context, in *struct{ Body adminapi.RollHosts }) (adminapi.HostsRolled, error) {
			return a.Service.RollHosts(ctx, actorOf(ctx), in.Body)
		})
	register(a, operation(http.MethodGet, "/v1/host-secrets/policy", "show-secret-policy", "Show the policy for shared secrets"),
		func(ctx context.Context, _ *none) (adminapi.SecretPolicy, error) { return a.Service.SecretPolicy(ctx) })
	register(a, operation(http.MethodPatch, "/v1/host-secrets/policy", "set-secret-policy", "Change the policy for shared secrets"),
		func(ctx context.Context, in *struct{ Body adminapi.SetSecretPolicy }) (adminapi.SecretPolicyChanged, error) {
			return a.Service.SetSecretPolicy(ctx, actorOf(ctx), in.Body)
		})
}

// RollHosts rolls over shared secrets, a part of them.
func (c *Client) RollHosts(ctx context.Context, req adminapi.RollHosts) (adminapi.HostsRolled, error) {
	return send[adminapi.HostsRolled](ctx, c, http.MethodPost, "/v1/host-secrets/roll", req)
}

// SecretPolicy shows the policy for shared secrets.
func (c *Client) SecretPolicy(ctx context.Context) (adminapi.SecretPolicy, error) {
	return get[adminapi.SecretPolicy](ctx, c, "/v1/host-secrets/policy")
}

// SetSecretPolicy changes the policy for shared secrets.
func (c *Client) SetSecretPolicy(ctx context.Context, req adminapi.SetSecretPolicy) (adminapi.SecretPolicyChanged, error) {
	return send[adminapi.SecretPolicyChanged](ctx, c, http.MethodPatch, "/v1/host-secrets/policy", req)
}

func (a *api) hostTokens() {
	register(a, operation(http.MethodGet, "/v1/host-tokens", "list-host-tokens", "List the registration tokens"),
		func(ctx context.Context, _ *none) (adminapi.HostTokens, error) { return a.Service.HostTokens(ctx) })
	register(a, operation(http.MethodPost, "/v1/host-tokens", "create-host-token", "Make a registration token"),
		func(ctx context.Context, in *struct{ Body adminapi.CreateHostToken }) (adminapi.HostTokenChanged, error) {
			return a.Service.CreateHostToken(ctx, actorOf(ctx), in.Body)
		})
	register(a, operation(http.MethodPost, "/v1/host-tokens/{token}/revoke", "revoke-host-token", "End a registration token"),
		func(ctx context.Context, in *struct {
			Token string `path:"token" doc:"the token's id, 16 hexadecimal digits"`
			Body  adminapi.RevokeHost
		}) (adminapi.HostTokenChanged, error) {
			id, err := keystore.ParseKID(in.Token)
			if err != nil {
				return adminapi.HostTokenChanged{}, err
			}
			return a.Service.RevokeHostToken(ctx, actorOf(ctx), id, in.Body)
		})
}

// HostTokens lists the registration tokens.
func (c *Client) HostTokens(ctx context.Context) (adminapi.HostTokens, error) {
	return get[adminapi.HostTokens](ctx, c, "/v1/host-tokens")
}

// CreateHostToken makes a registration token.
func (c *Client) CreateHostToken(ctx context.Context, req adminapi.CreateHostToken) (adminapi.HostTokenChanged, error) {
	return send[adminapi.HostTokenChanged](ctx, c, http.MethodPost, "/v1/host-tokens", req)
}

// RevokeHostToken ends a registration token.
func (c *Client) RevokeHostToken(ctx context.Context, id keystore.KID, req adminapi.RevokeHost) (adminapi.HostTokenChanged, error) {
	return send[adminapi.HostTokenChanged](ctx, c, http.MethodPost, "/v1/host-tokens/"+id.String()+"/revoke", req)
}
