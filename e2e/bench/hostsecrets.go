package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"slices"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/events/ledger"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/host"
	"github.com/keytide/keytide/keystore/seal"
	"github.com/keytide/keytide/replication"
)

const (
	secretHosts    = 2000
	secretsAnEvent = 100 // as the policy server makes them
	secretsGoal    = 2000
)

var secretRows = []Row{{Names: []string{"host_secrets"}, Measure: measureSecrets}}

// measureSecrets offers new secrets to all hosts of a policy store in one mass
// rollover, by batches, as the policy server does. The core is one server with
// SyncAlways; each event is acknowledged, with fsync in the core and the replica,
// before the next is decided.
func measureSecrets(ctx context.Context) ([]Result, error) {
	d := &deployment{ksk: seal.NewKSK()}
	var err error
	if d.core, err = newCore(1, 0); err != nil {
		return nil, err
	}
	defer func() { d.close() }()
	if err := d.policyStore(ctx); err != nil {
		return nil, err
	}
	names, err := d.registerHosts(ctx)
	if err != nil {
		return nil, err
	}
	begun := time.Now()
	for batch := range slices.Chunk(names, secretsAnEvent) {
		if err := d.offerSecrets(ctx, batch); err != nil {
			return nil, err
		}
	}
	rate := secretHosts / time.Since(begun).Seconds()
	return []Result{{
		Name: "host_secrets", Value: rate, Unit: "hosts/s", Goal: fmt.Sprintf(">= %d", secretsGoal), Met: rate >= secretsGoal,
		Samples: secretHosts / secretsAnEvent,
		Note:    fmt.Sprintf("%d hosts in events of %d, one after the other; one core server, SyncAlways", secretHosts, secretsAnEvent),
	}}, nil
}

// policyStore starts a ledger of hosts with one policy server.
func (d *deployment) policyStore(ctx context.Context) error {
	link, err := d.dial("eu")
	if err != nil {
		return err
	}
	var l *ledger.Ledger
	err = settle(ctx, func(ctx context.Context) (err error) {
		l, err = ledger.Create(ctx, link.JetStream(), ledger.Config{
			Bucket: events.BucketName(events.Hosts, benchStore, 1), Replicas: 1, MaxBytes: benchBucketSize,
		})
		return err
	})
	if err != nil {
		return err
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	pin, err := d.foundKind(ctx, events.Hosts, l, key)
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(context.Background())
	d.stop = stop
	id := replication.Identity{Server: benchServer, Region: "eu", Key: key}
	d.writer, err = d.member(running, l, pin, id, link)
	return err
}

// registerHosts makes hosts of which each has an agent that can keep a new secret.
func (d *deployment) registerHosts(ctx context.Context) (names []string, err error) {
	for i := range secretHosts {
		name, secret := fmt.Sprintf("web-%04d", i), seal.Generate()
		names = append(names, name)
		err := d.changeHosts(ctx, []string{name}, map[string]keystore.Material{name: secret}, func(h host.Host) (host.Change, error) {
			return h.Register(name, []keystore.RingName{benchRing}, keystore.NewKey{KID: secret.KID(), Created: time.Now()}, host.Grant{})
		})
		if err != nil {
			return nil, err
		}
	}
	for batch := range slices.Chunk(names, secretsAnEvent) {
		err := d.changeHosts(ctx, batch, nil, func(h host.Host) (host.Change, error) {
			return h.See([]host.Instance{{ID: host.InstanceID{1}, Seen: time.Now(), Generation: h.Generation, Keeps: true}})
		})
		if err != nil {
			return nil, err
		}
	}
	return names, nil
}

func (d *deployment) offerSecrets(ctx context.Context, names []string) error {
	made := make(map[string]keystore.Material, len(names))
	for _, name := range names {
		made[name] = seal.Generate()
	}
	now := time.Now()
	return d.changeHosts(ctx, names, made, func(h host.Host) (host.Change, error) {
		return h.Offer(keystore.NewKey{KID: made[h.Name].KID(), Created: now}, now)
	})
}

// changeHosts commits the changes of some hosts in one event.
func (d *deployment) changeHosts(ctx context.Context, names []string, made map[string]keystore.Material, decide func(host.Host) (host.Change, error)) error {
	return d.patiently(ctx, func(s *events.State) (p replication.Proposal, err error) {
		changes := make([]host.Change, len(names))
		for i, name := range names {
			h, _ := s.Host(name)
			if changes[i], err = decide(h); err != nil {
				return p, err
			}
			if m := made[name]; !m.IsZero() {
				about := changes[i].Secret
				value, err := d.seal("host:"+name, about.Generation, seal.PurposeHostSecret, about.Created, m)
				if err != nil {
					return p, err
				}
				p.Puts = append(p.Puts, events.Put{Key: events.MaterialKey(m.KID()), Value: value})
			}
		}
		p.Actor, p.Reason = "bench", "measured"
		p.Type, p.Payload, err = events.EncodeHostChange(changes...)
		return p, err
	})
}
