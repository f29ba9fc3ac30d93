package cookie_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/keytide/keytide/agentfeed/cookie"
	"github.com/keytide/keytide/keystore"
)

func TestNewReportsAllFaults(t *testing.T) {
	_, err := cookie.New(cookie.Config{Name: "a b", Purpose: 9, MaxAge: -time.Second, MaxLen: 10, Subkeys: -1})
	if !errors.Is(err, keystore.ErrInvalid) {
		t.Fatalf("New: %v, want it to wrap ErrInvalid", err)
	}
	for _, want := range []string{"ring", "name", "purpose", "max age", "max len", "subkeys"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("New: %v; does not name %s", err, want)
		}
	}
	for _, config := range []cookie.Config{
		{Name: ""}, {Name: strings.Repeat("n", 94)}, {Name: "a;b"}, {Name: "ä"},
		{Name: "a", MaxAge: time.Millisecond}, {Name: "a", MaxAge: (1 << 32) * time.Second}, {Name: "a", MaxLen: 4001},
	} {
		config.Ring = ringOf(nil)
		if _, err := cookie.New(config); !errors.Is(err, keystore.ErrInvalid) {
			t.Errorf("New(%+v): %v, want ErrInvalid", config, err)
		}
	}
	if _, err := cookie.New(cookie.Config{Ring: ringOf(nil), Name: strings.Repeat("n", 93), MaxLen: 80}); err != nil {
		t.Error(err)
	}
}

// TestOneOutwardError: whatever the reason, whoever sent the token learns the same.
func TestOneOutwardError(t *testing.T) {
	c := newCodec(t, cookie.Config{Ring: ringOf(dynamicSet(t, 5, 3))})
	good := mustSeal(t, c, "x")
	for token, want := range map[string]cookie.Reason{
		"": cookie.Malformed, strings.Repeat("A", 100): cookie.Malformed,
		"AQ" + strings.Repeat("A", 98): cookie.UnknownKey, string(changedAt(good, 50)): cookie.Unauthentic,
	} {
		_, err := c.OpenString(nil, token)
		if !errors.Is(err, cookie.ErrBadToken) || err.Error() != cookie.ErrBadToken.Error() {
			t.Errorf("%v: error %q, want ErrBadToken and its text", want, err)
		}
		if got := cookie.ReasonOf(fmt.Errorf("wrapped: %w", err)); got != want {
			t.Errorf("ReasonOf = %v, want %v", got, want)
		}
		var log bytes.Buffer
		slog.New(slog.NewTextHandler(&log, nil)).Info("refused", "err", err)
		if !strings.Contains(log.String(), want.String()) {
			t.Errorf("log %q does not have the reason %v", log.String(), want)
		}
	}
	if got := cookie.ReasonOf(cookie.ErrNoKey); got != 0 {
		t.Errorf("ReasonOf(ErrNoKey) = %v, want 0", got)
	}
}

func TestExplain(t *testing.T) {
	set := dynamicSet(t, 5, 3)
	token := mustSeal(t, newCodec(t, cookie.Config{Ring: ringOf(set)}), "hello")
	e, err := cookie.Explain(string(token))
	if err != nil || e.Format != "kt1" || e.KID != set.Keys[0].KID || e.PayloadSize != 5 || len(e.Sealer) != 30 {
		t.Errorf("Explain = %+v, %v", e, err)
	}
	text, err := json.Marshal(e)
	want := fmt.Sprintf(`{"format":"kt1","kid":%q,"sealer":%q,"payload_size":5}`, e.KID, e.Sealer)
	if err != nil || string(text) != want {
		t.Errorf("JSON %s, %v; want %s", text, err, want)
	}
	for _, bad := range []string{"", "x", string(token[:79]), string(token) + "=", "Ag" + string(token[2:]), strings.Repeat("A", 5000)} {
		if e, err := cookie.Explain(bad); !errors.Is(err, cookie.ErrBadToken) {
			t.Errorf("Explain(%q) = %+v, %v; want ErrBadToken", bad, e, err)
		}
	}
}
