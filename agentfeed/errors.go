package agentfeed

import (
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/keytide/keytide/agentfeed/internal/wire"
)

// A ProblemError is a policy server's answer that it will not feed this agent
// (SPEC.md, section 7).
type ProblemError struct {
	Server string // URL
	Name   string // such as "bad-mac"
	Title  string
	Detail string
	Status int // HTTP

	now *time.Time // the server's, with clock-skew
}

func (e *ProblemError) Error() string {
	text := fmt.Sprintf("%s: %s (%s)", e.Server, e.Title, e.Name)
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	return text
}

// Refused reports whether the server refuses this host as such, which waiting does
// not mend.
func (e *ProblemError) Refused() bool {
	return e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden || e.Status == http.StatusNotAcceptable
}

// Hint says what to do about it; "" = wait.
func (e *ProblemError) Hint() string {
	switch e.Name {
	case wire.AuthRequired, wire.BadMAC, wire.SecretRetired:
		return "register the host anew and give the agent its new host file: keytide host register NAME --ring RING --out FILE"
	case wire.HostRevoked:
		return "see who revoked it: keytide host show NAME"
	case wire.BadToken:
		return "see which registration tokens there are: keytide host token list"
	case wire.RegistrationRefused:
		return "make another token: keytide host token --ring RING --out FILE"
	case wire.HostExists:
		return "choose another name, or end the host first: keytide host revoke NAME"
	case wire.ClockSkew:
		return "set this machine's clock"
	case wire.UnsupportedVersion:
		return "update this agent, or the policy server"
	}
	return ""
}

// readProblem reads an answer that refuses, and how long the server asks to wait.
func readProblem(server string, response *http.Response, body []byte) (e *ProblemError, wait time.Duration) {
	var p wire.Problem
	if media, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type")); media == "application/problem+json" {
		if json.Unmarshal(body, &p) != nil {
			p = wire.Problem{}
		}
	}
	if seconds, err := strconv.ParseUint(response.Header.Get("Retry-After"), 10, 31); err == nil {
		wait = min(time.Duration(seconds)*time.Second, maxAsked)
	}
	return problemError(server, response.StatusCode, p), wait
}

// problemError checks a problem as it came, unsealed, before its text is shown.
func problemError(server string, status int, p wire.Problem) *ProblemError {
	e := &ProblemError{Server: server, Status: status, Title: printable(p.Title), Detail: printable(p.Detail), now: p.Now}
	e.Name = printable(strings.TrimPrefix(p.Type, wire.ProblemPrefix))
	if e.Name == "" {
		e.Name = "unknown"
	}
	if e.Title == "" {
		e.Title = fmt.Sprintf("HTTP status %d", status)
	}
	return e
}

// printable bounds a stranger's text and takes control characters out.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, s)
	return s[:min(len(s), 200)]
}
