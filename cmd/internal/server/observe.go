package server

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/events/ledger"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/doctor"
	"github.com/keytide/keytide/replication"
)

// This file gathers what this server alone can see, for doctor.Examine to judge.

// observe looks at everything. whole also reads all of both ledgers: the replica's file,
// the bucket, and the core server's own files.
func (s *site) observe(ctx context.Context, whole bool) doctor.Observation {
	o := doctor.Observation{
		Server: s.id.Server, Region: s.id.Region, At: time.Now().UTC(), Store: s.id.Store, KSK: s.id.KSK.String(),
		Core: s.observeCore(ctx), Disk: s.observeDisk(), Certificates: s.observeCertificates(),
		Servers: s.observeServers(), Rings: s.observeRings(), Hosts: s.observeHosts(ctx),
	}
	for _, a := range s.service.alarms() {
		o.Alarms = append(o.Alarms, doctor.Alarm{Ledger: a.Ledger, Kind: a.Kind, Key: a.Key, Text: a.Text, Since: a.Since, Ended: a.Ended})
	}
	for _, m := range s.members() {
		o.Ledgers = append(o.Ledgers, s.observeLedger(ctx, m, whole))
	}
	return o
}

func (s *site) members() []*replication.Member { return []*replication.Member{s.keys, s.hosts} }

func (s *site) observeLedger(ctx context.Context, m *replication.Member, whole bool) doctor.Ledger {
	r, fresh := m.Replica(), m.Freshness()
	n, _ := r.Watch()
	l := doctor.Ledger{Kind: r.Pin().Kind.String(), Epoch: r.Pin().Epoch, State: fresh.State.String(), Why: fresh.Why, N: n}
	var err error
	if l.Marks, err = r.Marks(); err != nil {
		l.Bad, l.BadWhy = n, err.Error()
	}
	if !whole {
		info, err := m.Info(ctx)
		if err == nil {
			l.Bucket = bucketOf(info)
		}
		return l
	}
	if v := verifyLedger(ctx, r); v.FirstBad != nil && ctx.Err() == nil {
		l.Bad, l.BadWhy = *v.FirstBad, v.Why
	}
	l.Sealed = s.unopenable(r)
	flaws, examined, info, err := m.Examine(ctx)
	if info.Replicas > 0 {
		l.Bucket = bucketOf(info)
	}
	l.Flaws, l.Examined = flaws, examined
	if err != nil && fresh.State == events.Fresh {
		l.State, l.Why = events.Stale.String(), fmt.Sprintf("the bucket cannot be read: %v", err)
	}
	return l
}

func bucketOf(i ledger.Info) *doctor.Bucket {
	return &doctor.Bucket{
		Replicas: i.Replicas, Bytes: i.Bytes, MaxBytes: i.MaxBytes, MaxConsumers: i.MaxConsumers, Consumers: i.Consumers, Faults: i.Faults,
	}
}

// unopenable tries every key that lives. It keeps none.
func (s *site) unopenable(r *replication.Replica) (faults []string) {
	type owned struct {
		owner string
		kid   keystore.KID
	}
	var all []owned
	r.Read(func(state *events.State) {
		for _, ring := range state.Rings() {
			for _, k := range ring.Keys {
				all = append(all, owned{ringOwner(ring.Name), k.KID})
			}
		}
		for _, h := range state.Hosts() {
			for _, secret := range h.Secrets {
				all = append(all, owned{hostOwner(h.Name), secret.KID})
			}
		}
	})
	for _, key := range all {
		if _, err := s.service.vault.try(r, key.owner, key.kid); err != nil && stillThere(r, key.kid) && len(faults) < 16 {
			faults = append(faults, err.Error())
		}
	}
	return faults
}

// stillThere reports whether key material lives: a key may be destroyed while it is
// looked at.
func stillThere(r *replication.Replica, kid keystore.KID) (ok bool) {
	r.Read(func(state *events.State) { _, ok = state.Expect(events.MaterialKey(kid)) })
	return ok
}

func (s *site) observeCore(ctx context.Context) doctor.Core {
	view := s.coreView()
	c := doctor.Core{Kind: view.Kind, Size: view.Servers, Durability: view.Durability}
	for _, link := range s.links {
		if err := link.Fault(); err != nil {
			c.Fault = err.Error()
		}
	}
	if s.bus == nil {
		return c
	}
	c.Expected = []string{s.id.Server}
	if core := s.cfg.core(); core != nil {
		c.Expected = nil
		for _, server := range core.Servers {
			c.Expected = append(c.Expected, server.Server)
		}
	}
	c.Servers = s.coreServers(ctx)
	return c
}

// coreServers asks a second time where the servers do not agree: an entry may have been
// on its way.
func (s *site) coreServers(ctx context.Context) []doctor.CoreServer {
	var servers []doctor.CoreServer
	for range 3 {
		states, err := s.bus.States(ctx)
		if err != nil {
			s.log.Warn("states of the core's servers", "err", err)
			return nil
		}
		servers = nil
		for _, state := range states {
			server := doctor.CoreServer{Server: state.Server, SyncAlways: state.SyncAlways, MaxStore: state.MaxStore, Used: state.Used, Streams: []doctor.Stream{}}
			for _, stream := range state.Streams {
				if kind, ok := s.kindOf(stream.Name); ok {
					server.Streams = append(server.Streams, doctor.Stream{Ledger: kind, Msgs: stream.Msgs, First: stream.First, Last: stream.Last})
				}
			}
			servers = append(servers, server)
		}
		if agree(servers) {
			break
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
	return servers
}

func agree(servers []doctor.CoreServer) bool {
	msgs := make(map[string]uint64)
	for _, server := range servers {
		for _, stream := range server.Streams {
			if before, ok := msgs[stream.Ledger]; ok && before != stream.Msgs {
				return false
			}
			msgs[stream.Ledger] = stream.Msgs
		}
	}
	return true
}

// kindOf is the ledger that a stream keeps, if it is one of this store's.
func (s *site) kindOf(stream string) (kind string, ok bool) {
	for _, k := range []events.Kind{events.Keys, events.Hosts} {
		if stream == events.StreamName(events.BucketName(k, s.id.Store, s.id.Epoch)) {
			return k.String(), true
		}
	}
	return "", false
}

func (s *site) observeDisk() doctor.Disk {
	free, total, err := diskSpace(s.cfg.Dir)
	if err != nil {
		s.log.Warn("free space", "dir", s.cfg.Dir, "err", err)
	}
	return doctor.Disk{Dir: s.cfg.Dir, Free: free, Total: total}
}

func (s *site) observeCertificates() []doctor.Certificate {
	list := []doctor.Certificate{}
	for _, c := range s.certificates {
		if c.listener == "core" {
			continue // an alarm tells of those, and of their authority
		}
		list = append(list, doctor.Certificate{
			Name: "certificate of " + c.listener, File: c.cert, NotAfter: c.pair.Load().Leaf.NotAfter, Generated: !s.cfg.own(c.cert),
		})
	}
	caPath := s.cfg.Feed.CA
	if caPath == "" {
		caPath = filepath.Join(s.cfg.Dir, caFile)
	}
	for _, ca := range parseCAs(s.source.ca) {
		list = append(list, doctor.Certificate{Name: "CA for agents", File: caPath, NotAfter: ca.NotAfter, Generated: s.cfg.Feed.CA == ""})
	}
	return list
}

func (s *site) observeServers() []doctor.Server {
	n, _ := s.keys.Replica().Watch()
	views := s.service.views()
	list := []doctor.Server{}
	for i, v := range s.service.servers(n) {
		view, heard := views[v.ID]
		list = append(list, doctor.Server{
			ID: v.ID, Region: v.Region, Self: i == 0, State: v.State, N: v.N, Silent: view.Age, Heard: heard || i == 0,
			ClockOffset: time.Duration(v.ClockOffsetMS) * time.Millisecond, AgentsBehind: v.AgentsBehind, Excluded: v.Excluded,
		})
	}
	return list
}

func (s *site) observeRings() []doctor.Ring {
	var rings []keystore.Ring
	s.keys.Replica().Read(func(state *events.State) { rings = state.Rings() })
	servers := s.service.confirmations()
	list := []doctor.Ring{}
	for _, r := range rings {
		ring := doctor.Ring{Name: string(r.Name)}
		if !r.Hold.IsZero() {
			ring.HeldBy = behind(r, servers)
		}
		if f, ok := s.service.scheduler.failing(r.Name); ok {
			ring.Failing = f.err.Error()
		}
		if open := s.service.incident(r, servers); open != nil {
			ring.Incident = waits(open)
		}
		list = append(list, ring)
	}
	return list
}

func (s *site) observeHosts(ctx context.Context) []doctor.Host {
	hosts, err := s.service.Hosts(ctx)
	if err != nil {
		return nil
	}
	list := []doctor.Host{}
	for _, h := range hosts.Hosts {
		if h.Clones > 0 {
			list = append(list, doctor.Host{Name: h.Name, Cloned: fmt.Sprintf("%d copies that should not be", h.Clones)})
		}
	}
	slices.SortFunc(list, func(a, b doctor.Host) int { return strings.Compare(a.Name, b.Name) })
	return list
}

func parseCAs(text []byte) (list []*x509.Certificate) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return list
		}
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			list = append(list, cert)
		}
	}
}
