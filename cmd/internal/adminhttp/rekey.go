package adminhttp

import (
	"context"
	"net/http"
	"net/url"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

// A Rekeyer changes the key store key and its unlock slots.
type Rekeyer interface {
	Rekey(ctx context.Context) (adminapi.Rekey, error)
	BeginRekey(ctx context.Context, actor string, req adminapi.BeginRekey) (adminapi.RekeyBegun, error)
	UnlockSlots(ctx context.Context) (adminapi.UnlockSlots, error)
	AddSlot(ctx context.Context, actor string, req adminapi.AddSlot) (adminapi.SlotAdded, error)
	RemoveSlot(ctx context.Context, actor string, id keystore.KID, req adminapi.RemoveSlot) (adminapi.SlotRemoved, error)
}

// SlotPath is the part of an operation's input that names an unlock slot.
type SlotPath struct {
	Slot string `path:"slot" doc:"the slot's id, 16 hexadecimal digits"`
}

func (a *api) rekeys() {
	register(a, operation(http.MethodGet, "/v1/rekey", "show-rekey", "Show where a rekey stands"),
		func(ctx context.Context, _ *none) (adminapi.Rekey, error) { return a.Service.Rekey(ctx) })
	register(a, operation(http.MethodPost, "/v1/rekey", "begin-rekey", "Replace the key store key"),
		func(ctx context.Context, in *struct{ Body adminapi.BeginRekey }) (adminapi.RekeyBegun, error) {
			return a.Service.BeginRekey(ctx, actorOf(ctx), in.Body)
		})
	register(a, operation(http.MethodGet, "/v1/unlock-slots", "list-slots", "List the unlock slots of the key store key"),
		func(ctx context.Context, _ *none) (adminapi.UnlockSlots, error) { return a.Service.UnlockSlots(ctx) })
	register(a, operation(http.MethodPost, "/v1/unlock-slots", "add-slot", "Add an unlock slot"),
		func(ctx context.Context, in *struct{ Body adminapi.AddSlot }) (adminapi.SlotAdded, error) {
			return a.Service.AddSlot(ctx, actorOf(ctx), in.Body)
		})
	register(a, operation(http.MethodPost, "/v1/unlock-slots/{slot}/remove", "remove-slot", "Remove an unlock slot"),
		func(ctx context.Context, in *struct {
			SlotPath
			Body adminapi.RemoveSlot
		}) (adminapi.SlotRemoved, error) {
			id, err := keystore.ParseKID(in.Slot)
			if err != nil {
				return adminapi.SlotRemoved{}, err
			}
			return a.Service.RemoveSlot(ctx, actorOf(ctx), id, in.Body)
		})
}

// Rekey shows where a rekey stands.
func (c *Client) Rekey(ctx context.Context) (adminapi.Rekey, error) {
	return get[adminapi.Rekey](ctx, c, "/v1/rekey")
}

// BeginRekey replaces the key store key.
func (c *Client) BeginRekey(ctx context.Context, req adminapi.BeginRekey) (adminapi.RekeyBegun, error) {
	return send[adminapi.RekeyBegun](ctx, c, http.MethodPost, "/v1/rekey", req)
}

// UnlockSlots lists the unlock slots.
func (c *Client) UnlockSlots(ctx context.Context) (adminapi.UnlockSlots, error) {
	return get[adminapi.UnlockSlots](ctx, c, "/v1/unlock-slots")
}

// AddSlot adds an unlock slot.
func (c *Client) AddSlot(ctx context.Context, req adminapi.AddSlot) (adminapi.SlotAdded, error) {
	return send[adminapi.SlotAdded](ctx, c, http.MethodPost, "/v1/unlock-slots", req)
}

// RemoveSlot removes an unlock slot.
func (c *Client) RemoveSlot(ctx context.Context, id string, req adminapi.RemoveSlot) (adminapi.SlotRemoved, error) {
	return send[adminapi.SlotRemoved](ctx, c, http.MethodPost, "/v1/unlock-slots/"+url.PathEscape(id)+"/remove", req)
}
