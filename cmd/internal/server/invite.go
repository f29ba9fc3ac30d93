package server

import (
	"context"
	"crypto/ed25519"
	"crypto/subtle"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/keystore/seal"
	"github.com/keytide/keytide/keystore/secretfile"
	"github.com/keytide/keytide/replication"
)

// This file lets policy servers join. An invitation is an event with the hash of its
// token; whoever shows the token and brings keys of its own becomes a member of both
// ledgers, by a request that may be sent again.

// InviteServer implements adminhttp.Changer.
func (s *service) InviteServer(ctx context.Context, actor, id string, req adminapi.InviteServer) (adminapi.ServerInvited, error) {
	hash, err := parsePin(req.TokenHash)
	if err != nil {
		return adminapi.ServerInvited{}, fmt.Errorf("token hash: %w", err)
	}
	if err := keystore.CheckName(req.Region); err != nil {
		return adminapi.ServerInvited{}, fmt.Errorf("region %q: %w", req.Region, err)
	}
	if s.joinBus == nil {
		return adminapi.ServerInvited{}, &hinted{
			error: fmt.Errorf("server %s: %w: the ledgers are server %s's alone, and no other can reach them", id, keystore.ErrRefused, s.id.Server),
			hint:  "policy servers share a core of 1, 3 or 5 servers, or a NATS that is there already: see bus in the configuration",
		}
	}
	c := events.ServerChange{
		Type: events.TypeServerInvited, ID: id, Region: req.Region, Token: hash, Expires: now().Add(time.Duration(req.TTLSeconds) * time.Second),
	}
	receipt, err := s.commitServer(ctx, s.keys, actor, req.Intent, c, func(state *events.State) error {
		if _, live := liveMember(state, id); live {
			return &hinted{
				error: fmt.Errorf("server %s: %w: it is a member", id, keystore.ErrExists),
				hint:  "choose another id; or, if its machine is lost, first:  keytide server forget " + id,
			}
		}
		return nil
	})
	if err != nil {
		return adminapi.ServerInvited{}, err
	}
	made, err := events.DecodeServerChange(receipt.Event.Type, receipt.Event.Payload)
	if err != nil {
		return adminapi.ServerInvited{}, err
	}
	ca, err := s.adminCA()
	s.log.Info("server invited", "server", id, "region", req.Region, "n", uint64(receipt.N), "actor", actor)
	return adminapi.ServerInvited{
		Receipt: receiptView(receipt), Server: id, Region: made.Region, ExpiresAt: made.Expires.UTC(),
		Store: s.id.Store, Epoch: s.id.Epoch, KSK: s.newestKSK().String(), Genesis: adminapi.Pins(s.id.Genesis),
		Servers: []string{s.adminURL()}, CA: ca,
	}, err
}

// adminCA is what a client of the admin API trusts; empty where the certificate is
// the operator's.
func (s *service) adminCA() (string, error) {
	if s.cfg.Admin.Cert != "" {
		return "", nil
	}
	text, err := os.ReadFile(filepath.Join(s.cfg.Dir, caFile))
	return string(text), err
}

// JoinServer implements adminhttp.Changer.
func (s *service) JoinServer(ctx context.Context, token string, req adminapi.Join) (adminapi.Joined, error) {
	c := events.ServerChange{
		Type: events.TypeServerJoined, ID: req.Server, Region: req.Region, PublicKey: req.PublicKey, P256Key: req.P256Key, Nkey: req.Nkey,
	}
	hash := events.TokenHash(token)
	// A stranger's request costs a look into memory: it neither writes nor waits.
	var err error
	s.keys.Replica().Read(func(state *events.State) {
		m, live := liveMember(state, c.ID)
		if !live || !sameServer(m, c) || subtle.ConstantTimeCompare(m.Token[:], hash[:]) != 1 {
			err = admitted(state, c, hash)
		}
	})
	if err != nil {
		s.log.Warn("join refused", "server", c.ID, "err", err)
		return adminapi.Joined{}, err
	}
	if s.joinBus == nil {
		return adminapi.Joined{}, fmt.Errorf("server %s: %w: the ledgers are server %s's alone, and no other can reach them", c.ID, keystore.ErrRefused, s.id.Server)
	}
	ca, caKey, err := s.storeCA()
	if err != nil {
		return adminapi.Joined{}, err
	}
	defer clear(caKey)
	tokens, err := secretfile.Read(s.cfg.Admin.Tokens)
	if err != nil {
		return adminapi.Joined{}, err
	}
	n, err := s.joinLedger(ctx, s.keys, c, func(state *events.State) error { return admitted(state, c, hash) })
	if err != nil {
		return adminapi.Joined{}, err
	}
	hosts, err := s.joinLedger(ctx, s.hosts, c, func(*events.State) error { return nil })
	if err != nil {
		return adminapi.Joined{}, fmt.Errorf("server %s is a member of the ledger of keys (event %d), but not of the one of hosts: %w", c.ID, n, err)
	}
	answer := adminapi.Joined{N: n, HostsN: hosts, CA: ca, Tokens: string(tokens), Bus: *s.joinBus}
	to := seal.Address{Store: s.id.Store, Epoch: s.id.Epoch, Server: c.ID}
	newest := s.newestKSK() // it may be another than when it was invited
	ksk, ok := s.vault.ksk(newest)
	if !ok {
		return adminapi.Joined{}, fmt.Errorf("key store key %s: %w: %w", newest, events.ErrUnavailable, errNoKSK)
	}
	answer.KSKID = newest.String()
	if answer.KSK, err = ksk.SealTo(c.P256Key, to); err != nil {
		return adminapi.Joined{}, err
	}
	if answer.Others, err = s.othersFor(c.P256Key, to, newest); err != nil {
		return adminapi.Joined{}, err
	}
	to.Content = seal.ContentCA
	if answer.CAKey, err = seal.SealTo(c.P256Key, to, caKey); err != nil {
		return adminapi.Joined{}, err
	}
	s.log.Info("server joined", "server", c.ID, "region", c.Region, "n", uint64(n))
	return answer, nil
}

// othersFor are the key store keys besides the newest that something is still sealed
// under, for a server that joins during a rekey.
func (s *service) othersFor(key []byte, to seal.Address, newest keystore.KID) (others []adminapi.JoinKSK, err error) {
	var seen []keystore.KID
	for _, k := range []events.KSKState{kskOf(s.keys), kskOf(s.hosts)} {
		for _, id := range []keystore.KID{k.Sealing, k.Former} {
			if id == newest || id == (keystore.KID{}) || slices.Contains(seen, id) {
				continue
			}
			seen = append(seen, id)
			ksk, ok := s.vault.ksk(id)
			if !ok {
				return nil, fmt.Errorf("key store key %s: %w: %w", id, events.ErrUnavailable, errNoKSK)
			}
			envelope, err := ksk.SealTo(key, to)
			if err != nil {
				return nil, err
			}
			others = append(others, adminapi.JoinKSK{ID: id.String(), Envelope: envelope})
		}
	}
	return others, nil
}

// storeCA reads the store's own CA, with which every policy server makes its
// certificate.
func (s *service) storeCA() (ca string, key []byte, err error) {
	text, err := os.ReadFile(filepath.Join(s.cfg.Dir, caFile))
	if err != nil {
		return "", nil, fmt.Errorf("the store's CA: %w", err)
	}
	private, err := secretfile.Read(filepath.Join(s.cfg.Dir, caKeyFile))
	if err != nil {
		return "", nil, &hinted{
			error: fmt.Errorf("the store's CA: %w", err),
			hint:  "a new server gets its certificate from it: join by a server that has tls/ca.key in its directory",
		}
	}
	defer clear(private)
	block, _ := pem.Decode(private)
	if block == nil {
		return "", nil, fmt.Errorf("the store's CA: %s holds no key", caKeyFile)
	}
	return string(text), block.Bytes, nil
}

// sameServer reports whether a member joined with the keys that c brings.
func sameServer(m events.Member, c events.ServerChange) bool {
	return m.Region == c.Region && m.PublicKey.Equal(ed25519.PublicKey(c.PublicKey)) && m.Nkey == c.Nkey &&
		subtle.ConstantTimeCompare(m.P256Key, c.P256Key) == 1
}

// admitted reports why a server must not join the ledger of keys. It says nothing of
// invitations to who has not shown the token.
func admitted(state *events.State, c events.ServerChange, token events.Hash) error {
	unknown := fmt.Errorf("%w: no invitation of server %s has this token", adminhttp.ErrUnauthorized, c.ID)
	m, live := liveMember(state, c.ID)
	if live && subtle.ConstantTimeCompare(m.Token[:], token[:]) == 1 {
		return &hinted{
			error: fmt.Errorf("server %s: %w: the invitation was used by a server with other keys", c.ID, keystore.ErrExists),
			hint:  "if that was not you, somebody else has the invitation:  keytide server forget " + c.ID,
		}
	}
	invited, ok := state.Invitation(c.ID)
	if live || !ok || subtle.ConstantTimeCompare(invited.Token[:], token[:]) != 1 {
		return unknown
	}
	if now().After(invited.Expires) {
		return &hinted{
			error: fmt.Errorf("server %s: %w: its invitation expired at %s", c.ID, keystore.ErrRefused, invited.Expires.UTC().Format(time.RFC3339)),
			hint:  fmt.Sprintf("invite it again:  keytide server invite %s --region %s", c.ID, invited.Region),
		}
	}
	if invited.Region != c.Region {
		return fmt.Errorf("server %s: %w: it is invited to region %s, not %s", c.ID, keystore.ErrInvalid, invited.Region, c.Region)
	}
	return nil
}

// joinLedger makes a server a member of one ledger, unless it is one with these keys.
// check says what is against it.
func (s *service) joinLedger(ctx context.Context, m *replication.Member, c events.ServerChange, check func(*events.State) error) (keystore.N, error) {
	var n keystore.N
	receipt, err := m.Commit(ctx, func(state *events.State) (replication.Proposal, error) {
		if have, live := liveMember(state, c.ID); live && sameServer(have, c) {
			n = have.Joined
			return replication.Proposal{}, errDone
		}
		if err := check(state); err != nil {
			return replication.Proposal{}, err
		}
		next := c
		var err error
		if next.MAC, err = s.vouch(m, state, c); err != nil {
			return replication.Proposal{}, err
		}
		payload, err := next.Encode()
		return replication.Proposal{Type: c.Type, Payload: payload, Actor: "server:" + c.ID, Reason: "invited"}, err
	})
	if errors.Is(err, errDone) {
		return n, nil
	}
	return receipt.N, err
}

// vouch is the MAC of a member under the ledger's membership key.
func (s *service) vouch(m *replication.Member, state *events.State, c events.ServerChange) ([32]byte, error) {
	g := state.Genesis()
	membership, err := s.vault.open(m.Replica(), "member", g.Membership)
	if err != nil {
		return [32]byte{}, err
	}
	return seal.Vouch(membership, vouched(g, c.ID, c.Region, c.PublicKey, c.P256Key))
}

func vouched(g events.Genesis, id, region string, public, p256 []byte) seal.Vouched {
	return seal.Vouched{
		Kind: g.Kind.String(), Store: g.Store, StoreID: g.StoreID, Epoch: g.Epoch, Server: id, Region: region,
		PublicKey: public, P256Key: p256,
	}
}

// unvouched are the alarms of members that their ledger's membership key does not
// vouch for: somebody wrote them who could sign as a member and had no key store key.
func (s *service) unvouched() (alarms []adminapi.Alarm) {
	for _, m := range []*replication.Member{s.keys, s.hosts} {
		var members []events.Member
		var g events.Genesis
		m.Replica().Read(func(state *events.State) { members, g = state.Members(), state.Genesis() })
		membership, err := s.vault.open(m.Replica(), "member", g.Membership)
		if err != nil {
			alarms = append(alarms, adminapi.Alarm{Ledger: g.Kind.String(), Kind: "unvouched", Text: err.Error(), Since: eventTime(m, 1)})
			continue
		}
		for _, member := range members {
			v := vouched(g, member.ID, member.Region, member.PublicKey, member.P256Key)
			if member.Forgotten != 0 || member.Joined == 1 || seal.Vouches(membership, v, member.MAC) {
				continue
			}
			alarms = append(alarms, adminapi.Alarm{
				Ledger: g.Kind.String(), Kind: "unvouched", Key: events.ServerKey(member.ID), Since: eventTime(m, member.Joined),
				Text: fmt.Sprintf("server %s joined by event %d, and nobody with the key store key vouches for it: forget it, and find out who wrote that",
					member.ID, member.Joined),
			})
		}
	}
	return alarms
}

// hashText is a token's hash as the API carries it.
func hashText(token string) string {
	hash := events.TokenHash(token)
	return hex.EncodeToString(hash[:])
}
