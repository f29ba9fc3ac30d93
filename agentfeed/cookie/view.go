package cookie

import (
	"math/bits"
	"slices"

	"github.com/keytide/keytide/keystore"
)

// A view is what a codec makes of one KeySet: the keys that open tokens of its
// purpose, found by the first characters of a token, and the one that seals.
// It is immutable.
type view struct {
	set     *keystore.KeySet
	seals   *key   // nil: none may
	openers []*key // current, old (newest first), future, static
	table   []*key // open addressing; never full
	shift   uint   // brings a hash down to the table
}

// newView reads set for purpose. Keys that before holds are taken over, with their
// sealers. A key with no material, with a kid that is not its material's, or with
// the kid of a key before it is left out.
func newView(set *keystore.KeySet, purpose Purpose, before *view) *view {
	v := &view{set: set}
	byRole := slices.Clone(set.Keys)
	slices.SortStableFunc(byRole, func(a, b keystore.SetKey) int { return rank(a.Role) - rank(b.Role) })
	size := 8
	for size < 4*len(byRole) { // a quarter full at most, so that a search is short
		size *= 2
	}
	v.table, v.shift = make([]*key, size), uint(64-bits.TrailingZeros(uint(size)))
	for i := range byRole {
		if opens(set, &byRole[i], purpose) {
			v.add(&byRole[i], before)
		}
	}
	if k, ok := sealing(set, purpose); ok {
		v.seals = v.withKID(k.KID)
	}
	return v
}

// rank is the order in which keys are tried for a token that names none.
func rank(r keystore.Role) int {
	return slices.Index([]keystore.Role{keystore.Current, keystore.Old, keystore.Future, keystore.Static}, r)
}

// opens reports whether the key opens tokens of the purpose. Static keys open sessions
// in static mode, and while the ring is about to enter it or has left it lately; then
// the dynamic keys still do, for the sessions from before.
func opens(set *keystore.KeySet, k *keystore.SetKey, purpose Purpose) bool {
	switch k.Role {
	case keystore.Current, keystore.Old, keystore.Future:
		return purpose == Session
	case keystore.Static:
		return purpose != Session || set.Mode == keystore.ModeStatic || set.OpensStatic
	}
	return false
}

// sealing returns the key that seals tokens of the purpose, which is never a
// pending or retired one nor one of a role that does not fit.
func sealing(set *keystore.KeySet, purpose Purpose) (*keystore.SetKey, bool) {
	if purpose == Session {
		want := keystore.Current
		if set.Mode == keystore.ModeStatic {
			want = keystore.Static
		}
		k, ok := set.Sealing()
		return k, ok && k.Role == want && !k.Pending && !k.Retired
	}
	for i := range set.Keys {
		if k := &set.Keys[i]; k.Role == keystore.Static && !k.Pending && !k.Retired {
			return k, true
		}
	}
	return nil, false
}

func (v *view) add(k *keystore.SetKey, before *view) {
	if v.withKID(k.KID) != nil {
		return
	}
	var own *key
	if before != nil {
		own = before.withKID(k.KID)
	}
	if own == nil || !own.holds(k.Material) {
		own = newKey(k)
	}
	if own == nil {
		return
	}
	v.openers = append(v.openers, own)
	i := v.place(own.label)
	for v.table[i] != nil {
		i = (i + 1) & (len(v.table) - 1)
	}
	v.table[i] = own
}

// find returns the key of that label, or nil.
func (v *view) find(want label) *key {
	for i := v.place(want); ; i = (i + 1) & (len(v.table) - 1) {
		if k := v.table[i]; k == nil || k.label == want {
			return k
		}
	}
}

// place hashes a label. Whoever chooses the text of a token does not choose what is
// in the table.
func (v *view) place(l label) int {
	return int(l.rest * 0x9e3779b97f4a7c15 >> v.shift)
}

func (v *view) withKID(kid keystore.KID) *key { return v.find(labelOfKey(kid)) }

// has reports whether k opens in this view.
func (v *view) has(k *key) bool { return v != nil && v.find(k.label) == k }
