package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"sync/atomic"
	"time"
)

// certCheck is how often certificates are looked at while the server runs. It bounds
// how long a new certificate of the operator's is not used yet.
const certCheck = time.Minute

// A certificate is one listener's. It is kept current while the server runs: agents
// stay connected for months, and nobody restarts a server for a certificate.
type certificate struct {
	listener  string
	cert, key string // files
	log       *slog.Logger
	pair      atomic.Pointer[tls.Certificate]
	fault     string // the last one that was logged; the renewal's goroutine alone
}

// config is a listener's. protocols is the order in which ALPN prefers them.
func (c *certificate) config(protocols ...string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: protocols,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.pair.Load(), nil },
	}
}

func (c *certificate) load() error {
	pair, err := loadPair(c.cert, c.key)
	if err != nil {
		return err
	}
	before := c.pair.Swap(pair)
	if same := before != nil && bytes.Equal(before.Leaf.Raw, pair.Leaf.Raw); !same && pair.Leaf.PublicKeyAlgorithm == x509.RSA {
		c.log.Warn("the certificate has an RSA key: it costs the server some 25 times more for each agent that connects; use ECDSA P-256 or Ed25519",
			"listener", c.listener, "cert", c.cert)
	}
	return nil
}

// reload takes what the files hold now. What does not load is said once, and the
// certificate that there was stays in use: a bad file ends no connection.
func (c *certificate) reload(renewal error) {
	before := c.pair.Load().Leaf
	err := renewal
	if err == nil {
		err = c.load()
	}
	if err != nil {
		if c.fault != err.Error() {
			c.fault = err.Error()
			c.log.Error("the certificate is not renewed; the one that was loaded stays in use",
				"listener", c.listener, "not_after", before.NotAfter, "err", err)
		}
		return
	}
	c.fault = ""
	if after := c.pair.Load().Leaf; !bytes.Equal(before.Raw, after.Raw) {
		c.log.Info("new certificate", "listener", c.listener, "not_after", after.NotAfter)
	}
}

// renewCertificates looks at the certificates until ctx ends.
func (s *site) renewCertificates(ctx context.Context) error {
	ticker := time.NewTicker(certCheck)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			s.checkCertificates()
		}
	}
}

// checkCertificates makes the generated certificate anew when its end is near, and
// takes new files of the operator's.
func (s *site) checkCertificates() {
	var renewal error
	if s.cfg.generated() {
		renewal = ensureCertificate(s.cfg.Dir, s.cfg.Admin.Listen, s.cfg.Feed.Listen)
	}
	for _, c := range s.certificates {
		if s.cfg.own(c.cert) {
			c.reload(nil)
			continue
		}
		c.reload(renewal)
	}
	s.expiries.look(s.log, s.endings(), now())
}
