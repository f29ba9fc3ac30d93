package cli

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keytide/keytide/agentfeed/sidecar/strictyaml"
	"github.com/keytide/keytide/cmd/internal/adminhttp"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/secretfile"
)

// A profile says which servers an administrator's commands speak to, and by which
// right.
type profile struct {
	Servers   []string `yaml:"servers"`    // base URLs of the admin API
	CAFile    string   `yaml:"ca_file"`    // relative to the profile
	CA        string   `yaml:"ca"`         // or the PEM itself
	TokenFile string   `yaml:"token_file"` // relative to the profile
}

// call runs fn with a client of the profile's servers.
func (a *app) call(fn func(context.Context, *adminhttp.Client, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		client, err := a.client()
		if err != nil {
			return err
		}
		defer client.Close()
		return fn(cmd.Context(), client, args)
	}
}

// client opens the profile. It does not connect.
func (a *app) client() (*adminhttp.Client, error) {
	path, err := a.findProfile()
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, hint(fmt.Errorf("there is no client profile at %s", path),
			"keytide dev makes one in its directory:  --client keytide-dev/client.yaml\nor say where it is for all commands:     export KEYTIDE_CLIENT=FILE")
	}
	if err != nil {
		return nil, fmt.Errorf("client profile: %w", err)
	}
	cfg, err := parseProfile(path, text)
	if err != nil {
		return nil, fmt.Errorf("client profile %s: %w", path, err)
	}
	return adminhttp.NewClient(cfg), nil
}

// findProfile looks at --client, then at $KEYTIDE_CLIENT, then at the user's own.
func (a *app) findProfile() (string, error) {
	if a.profilePath != "" {
		return a.profilePath, nil
	}
	if path := a.Getenv("KEYTIDE_CLIENT"); path != "" {
		return path, nil
	}
	home, err := a.Home()
	if err != nil {
		return "", hint(fmt.Errorf("no client profile: %w", err), "say where it is:  --client FILE")
	}
	return filepath.Join(home, "keytide", "client.yaml"), nil
}

func parseProfile(path string, text []byte) (adminhttp.ClientConfig, error) {
	var p profile
	if err := strictyaml.Unmarshal(text, &p, p.check); err != nil {
		return adminhttp.ClientConfig{}, broken(err)
	}
	dir := filepath.Dir(path)
	pool, err := p.roots(dir)
	if err != nil {
		return adminhttp.ClientConfig{}, err
	}
	token, err := secretfile.Read(from(dir, p.TokenFile))
	if err != nil {
		return adminhttp.ClientConfig{}, fmt.Errorf("token_file: %w", err)
	}
	return adminhttp.ClientConfig{Servers: p.Servers, CA: pool, Token: strings.TrimSpace(string(token))}, nil
}

// broken marks a profile's faults as invalid input.
func broken(err error) error {
	text := "not valid:\n  " + strings.ReplaceAll(err.Error(), "\n", "\n  ")
	return hint(&taggedError{text: text, sentinel: keystore.ErrInvalid},
		"a profile has servers (a list of https URLs), ca_file or ca, and token_file")
}

func (p *profile) check(report strictyaml.Report) {
	if len(p.Servers) == 0 {
		report("servers", "is missing")
	}
	for i, server := range p.Servers {
		u, err := url.Parse(server)
		if err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" {
			report(fmt.Sprintf("servers[%d]", i), "want https://HOST:PORT")
			continue
		}
		p.Servers[i] = strings.TrimRight(server, "/")
	}
	if p.CA != "" && p.CAFile != "" {
		report("ca", "ca_file is there too; give one")
	}
	if p.TokenFile == "" {
		report("token_file", "is missing")
	}
}

// roots are the certificates that the servers' must come from; without ca_file and
// ca, those of the system.
func (p *profile) roots(dir string) (*x509.CertPool, error) {
	name, text := "ca", []byte(p.CA)
	if p.CAFile != "" {
		var err error
		if text, err = os.ReadFile(from(dir, p.CAFile)); err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		name = "ca_file"
	}
	if len(text) == 0 {
		return x509.SystemCertPool()
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, broken(fmt.Errorf("%s: holds no PEM certificate", name))
	}
	return pool, nil
}

// from takes a relative path from dir.
func from(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}
