package server

import (
	"context"
	"encoding/base64"
	"fmt"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/keystore/seal"
)

// This file holds the changes that come in two steps: static keys, session ticket keys
// and modes are published here, and the activation makes them seal.

// staticOverlap is for how long a former static key opens when nobody says otherwise:
// what it sealed (saved credentials, user tracking) lives long.
const staticOverlap = 30 * 24 * time.Hour

// PublishKey implements adminhttp.Changer.
func (s *service) PublishKey(ctx context.Context, actor string, name keystore.RingName, req adminapi.PublishKey) (adminapi.KeyPublished, error) {
	var role keystore.Role
	if err := role.UnmarshalText([]byte(req.Role)); err != nil {
		return adminapi.KeyPublished{}, err
	}
	key, err := s.newKey(ctx, name, req)
	if err != nil {
		return adminapi.KeyPublished{}, err
	}
	receipt, ring, err := s.commitRing(ctx, order{
		actor: actor, intent: req.Intent, ring: name, given: req.K != "",
		made: map[keystore.KID]keystore.Material{key.KID(): key},
		decide: func(state *events.State) (keystore.Change, error) {
			ring, err := ringOf(state, name)
			if err != nil {
				return keystore.Change{}, err
			}
			overlap, err := overlapOf(req.Overlap, ring, role)
			if err != nil {
				return keystore.Change{}, err
			}
			return ring.Publish(keystore.Publication{
				Overlap: overlap, Force: req.Force,
				Keys: []keystore.PublishedKey{{Key: keystore.NewKey{KID: key.KID(), Created: now()}, Role: role}},
			})
		},
	})
	if err != nil {
		return adminapi.KeyPublished{}, err
	}
	change, ok := ringChange(receipt.Event)
	if !ok || change.Kind != keystore.KeyPublished || len(change.Made) != 1 {
		return adminapi.KeyPublished{}, usedRequest(req.Request, receipt.N)
	}
	return adminapi.KeyPublished{
		Receipt: receiptView(receipt), KID: change.Made[0].KID.String(), Ring: ringView(s.id.Epoch, ring),
	}, nil
}

// newKey makes the key, or takes the entered one, which must be good and not known.
func (s *service) newKey(ctx context.Context, name keystore.RingName, req adminapi.PublishKey) (keystore.Material, error) {
	if req.K == "" {
		return seal.Generate(), nil
	}
	secret, err := base64.RawURLEncoding.Strict().DecodeString(string(req.K))
	if err != nil {
		return keystore.Material{}, fmt.Errorf("%w: k is not base64url", keystore.ErrInvalid) // the cause might show the key
	}
	defer clear(secret)
	key, err := keystore.NewEntered(secret)
	if err != nil {
		return keystore.Material{}, err
	}
	if s.answered(req.Request) {
		return key, nil // it is known from the first time
	}
	return key, s.unknown(ctx, name, key.KID())
}

// answered reports whether a request has made its event already.
func (s *service) answered(request string) (done bool) {
	s.keys.Replica().Read(func(state *events.State) { _, done = state.Request(request) })
	return done
}

// unknown refuses a key that any ring has or ever had, or that is a host's secret: two
// uses of one key are one leak for both, and a destroyed key never comes back.
func (s *service) unknown(ctx context.Context, name keystore.RingName, kid keystore.KID) error {
	lives, err := s.lives(ctx, kid)
	if err != nil {
		return err
	}
	if len(lives) > 0 {
		l := lives[0]
		is := "is the " + l.key.Role.String() + " key"
		if l.destroyed != nil {
			is = fmt.Sprintf("was the %s key until event %d destroyed it, and a destroyed key never comes back; it", l.key.Role, l.destroyed.N)
		}
		return &knownKeyError{fmt.Errorf("%w: the entered key is refused: it is known: key %s %s of ring %s", keystore.ErrInvalid, kid, is, l.ring)}
	}
	known := false
	s.hosts.Replica().Read(func(state *events.State) {
		for _, h := range state.Hosts() {
			if _, ok := h.Secret(kid); ok {
				known = true
			}
		}
	})
	if known {
		return &knownKeyError{fmt.Errorf("%w: the entered key is refused: it is known: it is a host's shared secret", keystore.ErrInvalid)}
	}
	return nil
}

type knownKeyError struct{ error }

func (e *knownKeyError) Unwrap() error { return e.error }
func (e *knownKeyError) Hint() string {
	return "enter another key; see what became of this one:  keytide cookie explain, keytide history"
}

// overlapOf reads an overlap; by default what a key of the role needs.
func overlapOf(text *string, ring keystore.Ring, role keystore.Role) (time.Duration, error) {
	if text == nil {
		if role == keystore.Static {
			return max(staticOverlap, ring.LeastOverlap(role)), nil
		}
		return ring.LeastOverlap(role), nil
	}
	overlap, err := time.ParseDuration(*text)
	if err != nil {
		return 0, fmt.Errorf("%w: overlap: %q is not a duration such as 720h", keystore.ErrInvalid, *text)
	}
	return overlap, nil
}

// modeOverlap reads the overlap of static mode; by default what its sessions need.
func modeOverlap(text *string, ring keystore.Ring) (time.Duration, error) {
	if text == nil {
		return max(ring.Policy.MaxSession, ring.LeastModeOverlap()), nil
	}
	return overlapOf(text, ring, keystore.Static)
}

// SetMode implements adminhttp.Changer.
func (s *service) SetMode(ctx context.Context, actor string, name keystore.RingName, req adminapi.SetMode) (adminapi.RingChanged, error) {
	var mode keystore.Mode
	if err := mode.UnmarshalText([]byte(req.Mode)); err != nil {
		return adminapi.RingChanged{}, err
	}
	receipt, ring, err := s.commitRing(ctx, order{
		actor: actor, intent: req.Intent, ring: name,
		decide: func(state *events.State) (keystore.Change, error) {
			ring, err := ringOf(state, name)
			if err != nil {
				return keystore.Change{}, err
			}
			overlap, err := modeOverlap(req.Overlap, ring)
			if err != nil {
				return keystore.Change{}, err
			}
			return ring.SetMode(keystore.ModeRequest{Mode: mode, Overlap: overlap, Force: req.Force})
		},
	})
	if err != nil {
		return adminapi.RingChanged{}, err
	}
	return s.changed(receipt, ring), nil
}

func newModeView(r keystore.Ring) *adminapi.NewMode {
	if r.NewMode.IsZero() {
		return nil
	}
	view := &adminapi.NewMode{}
	if r.NewMode.Next != 0 {
		view.Next = r.NewMode.Next.String()
	}
	if r.NewMode.Left != 0 {
		view.OpensStaticUntil = r.NewMode.LeftAt.Add(r.NewMode.Session + keystore.RetainMargin).UTC()
	}
	return view
}
