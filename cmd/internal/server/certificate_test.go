package server

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// shown returns the certificate that a listener shows, verified against the
// store's CA.
func (r *running) shown(t *testing.T, l *listener) *x509.Certificate {
	t.Helper()
	pem, err := os.ReadFile(filepath.Join(r.cfg.Dir, caFile))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	conn, err := tls.Dial("tcp", l.address(), &tls.Config{RootCAs: pool})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0]
}

// TestCertificateIsRenewedWhileServing: a server that is never restarted shows a new
// certificate before the old one ends, on every listener.
func TestCertificateIsRenewedWhileServing(t *testing.T) {
	r := start(t, filepath.Join(t.TempDir(), "dev"))
	first := r.shown(t, r.feed)
	r.checkCertificates()
	if again := r.shown(t, r.feed); again.SerialNumber.Cmp(first.SerialNumber) != 0 {
		t.Error("a good certificate was made anew")
	}
	// Time passes: the certificate is one whose end is near.
	if err := issue(r.cfg.Dir, hostsOf([]string{r.cfg.Admin.Listen}), certRenew-time.Hour); err != nil {
		t.Fatal(err)
	}
	r.checkCertificates()
	for _, l := range []*listener{r.admin, r.feed} {
		next := r.shown(t, l)
		if next.SerialNumber.Cmp(first.SerialNumber) == 0 || time.Until(next.NotAfter) < certLife-24*time.Hour {
			t.Errorf("%s shows certificate %x until %v, want a new one for %v", l.name, next.SerialNumber, next.NotAfter, certLife)
		}
	}
	if !strings.Contains(r.log.String(), `msg="new certificate" listener=feed`) {
		t.Error("the log does not tell of the new certificate")
	}
}

// TestBadCertificateFileIsNotTaken: what was loaded stays in use, and the fault is
// logged once.
func TestBadCertificateFileIsNotTaken(t *testing.T) {
	r := start(t, filepath.Join(t.TempDir(), "dev"))
	first := r.shown(t, r.admin)
	ca := filepath.Join(r.cfg.Dir, caKeyFile)
	if err := os.Rename(ca, ca+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.cfg.Dir, certFile), []byte("half a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		r.checkCertificates()
	}
	if got := r.shown(t, r.admin); got.SerialNumber.Cmp(first.SerialNumber) != 0 {
		t.Error("another certificate is shown")
	}
	if got := strings.Count(r.log.String(), "the certificate is not renewed"); got != 2 {
		t.Errorf("%d log lines, want one for each of 2 listeners", got)
	}
	if err := os.Rename(ca+".away", ca); err != nil {
		t.Fatal(err)
	}
	r.checkCertificates()
	if got := r.shown(t, r.admin); got.SerialNumber.Cmp(first.SerialNumber) == 0 {
		t.Error("no new certificate once one could be made")
	}
}

func TestMetrics(t *testing.T) {
	r := start(t, filepath.Join(t.TempDir(), "dev"))
	res, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}).Get(r.ready.Admin + "/v1/status")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	handler, err := r.metrics()
	if err != nil {
		t.Fatal(err)
	}
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
	page := answer.Body.String()
	for _, want := range []string{
		`keytide_ledger_event{ledger="keys"} 2`, `keytide_ledger_fresh{ledger="hosts"} 1`, `keytide_ring_version{ring="sso"} 1`,
		"keytide_agents_connected 0", `keytide_admin_requests_refused_total{why="no_token"} 1`,
		`keytide_admin_requests_refused_total{why="unknown_token"} 0`, `keytide_certificate_not_after_seconds{listener="feed"} 1.`,
	} {
		if !strings.Contains(page, "\n"+want) {
			t.Errorf("/metrics has no line %s", want)
		}
	}
	if answer.Code != http.StatusOK {
		t.Errorf("/metrics = %d: %s", answer.Code, page)
	}
}
