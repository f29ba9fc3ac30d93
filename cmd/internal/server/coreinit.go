package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/seal"
	"github.com/keytide/keytide/keystore/secretfile"
	"github.com/keytide/keytide/replication"
	"github.com/keytide/keytide/replication/bus"
)

// CoreInitConfig is what keytide core init was asked for, for several servers.
type CoreInitConfig struct {
	Dir     string // to make; a directory in it for each server
	Store   string
	Servers []CoreMember // the first founds the ledgers
	// UnlockFile and PassphraseFile are as in InitConfig, and the same on every
	// server; if both are empty, each server has an unlock key of its own in its
	// directory.
	UnlockFile     string
	PassphraseFile string

	step func(string) // tests die there
	dev  bool         // a development store
}

// A CoreMember is a server of a core that is being made.
type CoreMember struct {
	Server, Region string
	Clients        string // HOST:PORT at which policy servers find it
	Routes         string // HOST:PORT at which the core's other servers find it
	Listen         string // where it waits for them
	RoutesListen   string
	Admin          string // HOST:PORT of the admin API
	Feed           string // HOST:PORT of the agents' feed
	Metrics        string
}

// ParseCoreMember reads a server as core init's --server names it:
// ID,region=R,host=HOST, and optionally what differs from the usual ports:
// clients=, routes=, listen=, routes_listen=, admin=, feed= and metrics=, each HOST:PORT.
func ParseCoreMember(text string) (CoreMember, error) {
	id, rest, _ := strings.Cut(text, ",")
	m := CoreMember{Server: id}
	host := ""
	fields := map[string]*string{
		"region": &m.Region, "host": &host, "clients": &m.Clients, "routes": &m.Routes, "listen": &m.Listen,
		"routes_listen": &m.RoutesListen, "admin": &m.Admin, "feed": &m.Feed, "metrics": &m.Metrics,
	}
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("--server %s: "+format, append([]any{id}, args...)...))
	}
	for _, pair := range strings.Split(rest, ",") {
		name, value, ok := strings.Cut(pair, "=")
		field := fields[name]
		if !ok || field == nil || value == "" {
			fault("%q: want region=R, host=HOST, or another of clients, routes, listen, routes_listen, admin, feed, metrics", pair)
			continue
		}
		*field = value
		if _, _, err := net.SplitHostPort(value); err != nil && name != "region" && name != "host" {
			fault("%s: want HOST:PORT", name)
		}
	}
	if host == "" && (m.Clients == "" || m.Routes == "" || m.Admin == "" || m.Feed == "") {
		fault("host is missing")
	}
	for _, name := range []struct{ field, value string }{{"id", m.Server}, {"region", m.Region}} {
		if err := keystore.CheckName(name.value); err != nil {
			fault("%s: %w", name.field, err)
		}
	}
	m.fill(host)
	if err := errors.Join(faults...); err != nil {
		return CoreMember{}, fmt.Errorf("%w: %w", keystore.ErrInvalid, err)
	}
	return m, nil
}

func (m *CoreMember) fill(host string) {
	for _, f := range []struct {
		field      *string
		host, port string
	}{
		{&m.Clients, host, "7422"}, {&m.Routes, host, "7423"}, {&m.Admin, host, "7480"}, {&m.Feed, host, "7443"},
		{&m.Listen, "0.0.0.0", portOf(m.Clients, "7422")}, {&m.RoutesListen, "0.0.0.0", portOf(m.Routes, "7423")},
		{&m.Metrics, "127.0.0.1", "7490"},
	} {
		if *f.field == "" {
			*f.field = net.JoinHostPort(f.host, f.port)
		}
	}
}

func portOf(address, otherwise string) string {
	if _, port, err := net.SplitHostPort(address); err == nil {
		return port
	}
	return otherwise
}

func (cfg CoreInitConfig) check() error {
	var faults []error
	if size, ok := errors.AsType[*bus.SizeError](bus.CheckSize(len(cfg.Servers))); ok {
		faults = append(faults, &hinted{error: fmt.Errorf("%w: %w", keystore.ErrRefused, size), hint: size.Hint()})
	}
	if err := keystore.CheckName(cfg.Store); err != nil {
		faults = append(faults, fmt.Errorf("--store %q: %w", cfg.Store, err))
	}
	if cfg.UnlockFile != "" && cfg.PassphraseFile != "" {
		faults = append(faults, fmt.Errorf("%w: --unlock-file and --passphrase-file: give one", keystore.ErrInvalid))
	}
	for i, m := range cfg.Servers {
		if slices.ContainsFunc(cfg.Servers[:i], func(n CoreMember) bool { return n.Server == m.Server }) {
			faults = append(faults, fmt.Errorf("--server %s: %w: stands there twice", m.Server, keystore.ErrInvalid))
		}
	}
	return errors.Join(faults...)
}

// Parts of a core's directory besides those of its servers.
const (
	coreCADir   = "core-ca" // stays with the administrator: whoever has it makes core servers
	adminDir    = "admin"   // the client profile, with its token
	coreDir     = "core"    // within a server's directory
	nkeyFile    = "core/nkey"
	usersFile   = "core/users"
	coreCAFile  = "core/ca.pem"
	coreCert    = "core/server.pem"
	coreCertKey = "core/server.key"
)

// InitCore makes the core of a key store: a directory for each server, to be copied to
// its machine. The ledgers are founded when the servers are started.
func InitCore(ctx context.Context, cfg CoreInitConfig) (Made, error) {
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
	c := &coreMaking{making: making{dir: cfg.Dir, step: cfg.step}, cfg: cfg}
	err = c.do(ctx, []makingStep{
		{"certificates", c.certificates},
		{"token", c.token},
		{"ledgers", c.ledgers},
		{"files", c.files},
		{"name", func(context.Context) error { return c.rename() }},
	})
	if err != nil {
		return Made{}, err
	}
	return c.made(), nil
}

// A coreMaking makes the directories of a core's servers, all in one.
type coreMaking struct {
	making
	cfg CoreInitConfig
	ids []identity // of the servers
}

// at is the place of a server's directory while it is made.
func (c *coreMaking) at(i int, elem ...string) string {
	return filepath.Join(append([]string{c.temp, c.cfg.Servers[i].Server}, elem...)...)
}

// certificates makes two authorities: the store's, which agents trust, and the core's,
// which makes members of the core and nothing else.
func (c *coreMaking) certificates(context.Context) error {
	if err := makeCA(c.temp, c.cfg.Store+" core"); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(c.temp, "tls"), filepath.Join(c.temp, coreCADir)); err != nil {
		return err
	}
	ca, err := tls.LoadX509KeyPair(filepath.Join(c.temp, coreCADir, "ca.pem"), filepath.Join(c.temp, coreCADir, "ca.key"))
	if err != nil {
		return err
	}
	for i, m := range c.cfg.Servers {
		if err := os.MkdirAll(c.at(i, coreDir), 0o700); err != nil {
			return err
		}
		if i == 0 {
			err = makeCA(c.at(0), c.cfg.Store)
		} else {
			err = errors.Join(os.MkdirAll(c.at(i, "tls"), 0o700), copySecret(c.at(0, caFile), c.at(i, caFile)),
				copySecret(c.at(0, caKeyFile), c.at(i, caKeyFile)))
		}
		if err == nil {
			err = ensureCertificate(c.at(i), m.Admin, m.Feed)
		}
		if err == nil {
			err = copySecret(filepath.Join(c.temp, coreCADir, "ca.pem"), c.at(i, coreCAFile))
		}
		if err == nil {
			err = issueFrom(ca, &x509.Certificate{
				Subject:     pkix.Name{CommonName: "Keytide core server " + m.Server},
				ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
			}, hostsOf([]string{m.Clients, m.Routes}), caLife, c.at(i, coreCert), c.at(i, coreCertKey))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func copySecret(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	defer clear(text)
	return secretfile.Replace(to, text)
}

// token makes one admin token for all servers, and the administrator's profile.
func (c *coreMaking) token(ctx context.Context) error {
	admin := filepath.Join(c.temp, adminDir)
	if err := os.Mkdir(admin, 0o700); err != nil {
		return err
	}
	first := making{temp: admin}
	if err := first.token(ctx); err != nil {
		return err
	}
	profile := "# Client profile of keytide's commands.\nservers:\n"
	for i, m := range c.cfg.Servers {
		if err := copySecret(filepath.Join(admin, tokensFile), c.at(i, tokensFile)); err != nil {
			return err
		}
		profile += "  - " + urlOf(m.Admin, "127.0.0.1") + "\n"
	}
	profile += "ca_file: ca.pem\ntoken_file: " + tokenFile + "\n"
	return errors.Join(
		os.Remove(filepath.Join(admin, tokensFile)),
		copySecret(c.at(0, caFile), filepath.Join(admin, "ca.pem")),
		secretfile.Replace(filepath.Join(admin, profileFile), []byte(profile)),
	)
}

// ledgers makes the key store key, every server's own keys, and what the ledgers begin
// with, which the first server keeps until it has founded them.
func (c *coreMaking) ledgers(context.Context) error {
	ksk := seal.NewKSK()
	f := founder{vault: newVault(c.cfg.Store, ksk)}
	for i, m := range c.cfg.Servers {
		slotRegion := m.Region
		if c.cfg.UnlockFile != "" || c.cfg.PassphraseFile != "" {
			slotRegion = "" // every region starts by it
		}
		if i == 0 || c.cfg.UnlockFile == "" && c.cfg.PassphraseFile == "" {
			unlock, err := InitConfig{UnlockFile: c.cfg.UnlockFile, PassphraseFile: c.cfg.PassphraseFile}.unlockKey(c.at(i))
			if err != nil {
				return err
			}
			slot, err := seal.NewSlot(ksk, unlock, c.cfg.Store)
			if err != nil {
				return err
			}
			f.slots = append(f.slots, events.Slot{Record: slot, Region: slotRegion})
		}
		id := identity{
			Format: identityFormat, Store: c.cfg.Store, Epoch: 1, Region: m.Region, Server: m.Server, KSK: ksk.ID(),
			Dev: c.cfg.dev,
		}
		keys, err := newServerKeys()
		if err == nil {
			err = id.sealKeys(ksk, keys, now())
		}
		if err != nil {
			return err
		}
		c.ids = append(c.ids, id)
		if i == 0 {
			f.id, f.keys = id, keys
		} else {
			f.joins = append(f.joins, keys.member(m.Server, m.Region))
		}
	}
	return c.founding(f)
}

func (c *coreMaking) founding(f founder) error {
	all := founding{Format: foundingFormat}
	for _, kind := range []events.Kind{events.Keys, events.Hosts} {
		l, err := f.founding(kind)
		if err != nil {
			return err
		}
		all.Ledgers = append(all.Ledgers, l)
	}
	for i := range c.ids {
		c.ids[i].Genesis.Keys = all.Ledgers[0].founding().Genesis().Hash().String()
		c.ids[i].Genesis.Hosts = all.Ledgers[1].founding().Genesis().Hash().String()
	}
	return all.save(c.at(0))
}

// join makes another server of the core a member from the beginning, as an invitation
// does later.
func (f founder) join(founding *replication.Founding, g events.Genesis, membership keystore.Material, m events.Member) error {
	c := events.ServerChange{
		Type: events.TypeServerJoined, ID: m.ID, Region: m.Region, PublicKey: m.PublicKey, P256Key: m.P256Key,
	}
	var err error
	c.MAC, err = seal.Vouch(membership, seal.Vouched{
		Kind: g.Kind.String(), Store: g.Store, StoreID: g.StoreID, Epoch: g.Epoch, Server: m.ID, Region: m.Region,
		PublicKey: m.PublicKey, P256Key: m.P256Key,
	})
	if err != nil {
		return err
	}
	changes := []events.ServerChange{c}
	if g.Kind == events.Keys {
		token := seal.Generate().KID() // of nobody's: the invitation is used here and now
		changes = []events.ServerChange{{
			Type: events.TypeServerInvited, ID: m.ID, Region: m.Region, Token: events.TokenHash(token.String()),
			Expires: now().Add(time.Hour),
		}, c}
	}
	for _, c := range changes {
		payload, err := c.Encode()
		if err != nil {
			return err
		}
		err = founding.Add(events.Event{
			Type: c.Type, Server: f.id.Server, Actor: "keytide", Reason: "founded with the core", Payload: payload,
		}, f.keys.signing)
		if err != nil {
			return err
		}
	}
	return nil
}

// files writes what is left: each server's nkey, who may connect, configuration and
// identity.
func (c *coreMaking) files(context.Context) error {
	users := "# Who may connect to the core: NKEY writer|reader SERVER. The same file belongs on every server of the\n" +
		"# core; a running one takes changes within a minute.\n"
	for i, m := range c.cfg.Servers {
		seed, nkey, err := bus.NewSeed()
		if err != nil {
			return err
		}
		if err := secretfile.Replace(c.at(i, nkeyFile), append(seed, '\n')); err != nil {
			return err
		}
		users += fmt.Sprintf("%s writer %s\n", nkey, m.Server)
	}
	for i, id := range c.ids {
		err := errors.Join(
			secretfile.Replace(c.at(i, usersFile), []byte(users)),
			secretfile.Replace(c.at(i, configFile), []byte(c.config(i))),
			id.save(c.at(i)),
			syncDir(c.at(i)),
		)
		if err != nil {
			return err
		}
	}
	return nil
}

// config is a server's configuration.
func (c *coreMaking) config(i int) string {
	m := c.cfg.Servers[i]
	text := InitConfig{
		Store: c.cfg.Store, Region: m.Region, Server: m.Server, Listen: m.Admin, FeedListen: m.Feed,
		UnlockFile: c.cfg.UnlockFile, PassphraseFile: c.cfg.PassphraseFile,
	}.text(c.ids[i])
	text = strings.Replace(text, "127.0.0.1:7490", m.Metrics, 1)
	feeds := "  servers: # the feeds of all policy servers, as agents reach them\n"
	for _, other := range c.cfg.Servers {
		feeds += "    - " + urlOf(other.Feed, "127.0.0.1") + "\n"
	}
	text = strings.Replace(text, "metrics:\n", feeds+"metrics:\n", 1)
	text += fmt.Sprintf(`bus:
  nkey_file: %s # by which the core knows this server
  core: # this server holds the ledgers together with the others
    listen: %q # for policy servers
    routes_listen: %q # for the core's other servers
    cert: %s
    key: %s
    ca: %s
    users: %s # who may connect
    servers: # all of the core, as they find each other
`, nkeyFile, m.Listen, m.RoutesListen, coreCert, coreCertKey, coreCAFile, usersFile)
	for _, other := range c.cfg.Servers {
		text += fmt.Sprintf("      - {server: %s, clients: %q, routes: %q}\n", other.Server, other.Clients, other.Routes)
	}
	return text
}

func (c *coreMaking) made() Made {
	id := c.ids[0]
	made := Made{Client: filepath.Join(c.cfg.Dir, adminDir, profileFile), Config: filepath.Join(c.cfg.Dir, id.Server, configFile)}
	made.Unlock = c.cfg.UnlockFile + c.cfg.PassphraseFile
	if made.Unlock == "" {
		made.Unlock = "each server's " + unlockFile
	}
	made.Fields = [][2]string{
		{"store", fmt.Sprintf("%s (epoch %d)", id.Store, id.Epoch)},
		{"genesis keys", id.Genesis.Keys},
		{"genesis hosts", id.Genesis.Hosts},
		{"key store key", id.KSK.String()},
		{"client profile", made.Client},
		{"core CA", filepath.Join(c.cfg.Dir, coreCADir)},
		{"founder", id.Server},
	}
	for _, m := range c.cfg.Servers {
		made.Fields = append(made.Fields, [2]string{"server " + m.Server, filepath.Join(c.cfg.Dir, m.Server)})
	}
	return made
}
