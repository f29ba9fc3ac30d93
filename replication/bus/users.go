package bus

import (
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"reflect"
	"sync"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
)

// A User may connect to a core, with the private half of its nkey, and do there
// what is listed and nothing else.
type User struct {
	Nkey      string   // the public half, "U..."
	Publish   []string // subjects to which it may send
	Subscribe []string // subjects that it may listen to, besides its own inbox
}

// InboxPrefix is where a user gets answers, and nobody else does.
func InboxPrefix(nkey string) string { return "_INBOX." + nkey }

func (u User) permissions() *server.Permissions {
	return &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: append([]string{}, u.Publish...)},
		Subscribe: &server.SubjectPermission{Allow: append([]string{InboxPrefix(u.Nkey) + ".>"}, u.Subscribe...)},
	}
}

// NewSeed makes an nkey of a user: the private half, to be kept secret, and the
// public one.
func NewSeed() (seed []byte, public string, err error) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		return nil, "", err
	}
	// Not wiped: the seed that it gives is its own.
	if seed, err = pair.Seed(); err != nil {
		return nil, "", err
	}
	public, err = pair.PublicKey()
	return seed, public, err
}

// PublicOf gives the public half of a seed.
func PublicOf(seed []byte) (string, error) {
	pair, err := nkeys.FromSeed(seed)
	if err != nil {
		return "", fmt.Errorf("not the seed of an nkey: %w", err)
	}
	defer pair.Wipe()
	public, err := pair.PublicKey()
	if err == nil && !nkeys.IsValidPublicUserKey(public) {
		err = fmt.Errorf("the seed is not a user's")
	}
	return public, err
}

// CheckNkey reports whether a text is a user's public nkey.
func CheckNkey(public string) error {
	if !nkeys.IsValidPublicUserKey(public) {
		return fmt.Errorf("nkey %q: not a user's public key (56 characters that begin with U)", public)
	}
	return nil
}

// A gate lets the users of a core in.
type gate struct {
	inner string // the token of the server's own connection, in memory, to the other servers

	mu    sync.RWMutex // guards the fields below
	users map[string]User
	srv   *server.Server // nil before the server is there: it lets nobody in
}

// Check implements server.Authentication.
func (g *gate) Check(c server.ClientAuthentication) bool {
	if c.Kind() != server.CLIENT {
		return false
	}
	opts := c.GetOpts()
	g.mu.RLock()
	user, ok := g.users[opts.Nkey]
	srv := g.srv
	g.mu.RUnlock()
	if srv != nil && opts.Token != "" {
		return g.admitInner(srv, c, opts.Token)
	}
	if !ok || srv == nil || !proves(opts.Nkey, c.GetNonce(), opts.Sig) {
		return false
	}
	account, err := srv.LookupAccount(keysAccount)
	if err != nil {
		return false
	}
	c.RegisterUser(&server.User{Account: account, Permissions: user.permissions()})
	return true
}

// admitInner lets the server's own connection hear the other servers, and be heard.
func (g *gate) admitInner(srv *server.Server, c server.ClientAuthentication, token string) bool {
	if subtle.ConstantTimeCompare([]byte(token), []byte(g.inner)) != 1 {
		return false
	}
	account, err := srv.LookupAccount(sysAccount)
	if err != nil {
		return false
	}
	c.RegisterUser(&server.User{Account: account, Permissions: &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: []string{callSubject, statesSubject}},
		Subscribe: &server.SubjectPermission{Allow: []string{callSubject, statesInbox + ".>"}},
	}})
	return true
}

// proves reports whether sig shows that a client has the private half of its nkey.
func proves(nkey string, nonce []byte, sig string) bool {
	raw, err := base64.RawURLEncoding.DecodeString(sig)
	if err != nil || len(nonce) == 0 {
		return false
	}
	pub, err := nkeys.FromPublicKey(nkey)
	return err == nil && pub.Verify(nonce, raw) == nil
}

// set replaces the users, and returns the nkeys whose connections must end: of those
// who are gone, or may do something else now.
func (g *gate) set(users []User) map[string]bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	before := g.users
	g.users = make(map[string]User, len(users))
	for _, u := range users {
		g.users[u.Nkey] = u
	}
	ended := make(map[string]bool)
	for nkey, u := range before {
		if now, ok := g.users[nkey]; !ok || !reflect.DeepEqual(u, now) {
			ended[nkey] = true
		}
	}
	return ended
}

func (g *gate) open(srv *server.Server) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.srv = srv
}

// SetUsers replaces the users of a core. Connections of users who are gone, or whose
// permissions are others now, end at once.
func (b *Bus) SetUsers(users []User) error {
	ended := b.gate.set(users)
	srv := b.server()
	if len(ended) == 0 || srv == nil {
		return nil
	}
	const page = 1024
	for offset := 0; ; offset += page {
		conns, err := srv.Connz(&server.ConnzOptions{Username: true, Offset: offset, Limit: page})
		if err != nil {
			return fmt.Errorf("bus: connections: %w", err)
		}
		for _, c := range conns.Conns {
			if ended[c.AuthorizedUser] {
				// An error means that it is gone already.
				_ = srv.DisconnectClientByID(c.Cid)
			}
		}
		if len(conns.Conns) < page {
			return nil
		}
	}
}
