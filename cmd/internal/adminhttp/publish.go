package adminhttp

import (
	"context"
	"net/http"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

// A Publisher commits changes of static and session ticket keys and of modes, and
// takes keys out of rings and into them.
type Publisher interface {
	PublishKey(ctx context.Context, actor string, name keystore.RingName, req adminapi.PublishKey) (adminapi.KeyPublished, error)
	SetMode(ctx context.Context, actor string, name keystore.RingName, req adminapi.SetMode) (adminapi.RingChanged, error)
	ExportKeys(ctx context.Context, actor string, name keystore.RingName, req adminapi.Export) (adminapi.Exported, error)
	ImportKeys(ctx context.Context, actor string, name keystore.RingName, req adminapi.Import) (adminapi.Imported, error)
}

func (a *api) published() {
	register(a, operation(http.MethodPost, "/v1/rings/{ring}/keys", "publish-key", "Publish a new static or session ticket key"), changes(a.Service.PublishKey))
	register(a, operation(http.MethodPost, "/v1/rings/{ring}/mode", "set-mode", "Change a ring's mode"), changes(a.Service.SetMode))
	register(a, operation(http.MethodPost, "/v1/rings/{ring}/export", "export-keys", "Make a bundle of a ring's static and session ticket keys"), changes(a.Service.ExportKeys))
	register(a, operation(http.MethodPost, "/v1/rings/{ring}/import", "import-keys", "Take over the keys of a bundle"), changes(a.Service.ImportKeys))
}

// RingBody is the input of an operation on a ring.
// It is exported because huma reads exported fields alone.
type RingBody[I any] struct {
	RingPath
	Body I
}

// changes makes a handler of a method that changes a ring.
func changes[I, O any](handle func(context.Context, string, keystore.RingName, I) (O, error)) func(context.Context, *RingBody[I]) (O, error) {
	return func(ctx context.Context, in *RingBody[I]) (out O, err error) {
		name, err := in.name()
		if err != nil {
			return out, err
		}
		return handle(ctx, actorOf(ctx), name, in.Body)
	}
}

// PublishKey publishes a new static or session ticket key.
func (c *Client) PublishKey(ctx context.Context, name string, req adminapi.PublishKey) (adminapi.KeyPublished, error) {
	return send[adminapi.KeyPublished](ctx, c, http.MethodPost, ringURL(name, "/keys"), req)
}

// SetMode publishes a ring's other mode.
func (c *Client) SetMode(ctx context.Context, name string, req adminapi.SetMode) (adminapi.RingChanged, error) {
	return send[adminapi.RingChanged](ctx, c, http.MethodPost, ringURL(name, "/mode"), req)
}

// ExportKeys makes a bundle of a ring's keys.
func (c *Client) ExportKeys(ctx context.Context, name string, req adminapi.Export) (adminapi.Exported, error) {
	return send[adminapi.Exported](ctx, c, http.MethodPost, ringURL(name, "/export"), req)
}

// ImportKeys takes over the keys of a bundle.
func (c *Client) ImportKeys(ctx context.Context, name string, req adminapi.Import) (adminapi.Imported, error) {
	return send[adminapi.Imported](ctx, c, http.MethodPost, ringURL(name, "/import"), req)
}
