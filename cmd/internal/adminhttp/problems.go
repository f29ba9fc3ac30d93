package adminhttp

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/oklog/ulid/v2"

	"github.com/keytide/keytide/events"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/adminapi"
)

// ErrUnauthorized: the request carried no token, or none of this server's.
var ErrUnauthorized = errors.New("unauthorized")

// ErrInternal is what the client makes of a problem without a cause to branch on.
var ErrInternal = errors.New("internal error")

// A row pairs a sentinel with its problem. Names are API: never reused.
type row struct {
	name     string
	status   int
	title    string
	sentinel error
	is       func(error) bool // narrower than the sentinel, where set
	hint     string           // where the error brings none of its own
}

// table is the one place where an error becomes a status. The first row that
// matches counts.
var table = []row{
	{name: "unauthorized", status: http.StatusUnauthorized, title: "Unauthorized", sentinel: ErrUnauthorized,
		hint: "the profile's token file holds the token; it must be one of this server's admin tokens"},
	{name: "rollover-too-soon", status: http.StatusConflict, title: "Rollover within the minimum interval",
		sentinel: keystore.ErrRefused, is: as[*keystore.TooSoonError]},
	{name: "rollover-held", status: http.StatusConflict, title: "Rollover held",
		sentinel: keystore.ErrRefused, is: as[*keystore.HeldError]},
	{name: "ring-full", status: http.StatusConflict, title: "Ring full",
		sentinel: keystore.ErrRefused, is: as[*keystore.FullError]},
	{name: "ring-granted", status: http.StatusConflict, title: "Ring in use",
		sentinel: keystore.ErrRefused, is: as[*keystore.GrantedError]},
	{name: "nothing-to-undo", status: http.StatusConflict, title: "Nothing to undo",
		sentinel: keystore.ErrRefused, is: as[*keystore.UndoError]},
	{name: "refused", status: http.StatusConflict, title: "Refused because unsafe", sentinel: keystore.ErrRefused},
	{name: "invalid", status: http.StatusUnprocessableEntity, title: "Invalid request", sentinel: keystore.ErrInvalid},
	{name: "not-found", status: http.StatusNotFound, title: "Not found", sentinel: keystore.ErrNotFound},
	{name: "exists", status: http.StatusConflict, title: "Exists already", sentinel: keystore.ErrExists},
	{name: "conflict", status: http.StatusConflict, title: "Another change was first", sentinel: events.ErrConflict,
		hint: "look at the state as it is now, then send the command again"},
	{name: "unknown-outcome", status: http.StatusGatewayTimeout, title: "Outcome unknown", sentinel: events.ErrUnknown,
		hint: "the change may still happen: see keytide history, or send the same request again"},
	{name: "unavailable", status: http.StatusServiceUnavailable, title: "Ledger unavailable", sentinel: events.ErrUnavailable,
		hint: "nothing was changed; see keytide status for what the server says of its ledger"},
}

func as[T error](err error) bool {
	var target T
	return errors.As(err, &target)
}

func (r row) matches(err error) bool {
	if r.is != nil {
		return r.is(err)
	}
	return errors.Is(err, r.sentinel)
}

// A hinter is an error that says what to do next, in one or more lines.
type hinter interface{ Hint() string }

// HintOf returns the hint of the outermost error that has one.
func HintOf(err error) string {
	var problem *adminapi.Error
	if errors.As(err, &problem) {
		return problem.Hint
	}
	var h hinter
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}

// ProblemOf turns an error into a problem. ok is false for an error that the
// table does not know: its problem says nothing of it.
func ProblemOf(err error) (p adminapi.Problem, ok bool) {
	for _, r := range table {
		if !r.matches(err) {
			continue
		}
		p := adminapi.Problem{
			Type: adminapi.ProblemPrefix + r.name, Title: r.title, Status: r.status,
			Detail: err.Error(), Hint: HintOf(err),
		}
		if p.Hint == "" {
			p.Hint = r.hint
		}
		return p, true
	}
	return adminapi.Problem{
		Type: adminapi.ProblemPrefix + "internal", Title: "Internal error", Status: http.StatusInternalServerError,
	}, false
}

// ErrorOf turns a problem back into an error that wraps the sentinel.
func ErrorOf(p adminapi.Problem) error {
	for _, r := range table {
		if r.name == p.Name() {
			return &adminapi.Error{Problem: p, Sentinel: r.sentinel}
		}
	}
	return &adminapi.Error{Problem: p, Sentinel: ErrInternal}
}

// A problemError is a problem on its way through huma to the client.
type problemError struct{ adminapi.Problem }

func (e *problemError) Error() string             { return e.Detail }
func (e *problemError) GetStatus() int            { return e.Status }
func (e *problemError) ContentType(string) string { return "application/problem+json" }

// explain makes the problem for err. One that the table does not know is
// logged under an id that the client gets to see.
func explain(ctx context.Context, logger *slog.Logger, err error) *problemError {
	p, known := ProblemOf(err)
	if !known {
		id := ulid.Make().String()
		logger.ErrorContext(ctx, "admin request failed", "incident", id, "err", err)
		p.Detail = "the server met an error that it did not expect"
		p.Hint = "its log says more under incident " + id
	}
	return &problemError{p}
}

// humaProblem turns huma's own errors (a request that does not fit its schema, a
// body that is too large) into a problem of ours.
func humaProblem(_ huma.Context, _ string, v any) (any, error) {
	model, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	p := adminapi.Problem{
		Type: adminapi.ProblemPrefix + "invalid", Title: "Invalid request", Status: model.Status, Detail: "invalid request",
	}
	if model.Status >= http.StatusInternalServerError {
		p.Type, p.Title, p.Detail = adminapi.ProblemPrefix+"internal", "Internal error", ""
		return p, nil
	}
	if len(model.Errors) == 0 && model.Detail != "" {
		p.Detail += ": " + strings.ToLower(model.Detail)
	}
	for _, e := range model.Errors {
		p.Faults = append(p.Faults, adminapi.Fault{Path: e.Location, Detail: e.Message})
	}
	return p, nil
}
