package replication

import (
	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
)

// impliedHostPuts are the states that an event of a policy store leaves, and the
// deletions of the secrets that it destroys.
func impliedHostPuts(s *events.State, ev events.Event) ([]events.Put, error) {
	switch ev.Type {
	case events.TypeTokenCreated, events.TypeTokenRevoked:
		c, err := events.DecodeTokenChange(ev.Type, ev.Payload)
		if err != nil {
			return nil, err
		}
		before, _ := s.Token(c.Token.ID)
		after, err := before.Apply(c, ev.Ref())
		if err != nil {
			return nil, err
		}
		value, err := events.EncodeToken(after)
		return []events.Put{{Key: events.TokenKey(c.Token.ID), Value: value}}, err
	case events.TypeSecretPolicySet:
		policy, err := events.DecodeSecretPolicy(ev.Payload)
		if err != nil {
			return nil, err
		}
		policy.Last = ev.Ref()
		value, err := events.EncodeSecretPolicy(policy)
		return []events.Put{{Key: events.PolicyKey(events.SecretPolicyName), Value: value}}, err
	case events.TypeHostRegistered, events.TypeHostRevoked, events.TypeHostsExpired,
		events.TypeHostsSeen, events.TypeSecretsOffered, events.TypeSecretsRetired:
		return changedHostPuts(s, ev)
	}
	return nil, nil
}

func changedHostPuts(s *events.State, ev events.Event) ([]events.Put, error) {
	changes, err := events.DecodeHostChanges(ev.Type, ev.Payload)
	if err != nil {
		return nil, err
	}
	var puts []events.Put
	for _, c := range changes {
		before, _ := s.Host(c.Host)
		after, err := before.Apply(c, ev.Ref())
		if err != nil {
			return nil, err
		}
		value, err := events.EncodeHost(after)
		if err != nil {
			return nil, err
		}
		puts = append(puts, withDeleted(events.Put{Key: events.HostKey(c.Host), Value: value}, c.Destroyed)...)
		if c.Token == (keystore.KID{}) {
			continue
		}
		token, _ := s.Token(c.Token)
		if token, err = token.Use(c, ev.Ref()); err != nil {
			return nil, err
		}
		value, err = events.EncodeToken(token)
		if err != nil {
			return nil, err
		}
		puts = append(puts, events.Put{Key: events.TokenKey(c.Token), Value: value})
	}
	return puts, nil
}
