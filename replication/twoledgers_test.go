package replication_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/events/ledger"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/host"
	"github.com/keytide/keytide/replication"
	"github.com/keytide/keytide/replication/bus"
)

// A store is one ledger of a policy server that is started and stopped many times.
type store struct {
	pin    replication.Pin
	decide replication.Decide

	replica *replication.Replica
	member  *replication.Member

	mu    sync.Mutex // guards the fields below
	acked keystore.N // the newest that was acknowledged
	hash  events.Hash
}

func (s *store) bucket() string { return events.BucketName(s.pin.Kind, s.pin.Store, s.pin.Epoch) }

func (s *store) found(t *testing.T, b *bus.Bus, key ed25519.PrivateKey) {
	t.Helper()
	js, nc, err := b.JetStream("found")
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	l, err := ledger.Create(t.Context(), js, ledger.Config{Bucket: s.bucket()})
	if err != nil {
		t.Fatal(err)
	}
	cfg := replication.NewGenesis(t, "ps-1", key)
	cfg.Genesis.Kind = s.pin.Kind
	first, err := replication.Found(t.Context(), l, cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.pin.Genesis = first.Hash()
}

// open starts from the files: what was acknowledged is there before the core is asked.
func (s *store) open(t *testing.T, b *bus.Bus, cfg replication.MemberConfig, path string) (closed func()) {
	t.Helper()
	js, nc, err := b.JetStream("member")
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Log, err = ledger.Open(t.Context(), js, s.bucket()); err != nil {
		t.Fatal(err)
	}
	if s.replica, err = replication.OpenReplica(path, s.pin); err != nil {
		t.Fatal(err)
	}
	if s.acked > 0 {
		if rec, err := s.replica.Record(s.acked); err != nil || rec.Hash() != s.hash {
			t.Errorf("%v: event %d is not the one that was acknowledged: %v", s.pin.Kind, s.acked, err)
		}
	}
	cfg.Replica = s.replica
	if s.member, err = replication.New(cfg); err != nil {
		t.Fatal(err)
	}
	return func() {
		nc.Close()
		if err := s.replica.Close(); err != nil {
			t.Error(err)
		}
	}
}

// write commits until ctx ends.
func (s *store) write(ctx context.Context, acks chan<- struct{}) error {
	for ctx.Err() == nil {
		got, err := s.member.Commit(ctx, s.decide)
		switch {
		case err == nil:
			rec, err := s.replica.Record(got.N)
			if err != nil {
				return err
			}
			s.mu.Lock()
			s.acked, s.hash = got.N, rec.Hash()
			s.mu.Unlock()
			select {
			case acks <- struct{}{}:
			case <-ctx.Done():
			}
		case errors.Is(err, events.ErrUnavailable):
			select {
			case <-time.After(time.Millisecond): // it has not read the ledger yet
			case <-ctx.Done():
			}
		case !errors.Is(err, events.ErrUnknown):
			return err
		}
	}
	return nil
}

// TestTwoLedgersOverRestarts has one policy server with the ledger of a key store and
// that of a policy store on one bus. It is stopped a hundred times while both are
// written to, with the bus before or after it: nothing acknowledged is lost, and both
// histories are whole.
func TestTwoLedgersOverRestarts(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	dir, key := storeDir(t), replication.NewKey(t)
	stores := []*store{
		{pin: replication.Pin{Kind: events.Keys, Store: "main", Epoch: 1}, decide: rollOrCreate(t)},
		{pin: replication.Pin{Kind: events.Hosts, Store: "main", Epoch: 1}, decide: registerNext(t)},
	}
	for round := range 100 {
		b, err := bus.Start(bus.Config{StoreDir: filepath.Join(dir, "bus"), ServerName: "ps-1", MaxStore: 3 << 30})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		acks := make(chan struct{})
		var group sync.WaitGroup
		var closers []func()
		for _, s := range stores {
			if round == 0 {
				s.found(t, b, key)
			}
			cfg := replication.MemberConfig{Seed: seed, Identity: replication.Identity{Server: "ps-1", Region: "eu", Address: "127.0.0.1:1", Key: key}}
			closers = append(closers, s.open(t, b, cfg, filepath.Join(dir, s.pin.Kind.String()+".db")))
			group.Go(func() {
				if err := s.member.Run(ctx); err != nil {
					t.Errorf("round %d: Run = %v", round, err)
				}
			})
			group.Go(func() {
				if err := s.write(ctx, acks); err != nil {
					t.Errorf("round %d: Commit = %v", round, err)
				}
			})
		}
		for range 1 + r.IntN(5) {
			<-acks
		}
		if r.IntN(3) == 0 {
			if err := b.Close(); err != nil {
				t.Error(err)
			}
		}
		cancel()
		group.Wait()
		for _, fn := range closers {
			fn()
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
	for _, s := range stores {
		replica, err := replication.OpenReplica(filepath.Join(dir, s.pin.Kind.String()+".db"), s.pin)
		if err != nil {
			t.Fatal(err)
		}
		defer replica.Close()
		proved, err := events.Verify(replica.Records(1, 1<<62), s.pin.Genesis)
		if err != nil || proved.Head.N < s.acked {
			t.Errorf("%v: verified up to event %d, %v; want at least %d", s.pin.Kind, proved.Head.N, err, s.acked)
		}
		t.Logf("%v: %d events", s.pin.Kind, proved.Events)
	}
}

func rollOrCreate(tb testing.TB) replication.Decide {
	return func(s *events.State) (replication.Proposal, error) {
		if _, ok := s.Ring("sso"); !ok {
			return replication.CreateRing(tb, "sso")(s)
		}
		return replication.Roll(tb, "sso", "")(s)
	}
}

func registerNext(tb testing.TB) replication.Decide {
	return func(s *events.State) (replication.Proposal, error) {
		name := fmt.Sprintf("h%d", s.N())
		secret, put := replication.NewSecret(tb, name)
		c, err := host.Host{}.Register(name, []keystore.RingName{"sso"}, secret, host.Grant{})
		if err != nil {
			return replication.Proposal{}, err
		}
		kind, payload, err := events.EncodeHostChange(c)
		return replication.Proposal{Type: kind, Payload: payload, Actor: "test", Puts: []events.Put{put}}, err
	}
}
