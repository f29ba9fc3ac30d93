package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/keytide/keytide/keystore/secretfile"
)

// Files of generated certificates, below the store's directory.
const (
	caFile      = "tls/ca.pem"
	caKeyFile   = "tls/ca.key"
	certFile    = "tls/server.pem"
	certKeyFile = "tls/server.key"
)

const (
	caLife    = 10 * 365 * 24 * time.Hour
	certLife  = 397 * 24 * time.Hour
	certRenew = 60 * 24 * time.Hour // within this time of the end a new one is made
	backdate  = time.Hour           // for clocks that are behind
)

// makeCA writes a certificate authority of the store's own.
func makeCA(dir, store string) error {
	if err := os.MkdirAll(filepath.Join(dir, "tls"), 0o700); err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "Keytide " + store + " CA"},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(caLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	return errors.Join(writeKey(filepath.Join(dir, caKeyFile), key), writePEM(filepath.Join(dir, caFile), "CERTIFICATE", der))
}

func serial() *big.Int {
	var b [16]byte
	rand.Read(b[:])
	return new(big.Int).SetBytes(b[:])
}

// ensureCertificate makes the server's certificate, from the store's own CA, for
// loopback and the hosts that it listens on, unless there is one that still does.
func ensureCertificate(dir string, listens ...string) error {
	names := hostsOf(listens)
	if pair, err := tls.LoadX509KeyPair(filepath.Join(dir, certFile), filepath.Join(dir, certKeyFile)); err == nil {
		good := time.Until(pair.Leaf.NotAfter) > certRenew
		for _, name := range names {
			good = good && pair.Leaf.VerifyHostname(name) == nil
		}
		if good {
			return nil
		}
	}
	return issue(dir, names, certLife)
}

// issue makes a certificate. The key goes first: a crash between the two leaves a
// pair that does not fit, or none, and the next start makes both anew.
func issue(dir string, names []string, life time.Duration) error {
	ca, err := tls.LoadX509KeyPair(filepath.Join(dir, caFile), filepath.Join(dir, caKeyFile))
	if err != nil {
		return fmt.Errorf("the store's CA: %w", err)
	}
	return issueFrom(ca, &x509.Certificate{
		Subject: pkix.Name{CommonName: "Keytide policy server"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, names, life, filepath.Join(dir, certFile), filepath.Join(dir, certKeyFile))
}

// issueFrom completes a template, signs it, and writes the certificate and its key.
func issueFrom(ca tls.Certificate, template *x509.Certificate, names []string, life time.Duration, certPath, keyPath string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	template.SerialNumber, template.KeyUsage = serial(), x509.KeyUsageDigitalSignature
	template.NotBefore, template.NotAfter = now.Add(-backdate), earlier(now.Add(life), ca.Leaf.NotAfter)
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
			continue
		}
		template.DNSNames = append(template.DNSNames, name)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Leaf, key.Public(), ca.PrivateKey)
	if err != nil {
		return err
	}
	if err := writeKey(keyPath, key); err != nil {
		return err
	}
	return writePEM(certPath, "CERTIFICATE", der)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// hostsOf names loopback and the hosts of the addresses; an address that stands
// for all of the machine's adds the machine's own name.
func hostsOf(listens []string) []string {
	names := []string{"127.0.0.1", "::1", "localhost"}
	for _, listen := range listens {
		host, _, err := net.SplitHostPort(listen)
		if err != nil {
			continue
		}
		if allAddresses(host) {
			host = machine()
		}
		if !slices.Contains(names, host) {
			names = append(names, host)
		}
	}
	return names
}

func writeKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	defer clear(der)
	return secretfile.Replace(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func writePEM(path, kind string, der []byte) error {
	return secretfile.Replace(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// loadPair reads a certificate and its key for a listener.
func loadPair(certPath, keyPath string) (*tls.Certificate, error) {
	key, err := secretfile.Read(keyPath)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	cert, err := os.ReadFile(certPath)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("certificate %s with key %s: %w", certPath, keyPath, err)
	}
	return &pair, nil
}
