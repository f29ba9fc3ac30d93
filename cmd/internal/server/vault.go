package server

import (
	"fmt"
	"slices"
	"sync"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/seal"
)

// A vault holds the key store keys that this server has, during a rekey several, and
// material that has been opened. It is safe for concurrent use.
type vault struct {
	store string

	mu     sync.Mutex // guards the fields below
	ksks   map[keystore.KID]*seal.KSK
	opened map[keystore.KID]keystore.Material
}

func newVault(store string, ksks ...*seal.KSK) *vault {
	v := &vault{store: store, ksks: make(map[keystore.KID]*seal.KSK), opened: make(map[keystore.KID]keystore.Material)}
	for _, k := range ksks {
		v.ksks[k.ID()] = k
	}
	return v
}

// ksk returns the key store key with this id.
func (v *vault) ksk(id keystore.KID) (*seal.KSK, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	k, ok := v.ksks[id]
	return k, ok
}

func (v *vault) learn(k *seal.KSK) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ksks[k.ID()] = k
}

// keep drops every key store key but these.
func (v *vault) keep(ids ...keystore.KID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for id := range v.ksks {
		if !slices.Contains(ids, id) {
			delete(v.ksks, id)
		}
	}
}

// errNoKSK: a key store key that this server has not got yet.
var errNoKSK = fmt.Errorf("%w: this server has not got it yet", seal.ErrWrongKey)

// values gives a ledger's verified value for a KV key.
type values interface {
	Value(key string) ([]byte, bool)
}

// open returns the material of a kid that belongs to owner: what it opened before,
// or the ledger's record. The error names the key, its owner and the store, and
// what does not fit.
func (v *vault) open(from values, owner string, kid keystore.KID) (keystore.Material, error) {
	v.mu.Lock()
	m, ok := v.opened[kid]
	v.mu.Unlock()
	if ok {
		return m, nil
	}
	m, err := v.try(from, owner, kid)
	if err != nil {
		return keystore.Material{}, err
	}
	v.mu.Lock()
	v.opened[kid] = m
	v.mu.Unlock()
	return m, nil
}

// try opens the ledger's record, whatever was opened before, and keeps nothing.
func (v *vault) try(from values, owner string, kid keystore.KID) (keystore.Material, error) {
	value, ok := from.Value(events.MaterialKey(kid))
	if !ok {
		return keystore.Material{}, fmt.Errorf("key %s of %s: %w: the ledger has no material for it", kid, owner, keystore.ErrNotFound)
	}
	sealed, err := events.DecodeMaterial(value)
	if err != nil {
		return keystore.Material{}, fmt.Errorf("key %s of %s: %w", kid, owner, err)
	}
	return v.unseal(placed(v.store, owner, kid, sealed), sealed.Record)
}

func placed(store, owner string, kid keystore.KID, m events.MaterialValue) seal.Place {
	return seal.Place{
		Store: store, Owner: owner, KID: kid, Generation: m.Generation,
		Purpose: seal.Purpose(m.Purpose), Alg: seal.Alg(m.Alg), Created: m.Created,
	}
}

func (v *vault) unseal(p seal.Place, record []byte) (keystore.Material, error) {
	id, err := seal.RecordKSK(record)
	if err != nil {
		return keystore.Material{}, fmt.Errorf("%v: %w", p, err)
	}
	ksk, ok := v.ksk(id)
	if !ok {
		return keystore.Material{}, fmt.Errorf("%v is sealed under key store key %s: %w", p, id, errNoKSK)
	}
	return ksk.Open(p, record)
}

// forget drops material that is destroyed.
func (v *vault) forget(kids []keystore.KID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, kid := range kids {
		delete(v.opened, kid)
	}
}

// seal wraps new material for its place under the key store key that the ledger says
// is sealed with, and returns the value that the ledger keeps of it.
func (v *vault) seal(under keystore.KID, p seal.Place, m keystore.Material) ([]byte, error) {
	ksk, ok := v.ksk(under)
	if !ok {
		return nil, fmt.Errorf("key store key %s: %w: %w", under, events.ErrUnavailable, errNoKSK)
	}
	p.Store, p.KID, p.Alg = v.store, m.KID(), seal.AlgHKDFSHA256
	record, err := ksk.Seal(p, m)
	if err != nil {
		return nil, err
	}
	return events.MaterialValue{
		Purpose: uint8(p.Purpose), Alg: uint8(p.Alg), Generation: p.Generation, Created: p.Created,
		Owner: p.Owner, Record: record,
	}.Encode()
}

func ringOwner(name keystore.RingName) string { return "ring:" + string(name) }
func hostOwner(name string) string            { return "host:" + name }

// purposes are what keys of a role are sealed for; it never changes in a key's life.
var purposes = map[keystore.Role]seal.Purpose{
	keystore.Current: seal.PurposeDynamic, keystore.Future: seal.PurposeDynamic,
	keystore.Static: seal.PurposeStatic, keystore.SessionTicket: seal.PurposeSessionTicket,
}
