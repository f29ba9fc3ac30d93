package server

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
	"github.com/keytide/keytide/keystore/seal"
	"github.com/keytide/keytide/keystore/secretfile"
	"github.com/keytide/keytide/replication/bus"
)

// An Invitation is what a new server is brought, in a file: whom to ask, whom to
// trust, and the token. It is a secret until it is used or has expired.
type Invitation struct {
	Format  int            `json:"format"`
	Server  string         `json:"server"`
	Region  string         `json:"region"`
	Store   string         `json:"store"`
	Epoch   keystore.Epoch `json:"epoch"`
	KSK     string         `json:"ksk"`
	Genesis adminapi.Pins  `json:"genesis"`
	Servers []string       `json:"servers"` // base URLs of the admin API
	CA      string         `json:"ca"`      // PEM; empty: the system's
	Expires time.Time      `json:"expires_at"`
	Token   string         `json:"token"`
}

const invitationFormat = 1

// NewInvitation is the invitation of an answer and its token.
func NewInvitation(a adminapi.ServerInvited, token string) Invitation {
	return Invitation{
		Format: invitationFormat, Server: a.Server, Region: a.Region, Store: a.Store, Epoch: a.Epoch, KSK: a.KSK, Genesis: a.Genesis,
		Servers: a.Servers, CA: a.CA, Expires: a.ExpiresAt, Token: token,
	}
}

// Encode is the file's text.
func (i Invitation) Encode() ([]byte, error) {
	text, err := json.MarshalIndent(i, "", "  ")
	return append(text, '\n'), err
}

// LoadInvitation reads an invitation. The error wraps keystore.ErrInvalid where it is
// none.
func LoadInvitation(path string) (Invitation, error) {
	text, err := secretfile.Read(path)
	if err != nil {
		return Invitation{}, fmt.Errorf("invitation: %w", err)
	}
	i, err := parseInvitation(text)
	if err != nil {
		return Invitation{}, fmt.Errorf("invitation %s: %w", path, err)
	}
	return i, nil
}

func parseInvitation(text []byte) (i Invitation, err error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&i); err != nil {
		return i, fmt.Errorf("%w: not an invitation: %v", keystore.ErrInvalid, err)
	}
	if i.Format != invitationFormat {
		return i, fmt.Errorf("%w: format %d; this program reads %d", keystore.ErrInvalid, i.Format, invitationFormat)
	}
	var faults []error
	for _, name := range []struct{ field, value string }{{"server", i.Server}, {"region", i.Region}, {"store", i.Store}} {
		if err := keystore.CheckName(name.value); err != nil {
			faults = append(faults, fmt.Errorf("%s %q: %w", name.field, name.value, err))
		}
	}
	_, ksk := keystore.ParseKID(i.KSK)
	_, keys := parsePin(i.Genesis.Keys)
	_, hosts := parsePin(i.Genesis.Hosts)
	if err := errors.Join(append(faults, ksk, keys, hosts)...); err != nil {
		return i, err
	}
	if i.Epoch == 0 || len(i.Servers) == 0 || i.Token == "" {
		return i, fmt.Errorf("%w: epoch, servers or token is missing", keystore.ErrInvalid)
	}
	return i, nil
}

// client asks the inviting servers, with the token as its right.
func (i Invitation) client() (*adminhttp.Client, error) {
	pool, err := x509.SystemCertPool()
	if i.CA != "" {
		pool, err = x509.NewCertPool(), nil
		if !pool.AppendCertsFromPEM([]byte(i.CA)) {
			err = fmt.Errorf("%w: the invitation's CA is no PEM certificate", keystore.ErrInvalid)
		}
	}
	if err != nil {
		return nil, err
	}
	return adminhttp.NewClient(adminhttp.ClientConfig{Servers: i.Servers, CA: pool, Token: i.Token}), nil
}

// JoinConfig is what keytide server join was asked for.
type JoinConfig struct {
	Invite         string // file
	Dir            string // to make
	Listen         string
	FeedListen     string
	UnlockFile     string // of 32 bytes; made if there is none. If empty, in Dir
	PassphraseFile string // or a passphrase, which must be there
}

// pendingFile holds the keys of a server that is joining, sealed under its own unlock
// key, until the key store key is there: the same request can then be sent again, also
// after a crash.
const (
	pendingFile = "joining.json"
	busSeedFile = "bus.seed"
	busCAFile   = "tls/bus-ca.pem"
)

// A pending is a join on its way: an identity under a key store key of its own.
type pending struct {
	Token    string   `json:"token_hash"`
	Identity identity `json:"identity"`
}

// A joining is a server's directory being made. Unlike a store's it outlasts a
// failure: what was sent may have been heard.
type joining struct {
	cfg    JoinConfig
	invite Invitation
	temp   string
	unlock seal.UnlockKey
	keys   serverKeys
	nkey   string
}

// Join makes the directory of a new policy server, and makes it a member.
func Join(ctx context.Context, cfg JoinConfig) (Made, error) {
	init := cfg.init(identity{})
	if err := errors.Join(init.absolute(&cfg.Invite), init.absolute(&cfg.Dir), init.absolute(&cfg.UnlockFile), init.absolute(&cfg.PassphraseFile)); err != nil {
		return Made{}, err
	}
	invite, err := LoadInvitation(cfg.Invite)
	if err != nil {
		return Made{}, err
	}
	free, err := vacant(cfg.Dir)
	if err == nil && !free {
		err = &hinted{
			error: fmt.Errorf("directory %s is not empty: %w", cfg.Dir, keystore.ErrExists),
			hint:  "a server is never made over another: choose a directory that does not exist yet",
		}
	}
	if err != nil {
		return Made{}, err
	}
	j := &joining{cfg: cfg, invite: invite}
	lock, err := j.begin()
	if err != nil {
		return Made{}, err
	}
	defer lock.Close()
	client, err := j.invite.client()
	if err != nil {
		return Made{}, err
	}
	defer client.Close()
	id, err := j.run(ctx, client.Join)
	if err != nil {
		return Made{}, fmt.Errorf("joining as server %s: %w", invite.Server, err)
	}
	return cfg.init(id).made(id), nil
}

// init is what core init would be asked for, for the same files.
func (cfg JoinConfig) init(id identity) InitConfig {
	return InitConfig{
		Dir: cfg.Dir, Store: id.Store, Region: id.Region, Server: id.Server, Listen: cfg.Listen, FeedListen: cfg.FeedListen,
		UnlockFile: cfg.UnlockFile, PassphraseFile: cfg.PassphraseFile,
	}
}

func (InitConfig) absolute(path *string) (err error) {
	if *path != "" {
		*path, err = filepath.Abs(*path)
	}
	return err
}

// begin makes the sibling in which the directory is made, locked, or takes up the one
// that an earlier try has left.
func (j *joining) begin() (*os.File, error) {
	parent, base := filepath.Split(filepath.Clean(j.cfg.Dir))
	j.temp = filepath.Join(parent, "."+base+".joining")
	if err := os.MkdirAll(j.temp, 0o700); err != nil {
		return nil, err
	}
	lock, err := os.Open(j.temp)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return nil, fmt.Errorf("another process is making the server %s", j.cfg.Dir)
	}
	return lock, nil
}

// run makes the directory with what ask is answered.
func (j *joining) run(ctx context.Context, ask func(context.Context, adminapi.Join) (adminapi.Joined, error)) (id identity, err error) {
	if j.unlock, err = j.cfg.init(identity{}).unlockKey(j.temp); err != nil {
		return id, err
	}
	if err := j.ownKeys(); err != nil {
		return id, err
	}
	member := j.keys.member(j.invite.Server, j.invite.Region)
	answer, err := ask(ctx, adminapi.Join{
		Server: member.ID, Region: member.Region, PublicKey: member.PublicKey, P256Key: member.P256Key, Nkey: j.nkey,
	})
	if err != nil {
		return id, err
	}
	if id, err = j.identity(answer); err != nil {
		return id, err
	}
	if err := errors.Join(j.files(answer, id), id.save(j.temp)); err != nil {
		return id, err
	}
	return id, j.finish()
}

// ownKeys makes the server's keys, or takes up those that an earlier try has sent.
func (j *joining) ownKeys() error {
	path := filepath.Join(j.temp, pendingFile)
	hash := hashText(j.invite.Token)
	text, err := secretfile.Read(path)
	if err == nil {
		var p pending
		if err := json.Unmarshal(text, &p); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if p.Token == hash {
			return j.reopen(p.Identity)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	seed, nkey, err := bus.NewSeed()
	if err != nil {
		return err
	}
	if err := secretfile.Replace(filepath.Join(j.temp, busSeedFile), append(seed, '\n')); err != nil {
		return err
	}
	if j.keys, err = newServerKeys(); err != nil {
		return err
	}
	j.nkey = nkey
	own := seal.NewKSK()
	p := pending{Token: hash, Identity: identity{Format: identityFormat, Store: j.invite.Store, Server: j.invite.Server, KSK: own.ID()}}
	slot, err := seal.NewSlot(own, j.unlock, j.invite.Store)
	if err != nil {
		return err
	}
	p.Identity.Slots = [][]byte{slot}
	if err := p.Identity.sealKeys(own, j.keys, now()); err != nil {
		return err
	}
	if text, err = json.Marshal(p); err != nil {
		return err
	}
	return secretfile.Replace(path, text)
}

func (j *joining) reopen(id identity) error {
	own, err := seal.Unlock(id.KSK, id.Slots, j.unlock, id.Store)
	if err != nil {
		return err
	}
	if j.keys, err = id.openKeys(own); err != nil {
		return err
	}
	seed, err := secretfile.Read(filepath.Join(j.temp, busSeedFile))
	if err == nil {
		j.nkey, err = bus.PublicOf(bytes.TrimSpace(seed))
	}
	return err
}

// identity opens the key store key of the answer, and seals the server's keys under
// it. Its own unlock key opens it from then on.
func (j *joining) identity(answer adminapi.Joined) (identity, error) {
	// A rekey since the invitation has made another one the newest.
	ksk, err := keystore.ParseKID(cmp.Or(answer.KSKID, j.invite.KSK))
	if err != nil {
		return identity{}, err
	}
	to := seal.Address{Store: j.invite.Store, Epoch: j.invite.Epoch, Server: j.invite.Server}
	opened, err := seal.KSKFrom(j.keys.p256, to, answer.KSK, ksk)
	if err != nil {
		return identity{}, err
	}
	slot, err := seal.NewSlot(opened, j.unlock, j.invite.Store)
	if err != nil {
		return identity{}, err
	}
	id := identity{
		Format: identityFormat, Store: j.invite.Store, Epoch: j.invite.Epoch, Region: j.invite.Region, Server: j.invite.Server,
		KSK: ksk, Slots: [][]byte{slot},
	}
	id.Genesis.Keys, id.Genesis.Hosts = j.invite.Genesis.Keys, j.invite.Genesis.Hosts
	for _, other := range answer.Others {
		former, err := j.former(to, other)
		if err != nil {
			return identity{}, err
		}
		id.Former = append(id.Former, former)
	}
	return id, id.sealKeys(opened, j.keys, now())
}

// former keeps a key store key that a rekey is replacing as the server joins.
func (j *joining) former(to seal.Address, other adminapi.JoinKSK) (formerKSK, error) {
	id, err := keystore.ParseKID(other.ID)
	if err != nil {
		return formerKSK{}, err
	}
	ksk, err := seal.KSKFrom(j.keys.p256, to, other.Envelope, id)
	if err != nil {
		return formerKSK{}, err
	}
	slot, err := seal.NewSlot(ksk, j.unlock, j.invite.Store)
	return formerKSK{KSK: id, Slots: [][]byte{slot}}, err
}

// files writes all that a server has in its directory beside its identity.
func (j *joining) files(answer adminapi.Joined, id identity) error {
	if err := j.certificates(answer); err != nil {
		return err
	}
	token := adminhttp.NewToken()
	tokens := strings.TrimRight(answer.Tokens, "\n") + "\n" + adminhttp.TokenLine(tokenName(id.Server), token)
	if _, err := adminhttp.ParseTokens([]byte(tokens)); err != nil {
		return fmt.Errorf("the admin tokens of the answer: %w", err)
	}
	config := j.cfg.init(id).text(id)
	if len(answer.Bus.URLs) > 0 {
		config += busText(answer.Bus)
	}
	return errors.Join(
		secretfile.Replace(filepath.Join(j.temp, tokensFile), []byte(tokens)),
		secretfile.Replace(filepath.Join(j.temp, tokenFile), []byte(token+"\n")),
		secretfile.Replace(filepath.Join(j.temp, configFile), []byte(config)),
		writeProfile(j.temp, j.cfg.Listen),
	)
}

func tokenName(server string) string {
	name := "admin-" + server
	return name[:min(len(name), 63)]
}

// busText is the part of the configuration that says where the ledgers are.
func busText(b adminapi.JoinBus) string {
	text := "bus:\n  nkey_file: " + busSeedFile + "\n  urls:\n"
	for _, url := range b.URLs {
		text += fmt.Sprintf("    - %q\n", url)
	}
	if b.CA != "" {
		text += "  ca: " + busCAFile + "\n"
	}
	return text
}

// certificates makes the server's own from the store's CA.
func (j *joining) certificates(answer adminapi.Joined) error {
	at := seal.Address{Store: j.invite.Store, Epoch: j.invite.Epoch, Server: j.invite.Server, Content: seal.ContentCA}
	key, err := seal.OpenFrom(j.keys.p256, at, answer.CAKey)
	if err != nil {
		return err
	}
	defer clear(key)
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
	defer clear(text)
	if _, err := tls.X509KeyPair([]byte(answer.CA), text); err != nil {
		return fmt.Errorf("the store's CA in the answer: %w", err)
	}
	if err := os.MkdirAll(filepath.Join(j.temp, "tls"), 0o700); err != nil {
		return err
	}
	err = errors.Join(
		secretfile.Replace(filepath.Join(j.temp, caKeyFile), text),
		secretfile.Replace(filepath.Join(j.temp, caFile), []byte(answer.CA)),
	)
	if answer.Bus.CA != "" {
		err = errors.Join(err, secretfile.Replace(filepath.Join(j.temp, busCAFile), []byte(answer.Bus.CA)))
	}
	if err != nil {
		return err
	}
	return ensureCertificate(j.temp, j.cfg.Listen, j.cfg.FeedListen)
}

// finish gives the directory its name: from then on it is a server's.
func (j *joining) finish() error {
	if err := (&making{dir: j.cfg.Dir, temp: j.temp}).rename(); err != nil {
		return err
	}
	return os.Remove(filepath.Join(j.cfg.Dir, pendingFile))
}

// NewInviteToken draws an invitation's token, and returns the hash that the API
// carries.
func NewInviteToken() (token, hash string) {
	token = adminhttp.NewToken()
	return token, hashText(token)
}
