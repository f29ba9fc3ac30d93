package adminhttp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
)

// This file has the answers that may be larger than memory: a backup, and the whole
// history as lines. They are streamed. One that ends early breaks the connection, so a
// client never takes a part for the whole.

// streamStep is how long a client may take for each piece of a stream.
const streamStep = 30 * time.Second

// Bases say after which event of each ledger a backup begins; a ledger that is not named
// is backed up whole.
type Bases map[events.Kind]events.Head

func (a *api) streams(mux *http.ServeMux) {
	mux.HandleFunc("GET /v1/backup", func(w http.ResponseWriter, r *http.Request) {
		bases, err := parseBases(r.URL.Query())
		a.stream(w, r, "application/octet-stream", err, func(ctx context.Context, out io.Writer) error {
			return a.Service.Backup(ctx, bases, out)
		})
	})
	mux.HandleFunc("GET /v1/audit/export", func(w http.ResponseWriter, r *http.Request) {
		span, err := parseSpan(r.URL.Query())
		a.stream(w, r, "application/jsonl", err, func(ctx context.Context, out io.Writer) error {
			return a.Service.Export(ctx, span, out)
		})
	})
}

// stream answers with what write writes. An error before the first byte is a problem; one
// after it breaks the connection.
func (a *api) stream(w http.ResponseWriter, r *http.Request, kind string, err error, write func(context.Context, io.Writer) error) {
	out := &streamWriter{w: w, deadline: http.NewResponseController(w).SetWriteDeadline, kind: kind}
	if err == nil {
		err = write(r.Context(), out)
	}
	switch {
	case err == nil:
		out.begin()
	case !out.begun:
		writeProblem(w, explain(r.Context(), a.Logger, err).Problem)
	default:
		if r.Context().Err() == nil {
			a.Logger.Error("a streamed answer broke off", "path", r.URL.Path, "err", err)
		}
		panic(http.ErrAbortHandler)
	}
}

type streamWriter struct {
	w        http.ResponseWriter
	deadline func(time.Time) error
	kind     string
	begun    bool
}

func (s *streamWriter) begin() {
	if !s.begun {
		s.begun = true
		s.w.Header().Set("Content-Type", s.kind)
		s.w.WriteHeader(http.StatusOK)
	}
}

func (s *streamWriter) Write(p []byte) (int, error) {
	s.begin()
	if err := s.deadline(time.Now().Add(streamStep)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	return s.w.Write(p)
}

// parseBases reads keys=N.HASH and hosts=N.HASH.
func parseBases(query url.Values) (Bases, error) {
	bases := Bases{}
	for name, values := range query {
		var kind events.Kind
		n, digits, ok := strings.Cut(values[0], ".")
		number, err := strconv.ParseUint(n, 10, 64)
		hash, hashErr := events.ParseHash(digits)
		if !ok || kind.UnmarshalText([]byte(name)) != nil || errors.Join(err, hashErr) != nil || number == 0 {
			return nil, fmt.Errorf("%w: %s: want keys or hosts, and N.HASH of the event to go on after", keystore.ErrInvalid, name)
		}
		bases[kind] = events.Head{N: keystore.N(number), Hash: hash}
	}
	return bases, nil
}

func parseSpan(query url.Values) (span Span, err error) {
	for name, values := range query {
		at, parseErr := time.Parse(time.RFC3339Nano, values[0])
		switch {
		case parseErr != nil || name != "since" && name != "until":
			return Span{}, fmt.Errorf("%w: %s: want since or until, RFC 3339", keystore.ErrInvalid, name)
		case name == "since":
			span.Since = at
		default:
			span.Until = at
		}
	}
	return span, nil
}

// Backup writes a backup of both ledgers, from the bases on, to w.
func (c *Client) Backup(ctx context.Context, bases Bases, w io.Writer) error {
	query := url.Values{}
	for kind, head := range bases {
		query.Set(kind.String(), fmt.Sprintf("%d.%s", head.N, head.Hash))
	}
	return c.stream(ctx, "/v1/backup?"+query.Encode(), w)
}

// Export writes every event of both ledgers to w, as lines of JSON (adminapi.AuditEvent).
func (c *Client) Export(ctx context.Context, span Span, w io.Writer) error {
	return c.stream(ctx, "/v1/audit/export"+times(url.Values{}, map[string]time.Time{
		"since": span.Since, "until": span.Until,
	}), w)
}

// stream copies one answer to w. Once anything was copied it asks no other server: what
// is in w is then a part, and the error says so.
func (c *Client) stream(ctx context.Context, path string, w io.Writer) error {
	var last error
	for _, server := range c.servers {
		copied, err := c.streamOnce(ctx, server+path, w)
		if err == nil || copied > 0 || !retry(err) {
			return c.unreachable(err)
		}
		last = err
	}
	return c.unreachable(last)
}

func (c *Client) streamOnce(ctx context.Context, address string, w io.Writer) (copied int64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	patient := *c.http
	patient.Timeout = 0 // it takes as long as it takes; ctx ends it
	res, err := patient.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		answer, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
		if err != nil {
			return 0, err
		}
		return 0, problemIn(res, answer)
	}
	return io.Copy(w, res.Body)
}
