package events

import (
	"encoding/hex"

	"github.com/keytide/keytide/keystore"
)

// nextEffect takes the first of some packed effects apart, which parse has checked:
// a pair, a string of at most maxEffectKey bytes, and a hash or nil. hash is nil
// where the key is deleted.
func nextEffect(b []byte) (key, hash, rest []byte) {
	at, size := 2, int(b[1]&31)
	if b[1] == mpStr8 {
		at, size = 3, int(b[2])
	}
	key, b = b[at:at+size], b[at+size:]
	if b[0] == mpNil {
		return key, nil, b[1:]
	}
	end := 2 + len(Hash{})
	return key, b[2:end], b[end:]
}

// wants checks that an event's effects make its payload whole. The first that is
// missing, or does the opposite, is kept in err.
type wants struct {
	effects []byte // packed, checked
	err     error
	count   int // of effects that are due
	buf     [maxEffectKey]byte
}

func (w *wants) put(prefix, name string) {
	w.effect(append(append(w.buf[:0], prefix...), name...), false)
}

func (w *wants) putKID(prefix string, kid keystore.KID) {
	w.effect(hex.AppendEncode(append(w.buf[:0], prefix...), kid[:]), false)
}

func (w *wants) delKID(prefix string, kid keystore.KID) {
	w.effect(hex.AppendEncode(append(w.buf[:0], prefix...), kid[:]), true)
}

// makeKID wants material that does not live yet: a key that two owners shared would
// end for both when the first destroys it.
func (w *wants) makeKID(l live, kid keystore.KID) {
	if _, ok := l.material[kid]; ok && w.err == nil {
		w.err = unfit("makes key %s, which is there already", kid)
	}
	w.putKID(materialPrefix, kid)
}

// exactly reports the first fault, or that there are effects beyond those wanted: an
// event changes what its payload says, and nothing else.
func (w *wants) exactly(effects int) error {
	if w.err == nil && effects != w.count {
		w.err = unfit("%d effects; want %d", effects, w.count)
	}
	return w.err
}

func (w *wants) effect(key []byte, deleted bool) {
	w.count++
	for left := w.effects; len(left) > 0; {
		got, hash, rest := nextEffect(left)
		if string(got) == string(key) && (hash == nil) == deleted {
			return
		}
		left = rest
	}
	if w.err == nil {
		verb := map[bool]string{true: "delete", false: "put"}[deleted]
		w.err = unfit("effects do not %s %s", verb, string(key))
	}
}

// live is the hashes of a ledger's live values, by KV key. Material is most of them.
type live struct {
	material map[keystore.KID]Hash
	rest     map[string]*Hash // the map owns what it points to
}

func newLive() live { return live{material: map[keystore.KID]Hash{}, rest: map[string]*Hash{}} }

// carryOut does what an event's effects say; parse has checked them.
func (l live) carryOut(effects []byte) {
	for left := effects; len(left) > 0; {
		key, hash, rest := nextEffect(left)
		left = rest
		if kind, digits, _ := splitKey(key); kind == KeyMaterial {
			l.setMaterial(digits, hash)
			continue
		}
		switch at, ok := l.rest[string(key)]; {
		case hash == nil:
			delete(l.rest, string(key))
		case ok:
			*at = Hash(hash)
		default:
			h := Hash(hash)
			l.rest[string(key)] = &h
		}
	}
}

func (l live) setMaterial(digits, hash []byte) {
	var kid keystore.KID
	if _, err := hex.Decode(kid[:], digits); err != nil {
		panic("events: an effect that was not checked: " + err.Error())
	}
	if hash == nil {
		delete(l.material, kid)
		return
	}
	l.material[kid] = Hash(hash)
}

func (l live) find(key string) (Hash, bool) {
	if kind, _, _ := splitKey(key); kind == KeyMaterial {
		parsed, err := ParseKey(key)
		if err != nil {
			return Hash{}, false
		}
		hash, ok := l.material[parsed.KID]
		return hash, ok
	}
	if at, ok := l.rest[key]; ok {
		return *at, true
	}
	return Hash{}, false
}

func (l live) keys() []string {
	keys := make([]string, 0, len(l.material)+len(l.rest))
	for kid := range l.material {
		keys = append(keys, MaterialKey(kid))
	}
	for key := range l.rest {
		keys = append(keys, key)
	}
	return keys
}

func (l live) clone() live {
	c := newLive()
	for kid, hash := range l.material {
		c.material[kid] = hash
	}
	for key, at := range l.rest {
		hash := *at
		c.rest[key] = &hash
	}
	return c
}
