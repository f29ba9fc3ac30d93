package server

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keytide/keytide/keystore/adminapi"
)

func TestEndsWithin(t *testing.T) {
	end := time.Date(2027, 3, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		left time.Duration
		days int
		near bool
	}{
		{31 * day, 0, false}, {30*day + 1, 0, false}, {30 * day, 30, true}, {7*day + 1, 30, true}, {7 * day, 7, true},
		{day + 1, 7, true}, {day, 1, true}, {time.Second, 1, true}, {0, 0, true}, {-day, 0, true},
	} {
		if days, near := endsWithin(end, end.Add(-c.left)); days != c.days || near != c.near {
			t.Errorf("%v before: %d, %v; want %d, %v", c.left, days, near, c.days, c.near)
		}
	}
}

// TestExpiryIsSaidOncePerStage: a line at 30 days, at 7, at 1 and at the end, however
// often it is looked at, and again where a new certificate's end comes near.
func TestExpiryIsSaidOncePerStage(t *testing.T) {
	var log lockedBuffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	end := time.Date(2027, 3, 1, 0, 0, 0, 0, time.UTC)
	said := make(expiryLog)
	lines := func(at time.Time) int {
		said.look(logger, []ending{{what: "it", notAfter: end, then: "it stops"}}, at)
		return strings.Count(log.String(), "a certificate ends")
	}
	for left, want := 40, 0; left > -3; left-- {
		switch left {
		case 30, 7, 1, 0:
			want++
		}
		for range 3 {
			if got := lines(end.Add(-time.Duration(left) * day)); got != want {
				t.Fatalf("%d days before: %d lines, want %d", left, got, want)
			}
		}
	}
	end = end.Add(365 * day)
	if got := lines(end.Add(-5 * day)); got != 5 {
		t.Errorf("a new certificate, 5 days before its end: %d lines, want 5", got)
	}
}

// TestCoreCertificateThatEndsIsAnAlarm: status and metrics tell of it until a new one is
// in its place.
func TestCoreCertificateThatEndsIsAnAlarm(t *testing.T) {
	dir, _ := coreOf(t, 1)
	r := launch(t, filepath.Join(dir, "eu-1"), nil).awaitReady(t)
	ca, err := tls.LoadX509KeyPair(filepath.Join(dir, coreCADir, "ca.pem"), filepath.Join(dir, coreCADir, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	host, _, err := net.SplitHostPort(r.cfg.core().Listen)
	if err != nil {
		t.Fatal(err)
	}
	renew := func(life time.Duration) {
		t.Helper()
		err := issueFrom(ca, &x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}},
			[]string{host}, life, r.cfg.core().Cert, r.cfg.core().Key)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range r.certificates {
			if c.listener == "core" {
				c.reload(nil)
			}
		}
	}
	if got := r.certificateAlarms(t); len(got) != 0 {
		t.Errorf("new: alarms = %v", got)
	}
	renew(6 * day)
	got := r.certificateAlarms(t)
	if len(got) != 1 || got[0].Ledger != "core" || !strings.Contains(got[0].Text, "in 7 days or less") || !strings.Contains(got[0].Text, r.cfg.core().Cert) {
		t.Errorf("6 days before its end: alarms = %+v", got)
	}
	r.wantMetric(t, `keytide_alarms{ledger="core"} 1`)
	renew(certLife)
	if got := r.certificateAlarms(t); len(got) != 0 {
		t.Errorf("renewed: alarms = %v", got)
	}
	r.wantMetric(t, `keytide_alarms{ledger="core"} 0`)
}

func (r *running) certificateAlarms(t *testing.T) (found []adminapi.Alarm) {
	t.Helper()
	status, err := r.service.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range status.Alarms {
		if a.Kind == "certificate" {
			found = append(found, a)
		}
	}
	return found
}

// wantMetric checks that /metrics has a line.
func (s *site) wantMetric(t *testing.T, line string) {
	t.Helper()
	handler, err := s.metrics()
	if err != nil {
		t.Fatal(err)
	}
	answer := httptest.NewRecorder()
	handler.ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
	if page := answer.Body.String(); !strings.Contains(page, "\n"+line+"\n") {
		t.Errorf("/metrics has no line %s:\n%s", line, grepLines(page, "keytide_"))
	}
}

func grepLines(text, with string) string {
	var found []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, with) {
			found = append(found, line)
		}
	}
	return strings.Join(found, "")
}
