// Package kms opens unlock keys that a key management service keeps: AWS KMS, Google
// Cloud KMS, Azure Key Vault, and the transit engine of Vault or OpenBao.
//
// This version has none of the services' libraries in it, and Open says so: it has the
// names, and the form of a slot (keystore/seal). Nothing but the policy server's program
// imports it.
package kms

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/seal"
)

// A Config says which key, and how to reach the service that keeps it.
type Config struct {
	// URL names the key:
	//
	//	awskms://ID?region=R, awskms://alias/NAME?region=R or awskms:///ARN?region=R
	//	gcpkms://projects/P/locations/L/keyRings/R/cryptoKeys/K
	//	azurekeyvault://VAULT.vault.azure.net/keys/NAME
	//	hashivault://NAME, also of OpenBao; with another mount, ?engine=MOUNT
	//
	// AWS, Google and Azure are asked with the credentials that their own libraries find
	// on the machine (its role, or a file).
	URL   string
	Vault Vault // of hashivault
}

// Vault says how to reach Vault or OpenBao.
type Vault struct {
	Address   string `yaml:"address"`    // such as https://vault.example.com:8200
	TokenFile string `yaml:"token_file"` // secret file; read anew at every use, so that an agent may renew it
	CA        string `yaml:"ca"`         // PEM file; if empty, the system's
}

const vaultScheme = "hashivault"

var schemes = []string{"awskms", "azurekeyvault", "gcpkms", vaultScheme}

// Check reports what is wrong with c, without asking the service. The error wraps
// keystore.ErrInvalid.
func (c Config) Check() error {
	u, err := url.Parse(c.URL)
	if err != nil {
		return fmt.Errorf("%w: URL of the KMS key: %v", keystore.ErrInvalid, err)
	}
	known := false
	for _, s := range schemes {
		known = known || u.Scheme == s
	}
	switch {
	case !known:
		return fmt.Errorf("%w: URL of the KMS key %q; want one that begins with %s://", keystore.ErrInvalid, c.URL, strings.Join(schemes, "://, "))
	case u.User != nil:
		return fmt.Errorf("%w: URL of the KMS key has credentials in it", keystore.ErrInvalid)
	case u.Scheme == vaultScheme && (c.Vault.Address == "" || c.Vault.TokenFile == ""):
		return fmt.Errorf("%w: KMS key %s: want vault.address and vault.token_file", keystore.ErrInvalid, c.URL)
	}
	return nil
}

// Open makes an unlock key of a key at a service. It does not ask the service yet.
func Open(c Config) (seal.UnlockKey, error) {
	if err := c.Check(); err != nil {
		return seal.UnlockKey{}, err
	}
	keeper, err := open(c)
	if err != nil {
		return seal.UnlockKey{}, err
	}
	return seal.KMSKey(c.URL, keeper)
}

// NotBuiltError reports that the program has no key management services in it.
type NotBuiltError struct{ URL string }

func (e *NotBuiltError) Error() string {
	return fmt.Sprintf("KMS key %s: this program has no key management services in it", e.URL)
}

// Hint says what next.
func (e *NotBuiltError) Hint() string {
	return "start with another unlock key of the store (unlock in the configuration): a file, or a passphrase"
}

func (e *NotBuiltError) Unwrap() error { return keystore.ErrInvalid }
