package agentfeed

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/secretfile"
)

// Config says who the agent is and where its policy servers are: in a host file,
// or in the fields below it, of which those that are set take its place.
type Config struct {
	// HostFile is the path of the file that `keytide host register` wrote. It must
	// be readable by its owner alone.
	HostFile string

	Servers    []string          // base URLs of the feed, https://host:port
	CA         []byte            // PEM certificates to trust; system roots are not
	Host       string            // the trusted host's name
	KID        keystore.KID      // the shared secret's id; if zero, derived from it
	Secret     keystore.Material // the shared secret
	SecretFile string            // or the path of a file with it, in base64url

	// Region is where the agent stands; it takes the place of the host file's. Servers of
	// this region are asked before others. If neither says, all are alike.
	Region string

	// CacheFile is where the newest state is kept, sealed under the shared secret, so
	// that the agent can start while no server can be reached. One client each may
	// have a file. If empty, there is no cache and keys never touch a disk; without a
	// server WaitReady then waits.
	CacheFile string

	// PreviousSecret is the shared secret before Secret, if there was one and the host
	// file does not name it. It may still open the cache, and is tried when servers
	// refuse the other.
	PreviousSecret keystore.Material

	// SecretState is a file that keeps the shared secret once it has been rolled over.
	// It must last as long as the host file does. If empty, HostFile itself is
	// rewritten; where that cannot be written, or Secret or SecretFile are set, the
	// host's secret is not rolled over.
	SecretState string

	// FixedSecret says that no new secret is kept: for images whose files do not last.
	FixedSecret bool

	// PollInterval is the time from one poll to the next, give or take a fifth, where
	// neither streams nor polls that wait get through. If zero, 30 seconds. A rollover
	// reaches the agent that much later; beyond 45 s it may call itself stale between
	// two polls.
	PollInterval time.Duration

	// Proxy chooses an HTTP CONNECT proxy, as in http.Transport. If nil, none.
	Proxy func(*http.Request) (*url.URL, error)

	// ReportWithin is the time over which this agent, at random, tells a policy server of
	// what it has applied. If zero, a minute. Less makes a fleet that is rolled over a
	// storm of reports; more makes rollovers wait that wait for this agent.
	ReportWithin time.Duration

	// Agent names the program and its version to the policy servers, in at most 64
	// bytes. If empty, it is this package's name.
	Agent string

	// Logger gets a line for each change of the feed's state. If nil, nothing is
	// logged.
	Logger *slog.Logger
}

// hostFile gives all of c that a host file says, checked.
func (c Config) hostFile() (HostFile, error) {
	var h HostFile
	if c.HostFile != "" {
		var err error
		if h, err = ReadHostFile(c.HostFile); err != nil {
			return HostFile{}, err
		}
	}
	if len(c.Servers) > 0 {
		h.Servers, h.Regions = c.Servers, nil
	}
	if len(c.CA) > 0 {
		h.CA = c.CA
	}
	if c.Host != "" {
		h.Host = c.Host
	}
	if c.Region != "" {
		h.Region = c.Region
	}
	if err := c.secret(&h); err != nil {
		return HostFile{}, err
	}
	if c.PollInterval < 0 || c.ReportWithin < 0 {
		return HostFile{}, errors.New("agentfeed: PollInterval and ReportWithin must not be negative")
	}
	if err := h.Check(); err != nil {
		return HostFile{}, fmt.Errorf("agentfeed: %w", err)
	}
	return h, nil
}

func (c Config) secret(h *HostFile) error {
	secret := c.Secret
	if c.SecretFile != "" {
		if !secret.IsZero() {
			return errors.New("agentfeed: Secret and SecretFile are both set")
		}
		content, err := secretfile.Read(c.SecretFile)
		if err != nil {
			return err
		}
		defer clear(content)
		if secret, err = parseSecret(string(bytes.TrimSpace(content))); err != nil {
			return fmt.Errorf("secret file %s: %w", c.SecretFile, err)
		}
	}
	if !secret.IsZero() {
		h.Secret, h.KID = secret, secret.KID()
	}
	if c.KID != (keystore.KID{}) {
		h.KID = c.KID
	}
	return nil
}
