package server

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/keytide/keytide/agentfeed/hub"
	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/keystore/host"
	"github.com/keytide/keytide/keystore/seal"
	"github.com/keytide/keytide/keystore/ticket"
	"github.com/keytide/keytide/replication"
)

// This file holds registration tokens, and the registrations that agents make with
// them.

// hostChange is the change of the one host that an event is of.
func hostChange(e events.Event) (host.Change, bool) {
	changes, err := events.DecodeHostChanges(e.Type, e.Payload)
	if err != nil || len(changes) != 1 {
		return host.Change{}, false
	}
	return changes[0], true
}

// hostsSubject says what an event of a policy store is about, and what it changes.
func hostsSubject(e events.Event) (subject string, change any, ok bool) {
	if c, ok := hostChange(e); ok {
		return c.Host, c, true
	}
	if changes, err := events.DecodeHostChanges(e.Type, e.Payload); err == nil {
		return fmt.Sprintf("%d hosts", len(changes)), changes, true
	}
	if c, err := events.DecodeTokenChange(e.Type, e.Payload); err == nil {
		return c.Token.ID.String(), c, true
	}
	if e.Type == events.TypeSecretPolicySet {
		policy, err := events.DecodeSecretPolicy(e.Payload)
		return events.SecretPolicyName, policy, err == nil
	}
	return "", nil, false
}

func grantOf(g adminapi.HostGrant) (host.Grant, error) {
	grant := host.Grant{AllowRoll: g.AllowRoll}
	var faults []error
	if g.Tickets != "" {
		var err error
		grant.Tickets, err = ticket.ParseRight(g.Tickets)
		faults = append(faults, err)
	}
	for key, value := range g.Labels {
		l, err := host.ParseLabel(key + "=" + value)
		grant.Labels, faults = append(grant.Labels, l), append(faults, err)
	}
	if g.Ephemeral != "" {
		d, err := time.ParseDuration(g.Ephemeral)
		if err != nil {
			err = fmt.Errorf("%w: ephemeral: %q is not a duration such as 24h", keystore.ErrInvalid, g.Ephemeral)
		}
		grant.Ephemeral, faults = d, append(faults, err)
	}
	return grant, errors.Join(faults...)
}

func grantView(g host.Grant) adminapi.HostGrant {
	view := adminapi.HostGrant{AllowRoll: g.AllowRoll}
	if g.Tickets != ticket.MayNothing {
		view.Tickets = g.Tickets.String()
	}
	if g.Ephemeral > 0 {
		view.Ephemeral = g.Ephemeral.String()
	}
	for _, l := range g.Labels {
		if view.Labels == nil {
			view.Labels = make(map[string]string)
		}
		view.Labels[l.Key] = l.Value
	}
	return view
}

func tokenView(t host.Token, at time.Time) adminapi.HostToken {
	view := adminapi.HostToken{
		Token: t.ID.String(), State: "valid", Rings: ringNames(t.Rings), HostGrant: grantView(t.Grant), Addresses: []string{},
		Uses: t.Uses, Used: t.Used, CreatedAt: t.Created.UTC(), ExpiresAt: t.Expires.UTC(), LastEvent: refView(t.Last),
	}
	for _, p := range t.Addresses {
		view.Addresses = append(view.Addresses, p.String())
	}
	switch {
	case t.Revoked:
		view.State = "revoked"
	case t.Used >= t.Uses:
		view.State = "used up"
	case !at.Before(t.Expires):
		view.State = "expired"
	}
	return view
}

// HostTokens implements adminhttp.Reader.
func (s *service) HostTokens(context.Context) (adminapi.HostTokens, error) {
	var tokens []host.Token
	s.hosts.Replica().Read(func(state *events.State) { tokens = state.Tokens() })
	answer := adminapi.HostTokens{Tokens: make([]adminapi.HostToken, len(tokens))}
	for i, t := range tokens {
		answer.Tokens[i] = tokenView(t, now())
	}
	return answer, nil
}

// tokenOf reads what the administrator asks for.
func (s *service) tokenOf(req adminapi.CreateHostToken) (host.Token, error) {
	var t host.Token
	var faults []error
	note := func(err error) { faults = append(faults, err) }
	id, err := keystore.ParseKID(req.Token)
	note(err)
	if len(req.PublicKey) == ed25519.PublicKeySize {
		t.PublicKey = [32]byte(req.PublicKey)
	}
	t.ID, t.Uses, t.Created = id, req.Uses, now()
	life, err := time.ParseDuration(req.Expires)
	if err != nil {
		err = fmt.Errorf("%w: expires: %q is not a duration such as 1h", keystore.ErrInvalid, req.Expires)
	}
	note(err)
	t.Expires = t.Created.Add(life)
	t.Rings, err = s.grantable(req.Rings)
	note(err)
	t.Grant, err = grantOf(req.HostGrant)
	note(err)
	for _, text := range req.Addresses {
		p, err := addressRange(text)
		t.Addresses = append(t.Addresses, p)
		note(err)
	}
	return t, errors.Join(faults...)
}

// addressRange reads a range such as 10.0.0.0/8, or one address.
func addressRange(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%w: address %q: want an address, or a range such as 10.0.0.0/8", keystore.ErrInvalid, text)
	}
	return p.Masked(), nil
}

// CreateHostToken implements adminhttp.Changer.
func (s *service) CreateHostToken(ctx context.Context, actor string, req adminapi.CreateHostToken) (adminapi.HostTokenChanged, error) {
	token, err := s.tokenOf(req)
	if err != nil {
		return adminapi.HostTokenChanged{}, err
	}
	return s.commitToken(ctx, actor, req.Intent, token.ID, func(before host.Token) (host.TokenChange, error) {
		if !before.IsZero() {
			return host.TokenChange{}, fmt.Errorf("token %s: %w", token.ID, keystore.ErrExists)
		}
		return host.NewToken(token)
	})
}

// RevokeHostToken implements adminhttp.Changer.
func (s *service) RevokeHostToken(ctx context.Context, actor string, id keystore.KID, req adminapi.RevokeHost) (adminapi.HostTokenChanged, error) {
	return s.commitToken(ctx, actor, req.Intent, id, func(before host.Token) (host.TokenChange, error) {
		change, err := before.Revoke()
		if err != nil {
			err = &hinted{
				error: fmt.Errorf("token %s: %w: there is no such token, or it is revoked already", id, err),
				hint:  "see which there are:  keytide host token list",
			}
		}
		return change, err
	})
}

func (s *service) commitToken(ctx context.Context, actor string, intent adminapi.Intent, id keystore.KID, decide func(host.Token) (host.TokenChange, error)) (adminapi.HostTokenChanged, error) {
	receipt, err := s.hosts.Commit(ctx, func(state *events.State) (replication.Proposal, error) {
		p := replication.Proposal{Actor: actor, Request: intent.Request, Reason: intent.Reason}
		if _, done := state.Request(p.Request); done {
			return p, nil
		}
		before, _ := state.Token(id)
		change, err := decide(before)
		if err != nil {
			return p, err
		}
		p.Type, p.Payload, err = events.EncodeTokenChange(change)
		return p, err
	})
	if err != nil {
		return adminapi.HostTokenChanged{}, err
	}
	if c, err := events.DecodeTokenChange(receipt.Event.Type, receipt.Event.Payload); err != nil || c.Token.ID != id {
		return adminapi.HostTokenChanged{}, usedRequest(intent.Request, receipt.N)
	}
	s.log.Info("registration token changed", "token", id.String(), "n", uint64(receipt.N), "type", receipt.Event.Type.String(), "actor", actor)
	var token host.Token
	s.hosts.Replica().Read(func(state *events.State) { token, _ = state.Token(id) })
	return adminapi.HostTokenChanged{Receipt: receiptView(receipt), HostToken: tokenView(token, now())}, nil
}

// A registrar registers hosts for agents that have a token.
type registrar struct{ *service }

var _ hub.Registrar = registrar{}

// Token implements hub.Registrar.
func (r registrar) Token(id keystore.KID) (public [ed25519.PublicKeySize]byte, ok bool) {
	r.hosts.Replica().Read(func(state *events.State) {
		var t host.Token
		t, ok = state.Token(id)
		public = t.PublicKey
	})
	return public, ok
}

// Fresh implements hub.Registrar.
func (r registrar) Fresh() bool { return r.hosts.Freshness().State == events.Fresh }

// errRegistered ends a commit that finds its work done.
var errRegistered = errors.New("this registration is made already")

// Register implements hub.Registrar. Whoever made the registration, and however often
// it is asked for, its secret is the one that the ledger has for it.
func (r registrar) Register(ctx context.Context, req hub.Registration) (hub.Registered, error) {
	at := now()
	secret := seal.Generate()
	receipt, err := r.hosts.Commit(ctx, func(state *events.State) (replication.Proposal, error) {
		p := replication.Proposal{Actor: "token " + req.Token.String(), Reason: "registered by token"}
		token, _ := state.Token(req.Token)
		before, _ := state.Host(req.Host)
		if _, done := token.Registered(before, req.ID); done {
			return p, errRegistered
		}
		change, err := token.Register(before, req.Host, req.ID, keystore.NewKey{KID: secret.KID(), Created: at}, req.From, at)
		if err != nil {
			return p, err
		}
		if p.Type, p.Payload, err = events.EncodeHostChange(change); err != nil {
			return p, err
		}
		value, err := r.sealSecret(state, req.Host, change.Secret, secret)
		p.Puts = []events.Put{value}
		return p, err
	})
	switch {
	case errors.Is(err, keystore.ErrExists):
		return hub.Registered{}, fmt.Errorf("host %s: %w", req.Host, hub.ErrHostTaken)
	case errors.Is(err, keystore.ErrRefused), errors.Is(err, keystore.ErrInvalid):
		return hub.Registered{}, fmt.Errorf("%w: %w", hub.ErrRegistrationRefused, err)
	case err != nil && !errors.Is(err, errRegistered):
		return hub.Registered{}, err
	case err == nil:
		r.log.Info("host registered", "host", req.Host, "n", uint64(receipt.N), "token", req.Token.String(), "from", req.From.String())
	}
	return r.given(req)
}

// given is what the ledger has for a registration that was made.
func (r registrar) given(req hub.Registration) (hub.Registered, error) {
	var h host.Host
	var secret host.Secret
	var done bool
	r.hosts.Replica().Read(func(state *events.State) {
		token, _ := state.Token(req.Token)
		h, _ = state.Host(req.Host)
		secret, done = token.Registered(h, req.ID)
	})
	if !done {
		return hub.Registered{}, fmt.Errorf("%w: the registration has ended", hub.ErrRegistrationRefused)
	}
	m, err := r.vault.open(r.hosts.Replica(), hostOwner(req.Host), secret.KID)
	if err != nil {
		return hub.Registered{}, err
	}
	servers, regions := r.source.servers()
	return hub.Registered{Secret: m, Rings: slices.Clone(h.Rings), Servers: servers, Regions: regions, CA: r.source.ca}, nil
}

// sealSecret wraps a host's new secret for the ledger.
func (s *service) sealSecret(state *events.State, name string, about host.Secret, secret keystore.Material) (events.Put, error) {
	value, err := s.vault.seal(state.KSK().Sealing, seal.Place{
		Owner: hostOwner(name), Generation: about.Generation, Purpose: seal.PurposeHostSecret, Created: about.Created,
	}, secret)
	return events.Put{Key: events.MaterialKey(about.KID), Value: value}, err
}

// tokenAnswer is the command that ends the token by which a revoked host registered
// itself, if it is still valid: the host may have it, and register by another name.
func (s *service) tokenAnswer(h host.Host) []string {
	var token host.Token
	s.hosts.Replica().Read(func(state *events.State) { token, _ = state.Token(h.Token) })
	if token.IsZero() || tokenView(token, now()).State != "valid" {
		return nil
	}
	return []string{fmt.Sprintf("keytide host token revoke %s --reason 'host %s is revoked'", token.ID, h.Name)}
}
