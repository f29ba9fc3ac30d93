package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/keytide/keytide/replication/wan"
)

const mirrorBucket = "bare"

// A mirror is what NATS itself offers for a copy elsewhere: a leaf node with a mirror of
// a bucket, with the settings that it has by default, behind a link as slow as the
// edges'.
type mirror struct {
	dir       string
	hub, leaf *server.Server
	link      *wan.Link
	conns     []*nats.Conn
	origin    jetstream.KeyValue
	copy      jetstream.JetStream
	puts      uint64
}

func newMirror(ctx context.Context) (_ *mirror, err error) {
	m := &mirror{}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	if m.dir, err = os.MkdirTemp("", "keytide-bench-mirror-"); err != nil {
		return nil, err
	}
	hub := m.options("hub")
	hub.LeafNode = server.LeafNodeOpts{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoAdvertise: true}
	if m.hub, err = startPlain(hub); err != nil {
		return nil, err
	}
	if m.link, err = wan.Open(wan.Config{Target: fmt.Sprintf("127.0.0.1:%d", hub.LeafNode.Port), Latency: cutLatency}); err != nil {
		return nil, err
	}
	leaf := m.options("leaf")
	leaf.LeafNode.Remotes = []*server.RemoteLeafOpts{{URLs: []*url.URL{{Scheme: "nats-leaf", Host: m.link.Addr()}}}}
	if m.leaf, err = startPlain(leaf); err != nil {
		return nil, err
	}
	return m, m.fill(ctx)
}

func (m *mirror) options(name string) *server.Options {
	return &server.Options{
		ServerName: name, JetStream: true, JetStreamDomain: name, StoreDir: filepath.Join(m.dir, name), SyncAlways: true,
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
	}
}

func startPlain(opts *server.Options) (*server.Server, error) {
	s, err := server.NewServer(opts)
	if err != nil {
		return nil, err
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		return nil, errors.New("a bare NATS server does not start")
	}
	return s, nil
}

// fill makes the bucket and its mirror, and waits until the mirror follows.
func (m *mirror) fill(ctx context.Context) error {
	origin, err := m.connect(m.hub)
	if err != nil {
		return err
	}
	if m.copy, err = m.connect(m.leaf); err != nil {
		return err
	}
	m.origin, err = origin.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: mirrorBucket, Storage: jetstream.FileStorage})
	if err != nil {
		return err
	}
	_, err = m.copy.CreateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket: mirrorBucket, Storage: jetstream.FileStorage, Mirror: &jetstream.StreamSource{Name: mirrorBucket, Domain: "hub"},
	})
	if err != nil {
		return err
	}
	return errors.Join(m.put(ctx), m.caughtUp(ctx))
}

func (m *mirror) connect(s *server.Server) (jetstream.JetStream, error) {
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		return nil, err
	}
	m.conns = append(m.conns, nc)
	return jetstream.New(nc)
}

func (m *mirror) put(ctx context.Context) error {
	m.puts++
	_, err := m.origin.Put(ctx, fmt.Sprintf("log.%d", m.puts), make([]byte, 300))
	return err
}

// caughtUp waits until the mirror has every put.
func (m *mirror) caughtUp(ctx context.Context) error {
	for {
		stream, err := m.copy.Stream(ctx, "KV_"+mirrorBucket)
		if err == nil && stream.CachedInfo().State.LastSeq >= m.puts {
			return nil
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}

func (m *mirror) close() {
	for _, nc := range m.conns {
		nc.Close()
	}
	for _, s := range []*server.Server{m.leaf, m.hub} {
		if s != nil {
			s.Shutdown()
			s.WaitForShutdown()
		}
	}
	if m.link != nil {
		m.link.Close()
	}
	os.RemoveAll(m.dir)
}
