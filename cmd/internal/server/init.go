package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/fips"
	"github.com/keytide/keytide/keystore/seal"
	"github.com/keytide/keytide/keystore/secretfile"
)

// InitConfig is what keytide core init was asked for.
type InitConfig struct {
	Dir            string // to make
	Store          string
	Region         string
	Server         string
	Listen         string
	FeedListen     string
	UnlockFile     string // of 32 bytes; made if there is none. If empty, in Dir
	PassphraseFile string // or a passphrase, which must be there
}

// Made says what Init made.
type Made struct {
	Fields [][2]string // name and value, for a person
	Config string
	Client string
	Unlock string
}

// Init makes the store of one site.
func Init(ctx context.Context, cfg InitConfig) (Made, error) {
	if err := cfg.check(); err != nil {
		return Made{}, err
	}
	var err error
	for _, path := range []*string{&cfg.Dir, &cfg.UnlockFile, &cfg.PassphraseFile} {
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return Made{}, err
		}
	}
	if err := mustBeVacant(cfg.Dir); err != nil {
		return Made{}, err
	}
	m := &making{dir: cfg.Dir, listen: []string{cfg.Listen, cfg.FeedListen}}
	m.id = identity{Store: cfg.Store, Region: cfg.Region, Server: cfg.Server}
	m.unlock = func() (seal.UnlockKey, error) { return cfg.unlockKey(m.temp) }
	m.extra = func(m *making) error {
		return errors.Join(
			writeProfile(m.temp, cfg.Listen),
			secretfile.Replace(filepath.Join(m.temp, configFile), []byte(cfg.text(m.id))),
		)
	}
	if err := m.make(ctx); err != nil {
		return Made{}, err
	}
	return cfg.made(m.id), nil
}

// mustBeVacant refuses a directory in which there is something.
func mustBeVacant(dir string) error {
	free, err := vacant(dir)
	if err == nil && !free {
		err = &hinted{
			error: fmt.Errorf("directory %s is not empty: %w", dir, keystore.ErrExists),
			hint:  "a store is never made over another: choose a directory that does not exist yet",
		}
	}
	return err
}

func (cfg InitConfig) check() error {
	var faults []error
	for _, name := range []struct{ flag, value string }{
		{"--store", cfg.Store}, {"--region", cfg.Region}, {"--server", cfg.Server},
	} {
		if err := keystore.CheckName(name.value); err != nil {
			faults = append(faults, fmt.Errorf("%s %q: %w", name.flag, name.value, err))
		}
	}
	if cfg.UnlockFile != "" && cfg.PassphraseFile != "" {
		faults = append(faults, fmt.Errorf("%w: --unlock-file and --passphrase-file: give one", keystore.ErrInvalid))
	}
	return errors.Join(faults...)
}

// unlockKey reads the unlock key, or makes the file of one.
func (cfg InitConfig) unlockKey(temp string) (seal.UnlockKey, error) {
	if cfg.PassphraseFile != "" {
		return seal.Passphrase(cfg.PassphraseFile)
	}
	path := cfg.UnlockFile
	if path == "" {
		path = filepath.Join(temp, unlockFile)
	}
	return FileKeyOrNew(path)
}

// FileKeyOrNew reads an unlock key of 32 bytes, or makes the file of one.
func FileKeyOrNew(path string) (seal.UnlockKey, error) {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return seal.FileKey(path)
	}
	return newUnlockFile(path)
}

// text is the server's configuration. Its paths are taken from its directory.
func (cfg InitConfig) text(id identity) string {
	unlock := "file: " + unlockFile
	if cfg.UnlockFile != "" {
		unlock = fmt.Sprintf("file: %q", cfg.UnlockFile)
	}
	if cfg.PassphraseFile != "" {
		unlock = fmt.Sprintf("passphrase_file: %q", cfg.PassphraseFile)
	}
	return fmt.Sprintf(`# Configuration of policy server %[3]s. Relative paths are taken from this directory.
store: %[1]s
region: %[2]s
server: %[3]s
dir: .
unlock:
  %[4]s
genesis: # which ledgers these must be
  keys: %[5]q
  hosts: %[6]q
admin:
  listen: %[7]q
feed:
  listen: %[8]q
metrics:
  listen: "127.0.0.1:7490"
%[9]s`, cfg.Store, cfg.Region, cfg.Server, unlock, id.Genesis.Keys, id.Genesis.Hosts, cfg.Listen, cfg.FeedListen, fipsLine())
}

// fipsLine keeps a store that was made with a certified module with one.
func fipsLine() string {
	if fips.Demand(fips.Required, fips.Running()) != nil {
		return ""
	}
	return "fips: " + fips.Required + "\n"
}

func (cfg InitConfig) made(id identity) Made {
	unlock := cfg.UnlockFile + cfg.PassphraseFile
	if unlock == "" {
		unlock = filepath.Join(cfg.Dir, unlockFile)
	}
	made := Made{
		Config: filepath.Join(cfg.Dir, configFile), Client: filepath.Join(cfg.Dir, profileFile), Unlock: unlock,
	}
	made.Fields = [][2]string{
		{"store", fmt.Sprintf("%s (epoch %d)", id.Store, id.Epoch)},
		{"genesis keys", id.Genesis.Keys},
		{"genesis hosts", id.Genesis.Hosts},
		{"key store key", id.KSK.String()},
		{"unlock key", unlock},
		{"configuration", made.Config},
		{"client profile", made.Client},
		{"CA certificate", filepath.Join(cfg.Dir, caFile)},
	}
	return made
}
