package events

import (
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	"github.com/keytide/keytide/keystore"
)

// A KSKState is what a ledger says of its key store keys. Between rekeys there is
// one. A rekey publishes the next (begun), lets every server take it, seals with it
// from one event on (turned), wraps what there is anew, and ends the former.
type KSKState struct {
	Sealing keystore.KID // new material is sealed under it
	Next    keystore.KID // published, not sealed with yet; zero: none
	Former  keystore.KID // what is left is sealed under it; zero: none

	Begun, Turned, Ended keystore.N            // events of the newest rekey; 0: not yet
	Taken                map[string]keystore.N // by which event a server took the newest key store key
	Total                int                   // material to wrap anew when it turned
	Left                 int                   // of it: still sealed under Former
}

// ksks is the fold of the key store keys.
type ksks struct {
	KSKState
	left map[keystore.KID]struct{} // material that is still sealed under Former
}

// Newest is the key store key that servers have to hold: Next, or else Sealing.
func (k KSKState) Newest() keystore.KID {
	if k.Next != (keystore.KID{}) {
		return k.Next
	}
	return k.Sealing
}

// UnderWay reports whether a rekey has begun and not ended.
func (k KSKState) UnderWay() bool { return k.Next != keystore.KID{} || k.Former != keystore.KID{} }

// Holds reports whether a member has the newest key store key: it was there when
// the store was made, took it, or joined after it was published.
func (k KSKState) Holds(m Member) bool {
	return k.Begun == 0 || m.Joined > k.Begun || k.Taken[m.ID] != 0
}

// Lacking are the ids of members, sorted, that do not hold the newest key store key:
// those that count, and with excluded set those that are excluded.
func (s *State) Lacking(excluded bool) (ids []string) {
	for _, m := range s.members.all() {
		if m.Forgotten == 0 && (m.Excluded != 0) == excluded && !s.ksk.Holds(m) {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

// KSK returns what the ledger says of its key store keys.
func (s *State) KSK() KSKState {
	k := s.ksk.KSKState
	k.Taken, k.Left = maps.Clone(k.Taken), len(s.ksk.left)
	return k
}

// ToRewrap returns the kids of at most this much of the material that is still sealed
// under the former key store key, in no order.
func (s *State) ToRewrap(most int) []keystore.KID {
	kids := make([]keystore.KID, 0, min(most, len(s.ksk.left)))
	for kid := range s.ksk.left {
		if len(kids) == most {
			break
		}
		kids = append(kids, kid)
	}
	return kids
}

func (k ksks) clone() ksks {
	k.Taken, k.left = maps.Clone(k.Taken), maps.Clone(k.left)
	return k
}

// decideKSK judges an event of the key store key. The error wraps ErrPayload, and
// keystore.ErrExists, ErrNotFound or ErrRefused where that says more.
func (s *State) decideKSK(v *view) (KSKChange, error) {
	c, err := DecodeKSKChange(v.typ, v.payload)
	if err != nil {
		return KSKChange{}, misfit(err)
	}
	need := wants{effects: v.effects}
	switch v.typ {
	case TypeRekeyBegun:
		err = s.decideBegun(c)
		need.putKID(kskPrefix, c.KSK)
	case TypeKSKTaken:
		err = s.decideTaken(c, string(v.server))
		need.putKID(kskPrefix, c.KSK)
	case TypeRekeyTurned:
		err = s.decideTurned(c)
	case TypeMaterialRewrapped:
		if c.KSK != s.ksk.Sealing || s.ksk.Former == (keystore.KID{}) {
			return KSKChange{}, unfit("material wrapped under key store key %s, to which no rekey is under way", c.KSK)
		}
		return c, s.decideRewrapped(v)
	case TypeRekeyEnded:
		err = s.decideEnded(c)
		need.delKID(kskPrefix, c.KSK)
	case TypeSlotsSet:
		if c.KSK != s.ksk.Sealing && c.KSK != s.ksk.Next && c.KSK != s.ksk.Former {
			err = fmt.Errorf("key store key %s: %w", c.KSK, keystore.ErrNotFound)
		} else if len(c.Added) > 0 && c.KSK != s.ksk.Newest() {
			err = fmt.Errorf("slots of key store key %s: %w: a rekey replaces it by %s", c.KSK, keystore.ErrRefused, s.ksk.Newest())
		}
		need.putKID(kskPrefix, c.KSK)
	}
	if err != nil {
		return KSKChange{}, misfit(err)
	}
	return c, need.exactly(v.effectCount)
}

func (s *State) decideBegun(c KSKChange) error {
	if s.ksk.UnderWay() {
		return fmt.Errorf("rekey: %w: another is under way since event %d", keystore.ErrExists, s.ksk.Begun)
	}
	if _, ok := s.live.find(KSKKey(c.KSK)); ok {
		return fmt.Errorf("key store key %s: %w", c.KSK, keystore.ErrExists)
	}
	return nil
}

func (s *State) decideTaken(c KSKChange, server string) error {
	m := s.members.byID[server]
	switch {
	case c.KSK != s.ksk.Newest():
		return fmt.Errorf("key store key %s: %w: the newest is %s", c.KSK, keystore.ErrRefused, s.ksk.Newest())
	case s.ksk.Begun == 0 || s.ksk.Holds(m):
		return fmt.Errorf("key store key %s: %w: server %s has it", c.KSK, keystore.ErrExists, server)
	}
	return nil
}

func (s *State) decideTurned(c KSKChange) error {
	if c.KSK != s.ksk.Next || c.KSK == (keystore.KID{}) {
		return fmt.Errorf("key store key %s: %w: it is not the next", c.KSK, keystore.ErrRefused)
	}
	return s.allTook()
}

// allTook reports who keeps a rekey from going on. In a ledger of hosts nobody does: it
// follows the ledger of keys.
func (s *State) allTook() error {
	if lacking := s.Lacking(false); len(lacking) > 0 && s.genesis.Kind == Keys {
		return fmt.Errorf("rekey: %w: servers %v have not taken key store key %s", keystore.ErrRefused, lacking, s.ksk.Newest())
	}
	return nil
}

func (s *State) decideEnded(c KSKChange) error {
	switch {
	case c.KSK != s.ksk.Former || c.KSK == (keystore.KID{}):
		return fmt.Errorf("key store key %s: %w: no rekey away from it is under way", c.KSK, keystore.ErrRefused)
	case len(s.ksk.left) > 0:
		return fmt.Errorf("key store key %s: %w: %d keys are still sealed under it", c.KSK, keystore.ErrRefused, len(s.ksk.left))
	}
	return s.allTook()
}

// decideRewrapped wants effects that put material which is left, and nothing else.
func (s *State) decideRewrapped(v *view) error {
	if v.effectCount == 0 {
		return unfit("no material is wrapped anew")
	}
	for left := v.effects; len(left) > 0; {
		key, hash, rest := nextEffect(left)
		left = rest
		kind, digits, _ := splitKey(key)
		var kid keystore.KID
		if kind == KeyMaterial {
			hex.Decode(kid[:], digits) // parse has checked it
		}
		if _, ok := s.ksk.left[kid]; !ok || hash == nil {
			return unfit("%s is no material that is left to wrap anew", string(key))
		}
	}
	return nil
}

// carryOut does what decideKSK allowed.
func (k *ksks) carryOut(c KSKChange, v *view, l live) {
	switch c.Type {
	case TypeRekeyBegun:
		k.KSKState = KSKState{Sealing: k.Sealing, Next: c.KSK, Begun: v.n, Taken: map[string]keystore.N{}}
	case TypeKSKTaken:
		k.Taken[string(v.server)] = v.n
	case TypeRekeyTurned:
		k.Sealing, k.Next, k.Former, k.Turned = k.Next, keystore.KID{}, k.Sealing, v.n
		k.Total, k.left = len(l.material), make(map[keystore.KID]struct{}, len(l.material))
		for kid := range l.material {
			k.left[kid] = struct{}{}
		}
	case TypeRekeyEnded:
		k.Former, k.Ended, k.left = keystore.KID{}, v.n, nil
	}
}

// forget takes material that an event wraps anew, or destroys, out of what is left.
func (k *ksks) forget(effects []byte, rewrapped bool) {
	if len(k.left) == 0 {
		return
	}
	for left := effects; len(left) > 0; {
		key, hash, rest := nextEffect(left)
		left = rest
		if kind, digits, _ := splitKey(key); kind == KeyMaterial && (rewrapped || hash == nil) {
			var kid keystore.KID
			hex.Decode(kid[:], digits)
			delete(k.left, kid)
		}
	}
}

// SlotID names an unlock slot: the first 8 bytes of the SHA-256 of its record.
func SlotID(record []byte) keystore.KID {
	hash := HashOf(record)
	return keystore.KID(hash[:len(keystore.KID{})])
}

// Slot returns the slot with this id.
func (k KSKValue) Slot(id keystore.KID) (Slot, bool) {
	i := slices.IndexFunc(k.Slots, func(s Slot) bool { return SlotID(s.Record) == id })
	if i < 0 {
		return Slot{}, false
	}
	return k.Slots[i], true
}

// Replaced reports whether a slot stands in for the former key store key's slot with
// this id.
func (k KSKValue) Replaced(id keystore.KID) bool {
	return slices.ContainsFunc(k.Slots, func(s Slot) bool { return s.Replaces == id })
}

// Envelope returns what is sealed to a server.
func (k KSKValue) Envelope(server string) ([]byte, bool) {
	i := slices.IndexFunc(k.Envelopes, func(e Envelope) bool { return e.Server == server })
	if i < 0 {
		return nil, false
	}
	return k.Envelopes[i].Box, true
}

// Records are the slots' records alone.
func (k KSKValue) Records() [][]byte {
	records := make([][]byte, len(k.Slots))
	for i, s := range k.Slots {
		records[i] = s.Record
	}
	return records
}
