package host

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keytide/keytide/keystore"
)

// This file holds the rollover of shared secrets. A second secret is offered: from
// then on both are valid, and the agents of the host, who get it within their sealed
// state, write it to disk before they use it. The first ends only when every instance
// of the host that was seen lately has shown that it has the second.

const (
	// Recent is how long ago an instance may have been seen to be waited for.
	Recent = 7 * 24 * time.Hour
	// MarkEvery is how old the mark of an instance may get while it is seen.
	MarkEvery = 24 * time.Hour
	// MaxInstances is how many instances of one host are kept count of.
	MaxInstances = 32
	// MinSecretAge is the shortest policy: a rollover an hour.
	MinSecretAge = time.Hour
	// MaxSecretAge is the longest policy.
	MaxSecretAge = 10 * 366 * 24 * time.Hour
)

// An InstanceID tells the copies of a host's secret apart: each disk that holds it
// has one. It is drawn by the agent, and says nothing else. The zero id stands for
// agents that give none.
type InstanceID [8]byte

func (id InstanceID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText gives 16 hexadecimal digits.
func (id InstanceID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// An Instance is a copy of a host's secret, as its agents showed themselves.
type Instance struct {
	ID         InstanceID `json:"id"`
	Seen       time.Time  `json:"seen"`       // at this time, and less than MarkEvery later too
	Generation uint64     `json:"generation"` // of the secret that it showed last
	Keeps      bool       `json:"keeps"`      // it can write a new secret to disk
}

// LastSeen is when the host was last marked as seen, or else was registered.
func (h Host) LastSeen() time.Time {
	last := h.Registered
	for _, i := range h.Instances {
		last = latest(last, i.Seen)
	}
	return last
}

// Instance returns the instance with this id.
func (h Host) Instance(id InstanceID) (Instance, bool) {
	i, ok := slices.BinarySearchFunc(h.Instances, id, func(i Instance, id InstanceID) int { return bytes.Compare(i.ID[:], id[:]) })
	if !ok {
		return Instance{}, false
	}
	return h.Instances[i], true
}

// Marks reports whether a sight of an instance is news: then it belongs in the
// ledger.
func (h Host) Marks(i Instance) bool {
	if h.IsZero() || h.Revoked {
		return false
	}
	known, ok := h.Instance(i.ID)
	if !ok && len(h.Instances) >= MaxInstances && h.Crowded && !h.forgettable(i.Seen) {
		return false // it is said already that there are too many
	}
	every := MarkEvery
	if h.Ephemeral > 0 {
		every = min(every, h.Ephemeral/4)
	}
	return !ok || i.Generation != known.Generation || i.Keeps != known.Keeps || i.Seen.Sub(known.Seen) >= every
}

func (h Host) forgettable(now time.Time) bool {
	return slices.ContainsFunc(h.Instances, func(i Instance) bool { return now.Sub(i.Seen) >= Recent })
}

// See decides the marks of instances that were seen. Those that were not seen for
// long make room. The error wraps keystore.ErrNotFound for a host that is not
// registered.
func (h Host) See(seen []Instance) (Change, error) {
	if h.IsZero() || h.Revoked {
		return Change{}, fmt.Errorf("host %s: %w", h.Name, keystore.ErrNotFound)
	}
	c := Change{Kind: Seen, Host: h.Name}
	room := MaxInstances - len(h.Instances)
	for _, i := range seen {
		if _, known := h.Instance(i.ID); !known {
			if room <= 0 && !h.forgettable(i.Seen) {
				c.Crowded = true
				continue
			}
			room--
		}
		i.Seen = i.Seen.UTC().Truncate(time.Millisecond)
		i.Generation = min(i.Generation, h.Generation)
		c.Instances = append(c.Instances, i)
	}
	slices.SortFunc(c.Instances, func(a, b Instance) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return decided(h, c)
}

func (h Host) seen(c Change) (Host, error) {
	if err := h.registered(); err != nil {
		return Host{}, err
	}
	if len(c.Instances) == 0 && !c.Crowded {
		return Host{}, invalidf("nothing was seen")
	}
	h.Crowded = h.Crowded || c.Crowded
	return h.mark(c.Instances)
}

// mark takes sights over. The last one counts, in the order of the events: an
// instance that shows its former secret again has lost the new one.
func (h Host) mark(seen []Instance) (Host, error) {
	h.Instances = slices.Clone(h.Instances)
	for n, i := range seen {
		switch {
		case n > 0 && bytes.Compare(seen[n-1].ID[:], i.ID[:]) >= 0:
			return Host{}, invalidf("instances are not sorted, or instance %s stands twice", i.ID)
		case i.Seen.IsZero() || i.Generation == 0 || i.Generation > h.Generation:
			return Host{}, invalidf("instance %s has no time, or a secret that was never made", i.ID)
		}
		at, ok := slices.BinarySearchFunc(h.Instances, i.ID, func(i Instance, id InstanceID) int { return bytes.Compare(i.ID[:], id[:]) })
		if ok {
			i.Seen = latest(i.Seen, h.Instances[at].Seen)
			h.Instances[at] = i
			continue
		}
		h.Instances = slices.Insert(h.Instances, at, i)
	}
	if len(h.Instances) > MaxInstances {
		h.forget()
	}
	return h, nil
}

// forget drops the instances that were not seen for longest.
func (h *Host) forget() {
	bySight := slices.Clone(h.Instances)
	slices.SortStableFunc(bySight, func(a, b Instance) int { return b.Seen.Compare(a.Seen) })
	h.Instances = bySight[:MaxInstances]
	slices.SortFunc(h.Instances, func(a, b Instance) int { return bytes.Compare(a.ID[:], b.ID[:]) })
}

func (h Host) registered() error {
	if h.IsZero() || h.Revoked {
		return invalidf("the host is not registered")
	}
	return nil
}

// A RollError says why a host's secret is not rolled over. It wraps
// keystore.ErrRefused.
type RollError struct{ Host, Why string }

func (e *RollError) Error() string {
	return fmt.Sprintf("host %s: its secret is not rolled over: %s", e.Host, e.Why)
}
func (e *RollError) Unwrap() error { return keystore.ErrRefused }

// Rolling reports whether two secrets are valid.
func (h Host) Rolling() bool { return len(h.Secrets) > 1 }

// Rollable says why no second secret may be offered now; nil: it may.
func (h Host) Rollable(now time.Time) error {
	why := ""
	recent := 0
	for _, i := range h.Instances {
		if now.Sub(i.Seen) >= Recent {
			continue
		}
		recent++
		if !i.Keeps {
			why = fmt.Sprintf("its instance %s cannot keep a new one (its host file, or state, is not writable)", i.ID)
		}
	}
	switch {
	case h.IsZero() || h.Revoked:
		return fmt.Errorf("host %s: %w", h.Name, keystore.ErrNotFound)
	case h.Rolling():
		why = "the rollover before has not ended: not every instance has shown the new secret"
	case h.Crowded:
		why = fmt.Sprintf("it has more than %d instances; give each a host of its own", MaxInstances)
	case recent == 0:
		why = "no agent of it was seen lately"
	}
	if why != "" {
		return &RollError{h.Name, why}
	}
	return nil
}

// Offer decides that a second secret is valid from now on. The error is as
// Rollable's.
func (h Host) Offer(secret keystore.NewKey, now time.Time) (Change, error) {
	if err := h.Rollable(now); err != nil {
		return Change{}, err
	}
	return decided(h, Change{Kind: Offered, Host: h.Name, Secret: h.next(secret)})
}

func (h Host) offered(c Change) (Host, error) {
	if err := h.registered(); err != nil {
		return Host{}, err
	}
	switch s := c.Secret; {
	case h.Rolling():
		return Host{}, invalidf("two secrets are valid already")
	case s.KID == keystore.KID{} || s.KID == h.Secrets[0].KID || s.Created.IsZero():
		return Host{}, invalidf("the secret has no kid of its own, or no time")
	case s.Generation != h.Generation+1:
		return Host{}, invalidf("the secret has generation %d; want %d", s.Generation, h.Generation+1)
	}
	h.Secrets = []Secret{c.Secret, h.Secrets[0]}
	h.Generation = c.Secret.Generation
	return h, nil
}

// Proved reports whether every instance that was seen lately, and at least one, has
// shown the newest secret.
func (h Host) Proved(now time.Time) bool {
	proved := false
	for _, i := range h.Instances {
		if now.Sub(i.Seen) >= Recent {
			continue
		}
		if i.Generation < h.Generation {
			return false
		}
		proved = true
	}
	return proved && !h.Crowded
}

// Retire decides the end of the first of two secrets, with what was seen since. The
// error is a *RollError while it may still be needed.
func (h Host) Retire(now time.Time) (Change, error) {
	switch {
	case !h.Rolling():
		return Change{}, &RollError{h.Name, "no rollover is under way"}
	case !h.Proved(now):
		return Change{}, &RollError{h.Name, "not every instance has shown the new secret"}
	}
	return decided(h, Change{Kind: Retired, Host: h.Name, Destroyed: []keystore.KID{h.Secrets[1].KID}})
}

func (h Host) retired(c Change) (Host, error) {
	if !h.Rolling() || len(c.Destroyed) != 1 || c.Destroyed[0] != h.Secrets[1].KID {
		return Host{}, invalidf("the former of two secrets is not what it destroys")
	}
	h.Secrets = slices.Clone(h.Secrets[:1])
	return h, nil
}

// A SecretPolicy says at what age shared secrets roll over by themselves, for hosts
// that are registered to allow it.
type SecretPolicy struct {
	Every time.Duration     `json:"every"` // 0: never
	Last  keystore.EventRef `json:"last_event"`
}

// Check reports a policy that is out of bounds; the error wraps keystore.ErrInvalid.
func (p SecretPolicy) Check() error {
	if p.Every != 0 && (p.Every < MinSecretAge || p.Every > MaxSecretAge) {
		return invalidf("secrets every %v: want %v to %v, or off", p.Every, MinSecretAge, MaxSecretAge)
	}
	return nil
}

// Due reports whether the policy rolls the host's secret over at now. Hosts are
// spread: each secret lives up to a tenth less than the policy says, by a share that
// host and generation give.
func (p SecretPolicy) Due(h Host, now time.Time) bool {
	if p.Every == 0 || !h.AllowRoll || len(h.Secrets) != 1 || h.Rollable(now) != nil {
		return false
	}
	return now.Sub(h.Secrets[0].Created) >= p.Every-p.early(h)
}

func (p SecretPolicy) early(h Host) time.Duration {
	hash := fnv.New64a()
	fmt.Fprintf(hash, "%s|%d", h.Name, h.Generation)
	return time.Duration(float64(p.Every/10) * (float64(hash.Sum64()%10_000) / 10_000))
}

// ParseAge reads an age such as 12h, 30d, 2w or 3mo (a month is 30 days), or "off",
// which is 0. The error wraps keystore.ErrInvalid.
func ParseAge(text string) (time.Duration, error) {
	if text == "off" {
		return 0, nil
	}
	const day = 24 * time.Hour
	for _, unit := range []struct {
		suffix string
		length time.Duration
	}{{"mo", 30 * day}, {"w", 7 * day}, {"d", day}, {"h", time.Hour}} {
		digits, ok := strings.CutSuffix(text, unit.suffix)
		if n, err := strconv.ParseUint(digits, 10, 16); ok && err == nil && time.Duration(n) <= MaxSecretAge/unit.length {
			return time.Duration(n) * unit.length, nil
		}
	}
	return 0, invalidf("age %q: want hours, days, weeks or months, such as 12h, 30d, 2w or 3mo, or off", text)
}

// AgeText is the shortest text that ParseAge reads as d, which has whole hours.
func AgeText(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d == 0:
		return "off"
	case d%day == 0:
		return fmt.Sprintf("%dd", d/day)
	}
	return fmt.Sprintf("%dh", d/time.Hour)
}
