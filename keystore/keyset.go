package keystore

import "time"

// A KeySet is the keys of one ring at one version with their material, as an
// agent holds them: what it opens and seals with. It is immutable: a change of
// the ring makes a new one. The session ticket key is never in it.
type KeySet struct {
	Ring    RingName
	Epoch   Epoch
	Version Version
	Mode    Mode
	// OpensStatic: static keys open sessions, in static mode or because the ring is about
	// to enter it or has left it lately.
	OpensStatic bool
	Keys        []SetKey // the sealing key first, then current, old (newest first), future, static
}

// A SetKey is one key of a KeySet.
type SetKey struct {
	KID      KID
	Role     Role
	Created  time.Time
	Pending  bool // published; opens, but must not be sealed with yet
	Retired  bool // of a static key: a former one, which only opens
	Seals    bool // the one key that new sessions are sealed with
	Material Material
}

// Sealing returns the key that new sessions are sealed with.
func (s *KeySet) Sealing() (*SetKey, bool) {
	for i := range s.Keys {
		if s.Keys[i].Seals {
			return &s.Keys[i], true
		}
	}
	return nil, false
}

// Key returns the key with this id, whatever its role.
func (s *KeySet) Key(kid KID) (*SetKey, bool) {
	for i := range s.Keys {
		if s.Keys[i].KID == kid {
			return &s.Keys[i], true
		}
	}
	return nil, false
}

// Newer reports whether a set at (epoch, version) replaces one at (s.Epoch,
// s.Version): a lower version is accepted only under a higher epoch.
func (s *KeySet) Newer(epoch Epoch, version Version) bool {
	if epoch != s.Epoch {
		return epoch > s.Epoch
	}
	return version > s.Version
}
