package bus

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
	"unicode"
)

const (
	// sayAgain is how long a line of the server is not said again: with a server away,
	// another's route fails each second.
	sayAgain = time.Minute
	maxSaid  = 256 // lines that are remembered
)

// A serverLog passes the NATS server's lines to slog, and keeps the first fatal
// one: the server reports a failed start only there.
type serverLog struct {
	log *slog.Logger

	mu    sync.Mutex // guards the fields below
	first error
	said  map[string]time.Time // when a line was, but for the numbers in it
}

func newServerLog(log *slog.Logger) *serverLog {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &serverLog{log: log.With("part", "nats")}
}

func (l *serverLog) debug() bool { return l.log.Enabled(context.Background(), slog.LevelDebug) }

func (l *serverLog) fatal() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.first
}

func (l *serverLog) line(level slog.Level, format string, v []any) {
	if l.log.Enabled(context.Background(), level) {
		l.log.Log(context.Background(), level, "nats server", "line", fmt.Sprintf(format, v...))
	}
}

// repeated is for lines that may come again and again. Those that differ in numbers
// alone (addresses, connections, attempts) are one; what is not said again is for
// debugging.
func (l *serverLog) repeated(level slog.Level, format string, v []any) {
	text := fmt.Sprintf(format, v...)
	kind := strings.Map(func(c rune) rune {
		if unicode.IsDigit(c) {
			return -1
		}
		return c
	}, text)
	l.mu.Lock()
	at, known := l.said[kind]
	if known && time.Since(at) < sayAgain {
		level = slog.LevelDebug
	} else {
		if l.said == nil || len(l.said) >= maxSaid {
			l.said = make(map[string]time.Time)
		}
		l.said[kind] = time.Now()
	}
	l.mu.Unlock()
	l.line(level, "%s", []any{text})
}

// The server's notices are its own start and stop: of use only when debugging.
func (l *serverLog) Noticef(format string, v ...any) { l.line(slog.LevelDebug, format, v) }
func (l *serverLog) Warnf(format string, v ...any)   { l.repeated(slog.LevelWarn, format, v) }
func (l *serverLog) Errorf(format string, v ...any)  { l.repeated(slog.LevelError, format, v) }
func (l *serverLog) Debugf(format string, v ...any)  { l.line(slog.LevelDebug, format, v) }
func (l *serverLog) Tracef(format string, v ...any)  { l.line(slog.LevelDebug, format, v) }

func (l *serverLog) Fatalf(format string, v ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.first == nil {
		l.first = fmt.Errorf(format, v...)
	}
	l.line(slog.LevelError, format, v)
}
