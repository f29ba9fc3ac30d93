package events

import (
	"cmp"
	"iter"
	"maps"
	"slices"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/host"
)

// Token returns the registration token with this id, revoked ones included.
func (s *State) Token(id keystore.KID) (host.Token, bool) {
	t, ok := s.tokens[id]
	return t, ok
}

// Tokens returns the registration tokens, oldest first, revoked ones included.
func (s *State) Tokens() []host.Token {
	return slices.SortedFunc(maps.Values(s.tokens), func(a, b host.Token) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID.String(), b.ID.String()))
	})
}

// EachHost yields the trusted hosts in no order, revoked ones included.
func (s *State) EachHost() iter.Seq[host.Host] { return maps.Values(s.hosts) }

// SecretPolicy returns the policy for shared secrets; the zero one while none was
// set.
func (s *State) SecretPolicy() host.SecretPolicy { return s.secrets }

func (s *State) decideToken(v *view) (host.Token, error) {
	c, err := DecodeTokenChange(v.typ, v.payload)
	if err != nil {
		return host.Token{}, misfit(err)
	}
	next, err := s.tokens[c.Token.ID].Apply(c, v.ref())
	if err != nil {
		return host.Token{}, misfit(err)
	}
	need := wants{effects: v.effects}
	need.putKID(tokenPrefix, c.Token.ID)
	return next, need.exactly(v.effectCount)
}

func decideSecretPolicy(v *view) (*host.SecretPolicy, error) {
	policy, err := DecodeSecretPolicy(v.payload)
	if err == nil {
		err = policy.Check()
	}
	if err != nil {
		return nil, misfit(err)
	}
	policy.Last = v.ref()
	need := wants{effects: v.effects}
	need.put(policyPrefix, SecretPolicyName)
	return &policy, need.exactly(v.effectCount)
}

// decideHosts judges the changes of hosts that an event makes, and the use of the
// token by which one is registered.
func (s *State) decideHosts(v *view) (hosts []host.Host, token host.Token, err error) {
	changes, err := DecodeHostChanges(v.typ, v.payload)
	if err != nil {
		return nil, token, misfit(err)
	}
	need := wants{effects: v.effects}
	for _, c := range changes {
		next, err := s.hosts[c.Host].Apply(c, v.ref())
		if err == nil && c.Token != (keystore.KID{}) {
			token, err = s.tokens[c.Token].Use(c, v.ref())
			need.putKID(tokenPrefix, c.Token)
		}
		if err != nil {
			return nil, token, misfit(err)
		}
		hosts = append(hosts, next)
		need.put(hostPrefix, c.Host)
		if c.Secret.KID != (keystore.KID{}) {
			need.makeKID(s.live, c.Secret.KID)
		}
		for _, kid := range c.Destroyed {
			need.delKID(materialPrefix, kid)
		}
	}
	return hosts, token, need.exactly(v.effectCount)
}

func (s *State) carryOutHosts(st step) {
	for _, h := range st.hosts {
		s.hosts[h.Name] = h
	}
	if !st.token.IsZero() {
		s.tokens[st.token.ID] = st.token
	}
	if st.secrets != nil {
		s.secrets = *st.secrets
	}
}
