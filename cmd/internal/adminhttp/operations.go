package adminhttp

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

func (a *api) rings() {
	register(a, operation(http.MethodGet, "/v1/rings", "list-rings", "List the rings"),
		func(ctx context.Context, _ *none) (adminapi.Rings, error) { return a.Service.Rings(ctx) })
	register(a, operation(http.MethodPost, "/v1/rings", "create-ring", "Create a ring"),
		func(ctx context.Context, in *struct{ Body adminapi.CreateRing }) (adminapi.RingChanged, error) {
			return a.Service.CreateRing(ctx, actorOf(ctx), in.Body)
		})
	register(a, operation(http.MethodGet, "/v1/rings/{ring}", "show-ring", "Show a ring"), withRing(a.Service.Ring))
	register(a, operation(http.MethodPatch, "/v1/rings/{ring}/policy", "set-policy", "Change a ring's policy"),
		func(ctx context.Context, in *struct {
			RingPath
			Body adminapi.SetPolicy
		}) (adminapi.RingChanged, error) {
			name, err := in.name()
			if err != nil {
				return adminapi.RingChanged{}, err
			}
			return a.Service.SetPolicy(ctx, actorOf(ctx), name, in.Body)
		})
	a.rollovers()
}

func (a *api) rollovers() {
	register(a, operation(http.MethodGet, "/v1/rings/{ring}/rollover", "preview-rollover", "Say what a rollover would do now"),
		func(ctx context.Context, in *struct {
			RingPath
			Force     bool     `query:"force" doc:"as if it were forced"`
			Fresh     bool     `query:"fresh" doc:"of a fresh one"`
			Emergency bool     `query:"emergency" doc:"of an emergency one"`
			With      []string `query:"with" enum:"static,ticket" doc:"of an emergency one that replaces these, too"`
			Undo      bool     `query:"undo" doc:"of an undo"`
		}) (adminapi.Preview, error) {
			name, err := in.name()
			if err != nil {
				return adminapi.Preview{}, err
			}
			return a.Service.Preview(ctx, name, adminapi.Rollover{
				Force: in.Force, Fresh: in.Fresh, Emergency: in.Emergency, With: in.With, Undo: in.Undo,
			})
		})
	a.endings()
	register(a, operation(http.MethodPost, "/v1/rings/{ring}/rollover", "roll-over", "Roll a ring over"),
		func(ctx context.Context, in *struct {
			RingPath
			Body adminapi.Rollover
		}) (adminapi.RolledOver, error) {
			name, err := in.name()
			if err != nil {
				return adminapi.RolledOver{}, err
			}
			return a.Service.Rollover(ctx, actorOf(ctx), name, in.Body)
		})
	register(a, operation(http.MethodGet, "/v1/rings/{ring}/reach", "reach", "Say which connected agents lack an event's state"),
		func(ctx context.Context, in *struct {
			RingPath
			N uint64 `query:"n" doc:"the event"`
		}) (adminapi.Reach, error) {
			name, err := in.name()
			if err != nil {
				return adminapi.Reach{}, err
			}
			return a.Service.Reach(ctx, name, keystore.N(in.N))
		})
}

func (a *api) endings() {
	register(a, operation(http.MethodPost, "/v1/rings/{ring}/delete", "delete-ring", "End a ring and all its keys"),
		func(ctx context.Context, in *struct {
			RingPath
			Body adminapi.DeleteRing
		}) (adminapi.RingDeleted, error) {
			name, err := in.name()
			if err != nil {
				return adminapi.RingDeleted{}, err
			}
			return a.Service.DeleteRing(ctx, actorOf(ctx), name, in.Body)
		})
	register(a, operation(http.MethodGet, "/v1/rings/{ring}/slots", "slots", "List the times of a ring's schedule"),
		func(ctx context.Context, in *struct {
			RingPath
			From  time.Time `query:"from" doc:"from this time on, RFC 3339; if absent, from the next one on"`
			Count int       `query:"count" default:"10" minimum:"1" maximum:"1000" doc:"how many"`
		}) (adminapi.Slots, error) {
			name, err := in.name()
			if err != nil {
				return adminapi.Slots{}, err
			}
			return a.Service.Slots(ctx, name, in.From, in.Count)
		})
}

func (a *api) hosts() {
	register(a, operation(http.MethodGet, "/v1/hosts", "list-hosts", "List the trusted hosts"),
		func(ctx context.Context, _ *none) (adminapi.Hosts, error) { return a.Service.Hosts(ctx) })
	register(a, operation(http.MethodPost, "/v1/hosts", "register-host", "Register a trusted host"),
		func(ctx context.Context, in *struct{ Body adminapi.RegisterHost }) (adminapi.Registered, error) {
			return a.Service.RegisterHost(ctx, actorOf(ctx), in.Body)
		})
}

// HostPath is the part of an operation's input that names the trusted host.
type HostPath struct {
	Host string `path:"host" doc:"the trusted host's name"`
}

func (p HostPath) name() (string, error) {
	if err := keystore.CheckName(p.Host); err != nil {
		return "", fmt.Errorf("host name %q: %w", p.Host, err)
	}
	return p.Host, nil
}

func (a *api) host() {
	register(a, operation(http.MethodGet, "/v1/hosts/{host}", "show-host", "Show a trusted host, and the keys that it may know"),
		func(ctx context.Context, in *HostPath) (adminapi.HostShown, error) {
			name, err := in.name()
			if err != nil {
				return adminapi.HostShown{}, err
			}
			return a.Service.Host(ctx, name)
		})
	register(a, operation(http.MethodPost, "/v1/hosts/{host}/revoke", "revoke-host", "End a trusted host and its secrets"),
		func(ctx context.Context, in *struct {
			HostPath
			Body adminapi.RevokeHost
		}) (adminapi.Revoked, error) {
			name, err := in.name()
			if err != nil {
				return adminapi.Revoked{}, err
			}
			return a.Service.RevokeHost(ctx, actorOf(ctx), name, in.Body)
		})
}

func (a *api) audit() {
	register(a, operation(http.MethodGet, "/v1/status", "status", "Show the state of the key store"),
		func(ctx context.Context, _ *none) (adminapi.Status, error) { return a.Service.Status(ctx) })
	register(a, operation(http.MethodGet, "/v1/keys/{kid}", "show-key", "Tell what became of a key"),
		func(ctx context.Context, in *struct {
			KID string `path:"kid" doc:"the key's id, 16 hexadecimal digits"`
		}) (adminapi.KeyUses, error) {
			kid, err := keystore.ParseKID(in.KID)
			if err != nil {
				return adminapi.KeyUses{}, err
			}
			return a.Service.Key(ctx, kid)
		})
	register(a, operation(http.MethodGet, "/v1/audit/verify", "verify", "Recompute the whole chain"),
		func(ctx context.Context, _ *none) (adminapi.Verification, error) { return a.Service.Verify(ctx) })
	register(a, operation(http.MethodGet, "/v1/rings/{ring}/history", "history", "List a ring's events"),
		func(ctx context.Context, in *struct {
			RingPath
			Since time.Time `query:"since" doc:"events from this time on, RFC 3339"`
			Until time.Time `query:"until" doc:"events before this time, RFC 3339"`
		}) (adminapi.History, error) {
			name, err := in.name()
			if err != nil {
				return adminapi.History{}, err
			}
			return a.Service.History(ctx, name, Span{Since: in.Since, Until: in.Until})
		})
	register(a, operation(http.MethodGet, "/v1/rings/{ring}/replay", "replay", "Show a ring as it was"),
		func(ctx context.Context, in *struct {
			RingPath
			At      time.Time `query:"at" doc:"as of this time, RFC 3339"`
			Version uint64    `query:"version" doc:"at this version"`
		}) (adminapi.Ring, error) {
			name, err := in.name()
			if err != nil {
				return adminapi.Ring{}, err
			}
			if in.At.IsZero() == (in.Version == 0) {
				return adminapi.Ring{}, fmt.Errorf("%w: replay wants either a version or a time", keystore.ErrInvalid)
			}
			return a.Service.Replay(ctx, name, Point{Version: keystore.Version(in.Version), At: in.At})
		})
}

func withRing[O any](handle func(context.Context, keystore.RingName) (O, error)) func(context.Context, *RingPath) (O, error) {
	return func(ctx context.Context, in *RingPath) (out O, err error) {
		name, err := in.name()
		if err != nil {
			return out, err
		}
		return handle(ctx, name)
	}
}
