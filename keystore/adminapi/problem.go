package adminapi

import "strings"

// ProblemPrefix is what the type of every problem begins with.
const ProblemPrefix = "urn:keytide:problem:"

// Problem is an RFC 9457 problem. A client branches on Type alone.
type Problem struct {
	Type   string  `json:"type"`             // ProblemPrefix and a name
	Title  string  `json:"title"`            // the same for every problem of a type
	Status int     `json:"status"`           // the HTTP status
	Detail string  `json:"detail,omitempty"` // what and why, for a person
	Hint   string  `json:"hint,omitempty"`   // what next; lines
	Faults []Fault `json:"faults,omitempty"` // of an invalid request, all of them
}

// Fault is one thing wrong with a request.
type Fault struct {
	Path   string `json:"path"` // such as body.policy.max_session
	Detail string `json:"detail"`
}

// Name returns the problem's name: its type without the prefix.
func (p *Problem) Name() string { return strings.TrimPrefix(p.Type, ProblemPrefix) }

// An Error is a problem that a server answered with. errors.Is finds the
// sentinel that the server's own error wrapped.
type Error struct {
	Problem
	Sentinel error // nil for a problem that this program does not know
}

// Error gives the detail, or the title where there is none, and every fault.
func (e *Error) Error() string {
	text := e.Detail
	if text == "" {
		text = strings.ToLower(e.Title)
	}
	for _, f := range e.Faults {
		text += "\n  " + f.Path + ": " + f.Detail
	}
	return text
}

// Unwrap returns the sentinel.
func (e *Error) Unwrap() error { return e.Sentinel }
