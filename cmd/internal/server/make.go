package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/events/ledger"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/seal"
	"github.com/keytide/keytide/keystore/secretfile"
	"github.com/keytide/keytide/replication"
	"github.com/keytide/keytide/replication/bus"
)

const (
	maxLedger = 1 << 30             // bytes of one ledger; some two million events
	maxStore  = 2*maxLedger + 1<<28 // bytes of the bus: both ledgers, and room for what NATS keeps itself
)

// A making is a store's directory being made. Everything is built in a sibling
// that is renamed at the end: a crash at any step leaves either nothing under the
// directory's name or a whole store. What a crash left beside it is taken away at
// the next try.
type making struct {
	dir    string // the name that it will have
	temp   string
	listen []string // hosts of these go into the certificate
	id     identity
	// unlock gives the key that opens the store; by default a file made in it.
	unlock func() (seal.UnlockKey, error)
	// extra writes the files that differ: profile and configuration.
	extra func(m *making) error
	step  func(string) // if set, called before each step with its name: tests die there
}

// make builds the directory. There must be nothing under its name, or an empty
// directory.
func (m *making) make(ctx context.Context) error {
	return m.do(ctx, []makingStep{
		{"certificates", m.certificates},
		{"token", m.token},
		{"ledgers", m.ledgers},
		{"files", func(context.Context) error { return m.extra(m) }},
		{"identity", func(context.Context) error { return m.id.save(m.temp) }},
		{"name", func(context.Context) error { return m.rename() }},
	})
}

// A makingStep is one step of a making.
type makingStep struct {
	name string
	run  func(context.Context) error
}

// do builds the directory by these steps.
func (m *making) do(ctx context.Context, steps []makingStep) (err error) {
	lock, err := m.begin()
	if err != nil {
		return err
	}
	defer lock.Close()
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(m.temp)) // it holds secrets
		}
	}()
	for _, step := range steps {
		if m.step != nil {
			m.step(step.name)
		}
		if err := step.run(ctx); err != nil {
			return fmt.Errorf("making the store %s: %s: %w", m.dir, step.name, err)
		}
	}
	return nil
}

// begin takes away what a crash left and makes the sibling, locked: two that make
// one store at a time would build in each other's files.
func (m *making) begin() (*os.File, error) {
	parent, base := filepath.Split(filepath.Clean(m.dir))
	if err := os.MkdirAll(filepath.Clean(parent+"."), 0o755); err != nil {
		return nil, err
	}
	m.temp = filepath.Join(parent, "."+base+".making")
	if err := os.Mkdir(m.temp, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	lock, err := os.Open(m.temp)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return nil, &hinted{
			error: fmt.Errorf("another process is making the store %s", m.dir),
			hint:  "wait until it has, then start again",
		}
	}
	left, err := os.ReadDir(m.temp)
	for _, entry := range left {
		err = errors.Join(err, os.RemoveAll(filepath.Join(m.temp, entry.Name())))
	}
	if err != nil {
		lock.Close()
		return nil, err
	}
	return lock, nil
}

func (m *making) certificates(context.Context) error {
	if err := makeCA(m.temp, m.id.Store); err != nil {
		return err
	}
	return ensureCertificate(m.temp, m.listen...)
}

// token makes the admin token: its hash for the server, itself for the profile.
func (m *making) token(context.Context) error {
	token := adminhttp.NewToken()
	return errors.Join(
		secretfile.Replace(filepath.Join(m.temp, tokensFile), []byte(adminhttp.TokenLine("admin", token))),
		secretfile.Replace(filepath.Join(m.temp, tokenFile), []byte(token+"\n")),
	)
}

// ledgers makes the key store key, the server's signing key, and both ledgers with
// their first events.
func (m *making) ledgers(ctx context.Context) error {
	ksk := seal.NewKSK()
	unlock, err := m.unlock()
	if err != nil {
		return err
	}
	slot, err := seal.NewSlot(ksk, unlock, m.id.Store)
	if err != nil {
		return err
	}
	m.id.Format, m.id.Epoch, m.id.KSK = identityFormat, 1, ksk.ID()
	keys, err := newServerKeys()
	if err != nil {
		return err
	}
	if err := m.id.sealKeys(ksk, keys, now()); err != nil {
		return err
	}
	founding, err := bus.Start(bus.Config{
		StoreDir: filepath.Join(m.temp, busDir), ServerName: m.id.Server, MaxStore: maxStore,
	})
	if err != nil {
		return err
	}
	f := founder{id: m.id, keys: keys, vault: newVault(m.id.Store, ksk), slots: []events.Slot{{Record: slot}}}
	m.id.Genesis.Keys, err = f.found(ctx, founding, events.Keys)
	if err == nil {
		m.id.Genesis.Hosts, err = f.found(ctx, founding, events.Hosts)
	}
	return errors.Join(err, founding.Close())
}

// A founder makes ledgers.
type founder struct {
	id    identity
	keys  serverKeys
	vault *vault
	slots []events.Slot
	joins []events.Member // the other servers of a core
}

// found makes one ledger on the bus, and returns the hash of its first event.
func (f founder) found(ctx context.Context, b *bus.Bus, kind events.Kind) (string, error) {
	founding, err := f.founding(kind)
	if err != nil {
		return "", err
	}
	js, nc, err := b.JetStream("found " + kind.String())
	if err != nil {
		return "", err
	}
	defer nc.Close()
	log, err := ledger.Create(ctx, js, ledger.Config{Bucket: founding.Bucket, MaxBytes: maxLedger})
	if err != nil {
		return "", err
	}
	return founding.founding().Genesis().Hash().String(), founding.founding().Write(ctx, log)
}

// founding draws what one ledger begins with: a membership key of its own, the
// founder, and whoever joins at once.
func (f founder) founding(kind events.Kind) (ledgerFounding, error) {
	slots, err := events.KSKValue{ID: f.id.KSK, Slots: f.slots}.Encode()
	if err != nil {
		return ledgerFounding{}, err
	}
	membership := seal.Generate()
	sealed, err := f.vault.seal(f.id.KSK, seal.Place{
		Owner: "member", Generation: 1, Purpose: seal.PurposeMembership, Created: now(),
	}, membership)
	if err != nil {
		return ledgerFounding{}, err
	}
	genesis := events.Genesis{
		Store: f.id.Store, Kind: kind, Epoch: f.id.Epoch, KSK: f.id.KSK, Membership: membership.KID(), Dev: f.id.Dev,
		Founder: f.keys.member(f.id.Server, f.id.Region),
	}
	rand.Read(genesis.StoreID[:])
	founding, err := replication.NewFounding(replication.FoundConfig{
		Genesis: genesis, Key: f.keys.signing, KSK: slots, Membership: sealed, Actor: "keytide", Reason: "founded",
	})
	for _, m := range f.joins {
		if err == nil {
			err = f.join(&founding, genesis, membership, m)
		}
	}
	return ledgerFounding{Kind: kind, Bucket: events.BucketName(kind, f.id.Store, f.id.Epoch), Batches: founding.Batches}, err
}

// rename gives the directory its name. From then on it is a store.
func (m *making) rename() error {
	if err := syncDir(m.temp); err != nil {
		return err
	}
	if err := os.Rename(m.temp, m.dir); err != nil {
		if errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTDIR) {
			return notOurs(m.dir)
		}
		return err
	}
	return syncDir(filepath.Dir(filepath.Clean(m.dir)))
}

// vacant reports whether a store may be made at dir: there is nothing, or an empty
// directory.
func vacant(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return err == nil && len(entries) == 0, err
}

// notOurs refuses a directory that holds something else.
func notOurs(dir string) error {
	return &hinted{
		error: fmt.Errorf("%w: directory %s is not empty and holds no store", keystore.ErrRefused, dir),
		hint:  "choose a directory that does not exist yet:  --dir DIR",
	}
}

// newUnlockFile makes an unlock key of 32 random bytes at path and reads it back.
func newUnlockFile(path string) (seal.UnlockKey, error) {
	err := seal.Generate().Use(func(secret []byte) error { return secretfile.Write(path, secret) })
	if err != nil {
		return seal.UnlockKey{}, err
	}
	return seal.FileKey(path)
}

// writeProfile writes the client profile for a listener's address.
func writeProfile(dir, listen string) error {
	text := fmt.Sprintf("# Client profile of keytide's commands.\nservers:\n  - %s\nca_file: %s\ntoken_file: %s\n",
		urlOf(listen, "127.0.0.1"), caFile, tokenFile)
	return secretfile.Replace(filepath.Join(dir, profileFile), []byte(text))
}
