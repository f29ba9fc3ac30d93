package adminhttp_test

import (
	"bytes"
	"log/slog"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keytide/keytide/cmd/internal/adminhttp"
)

func TestRefusedTokensAreLoggedAndCounted(t *testing.T) {
	s := newSite(t)
	guess := adminhttp.NewToken()
	for _, token := range []string{guess, guess, ""} {
		client := s.newClient(token)
		client.Status(t.Context())
		client.Close()
	}
	if _, err := s.client.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	if unknown, none := s.refusals.Count(adminhttp.UnknownToken), s.refusals.Count(adminhttp.NoToken); unknown+none != 3 || unknown < 2 {
		t.Errorf("counted %d unknown tokens and %d requests without one, want 3 in all, 2 of them unknown at least", unknown, none)
	}
	log := s.log.String()
	if !strings.Contains(log, `level=WARN msg="admin request refused" why=unknown_token remote=127.0.0.1:`) {
		t.Errorf("log = %q, want the refusal", log)
	}
	if strings.Contains(log, strings.TrimPrefix(guess, "keytide_admin_")) {
		t.Error("the log shows a refused token")
	}
}

func TestRefusalsAreLoggedOnceASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var refusals adminhttp.Refusals
		var out bytes.Buffer
		log := slog.New(slog.NewTextHandler(&out, nil))
		req := httptest.NewRequest("GET", "/v1/status", nil)
		for range 3 {
			for range 1000 {
				refusals.Note(log, req, adminhttp.NoToken)
			}
			time.Sleep(time.Second)
		}
		if got := strings.Count(out.String(), "\n"); got != 3 {
			t.Errorf("%d lines in 3 s, want 3", got)
		}
		if got := strings.Count(out.String(), "not_logged=999"); got != 2 {
			t.Errorf("log = %q, want two lines that say how many were left out", out.String())
		}
		if got := refusals.Count(adminhttp.NoToken); got != 3000 {
			t.Errorf("Count = %d, want 3000", got)
		}
	})
}
