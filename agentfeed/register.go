package agentfeed

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/keytide/keytide/agentfeed/internal/wire"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/secretfile"
)

// A HostToken lets agents register themselves as trusted hosts. It is a secret, and
// printing one shows a placeholder.
type HostToken struct{ secret keystore.Material }

// NewHostToken draws a token.
func NewHostToken() (HostToken, error) {
	raw := make([]byte, keystore.MaterialSize)
	rand.Read(raw) // never fails: crypto/rand ends the program instead
	defer clear(raw)
	secret, err := keystore.NewMaterial(raw)
	return HostToken{secret}, err
}

// ReadHostToken reads the token in the secret file at path.
func ReadHostToken(path string) (HostToken, error) {
	content, err := secretfile.Read(path)
	if err != nil {
		return HostToken{}, err
	}
	defer clear(content)
	secret, err := wire.ParseToken(string(bytes.TrimSpace(content)))
	if err != nil {
		return HostToken{}, fmt.Errorf("token file %s: %w", path, err)
	}
	return HostToken{secret}, nil
}

// ID is the token's id, which is no secret.
func (t HostToken) ID() keystore.KID { return t.secret.KID() }

// PublicKey is the half of the token's key that policy servers know.
func (t HostToken) PublicKey() ([32]byte, error) { return wire.TokenPublic(t.secret) }

// Encode gives the token's text, with a line end: write it with secretfile.Write.
func (t HostToken) Encode() []byte { return []byte(wire.TokenText(t.secret) + "\n") }

// A RegistrationID is an agent's own id for one registration. It is drawn once and
// written to disk before it is used: the same id gives the same secret, however often
// and wherever it is sent. It is a secret for as long as the registration lasts.
type RegistrationID wire.Nonce

// NewRegistrationID draws an id.
func NewRegistrationID() RegistrationID { return RegistrationID(wire.NewNonce()) }

// ParseRegistrationID reads the text of an id.
func ParseRegistrationID(text string) (RegistrationID, error) {
	id, err := wire.ParseNonce(text)
	if err != nil {
		return RegistrationID{}, errors.New("registration id: want 22 characters of base64url")
	}
	return RegistrationID(id), nil
}

// Encode gives the id's text.
func (id RegistrationID) Encode() string { return wire.Nonce(id).String() }

// String keeps the id out of what is printed.
func (RegistrationID) String() string { return "[registration id]" }

// A Registration is what an agent needs to register itself.
type Registration struct {
	Servers []string // base URLs of the feed
	CA      []byte   // PEM certificates to trust; system roots are not
	Host    string   // the name that the host shall have
	Token   HostToken
	ID      RegistrationID
	Region  string // where the agent stands, for its host file; may be empty

	// Proxy chooses an HTTP CONNECT proxy, as in http.Transport. If nil, none.
	Proxy func(*http.Request) (*url.URL, error)
}

func (r Registration) check() error {
	var faults []error
	if len(r.Servers) == 0 {
		faults = append(faults, errors.New("servers: there are none"))
	}
	for _, s := range r.Servers {
		faults = append(faults, checkServer(s))
	}
	if err := checkCA(r.CA); err != nil {
		faults = append(faults, fmt.Errorf("ca: %w", err))
	}
	if err := keystore.CheckName(r.Host); err != nil {
		faults = append(faults, fmt.Errorf("host name %q: %w", r.Host, err))
	}
	if r.Region != "" {
		if err := keystore.CheckName(r.Region); err != nil {
			faults = append(faults, fmt.Errorf("region %q: %w", r.Region, err))
		}
	}
	if r.Token.secret.IsZero() || r.ID == (RegistrationID{}) {
		faults = append(faults, errors.New("token or id is missing"))
	}
	return errors.Join(faults...)
}

// Register exchanges a token for a host file. It asks one server after the other,
// again and again, until one answers with a registration or a refusal, which is a
// *ProblemError, or ctx ends. After any other error the host may be registered: the
// same registration with the same id gives the same secret.
func Register(ctx context.Context, r Registration) (HostFile, error) {
	if err := r.check(); err != nil {
		return HostFile{}, fmt.Errorf("agentfeed: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(r.CA)
	transport := &http.Transport{
		Proxy: r.Proxy, TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13},
		TLSHandshakeTimeout: headTimeout, ResponseHeaderTimeout: 30 * time.Second, DisableCompression: true,
	}
	defer transport.CloseIdleConnections()
	client := &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	var last error
	for attempt := 0; ; attempt++ {
		server := strings.TrimSuffix(r.Servers[attempt%len(r.Servers)], "/")
		file, err := r.ask(ctx, client, server)
		if err == nil {
			return file, nil
		}
		var p *ProblemError
		if errors.As(err, &p) && (p.Refused() || p.Name == wire.HostExists || p.Name == wire.BadRequest) {
			return HostFile{}, err
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return HostFile{}, errors.Join(ctx.Err(), last)
		}
	}
}

func (r Registration) ask(ctx context.Context, client *http.Client, server string) (HostFile, error) {
	request, key, err := wire.NewRegister(r.Token.secret, r.Host, wire.Nonce(r.ID))
	if err != nil {
		return HostFile{}, err
	}
	body, err := json.Marshal(request)
	if err != nil {
		return HostFile{}, err
	}
	out, err := http.NewRequestWithContext(ctx, http.MethodPost, server+"/v1/register", bytes.NewReader(body))
	if err != nil {
		return HostFile{}, err
	}
	out.Header.Set("Content-Type", "application/json")
	out.Header.Set("User-Agent", "keytide-agentfeed")
	response, err := client.Do(out)
	if err != nil {
		return HostFile{}, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, wire.MaxRegister))
	if err != nil {
		return HostFile{}, fmt.Errorf("%s: %w", server, err)
	}
	if response.StatusCode != http.StatusOK {
		var p wire.Problem
		if json.Unmarshal(answer, &p) != nil {
			p = wire.Problem{}
		}
		return HostFile{}, problemError(server, response.StatusCode, p)
	}
	given, err := key.Open(request, answer)
	if err != nil {
		return HostFile{}, fmt.Errorf("%s: %w", server, err)
	}
	if checkRegions(given.Servers, given.Regions) != nil {
		given.Regions = nil // as in a state: what cannot be read is not known
	}
	file := HostFile{Servers: given.Servers, Regions: given.Regions, Region: r.Region, CA: []byte(given.CA), Host: given.Host, KID: given.KID, Secret: given.Secret.Material}
	if err := file.Check(); err != nil {
		return HostFile{}, fmt.Errorf("%s: what it gave: %w", server, err)
	}
	return file, nil
}
