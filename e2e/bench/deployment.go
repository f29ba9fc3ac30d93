package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/events/ledger"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/seal"
	"github.com/keytide/keytide/replication"
	"github.com/keytide/keytide/replication/bus"
)

const (
	benchStore  = "bench"
	bareStore   = "bare"
	benchRing   = keystore.RingName("sso")
	benchServer = "ps-1"

	benchRetain     = 8
	benchBucketSize = 256 << 20 // bytes
)

// A deployment is a core, a policy server that writes, another that only reads, and
// beside them a bucket for the bare operation.
type deployment struct {
	*core
	ksk    *seal.KSK
	link   *timedLog
	writer *replication.Member
	other  *replication.Member
	bare   *bareBatch
	stop   context.CancelFunc
	done   []<-chan error
}

// A timedLog notes when a batch was published and when the core answered.
type timedLog struct {
	*ledger.Ledger
	sent, answered time.Time
	last           events.Batch
}

func (l *timedLog) Append(ctx context.Context, b events.Batch) (events.Revision, error) {
	l.sent = time.Now()
	rev, err := l.Ledger.Append(ctx, b)
	l.answered, l.last = time.Now(), b
	return rev, err
}

// newDeployment starts a core of so many servers, whose regions are latency apart, one
// way. The writer is in eu, the reader in us.
func newDeployment(ctx context.Context, servers int, latency time.Duration) (_ *deployment, err error) {
	d := &deployment{ksk: seal.NewKSK()}
	if d.core, err = newCore(servers, latency); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	writer, err := d.dial("eu")
	if err != nil {
		return nil, err
	}
	l, err := d.bucket(ctx, writer, benchStore)
	if err != nil {
		return nil, err
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	pin, err := d.found(ctx, l, key)
	if err != nil {
		return nil, err
	}
	d.link = &timedLog{Ledger: l}
	running, stop := context.WithCancel(context.Background())
	d.stop = stop
	if d.writer, err = d.member(running, d.link, pin, replication.Identity{Server: benchServer, Region: "eu", Key: key}, writer); err != nil {
		return nil, err
	}
	other, err := d.dial(regions[min(1, servers-1)])
	if err != nil {
		return nil, err
	}
	if d.other, err = d.reader(ctx, running, other, pin, "ps-2"); err != nil {
		return nil, err
	}
	if err := d.createRing(ctx); err != nil {
		return nil, err
	}
	// Once the ring is full, every rollover's batch has the same messages in it: the
	// event, a new key, the ring's state, the end of the oldest key, the head.
	for range benchRetain + 1 {
		if err := d.rollover(ctx); err != nil {
			return nil, err
		}
	}
	d.bare, err = newBareBatch(ctx, d, d.link.last)
	return d, err
}

// bucket makes the bucket of a store's keys on every server of the core.
func (d *deployment) bucket(ctx context.Context, link *bus.Link, store string) (l *ledger.Ledger, err error) {
	err = settle(ctx, func(ctx context.Context) (err error) {
		l, err = ledger.Create(ctx, link.JetStream(), ledger.Config{
			Bucket: events.BucketName(events.Keys, store, 1), Replicas: len(d.servers), MaxBytes: benchBucketSize,
		})
		if errors.Is(err, events.ErrBucketExists) { // an earlier try made it
			l, err = ledger.Open(ctx, link.JetStream(), events.BucketName(events.Keys, store, 1))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return l, d.lead(ctx, link, l.Bucket(), "eu")
}

// reader starts a policy server that has joined and only follows.
func (d *deployment) reader(ctx, running context.Context, link *bus.Link, pin replication.Pin, name string) (*replication.Member, error) {
	id, err := d.joined(ctx, name)
	if err != nil {
		return nil, err
	}
	return d.follower(ctx, running, link, pin, id)
}

func (d *deployment) follower(ctx, running context.Context, link *bus.Link, pin replication.Pin, id replication.Identity) (*replication.Member, error) {
	var l *ledger.Ledger
	err := settle(ctx, func(ctx context.Context) (err error) {
		l, err = ledger.Open(ctx, link.JetStream(), events.BucketName(events.Keys, benchStore, 1))
		return err
	})
	if err != nil {
		return nil, err
	}
	return d.member(running, l, pin, id, link)
}

// joined makes a server a member of the ledger.
func (d *deployment) joined(ctx context.Context, name string) (replication.Identity, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return replication.Identity{}, err
	}
	id := replication.Identity{Server: name, Region: "edge", Key: key}
	return id, d.join(ctx, id)
}

func (d *deployment) join(ctx context.Context, id replication.Identity) error {
	p256, err := seal.P256(seal.GenerateP256())
	if err != nil {
		return err
	}
	joined := events.ServerChange{
		Type: events.TypeServerJoined, ID: id.Server, Region: id.Region,
		PublicKey: id.Key.Public().(ed25519.PublicKey), P256Key: p256.PublicKey().Bytes(),
	}
	rand.Read(joined.MAC[:]) // nobody here has the membership key to check it with
	for _, change := range []events.ServerChange{
		{Type: events.TypeServerInvited, ID: id.Server, Region: id.Region, Token: events.TokenHash(id.Server), Expires: time.Now().Add(time.Hour)},
		joined,
	} {
		payload, err := change.Encode()
		if err != nil {
			return err
		}
		err = d.patiently(ctx, func(*events.State) (replication.Proposal, error) {
			return replication.Proposal{Type: change.Type, Payload: payload, Actor: "bench"}, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *deployment) member(running context.Context, log replication.Log, pin replication.Pin, id replication.Identity, link *bus.Link) (*replication.Member, error) {
	replica, err := replication.OpenReplica(filepath.Join(d.dir, id.Server+".db"), pin)
	if err != nil {
		return nil, err
	}
	id.Address = "127.0.0.1:7480"
	m, err := replication.New(replication.MemberConfig{Log: log, Replica: replica, Identity: id, Reconnect: link.Reconnect, Turned: link.Turned})
	if err != nil {
		return nil, err
	}
	done := make(chan error, 1)
	d.done = append(d.done, done)
	go func() { done <- errors.Join(m.Run(running), replica.Close()) }()
	return m, nil
}

func (d *deployment) found(ctx context.Context, l *ledger.Ledger, key ed25519.PrivateKey) (replication.Pin, error) {
	return d.foundKind(ctx, events.Keys, l, key)
}

func (d *deployment) foundKind(ctx context.Context, kind events.Kind, l *ledger.Ledger, key ed25519.PrivateKey) (replication.Pin, error) {
	membership := seal.Generate()
	p256, err := seal.P256(seal.GenerateP256())
	if err != nil {
		return replication.Pin{}, err
	}
	genesis := events.Genesis{
		Store: benchStore, Kind: kind, Epoch: 1, KSK: d.ksk.ID(), Membership: membership.KID(), Dev: true,
		Founder: events.Member{ID: benchServer, Region: "eu", PublicKey: key.Public().(ed25519.PublicKey), P256Key: p256.PublicKey().Bytes()},
	}
	rand.Read(genesis.StoreID[:])
	// Nothing here unlocks the store again, so its one slot stands for a slot only by
	// its size.
	ksk, err := events.KSKValue{ID: d.ksk.ID(), Slots: []events.Slot{{Record: make([]byte, 87)}}}.Encode()
	if err != nil {
		return replication.Pin{}, err
	}
	value, err := d.seal("member", 1, seal.PurposeMembership, time.Now(), membership)
	if err != nil {
		return replication.Pin{}, err
	}
	first, err := replication.Found(ctx, l, replication.FoundConfig{
		Genesis: genesis, Key: key, KSK: ksk, Membership: value, Actor: "bench",
	})
	return replication.Pin{Kind: kind, Store: benchStore, Epoch: 1, Genesis: first.Hash()}, err
}

func (d *deployment) seal(owner string, generation uint64, purpose seal.Purpose, at time.Time, m keystore.Material) ([]byte, error) {
	at = at.UTC().Truncate(time.Millisecond)
	record, err := d.ksk.Seal(seal.Place{
		Store: benchStore, Owner: owner, KID: m.KID(), Generation: generation, Purpose: purpose,
		Alg: seal.AlgHKDFSHA256, Created: at,
	}, m)
	if err != nil {
		return nil, err
	}
	return events.MaterialValue{
		Purpose: uint8(purpose), Alg: uint8(seal.AlgHKDFSHA256), Generation: generation, Created: at,
		Owner: owner, Record: record,
	}.Encode()
}

// createRing makes a ring that keeps few old keys and may roll over at any time.
func (d *deployment) createRing(ctx context.Context) error {
	var keys [4]keystore.NewKey
	made := map[keystore.KID]keystore.Material{}
	for i := range keys {
		m := seal.Generate()
		keys[i] = keystore.NewKey{KID: m.KID(), Created: time.Now()}
		made[m.KID()] = m
	}
	err := d.commit(ctx, made, func(*events.State) (keystore.Change, error) {
		return keystore.Create(benchRing, keystore.Policy{MaxSession: time.Hour}, keystore.FirstKeys{
			Current: keys[0], Future: keys[1], Static: keys[2], SessionTicket: keys[3],
		})
	})
	if err != nil {
		return err
	}
	return d.commit(ctx, nil, func(s *events.State) (keystore.Change, error) {
		ring, _ := s.Ring(benchRing)
		return ring.SetPolicy(keystore.PolicyRequest{Policy: keystore.Policy{MaxSession: time.Hour, Retain: benchRetain}, Force: true})
	})
}

func (d *deployment) rollover(ctx context.Context) error {
	m := seal.Generate()
	return d.commit(ctx, map[keystore.KID]keystore.Material{m.KID(): m}, func(s *events.State) (keystore.Change, error) {
		ring, _ := s.Ring(benchRing)
		return ring.Rollover(keystore.Rollover{
			Trigger: keystore.Manual, Now: time.Now(), Future: keystore.NewKey{KID: m.KID(), Created: time.Now()},
			Servers: []keystore.Confirmation{{Server: benchServer, Region: "eu", Applied: s.N()}},
		})
	})
}

func (d *deployment) commit(ctx context.Context, made map[keystore.KID]keystore.Material, decide func(*events.State) (keystore.Change, error)) error {
	return d.patiently(ctx, func(s *events.State) (p replication.Proposal, err error) {
		change, err := decide(s)
		if err != nil {
			return p, err
		}
		for _, k := range change.Made {
			value, err := d.seal("ring:"+string(benchRing), uint64(change.Version), seal.PurposeDynamic, k.Created, made[k.KID])
			if err != nil {
				return p, err
			}
			p.Puts = append(p.Puts, events.Put{Key: events.MaterialKey(k.KID), Value: value})
		}
		p.Actor, p.Reason = "bench", "measured"
		p.Type, p.Payload, err = events.EncodeRingChange(change)
		return p, err
	})
}

// patiently commits, also where the writer has just been started and has not read the
// ledger yet.
func (d *deployment) patiently(ctx context.Context, decide replication.Decide) error {
	for {
		_, err := d.writer.Commit(ctx, decide)
		if !errors.Is(err, events.ErrUnavailable) || ctx.Err() != nil {
			return err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (d *deployment) close() {
	if d.stop != nil {
		d.stop()
	}
	for _, done := range d.done {
		<-done
	}
	if d.bare != nil {
		d.bare.close()
	}
	d.core.close()
}

// A bareBatch publishes batches of the same messages with a NATS client alone, and
// reads them with a pull consumer.
type bareBatch struct {
	js       jetstream.JetStream
	sizes    []int // of the messages
	messages chan received
	consume  jetstream.ConsumeContext
}

type received struct {
	sequence uint64
	at       time.Time
}

// newBareBatch makes a bucket with the ledger's settings and a consumer on it.
func newBareBatch(ctx context.Context, d *deployment, batch events.Batch) (*bareBatch, error) {
	writer, err := d.dial("eu")
	if err != nil {
		return nil, err
	}
	if _, err := d.bucket(ctx, writer, bareStore); err != nil {
		return nil, err
	}
	reader, err := d.dial(regions[min(1, len(d.servers)-1)])
	if err != nil {
		return nil, err
	}
	js := writer.JetStream()
	bucket := events.BucketName(events.Keys, bareStore, 1)
	b := &bareBatch{js: js, messages: make(chan received, 64)}
	b.sizes = append(b.sizes, len(batch.Record))
	for _, p := range batch.Puts {
		b.sizes = append(b.sizes, len(p.Value))
	}
	b.sizes = append(b.sizes, len(batch.Head.Encode()))
	consumer, err := reader.JetStream().CreateConsumer(ctx, events.StreamName(bucket), jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckNonePolicy, MemoryStorage: true, Replicas: 1,
	})
	if err != nil {
		return nil, err
	}
	b.consume, err = consumer.Consume(func(m jetstream.Msg) {
		at := time.Now()
		if meta, err := m.Metadata(); err == nil {
			select {
			case b.messages <- received{meta.Sequence.Stream, at}:
			default: // nobody is waiting for it
			}
		}
	})
	return b, err
}

func (b *bareBatch) size() int { return len(b.sizes) }

// publish sends one batch and returns the sequence of its last message.
func (b *bareBatch) publish(ctx context.Context) (uint64, error) {
	bucket := events.BucketName(events.Keys, bareStore, 1)
	msgs := make([]*nats.Msg, len(b.sizes))
	for i, size := range b.sizes {
		key := fmt.Sprintf("value.%d", i)
		msgs[i] = &nats.Msg{Subject: events.Subject(bucket, key), Data: make([]byte, size), Header: nats.Header{}}
	}
	ack, err := jetstreamext.PublishMsgBatch(ctx, b.js, msgs)
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

// seen returns when the consumer had the message.
func (b *bareBatch) seen(ctx context.Context, sequence uint64) (time.Time, error) {
	for {
		select {
		case m := <-b.messages:
			if m.sequence >= sequence {
				return m.at, nil
			}
		case <-ctx.Done():
			return time.Time{}, ctx.Err()
		}
	}
}

func (b *bareBatch) close() {
	if b.consume != nil {
		b.consume.Stop()
	}
}
