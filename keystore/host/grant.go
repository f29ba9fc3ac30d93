package host

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keytide/keytide/keystore"
)

const (
	// MaxLabels is the most labels that one host may have.
	MaxLabels = 16
	// MinEphemeral bounds how soon a host that is not seen may end: agents must be able
	// to live through a restart, and servers through a cut.
	MinEphemeral = 10 * time.Minute
	// MaxEphemeral is the longest that an ephemeral host may be unseen.
	MaxEphemeral = 366 * 24 * time.Hour
)

// A Label says something of a host to people, such as env=prod.
type Label struct{ Key, Value string }

func (l Label) String() string { return l.Key + "=" + l.Value }

// MarshalText gives KEY=VALUE.
func (l Label) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// ParseLabel reads KEY=VALUE; both are 1 to 63 letters, digits, dots, hyphens,
// slashes and underscores. The error wraps keystore.ErrInvalid.
func ParseLabel(s string) (Label, error) {
	key, value, ok := strings.Cut(s, "=")
	l := Label{key, value}
	if !ok {
		return Label{}, invalidf("label %q: want KEY=VALUE", s)
	}
	return l, l.check()
}

func (l Label) check() error {
	for _, part := range []string{l.Key, l.Value} {
		plain := func(r rune) bool {
			return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-/", r)
		}
		if len(part) == 0 || len(part) > 63 || strings.ContainsFunc(part, func(r rune) bool { return !plain(r) }) {
			return invalidf("label %q: key and value have 1 to 63 letters, digits, and characters of \"._-/\"", l)
		}
	}
	return nil
}

func sortedLabels(labels []Label) []Label {
	labels = slices.Clone(labels)
	slices.SortFunc(labels, func(a, b Label) int { return strings.Compare(a.Key, b.Key) })
	return labels
}

// Labeled reports whether the host has all of these labels.
func (g Grant) Labeled(labels []Label) bool {
	return !slices.ContainsFunc(labels, func(l Label) bool { return !slices.Contains(g.Labels, l) })
}

func (g Grant) check() error {
	if len(g.Labels) > MaxLabels {
		return invalidf("%d labels; at most %d are allowed", len(g.Labels), MaxLabels)
	}
	for i, l := range g.Labels {
		if err := l.check(); err != nil {
			return err
		}
		if i > 0 && g.Labels[i-1].Key >= l.Key {
			return invalidf("labels are not sorted, or label %s stands twice", l.Key)
		}
	}
	if !g.Tickets.Known() {
		return invalidf("unknown right to session tickets %d", uint8(g.Tickets))
	}
	if g.Ephemeral != 0 && (g.Ephemeral < MinEphemeral || g.Ephemeral > MaxEphemeral) {
		return invalidf("ephemeral %v: want %v to %v", g.Ephemeral, MinEphemeral, MaxEphemeral)
	}
	return nil
}

func (g Grant) equal(o Grant) bool {
	return slices.Equal(g.Labels, o.Labels) && g.Ephemeral == o.Ephemeral && g.AllowRoll == o.AllowRoll && g.Tickets == o.Tickets
}

// Expire decides the end of an ephemeral host that was last seen at that time, by
// whoever sees hosts; what the state knows of later counts as well. The error is
// keystore.ErrRefused while that is not long enough ago.
func (h Host) Expire(seen, now time.Time) (Change, error) {
	if h.IsZero() || h.Revoked || h.Ephemeral == 0 {
		return Change{}, fmt.Errorf("host %s: %w: it is not an ephemeral host that is registered", h.Name, keystore.ErrInvalid)
	}
	if last := latest(seen, h.LastSeen()); now.Sub(last) < h.Ephemeral {
		return Change{}, fmt.Errorf("host %s: %w: it was seen at %s", h.Name, keystore.ErrRefused, last.UTC().Format(time.RFC3339))
	}
	return decided(h, Change{Kind: Expired, Host: h.Name, Destroyed: h.kids()})
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
