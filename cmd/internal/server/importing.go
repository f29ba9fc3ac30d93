package server

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/keystore/bundle"
)

// ImportKeys implements adminhttp.Changer.
func (s *service) ImportKeys(ctx context.Context, actor string, name keystore.RingName, req adminapi.Import) (adminapi.Imported, error) {
	set, from, err := bundle.Verify(string(req.Signed))
	if err != nil {
		return adminapi.Imported{}, fmt.Errorf("%w: import: %w", keystore.ErrInvalid, err)
	}
	if len(req.From) > 0 && !slices.Contains(req.From, string(from)) {
		return adminapi.Imported{}, &fromError{from, req.From}
	}
	for i := range set.Keys {
		set.Keys[i].OpenOnly = set.Keys[i].OpenOnly || req.OpenOnly
	}
	im := importing{service: s, ring: name, set: set, req: req, made: make(map[keystore.KID]keystore.Material)}
	im.answer = adminapi.Imported{
		Ring: string(name), From: string(from), Checked: len(req.From) > 0, Store: set.Store, FromRing: string(set.Ring),
		Keys: bundledKeys(set.Keys),
	}
	if err := im.sort(ctx); err != nil {
		return adminapi.Imported{}, err
	}
	return im.answer, im.commit(ctx, actor)
}

// An importing is one import on its way.
type importing struct {
	service *service
	ring    keystore.RingName
	set     bundle.Set
	req     adminapi.Import
	answer  adminapi.Imported

	publish []keystore.PublishedKey // what the ring has not got
	made    map[keystore.KID]keystore.Material
}

// sort tells the keys that are new from those that the ring has, and refuses those
// that may not come.
func (im *importing) sort(ctx context.Context) error {
	ring, err := im.service.ring(im.ring)
	if err != nil {
		return err
	}
	im.answer.Version = ring.Version
	at := now()
	for i, k := range im.set.Keys {
		view := &im.answer.Keys[i]
		held, there := ring.Key(k.KID())
		if there {
			view.Result = "already"
			if err := im.same(held, k); err != nil {
				return err
			}
			continue
		}
		if !im.service.answered(im.req.Request) {
			if err := im.service.unknown(ctx, im.ring, k.KID()); err != nil {
				return err
			}
		}
		if err := im.strong(k); err != nil {
			return err
		}
		view.Result = "published"
		if k.OpenOnly {
			view.Result = "opens"
		}
		im.publish = append(im.publish, keystore.PublishedKey{
			Key: keystore.NewKey{KID: k.KID(), Created: at}, Role: k.Role, OpenOnly: k.OpenOnly,
		})
		im.made[k.KID()] = k.Material
	}
	return nil
}

// same refuses a key whose id the ring has for other bytes, or in another role.
func (im *importing) same(held keystore.Key, k bundle.Key) error {
	mine, err := im.service.vault.open(im.service.keys.Replica(), ringOwner(im.ring), held.KID)
	if err != nil {
		return err
	}
	equal, err := sameBytes(mine, k.Material)
	switch {
	case err != nil:
		return err
	case !equal:
		return fmt.Errorf("%w: import: ring %s has key %s with other bytes", keystore.ErrInvalid, im.ring, held.KID)
	case held.Role != k.Role:
		return fmt.Errorf("%w: import: key %s is a %s key in the bundle, and the %s key of ring %s", keystore.ErrInvalid, held.KID, k.Role, held.Role, im.ring)
	}
	return nil
}

func sameBytes(a, b keystore.Material) (same bool, err error) {
	err = a.Use(func(mine []byte) error {
		return b.Use(func(theirs []byte) error {
			same = bytes.Equal(mine, theirs) // both are here already: nobody times this
			return nil
		})
	})
	return same, err
}

// strong holds imported keys to what entered ones must be.
func (im *importing) strong(k bundle.Key) error {
	return k.Material.Use(func(secret []byte) error {
		if _, err := keystore.NewEntered(secret); err != nil {
			return fmt.Errorf("import: key %s: %w", k.KID(), err)
		}
		return nil
	})
}

// commit publishes what is new, in one event. With nothing new, nothing is written.
func (im *importing) commit(ctx context.Context, actor string) error {
	if len(im.publish) == 0 && !im.service.answered(im.req.Request) {
		return nil
	}
	if im.req.DryRun {
		ring, err := im.service.ring(im.ring)
		if err == nil {
			_, err = im.decide(ring)
		}
		return err
	}
	receipt, ring, err := im.service.commitRing(ctx, order{
		actor: actor, intent: im.req.Intent, ring: im.ring, made: im.made, given: true,
		decide: func(state *events.State) (keystore.Change, error) {
			ring, err := ringOf(state, im.ring)
			if err != nil {
				return keystore.Change{}, err
			}
			return im.decide(ring)
		},
	})
	if err != nil {
		return err
	}
	im.answer.N, im.answer.ID, im.answer.Replicas = receipt.N, receipt.ID.String(), receipt.HeldBy
	im.answer.Version = ring.Version
	return nil
}

// decide gives all keys of the import one overlap: the longest that its roles need.
func (im *importing) decide(ring keystore.Ring) (keystore.Change, error) {
	req := keystore.Publication{Keys: im.publish, Force: im.req.Force}
	for _, k := range im.publish {
		overlap, err := overlapOf(im.req.Overlap, ring, k.Role)
		if err != nil {
			return keystore.Change{}, err
		}
		req.Overlap = max(req.Overlap, overlap)
	}
	return ring.Publish(req)
}
