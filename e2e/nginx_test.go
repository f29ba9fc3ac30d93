package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// tool returns the path of a program that is not ours. A test whose tool is missing
// fails.
func tool(tb testing.TB, name string) string {
	tb.Helper()
	for _, candidate := range []string{name, "/usr/sbin/" + name} { // which is not on every user's PATH
		if path, err := exec.LookPath(candidate); err == nil {
			return path
		}
	}
	tb.Fatalf("%s is not installed; .ci/install installs it", name)
	return ""
}

// A front stands between agents and a policy server: it ends TLS with a certificate of
// its own and speaks TLS again to the feed.
type front struct {
	url, address string
	ca           []byte // PEM: its certificate
}

// startNginx puts a real nginx before the site. more are lines for its location: without
// any, everything is as nginx has it by default, buffering too, but what TLS 1.3 and
// the check of the feed's certificate need.
func startNginx(tb testing.TB, s *site, feedCA string, more ...string) *front {
	tb.Helper()
	dir, address := tb.TempDir(), freeAddress(tb)
	n := &front{url: "https://" + address, address: address}
	key := filepath.Join(dir, "key.pem")
	n.ca = writeCertificate(tb, filepath.Join(dir, "cert.pem"), key)
	write(tb, filepath.Join(dir, "feed-ca.pem"), feedCA)
	config := filepath.Join(dir, "nginx.conf")
	write(tb, config, fmt.Sprintf(`daemon off; master_process off; pid %[1]s/pid; error_log stderr warn;
events {}
http {
	access_log off; gzip on; gzip_types *;
	client_body_temp_path %[1]s/a; proxy_temp_path %[1]s/b; fastcgi_temp_path %[1]s/c; uwsgi_temp_path %[1]s/d; scgi_temp_path %[1]s/e;
	server {
		listen %[2]s ssl; ssl_certificate %[1]s/cert.pem; ssl_certificate_key %[1]s/key.pem; ssl_protocols TLSv1.3;
		location / {
			proxy_pass https://%[3]s; proxy_ssl_protocols TLSv1.3;
			proxy_ssl_verify on; proxy_ssl_trusted_certificate %[1]s/feed-ca.pem; proxy_ssl_name localhost;
			%[4]s
		}
	}
}
`, dir, address, s.feed, strings.Join(more, "\n\t\t\t")))
	start(tb, s.output, "", tool(tb, "nginx"), "-p", dir, "-e", "stderr", "-c", config)
	awaitListener(tb, address)
	return n
}

// hostFile writes a copy of a host file that leads to the front and nowhere else.
func (n *front) hostFile(tb testing.TB, file string) string {
	tb.Helper()
	h := readHostFile(tb, file)
	path := filepath.Join(tb.TempDir(), filepath.Base(file))
	write(tb, path, fmt.Sprintf("servers:\n  - %s\nca: |\n  %s\nhost: %q\nkid: %q\nsecret: %q\n",
		n.url, strings.ReplaceAll(strings.TrimSpace(string(n.ca)), "\n", "\n  "), h.Host, h.KID, h.Secret))
	return path
}

func write(tb testing.TB, path, content string) {
	tb.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		tb.Fatal(err)
	}
}

// frontName is a name that fronts have besides their address: agents take no HTTP proxy
// to an address of loopback.
const frontName = "feed.example"

// writeCertificate writes a certificate for 127.0.0.1 and frontName that is its own CA, and its
// key. It returns the certificate.
func writeCertificate(tb testing.TB, certFile, keyFile string) []byte {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "proxy"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{frontName},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		tb.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	write(tb, certFile, string(certPEM))
	write(tb, keyFile, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
	return certPEM
}
