package server

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/keytide/keytide/agentfeed/sidecar/strictyaml"
	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/fips"
	"github.com/keytide/keytide/keystore/seal"
	"github.com/keytide/keytide/keystore/seal/kms"
	"github.com/keytide/keytide/keystore/secretfile"
	"github.com/keytide/keytide/replication"
	"github.com/keytide/keytide/replication/bus"
)

// The feed's times where there are none, and their bounds.
const (
	defaultHeartbeat  = 15 * time.Second
	defaultStaleAfter = 60 * time.Second
	minHeartbeat      = time.Second
	minStaleAfter     = 5 * time.Second // a fresh server's own proof may be 4 s old
)

// Config is a policy server's configuration file. Relative paths are taken from
// the file's directory.
type Config struct {
	Store   string  `yaml:"store"`   // the key store's name
	Region  string  `yaml:"region"`  // where the server stands
	Server  string  `yaml:"server"`  // its id; stable, and no other server's
	Dir     string  `yaml:"dir"`     // its state; made by core init
	Unlock  Unlock  `yaml:"unlock"`  // what opens the key store key
	Genesis Genesis `yaml:"genesis"` // which ledgers these must be
	// Generate says whether the server makes keys of rings: by schedules, and where an
	// administrator asks it to. If absent, true. Where no server does, slots pass
	// unanswered.
	Generate *bool   `yaml:"generate"`
	Admin    Admin   `yaml:"admin"`
	Feed     Feed    `yaml:"feed"`
	Metrics  Metrics `yaml:"metrics"`
	// Bus says where the ledgers are. If absent, in Dir, held by this server alone.
	Bus  *BusConfig `yaml:"bus"`
	FIPS string     `yaml:"fips"` // required: only with a certified module in FIPS 140-3 mode; if empty, with any

	kept   *keptBus                        // of the same server, before it moved to a later epoch
	shared *bus.Bus                        // for tests: a bus that others are on too
	pace   func(*replication.MemberConfig) // for tests in virtual time: slower periods; nil: the defaults
	nats   string                          // address of the bus for other NATS tools; dev alone sets it
	dev    bool                            // the store must be a development store, and otherwise must not

	checkup time.Duration // of tests: between two looks at this server's health; 0: checkupPeriod

	step func(string) // if set, called at each step of a founding and of a rekey: tests die there

	clockOffset time.Duration // of the feed's clock; dev alone sets it
}

// Unlock names one unlock key: a secret file, or a key at a key management service.
type Unlock struct {
	File           string    `yaml:"file"`            // of 32 bytes
	PassphraseFile string    `yaml:"passphrase_file"` // or of a passphrase
	KMS            string    `yaml:"kms"`             // or the URL of a key: kms.Config says which forms there are
	Vault          kms.Vault `yaml:"vault"`           // how to reach Vault or OpenBao, for a key of it

	// Next is another unlock key, under which the next rekey wraps the new key store key:
	// the one above can then be destroyed, and what only it opened is erased. If absent,
	// a rekey goes on with the one above.
	Next *Unlock `yaml:"next"`
}

func (u Unlock) check(report func(path, format string, args ...any), path string) {
	named := 0
	for _, name := range []string{u.File, u.PassphraseFile, u.KMS} {
		if name != "" {
			named++
		}
	}
	if named != 1 {
		report(path, "want file, passphrase_file or kms, one of the three")
	}
	if u.KMS != "" {
		if err := (kms.Config{URL: u.KMS, Vault: u.Vault}).Check(); err != nil {
			report(path+".kms", "%v", err)
		}
	} else if u.Vault != (kms.Vault{}) {
		report(path+".vault", "is of kms alone")
	}
	if u.Next != nil {
		if u.Next.Next != nil {
			report(path+".next.next", "there is one next unlock key")
		}
		u.Next.check(report, path+".next")
	}
}

func (u *Unlock) paths() []*string {
	paths := []*string{&u.File, &u.PassphraseFile, &u.Vault.TokenFile, &u.Vault.CA}
	if u.Next != nil {
		paths = append(paths, u.Next.paths()...)
	}
	return paths
}

func (u Unlock) key() (seal.UnlockKey, error) {
	switch {
	case u.File != "":
		return seal.FileKey(u.File)
	case u.KMS != "":
		return kms.Open(kms.Config{URL: u.KMS, Vault: u.Vault})
	}
	return seal.Passphrase(u.PassphraseFile)
}

// Genesis pins both ledgers by the hash of their first event, 64 hexadecimal digits.
type Genesis struct {
	Keys  string `yaml:"keys"`
	Hosts string `yaml:"hosts"`
}

// Admin is the listener of the admin API.
type Admin struct {
	Listen string `yaml:"listen"` // host:port; if empty, 127.0.0.1:7480
	Cert   string `yaml:"cert"`   // if empty, the generated one
	Key    string `yaml:"key"`
	Tokens string `yaml:"tokens"` // file of token hashes; if empty, tokens in dir
}

// Feed is the listener of the agents' feed.
type Feed struct {
	Listen string `yaml:"listen"` // host:port; if empty, 127.0.0.1:7443
	Cert   string `yaml:"cert"`   // if empty, the generated one
	Key    string `yaml:"key"`
	CA     string `yaml:"ca"` // what agents shall trust; wanted with a cert of one's own
	// Servers are the base URLs by which agents reach the feeds of all policy
	// servers. If empty, each server tells its own listen address; at the name of the
	// machine where that address is all of the machine's.
	Servers []string `yaml:"servers"`
	// Regions are where the servers of that list stand, in its order: agents that are
	// told their own region ask servers of it before others. If empty, all are alike.
	Regions []string `yaml:"regions"`
	// Heartbeat is the time between two proofs of freshness that an agent gets. If
	// zero, 15 seconds; 1 second at least. Longer, and agents notice later that a
	// server is dead: after 2.5 of them. Shorter costs a write an agent each time.
	Heartbeat time.Duration `yaml:"heartbeat"`
	// StaleAfter is how long agents call themselves fresh without a proof, in whole
	// seconds. If zero, 60 seconds; 2.5 heartbeats and 5 seconds at least, or healthy
	// agents would call themselves stale between two proofs. Agents that can only
	// poll do so every 30 seconds, and need 40 seconds.
	StaleAfter time.Duration `yaml:"stale_after"`
	// MaxStale is how long agents without a proof may seal with the keys that they
	// have, in whole seconds; after that they only open. If zero, for ever: a dead
	// policy server then stops no application. StaleAfter at least; less time than
	// it takes to mend a server makes its outage one of the applications.
	MaxStale time.Duration `yaml:"max_stale"`
}

// Metrics is the listener of /metrics, /healthz and /readyz: plain HTTP.
type Metrics struct {
	Listen string `yaml:"listen"` // host:port; if empty, there is none
}

// LoadConfig reads a configuration file and reports every fault of it at once, by
// path. The error wraps keystore.ErrInvalid.
func LoadConfig(path string) (Config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("configuration: %w", err)
	}
	cfg, err := parseConfig(text)
	if err != nil {
		return Config{}, fmt.Errorf("configuration %s: %w", path, err)
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return Config{}, err
	}
	cfg.resolve(dir)
	return cfg, nil
}

func parseConfig(text []byte) (Config, error) {
	var cfg Config
	if err := strictyaml.Unmarshal(text, &cfg, cfg.check); err != nil {
		return Config{}, &configError{err}
	}
	cfg.fill()
	return cfg, nil
}

// A configError lists faults, one a line.
type configError struct{ faults error }

func (e *configError) Error() string {
	return "not valid:\n  " + strings.ReplaceAll(e.faults.Error(), "\n", "\n  ")
}
func (e *configError) Unwrap() error { return keystore.ErrInvalid }
func (e *configError) Hint() string  { return "after a change:  keytide server --config FILE --check" }

// check reports what the fields' types do not show.
func (c *Config) check(report strictyaml.Report) {
	for _, name := range []struct{ path, value string }{{"store", c.Store}, {"region", c.Region}, {"server", c.Server}} {
		if err := keystore.CheckName(name.value); err != nil {
			report(name.path, "%v", err)
		}
	}
	if c.Dir == "" {
		report("dir", "is missing")
	}
	c.Unlock.check(report, "unlock")
	for _, pin := range []struct{ path, value string }{{"genesis.keys", c.Genesis.Keys}, {"genesis.hosts", c.Genesis.Hosts}} {
		if _, err := parsePin(pin.value); err != nil {
			report(pin.path, "%v", err)
		}
	}
	if err := fips.Check(c.FIPS); err != nil {
		report("fips", "%v", err)
	}
	c.checkListeners(report)
	c.Feed.checkTimes(report)
	if c.Bus != nil {
		c.Bus.check(c.Server, report)
	}
}

func (c *Config) checkListeners(report strictyaml.Report) {
	for _, l := range []struct{ path, value string }{
		{"admin.listen", c.Admin.Listen}, {"feed.listen", c.Feed.Listen}, {"metrics.listen", c.Metrics.Listen},
	} {
		if l.value == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(l.value); err != nil {
			report(l.path, "want HOST:PORT")
		}
	}
	if (c.Admin.Cert == "") != (c.Admin.Key == "") {
		report("admin", "want cert and key, or neither")
	}
	if (c.Feed.Cert == "") != (c.Feed.Key == "") {
		report("feed", "want cert and key, or neither")
	}
	if (c.Feed.Cert == "") != (c.Feed.CA == "") {
		report("feed.ca", "goes with cert: it tells agents what to trust")
	}
	for i, server := range c.Feed.Servers {
		if u, err := url.Parse(server); err != nil || u.Scheme != "https" || u.Host == "" {
			report(fmt.Sprintf("feed.servers[%d]", i), "want https://HOST:PORT")
		}
	}
	if n := len(c.Feed.Regions); n != 0 && n != len(c.Feed.Servers) {
		report("feed.regions", "want one for each of feed.servers, in their order")
	}
	for i, region := range c.Feed.Regions {
		if err := keystore.CheckName(region); err != nil {
			report(fmt.Sprintf("feed.regions[%d]", i), "%v", err)
		}
	}
}

func (f *Feed) checkTimes(report strictyaml.Report) {
	heartbeat, stale := f.Heartbeat, f.StaleAfter
	if heartbeat == 0 {
		heartbeat = defaultHeartbeat
	}
	if stale == 0 {
		stale = defaultStaleAfter
	}
	if heartbeat < minHeartbeat {
		report("feed.heartbeat", "want %v or more", minHeartbeat)
	}
	if least := max(minStaleAfter, heartbeat*5/2); stale < least || stale%time.Second != 0 {
		report("feed.stale_after", "want whole seconds, and %v or more: 2.5 heartbeats, and %v at least", least, minStaleAfter)
	}
	if f.MaxStale != 0 && (f.MaxStale < stale || f.MaxStale%time.Second != 0) {
		report("feed.max_stale", "want whole seconds, and %v or more: stale_after; or none, for ever", stale)
	}
}

func parsePin(s string) (events.Hash, error) {
	digits, err := hex.DecodeString(s)
	if err != nil || len(digits) != len(events.Hash{}) {
		return events.Hash{}, fmt.Errorf("%w: want 64 hexadecimal digits", keystore.ErrInvalid)
	}
	return events.Hash(digits), nil
}

// fill puts the defaults in.
func (c *Config) fill() {
	if c.Admin.Listen == "" {
		c.Admin.Listen = "127.0.0.1:7480"
	}
	if c.Feed.Listen == "" {
		c.Feed.Listen = "127.0.0.1:7443"
	}
	if c.Feed.Heartbeat == 0 {
		c.Feed.Heartbeat = defaultHeartbeat
	}
	if c.Feed.StaleAfter == 0 {
		c.Feed.StaleAfter = defaultStaleAfter
	}
	if c.Bus != nil {
		c.Bus.fill()
	}
}

// resolve takes relative paths from base, and generated files from the store's
// directory.
func (c *Config) resolve(base string) {
	from := func(dir, path string) string {
		if path == "" || filepath.IsAbs(path) {
			return path
		}
		return filepath.Join(dir, path)
	}
	paths := []*string{
		&c.Dir, &c.Admin.Cert, &c.Admin.Key, &c.Admin.Tokens,
		&c.Feed.Cert, &c.Feed.Key, &c.Feed.CA,
	}
	paths = append(paths, c.Unlock.paths()...)
	if c.Bus != nil {
		paths = append(paths, c.Bus.paths()...)
	}
	for _, path := range paths {
		*path = from(base, *path)
	}
	if c.Admin.Tokens == "" {
		c.Admin.Tokens = filepath.Join(c.Dir, tokensFile)
	}
}

// generates reports whether the server makes keys of rings.
func (c *Config) generates() bool { return c.Generate == nil || *c.Generate }

// generated reports whether a listener uses the store's own certificate.
func (c *Config) generated() bool { return c.Admin.Cert == "" || c.Feed.Cert == "" }

// own reports whether the certificate is the operator's.
func (c *Config) own(cert string) bool {
	return cert == c.Admin.Cert || cert == c.Feed.Cert || c.core() != nil && cert == c.core().Cert
}

// core is this server's part in a core; nil: it has none.
func (c *Config) core() *CoreConfig {
	if c.Bus == nil {
		return nil
	}
	return c.Bus.Core
}

func (c *Config) reach(step string) {
	if c.step != nil {
		c.step(step)
	}
}

// unlockKeys are what the server starts with: its unlock key, and the next one.
func (c *Config) unlockKeys() ([]seal.UnlockKey, error) {
	key, err := c.Unlock.key()
	if err != nil || c.Unlock.Next == nil {
		return []seal.UnlockKey{key}, err
	}
	next, err := c.Unlock.Next.key()
	return []seal.UnlockKey{key, next}, err
}

func (c *Config) tokens() (adminhttp.Tokens, error) {
	text, err := secretfile.Read(c.Admin.Tokens)
	if err != nil {
		return adminhttp.Tokens{}, err
	}
	tokens, err := adminhttp.ParseTokens(text)
	if err != nil {
		return adminhttp.Tokens{}, fmt.Errorf("admin tokens %s: %w", c.Admin.Tokens, err)
	}
	return tokens, nil
}

// Check reads everything that a start would read, and reports all that is wrong.
// It opens neither the store nor a port.
func Check(c Config) error {
	_, unlock := c.unlockKeys()
	_, tokens := c.tokens()
	id, identity := loadIdentity(c.Dir)
	if identity == nil {
		identity = id.fits(c)
	}
	faults := []error{fips.Demand(c.FIPS, fips.Running()), unlock, tokens, identity}
	for _, l := range []struct{ cert, key string }{{c.Admin.Cert, c.Admin.Key}, {c.Feed.Cert, c.Feed.Key}} {
		if l.cert != "" {
			_, err := loadPair(l.cert, l.key)
			faults = append(faults, err)
		}
	}
	if c.Bus != nil {
		faults = append(faults, c.Bus.checkFiles()...)
	}
	return errors.Join(faults...)
}
