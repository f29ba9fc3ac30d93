package server

import (
	"fmt"
	"sync"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/seal"
)

// A vault holds material that has been opened. It is safe for concurrent use.
type vault struct {
	store string
	ksk   *seal.KSK

	mu     sync.Mutex // guards opened
	opened map[keystore.KID]keystore.Material
}

func newVault(store string, ksk *seal.KSK) *vault {
	return &vault{store: store, ksk: ksk, opened: make(map[keystore.KID]keystore.Material)}
}

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
	value, ok := from.Value(events.MaterialKey(kid))
	if !ok {
		return keystore.Material{}, fmt.Errorf("key %s of %s: %w: the ledger has no material for it", kid, owner, keystore.ErrNotFound)
	}
	sealed, err := events.DecodeMaterial(value)
	if err != nil {
		return keystore.Material{}, fmt.Errorf("key %s of %s: %w", kid, owner, err)
	}
	m, err = v.ksk.Open(seal.Place{
		Store: v.store, Owner: owner, KID: kid, Generation: sealed.Generation,
		Purpose: seal.Purpose(sealed.Purpose), Alg: seal.Alg(sealed.Alg), Created: sealed.Created,
	}, sealed.Record)
	if err != nil {
		return keystore.Material{}, err
	}
	v.mu.Lock()
	v.opened[kid] = m
	v.mu.Unlock()
	return m, nil
}

// forget drops material that is destroyed.
func (v *vault) forget(kids []keystore.KID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, kid := range kids {
		delete(v.opened, kid)
	}
}

// seal wraps new material for its place and returns the value that the ledger
// keeps of it.
func (v *vault) seal(p seal.Place, m keystore.Material) ([]byte, error) {
	p.Store, p.KID, p.Alg = v.store, m.KID(), seal.AlgHKDFSHA256
	record, err := v.ksk.Seal(p, m)
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
