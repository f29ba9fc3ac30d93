package server

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/keytide/keytide/agentfeed/sidecar/strictyaml"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/secretfile"
	"github.com/keytide/keytide/replication/bus"
)

// BusConfig says where the ledgers are. Without this section the server holds them
// alone, in its own directory.
type BusConfig struct {
	// Core makes this server one of the 1, 3 or 5 that hold the ledgers together.
	Core *CoreConfig `yaml:"core"`
	// URLs are the servers of a core elsewhere, or of a NATS that is there already
	// (2.12 or newer): tls://HOST:PORT, in the order in which they are tried. No other
	// address is, so name every server.
	URLs []string `yaml:"urls"`
	// What this server proves itself with: one of the three.
	NkeyFile     string `yaml:"nkey_file"`     // the seed of an nkey
	CredsFile    string `yaml:"creds_file"`    // of a NATS that works with accounts
	User         string `yaml:"user"`          // with password_file
	PasswordFile string `yaml:"password_file"` // the password alone
	CA           string `yaml:"ca"`            // of the servers' certificates; if empty, the system's
	// Durability is verified where an administrator has seen to it that the servers
	// fsync every write (sync_interval: always), have a store limit (max_file_store),
	// and hold each stream three or five times: none of it can be read from outside.
	// If empty, status says unverified. A core of one's own needs no word.
	Durability string `yaml:"durability"`
}

// CoreConfig makes a server a member of a core.
type CoreConfig struct {
	Listen       string       `yaml:"listen"`        // for policy servers; if empty, 0.0.0.0:7422
	RoutesListen string       `yaml:"routes_listen"` // for the core's other servers; if empty, 0.0.0.0:7423
	Servers      []CoreServer `yaml:"servers"`       // all of the core, this one included
	Cert         string       `yaml:"cert"`          // what this server shows to both; by the core's CA
	Key          string       `yaml:"key"`
	CA           string       `yaml:"ca"`    // the core's own, that signs for nothing else
	Users        string       `yaml:"users"` // file: who may connect
}

// CoreServer is one server of a core, as the others find it.
type CoreServer struct {
	Server  string `yaml:"server"`
	Clients string `yaml:"clients"` // HOST:PORT for policy servers
	Routes  string `yaml:"routes"`  // HOST:PORT for the core's other servers
}

const (
	verified   = "verified"
	unverified = "unverified"
)

// check reports what is wrong. server is this server's id.
func (b *BusConfig) check(server string, report strictyaml.Report) {
	if (b.User == "") != (b.PasswordFile == "") {
		report("bus.password_file", "goes with user")
	}
	if b.Durability != "" && b.Durability != verified && b.Durability != unverified {
		report("bus.durability", "want %s or %s", verified, unverified)
	}
	for i, text := range b.URLs {
		checkBusURL(text, fmt.Sprintf("bus.urls[%d]", i), report)
	}
	if b.Core != nil {
		b.Core.check(server, report)
		if b.NkeyFile == "" {
			report("bus.nkey_file", "is missing: a core of one's own knows its clients by nkeys")
		}
	}
	// Last, because a fault of the whole hides those of its parts.
	if (b.Core == nil) == (len(b.URLs) == 0) {
		report("bus", "want core or urls, one of the two")
	}
	given := 0
	for _, value := range []string{b.NkeyFile, b.CredsFile, b.User} {
		if value != "" {
			given++
		}
	}
	if given != 1 {
		report("bus", "want nkey_file, creds_file or user, one of the three")
	}
}

// checkBusURL also sees to it that nothing goes over a network in the clear.
func checkBusURL(text, path string, report strictyaml.Report) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "tls" && u.Scheme != "nats" || u.Port() == "" || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" {
		report(path, "want tls://HOST:PORT")
		return
	}
	if u.User != nil {
		report(path, "names a user; credentials come from files: user and password_file")
	}
	ip := net.ParseIP(u.Hostname())
	if u.Scheme == "nats" && u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		report(path, "nats:// is not encrypted, and so for this machine alone; want tls://")
	}
}

func (c *CoreConfig) check(server string, report strictyaml.Report) {
	for _, file := range []struct{ path, value string }{
		{"cert", c.Cert}, {"key", c.Key}, {"ca", c.CA}, {"users", c.Users},
	} {
		if file.value == "" {
			report("bus.core."+file.path, "is missing")
		}
	}
	for _, l := range []struct{ path, value string }{{"listen", c.Listen}, {"routes_listen", c.RoutesListen}} {
		if host, _, err := net.SplitHostPort(l.value); l.value != "" && (err != nil || host == "") {
			report("bus.core."+l.path, "want HOST:PORT; HOST 0.0.0.0 is all addresses")
		}
	}
	own := false
	for i, s := range c.Servers {
		path := fmt.Sprintf("bus.core.servers[%d]", i)
		own = own || s.Server == server
		if err := keystore.CheckName(s.Server); err != nil {
			report(path+".server", "%v", err)
		}
		if slices.ContainsFunc(c.Servers[:i], func(t CoreServer) bool { return t.Server == s.Server }) {
			report(path+".server", "%s stands there twice", s.Server)
		}
		if _, _, err := net.SplitHostPort(s.Clients); err != nil {
			report(path+".clients", "want HOST:PORT")
		}
		if _, _, err := net.SplitHostPort(s.Routes); err != nil && len(c.Servers) > 1 {
			report(path+".routes", "want HOST:PORT")
		}
	}
	if size, ok := errors.AsType[*bus.SizeError](bus.CheckSize(len(c.Servers))); ok {
		report("bus.core.servers", "%v: %s", size, strings.ReplaceAll(size.Hint(), "\n", " "))
	} else if !own {
		report("bus.core.servers", "this server, %s, is not among them", server)
	}
}

func (b *BusConfig) fill() {
	if b.Core == nil {
		return
	}
	if b.Core.Listen == "" {
		b.Core.Listen = "0.0.0.0:7422"
	}
	if b.Core.RoutesListen == "" {
		b.Core.RoutesListen = "0.0.0.0:7423"
	}
	if b.CA == "" {
		b.CA = b.Core.CA
	}
}

// paths are the fields that name files.
func (b *BusConfig) paths() []*string {
	paths := []*string{&b.NkeyFile, &b.CredsFile, &b.PasswordFile, &b.CA}
	if b.Core != nil {
		paths = append(paths, &b.Core.Cert, &b.Core.Key, &b.Core.CA, &b.Core.Users)
	}
	return paths
}

// own is this server's entry among the core's.
func (c *CoreConfig) own(server string) CoreServer {
	i := slices.IndexFunc(c.Servers, func(s CoreServer) bool { return s.Server == server })
	return c.Servers[i]
}

// urls are where this server's own connections go, its own server first.
func (b *BusConfig) urls(server string) []string {
	if b.Core == nil {
		return b.URLs
	}
	urls := []string{"tls://" + b.Core.own(server).Clients}
	for _, s := range b.Core.Servers {
		if s.Server != server {
			urls = append(urls, "tls://"+s.Clients)
		}
	}
	return urls
}

// credentials reads what this server proves itself with.
func (b *BusConfig) credentials() (bus.Credentials, error) {
	c := bus.Credentials{User: b.User, CredsFile: b.CredsFile}
	switch {
	case b.NkeyFile != "":
		seed, err := secretLine(b.NkeyFile)
		if err != nil {
			return c, err
		}
		if _, err := bus.PublicOf(seed); err != nil {
			return c, fmt.Errorf("nkey file %s: %w", b.NkeyFile, err)
		}
		c.Seed = seed
	case b.CredsFile != "":
		// Read by the client at each connect; here only who else may read it.
		_, err := secretfile.Read(b.CredsFile)
		return c, err
	case b.User != "":
		password, err := secretLine(b.PasswordFile)
		if err == nil && len(password) == 0 {
			err = fmt.Errorf("%w: password file %s is empty", keystore.ErrInvalid, b.PasswordFile)
		}
		c.Password = string(password)
		return c, err
	}
	return c, nil
}

// secretLine reads a secret file of one line.
func secretLine(path string) ([]byte, error) {
	text, err := secretfile.Read(path)
	if err != nil {
		return nil, err
	}
	return []byte(strings.TrimRight(string(text), "\r\n")), nil
}

// loadCAs reads certificates of authorities; an empty path means the system's.
func loadCAs(path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%w: %s holds no certificate", keystore.ErrInvalid, filepath.Clean(path))
	}
	return pool, nil
}

// A coreUser is a line of the users file.
type coreUser struct {
	nkey   string
	writes bool
	server string // the policy server's id
}

// parseUsers reads a users file: a line for each policy server, with its public nkey,
// its role (writer or reader) and its id. It reports every fault at once.
func parseUsers(text string) ([]coreUser, error) {
	var users []coreUser
	var faults []string
	fault := func(line int, format string, args ...any) {
		faults = append(faults, fmt.Sprintf("line %d: ", line)+fmt.Sprintf(format, args...))
	}
	for i, line := range strings.Split(text, "\n") {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if len(words) != 3 {
			fault(i+1, "want NKEY writer|reader SERVER")
			continue
		}
		user := coreUser{nkey: words[0], writes: words[1] == "writer", server: words[2]}
		if err := bus.CheckNkey(user.nkey); err != nil {
			fault(i+1, "%v", err)
		}
		if !user.writes && words[1] != "reader" {
			fault(i+1, "role %q: want writer or reader", words[1])
		}
		if err := keystore.CheckName(user.server); err != nil {
			fault(i+1, "server %q: %v", user.server, err)
		}
		if slices.ContainsFunc(users, func(u coreUser) bool { return u.nkey == user.nkey }) {
			fault(i+1, "the nkey of server %s stands there twice", user.server)
		}
		users = append(users, user)
	}
	if len(faults) > 0 {
		return nil, fmt.Errorf("%w: %s", keystore.ErrInvalid, strings.Join(faults, "; "))
	}
	return users, nil
}

func loadUsers(path string) ([]coreUser, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	users, err := parseUsers(string(text))
	if err != nil {
		return nil, fmt.Errorf("users file %s: %w", path, err)
	}
	return users, nil
}

// checkFiles reads what a start would read.
func (b *BusConfig) checkFiles() []error {
	_, credentials := b.credentials()
	_, ca := loadCAs(b.CA)
	faults := []error{credentials, ca}
	if b.Core != nil {
		_, pair := loadPair(b.Core.Cert, b.Core.Key)
		_, cas := loadCAs(b.Core.CA)
		_, users := loadUsers(b.Core.Users)
		faults = append(faults, pair, cas, users)
	}
	return faults
}
