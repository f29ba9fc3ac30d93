package bus

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestServerLogRepeatsNothing: what the NATS server says again and again is said once
// a minute; what it says for the first time, at once.
func TestServerLogRepeatsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := newServerLog(slog.New(slog.NewTextHandler(&out, nil)))
		lines := func(want int) {
			t.Helper()
			if got := strings.Count(out.String(), "\n"); got != want {
				t.Errorf("%d lines, want %d:\n%s", got, want, &out)
			}
		}
		for i := range 50 {
			log.Errorf("127.0.0.1:%d - rid:%d - TLS route handshake error: EOF", 40000+i, i)
			time.Sleep(time.Second)
		}
		lines(1)
		log.Warnf("Waiting for routing to be established...")
		lines(2)
		time.Sleep(sayAgain)
		log.Errorf("127.0.0.1:%d - rid:%d - TLS route handshake error: EOF", 41000, 51)
		lines(3)
		for i := range rune(3 * maxSaid) {
			log.Warnf("another line %c", 'A'+i)
		}
		if len(log.said) > maxSaid {
			t.Errorf("%d lines are remembered, want at most %d", len(log.said), maxSaid)
		}
		log.Fatalf("port %d is taken", 4222)
		if fmt.Sprint(log.fatal()) != "port 4222 is taken" {
			t.Errorf("fatal = %v", log.fatal())
		}
	})
}
