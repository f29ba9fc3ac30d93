package host

import (
	"fmt"
	"slices"

	"github.com/keytide/keytide/keystore"
)

// Apply carries c out, as event ref, and returns the host afterwards. It never
// changes h. The error wraps keystore.ErrInvalid, or keystore.ErrExists when a host
// that is registered would be registered again.
func (h Host) Apply(c Change, ref keystore.EventRef) (Host, error) {
	next, err := h.apply(c, ref)
	if err != nil {
		return Host{}, fmt.Errorf("host %s: %s: %w", c.Host, c.Kind, err)
	}
	return next, nil
}

func (h Host) apply(c Change, ref keystore.EventRef) (Host, error) {
	if ref.N <= h.Last.N {
		return Host{}, invalidf("event %d is not after event %d", ref.N, h.Last.N)
	}
	if !h.IsZero() && h.Name != c.Host {
		return Host{}, invalidf("is for another host than %s", h.Name)
	}
	next := h
	next.Last = ref
	switch c.Kind {
	case Registered:
		return next.register(c, ref)
	case Revoked, Expired:
		return next.revoke(c)
	case Seen:
		return next.seen(c)
	case Offered:
		return next.offered(c)
	case Retired:
		return next.retired(c)
	}
	return Host{}, invalidf("unknown kind of change")
}

func (h Host) register(c Change, ref keystore.EventRef) (Host, error) {
	switch {
	case !h.IsZero() && !h.Revoked:
		return Host{}, keystore.ErrExists
	case len(c.Destroyed) != 0:
		return Host{}, invalidf("destroys secrets")
	case c.Secret.KID == keystore.KID{}:
		return Host{}, invalidf("the secret has no kid")
	case c.Secret.Created.IsZero():
		return Host{}, invalidf("the secret has no creation time")
	case c.Secret.Generation != h.Generation+1:
		return Host{}, invalidf("the secret has generation %d; want %d", c.Secret.Generation, h.Generation+1)
	}
	if err := keystore.CheckName(c.Host); err != nil {
		return Host{}, fmt.Errorf("host name %q: %w", c.Host, err)
	}
	if err := checkRings(c.Rings); err != nil {
		return Host{}, err
	}
	if err := c.Grant.check(); err != nil {
		return Host{}, err
	}
	if (c.Token == keystore.KID{}) != (c.Registration == Registration{}) {
		return Host{}, invalidf("names a token without a registration, or a registration without a token")
	}
	return Host{
		Name: c.Host, Rings: slices.Clone(c.Rings), Secrets: []Secret{c.Secret}, Generation: c.Secret.Generation,
		Registered: ref.At, Last: h.Last, Grant: c.Grant, Token: c.Token, Registration: c.Registration,
	}, nil
}

func (h Host) revoke(c Change) (Host, error) {
	if h.IsZero() || h.Revoked {
		return Host{}, invalidf("the host is not registered")
	}
	if len(c.Rings) != 0 || len(c.Destroyed) != len(h.Secrets) {
		return Host{}, invalidf("destroys %d of %d secrets", len(c.Destroyed), len(h.Secrets))
	}
	for i, s := range h.Secrets {
		if c.Destroyed[i] != s.KID {
			return Host{}, invalidf("secret %s would stay", s.KID)
		}
	}
	if c.Kind == Expired && h.Ephemeral == 0 {
		return Host{}, invalidf("the host is not ephemeral")
	}
	h.Secrets, h.Revoked, h.Expired = nil, true, c.Kind == Expired
	return h, nil
}

func checkRings(rings []keystore.RingName) error {
	if len(rings) == 0 || len(rings) > MaxRings {
		return invalidf("is granted %d rings; want 1 to %d", len(rings), MaxRings)
	}
	for i, r := range rings {
		if _, err := keystore.ParseRingName(string(r)); err != nil {
			return err
		}
		if i > 0 && rings[i-1] >= r {
			return invalidf("rings are not sorted, or ring %s is named twice", r)
		}
	}
	return nil
}

func invalidf(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{keystore.ErrInvalid}, args...)...)
}
