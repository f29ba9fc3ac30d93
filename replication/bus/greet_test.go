package bus

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A fullListener takes no connection: there is no file descriptor left.
type fullListener struct {
	net.Listener
	tries int
	end   func()
}

func (l *fullListener) Accept() (net.Conn, error) {
	if l.tries++; l.tries == 100 {
		l.end()
	}
	return nil, errors.New("too many open files")
}

func (l *fullListener) Close() error { return nil }

// TestGreetingWithoutFileDescriptors: a server that can take no connection while it is
// apart neither spins nor fills the log.
func TestGreetingWithoutFileDescriptors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var log bytes.Buffer
		b := &Bus{log: slog.New(slog.NewTextHandler(&log, nil))}
		began := time.Now()
		b.greetAt(ctx, &fullListener{end: cancel})
		if took := time.Since(began); took < 99*judgeEvery {
			t.Errorf("100 attempts within %v, want a pause of %v after each", took, judgeEvery)
		}
		if lines := strings.Count(log.String(), "\n"); lines != 1 {
			t.Errorf("%d lines, want one:\n%s", lines, &log)
		}
	})
}
