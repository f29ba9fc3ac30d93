package server

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/seal"
	"github.com/keytide/keytide/keystore/secretfile"
)

// Files of a store's directory.
const (
	identityFile = "server.json"
	unlockFile   = "unlock.key" // made here for development; a server's may lie anywhere
	tokensFile   = "tokens"
	tokenFile    = "admin.token"
	profileFile  = "client.yaml"
	configFile   = "keytide.yaml"
	busDir       = "bus"
	keysFile     = "keys.db"
	hostsFile    = "hosts.db"
)

const identityFormat = 1

// An identity is who a directory's server is, and which ledgers are its own. It is
// written last when a directory is made: a directory without one is not a store.
type identity struct {
	Format  int            `json:"format"`
	Store   string         `json:"store"`
	Epoch   keystore.Epoch `json:"epoch"`
	Dev     bool           `json:"dev"`
	Region  string         `json:"region"`
	Server  string         `json:"server"`
	KSK     keystore.KID   `json:"ksk"`
	Genesis struct {
		Keys  string `json:"keys"` // hash of event 1, hexadecimal
		Hosts string `json:"hosts"`
	} `json:"genesis"`
	// SetAside are ends of earlier epochs' replicas, of which a restore did not keep all.
	SetAside   []setAside `json:"set_aside,omitempty"`
	SigningKey sealedKey  `json:"signing_key"` // an Ed25519 seed
	P256Key    sealedKey  `json:"p256_key"`    // a scalar; what is for this server alone is sealed to it
	// Slots are unlock slots of the server's own, beside those that the ledger has: a
	// copy of the one by which it started first, or one that it made when it joined or took
	// the key store key. So it starts while it is cut off, and when the ledger's is removed.
	Slots [][]byte `json:"slots,omitempty"`
	// Former are key store keys that a rekey replaces, until nothing is sealed under
	// them any more.
	Former []formerKSK `json:"former,omitempty"`
}

// A formerKSK is a key store key that a rekey replaces, as this server unlocks it.
type formerKSK struct {
	KSK   keystore.KID `json:"ksk"`
	Slots [][]byte     `json:"slots"`
}

// A sealedKey is one of the server's own keys, sealed under the KSK.
type sealedKey struct {
	KID     keystore.KID `json:"kid"`
	Created time.Time    `json:"created_at"`
	Record  []byte       `json:"record"`
}

// errNoStore: a directory that holds no store.
var errNoStore = errors.New("holds no store")

func loadIdentity(dir string) (identity, error) {
	text, err := secretfile.Read(filepath.Join(dir, identityFile))
	if errors.Is(err, fs.ErrNotExist) {
		return identity{}, &hinted{
			error: fmt.Errorf("directory %s %w: it has no %s", dir, errNoStore, identityFile),
			hint:  "make one with keytide core init, or name the directory that has it",
		}
	}
	if err != nil {
		return identity{}, err
	}
	var id identity
	if err := json.Unmarshal(text, &id); err != nil {
		return identity{}, fmt.Errorf("%s in %s: %w", identityFile, dir, err)
	}
	if id.Format != identityFormat {
		return identity{}, fmt.Errorf("%s in %s: format %d; this program reads %d", identityFile, dir, id.Format, identityFormat)
	}
	return id, nil
}

func (id identity) save(dir string) error {
	text, err := json.MarshalIndent(id, "", "  ")
	if err != nil {
		return err
	}
	return secretfile.Replace(filepath.Join(dir, identityFile), append(text, '\n'))
}

// A keptIdentity is a running server's identity, as it is on the disk. Several parts change
// it while the server runs, each fields of its own, so each changes what is there now and not
// what was there when the server started. It is safe for concurrent use.
type keptIdentity struct {
	dir string

	mu sync.Mutex // guards id, and the file
	id identity
}

func (k *keptIdentity) now() identity {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.id
}

// change replaces the file as one: a crash leaves the server with the former identity or
// the next. fn must not write to what the former one's slices hold.
func (k *keptIdentity) change(fn func(*identity)) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	next := k.id
	fn(&next)
	if err := next.save(k.dir); err != nil {
		return err
	}
	k.id = next
	return nil
}

// fits reports where the directory and the configuration differ.
func (id identity) fits(c Config) error {
	if id.Dev && !c.dev {
		return &hinted{
			error: fmt.Errorf("%w: the store in %s is a development store: its unlock key lies beside its data", keystore.ErrRefused, c.Dir),
			hint:  "make a store for production:  keytide core init --dir DIR --store NAME --region R --server ID\nor serve this one with:        keytide dev --dir " + c.Dir,
		}
	}
	if !id.Dev && c.dev {
		return &hinted{
			error: fmt.Errorf("%w: the store in %s is not a development store", keystore.ErrRefused, c.Dir),
			hint:  "serve it with:  keytide server --config " + filepath.Join(c.Dir, configFile),
		}
	}
	var faults []error
	for _, field := range []struct{ name, have, want string }{
		{"store", id.Store, c.Store}, {"region", id.Region, c.Region}, {"server", id.Server, c.Server},
		{"genesis.keys", id.Genesis.Keys, c.Genesis.Keys}, {"genesis.hosts", id.Genesis.Hosts, c.Genesis.Hosts},
	} {
		if field.have != field.want {
			faults = append(faults, fmt.Errorf("%w: %s: the configuration says %s, but the store in %s has %s",
				keystore.ErrInvalid, field.name, field.want, c.Dir, field.have))
		}
	}
	return errors.Join(faults...)
}

// place is where one of the server's own keys belongs.
func (id identity) place(k sealedKey, alg seal.Alg) seal.Place {
	return seal.Place{
		Store: id.Store, Owner: "server:" + id.Server, KID: k.KID, Generation: 1,
		Purpose: seal.PurposeServerKey, Alg: alg, Created: k.Created,
	}
}

// sealKeys keeps the server's own keys in id, sealed.
func (id *identity) sealKeys(ksk *seal.KSK, keys serverKeys, at time.Time) (err error) {
	for _, k := range []struct {
		to  *sealedKey
		m   keystore.Material
		alg seal.Alg
	}{{&id.SigningKey, keys.seed, seal.AlgEd25519}, {&id.P256Key, keys.scalar, seal.AlgP256}} {
		*k.to = sealedKey{KID: k.m.KID(), Created: at.UTC().Truncate(time.Millisecond)}
		if k.to.Record, err = ksk.Seal(id.place(*k.to, k.alg), k.m); err != nil {
			return err
		}
	}
	return nil
}

// openKeys opens the server's own keys.
func (id identity) openKeys(ksk *seal.KSK) (serverKeys, error) {
	seed, err := ksk.Open(id.place(id.SigningKey, seal.AlgEd25519), id.SigningKey.Record)
	if err != nil {
		return serverKeys{}, fmt.Errorf("signing key of server %s: %w", id.Server, err)
	}
	scalar, err := ksk.Open(id.place(id.P256Key, seal.AlgP256), id.P256Key.Record)
	if err != nil {
		return serverKeys{}, fmt.Errorf("P-256 key of server %s: %w", id.Server, err)
	}
	return serverKeysOf(seed, scalar)
}

// serverKeys are a policy server's own keys.
type serverKeys struct {
	seed, scalar keystore.Material
	signing      ed25519.PrivateKey
	p256         *ecdh.PrivateKey
}

func newServerKeys() (serverKeys, error) { return serverKeysOf(seal.Generate(), seal.GenerateP256()) }

func serverKeysOf(seed, scalar keystore.Material) (k serverKeys, err error) {
	k.seed, k.scalar = seed, scalar
	if k.signing, err = signingKey(seed); err == nil {
		k.p256, err = seal.P256(scalar)
	}
	return k, err
}

// member is how a ledger knows the server with these keys.
func (k serverKeys) member(id, region string) events.Member {
	return events.Member{
		ID: id, Region: region, PublicKey: k.signing.Public().(ed25519.PublicKey), P256Key: k.p256.PublicKey().Bytes(),
	}
}

func signingKey(seed keystore.Material) (key ed25519.PrivateKey, err error) {
	err = seed.Use(func(secret []byte) error {
		key = ed25519.NewKeyFromSeed(secret)
		return nil
	})
	return key, err
}

// pins returns the hashes of both ledgers' first events.
func (id identity) pins() (keys, hosts events.Hash, err error) {
	keys, err = parsePin(id.Genesis.Keys)
	if err == nil {
		hosts, err = parsePin(id.Genesis.Hosts)
	}
	if err != nil {
		return keys, hosts, fmt.Errorf("%s: genesis: %w", identityFile, err)
	}
	return keys, hosts, nil
}

// A hinted is an error that says what to do next.
type hinted struct {
	error
	hint string
}

func (e *hinted) Hint() string  { return e.hint }
func (e *hinted) Unwrap() error { return e.error }

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
