package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

// activationPeriod is between two looks at what is published, and at what servers have
// confirmed. Their records come every 15 s, and at each change of keys.
const activationPeriod = time.Second

// An activation makes what is published seal, by an event, once every policy server
// has confirmed it. Every server looks; the request id makes it one event.
type activation struct {
	service *service
	log     *slog.Logger
	period  time.Duration                // between two looks
	waits   map[keystore.RingName]string // why a ring's waits, as it was logged
}

func newActivation(s *service, log *slog.Logger) *activation {
	return &activation{service: s, log: log, period: activationPeriod, waits: make(map[keystore.RingName]string)}
}

// run looks at every event and every period until ctx ends. A look that fails is
// logged, and the next one tries again.
func (a *activation) run(ctx context.Context) error {
	ticker := time.NewTicker(a.period)
	defer ticker.Stop()
	for {
		_, changed := a.service.keys.Replica().Watch()
		if err := a.round(ctx); err != nil && ctx.Err() == nil {
			a.log.Error("what is published is not activated; trying again", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-ticker.C:
		}
	}
}

func (a *activation) round(ctx context.Context) error {
	if a.service.keys.Freshness().State != events.Fresh {
		return nil // it knows neither the newest ring nor who has confirmed it
	}
	var rings []keystore.Ring
	a.service.keys.Replica().Read(func(state *events.State) { rings = state.Rings() })
	confirmed := a.service.confirmations()
	var faults []error
	for _, ring := range rings {
		_, err := ring.Activate(confirmed)
		if err == nil {
			err = a.activate(ctx, ring)
		}
		faults = append(faults, a.noted(ring.Name, err))
	}
	return errors.Join(faults...)
}

// noted logs that a ring's waits when that changes, and returns other errors.
func (a *activation) noted(name keystore.RingName, err error) error {
	waits, ok := errors.AsType[*keystore.UnconfirmedError](err)
	if !ok {
		delete(a.waits, name)
		if errors.Is(err, keystore.ErrNotFound) || errors.Is(err, events.ErrConflict) {
			return nil // nothing is published, or another server was first
		}
		return err
	}
	if why := waits.Error(); a.waits[name] != why {
		a.waits[name] = why
		a.log.Info("what is published waits for every server", "ring", string(name), "why", why)
	}
	return nil
}

// activate commits on the newest state. The request id comes from the ring's version,
// so servers that do so at once make one event.
func (a *activation) activate(ctx context.Context, ring keystore.Ring) error {
	confirmed := a.service.confirmer()
	_, _, err := a.service.commitRing(ctx, order{
		actor: "keytide", ring: ring.Name,
		intent: adminapi.Intent{
			Request: fmt.Sprintf("activate/%s/%d", ring.Name, ring.Version), Reason: "every policy server has confirmed it",
		},
		decide: func(state *events.State) (keystore.Change, error) {
			newest, err := ringOf(state, ring.Name)
			if err == nil && newest.Version != ring.Version {
				err = fmt.Errorf("ring %s: %w: it has changed since", ring.Name, events.ErrConflict)
			}
			if err != nil {
				return keystore.Change{}, err
			}
			return newest.Activate(confirmed(state))
		},
	})
	return err
}
