package server

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"slices"

	"github.com/keytide/keytide/agentfeed/hub"
	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/keystore/bundle"
	"github.com/keytide/keytide/keystore/fips"
	"github.com/keytide/keytide/keystore/host"
	"github.com/keytide/keytide/replication"
)

// A service carries out what the admin API asks for.
type service struct {
	id     identity
	keys   *replication.Member
	hosts  *replication.Member
	vault  *vault
	source *source
	hub    *hub.Hub
	sights *sights
	log    *slog.Logger
	plans  plans
	// reference is the clock of slots. generate: this server makes keys of rings.
	reference reference
	generate  bool
	scheduler *scheduler
	rekeying  *rekeying
	signer    ed25519.PrivateKey // signs what is exported, as it does events
	// What a server that joins is told. joinBus is nil where the ledgers are this
	// server's alone.
	cfg      Config
	adminURL func() string
	joinBus  *adminapi.JoinBus
	core     func() adminapi.Core
	expiring func() []adminapi.Alarm // of certificates
	checkup  *checkup
}

var _ adminhttp.Service = (*service)(nil)

// ring returns a ring as it is now. A ring that is not there is named.
func (s *service) ring(name keystore.RingName) (ring keystore.Ring, err error) {
	s.keys.Replica().Read(func(state *events.State) { ring, err = ringOf(state, name) })
	return ring, err
}

func ringOf(state *events.State, name keystore.RingName) (keystore.Ring, error) {
	ring, ok := state.Ring(name)
	if !ok {
		return keystore.Ring{}, &hinted{
			error: fmt.Errorf("ring %s: %w", name, keystore.ErrNotFound),
			hint:  "see which rings there are:  keytide ring list",
		}
	}
	return ring, nil
}

// Rings implements adminhttp.Reader.
func (s *service) Rings(context.Context) (adminapi.Rings, error) {
	var rings []keystore.Ring
	s.keys.Replica().Read(func(state *events.State) { rings = state.Rings() })
	answer := adminapi.Rings{Rings: make([]adminapi.Ring, len(rings))}
	for i, r := range rings {
		answer.Rings[i] = ringView(s.id.Epoch, r)
	}
	return answer, nil
}

// Ring implements adminhttp.Reader.
func (s *service) Ring(_ context.Context, name keystore.RingName) (adminapi.Ring, error) {
	r, err := s.ring(name)
	if err != nil {
		return adminapi.Ring{}, err
	}
	return ringView(s.id.Epoch, r), nil
}

// Hosts implements adminhttp.Reader.
func (s *service) Hosts(context.Context) (adminapi.Hosts, error) {
	var hosts []host.Host
	s.hosts.Replica().Read(func(state *events.State) { hosts = state.Hosts() })
	open := s.connected()
	answer := adminapi.Hosts{Hosts: make([]adminapi.Host, len(hosts))}
	for i, h := range hosts {
		answer.Hosts[i] = hostView(h, len(open[h.Name]))
		s.seenView(&answer.Hosts[i], h, open[h.Name])
	}
	return answer, nil
}

// Status implements adminhttp.Reader.
func (s *service) Status(context.Context) (adminapi.Status, error) {
	var n keystore.N
	var rings []keystore.Ring
	s.keys.Replica().Read(func(state *events.State) { n, rings = state.N(), state.Rings() })
	confirmed := s.confirmations()
	answer := adminapi.Status{
		Store: s.id.Store, Server: s.id.Server, Epoch: s.id.Epoch, N: n,
		Servers: s.servers(n), FIPS: fips.Running(), Core: s.core(), Rings: make([]adminapi.RingStatus, len(rings)),
	}
	for i, r := range rings {
		answer.Rings[i] = adminapi.RingStatus{
			Name: string(r.Name), Version: r.Version, HeldBy: behind(r, confirmed), Behind: s.behindBy(r, confirmed),
			NextSlot: r.NextSlot, Hold: holdView(r.Hold), Incident: s.incident(r, confirmed),
		}
	}
	answer.Alarms = s.alarms()
	if rekey := s.rekeyView(); rekey.Phase != "none" {
		answer.Rekey = &rekey
	}
	return answer, nil
}

// alarms lists what is wrong, or was within the last day: in either ledger, of what
// agents are given, and of certificates.
func (s *service) alarms() []adminapi.Alarm {
	var alarms []adminapi.Alarm
	for _, m := range []*replication.Member{s.keys, s.hosts} {
		for _, a := range m.Alarms() {
			alarms = append(alarms, adminapi.Alarm{
				Ledger: m.Replica().Pin().Kind.String(), Kind: string(a.Kind), Key: a.Key, Text: a.Why,
				Since: a.Since, Ended: a.Ended,
			})
		}
	}
	alarms = append(alarms, s.ringAlarms()...)
	alarms = append(alarms, s.unvouched()...)
	alarms = append(alarms, s.rekeyAlarms()...)
	alarms = append(alarms, s.checkup.list()...)
	for _, f := range s.source.unfed() {
		alarms = append(alarms, adminapi.Alarm{
			Ledger: "feed", Kind: "material", Since: f.since,
			Text: f.err.Error() + "; agents keep what they had",
		})
	}
	return append(alarms, s.expiring()...)
}

// fingerprintOf names a member's key.
func fingerprintOf(m events.Member) string {
	name, err := bundle.FingerprintOf(m.PublicKey)
	if err != nil {
		return ""
	}
	return string(name)
}

// agents counts the agents that are connected, and those of them that have not been
// given what the replica holds: all of them while the hub has not got it itself, or
// feeds a ring as it was because its keys do not open.
func (s *service) agents() (connected, behind int) {
	n, _ := s.keys.Replica().Watch()
	fed := s.source.position().keys.N >= n && len(s.source.unfed()) == 0
	connected, behind = s.hub.Agents()
	if !fed {
		behind = connected
	}
	return connected, behind
}

// Reach implements adminhttp.Reader.
func (s *service) Reach(_ context.Context, name keystore.RingName, n keystore.N) (adminapi.Reach, error) {
	if _, err := s.ring(name); err != nil {
		return adminapi.Reach{}, err
	}
	return s.reach(name, n), nil
}

func (s *service) reach(name keystore.RingName, n keystore.N) adminapi.Reach {
	fed := s.source.position().keys.N >= n
	answer := adminapi.Reach{Ring: string(name), N: n, Lacking: []string{}}
	for _, stream := range s.hub.Streams() {
		if granted, ok := s.source.Host(stream.Host); !ok || !slices.Contains(granted.Rings, name) {
			continue
		}
		answer.Connected++
		if (!fed || stream.Behind) && !slices.Contains(answer.Lacking, stream.Host) {
			answer.Lacking = append(answer.Lacking, stream.Host)
		}
	}
	slices.Sort(answer.Lacking)
	return answer
}
