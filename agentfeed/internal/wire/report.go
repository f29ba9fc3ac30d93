package wire

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/keytide/keytide/keystore"
)

// ReportTarget is where an agent says what it has applied.
const ReportTarget = "/v1/feed/status"

// Bounds of a report.
const (
	MaxReport      = 32 << 10 // bytes of the body
	maxReportRings = 256
	maxFailures    = 16
	maxAgentText   = 64  // bytes
	maxFailureText = 256 // bytes
)

// A Report is what one agent says of itself.
type Report struct {
	Run       string          `json:"run"` // drawn at each start of the agent: 16 hexadecimal digits
	V         string          `json:"v"`   // the position held
	Agent     string          `json:"agent,omitempty"`
	State     string          `json:"state"`
	Transport string          `json:"transport"`
	Rings     []ReportRing    `json:"rings"`
	Failures  []ReportFailure `json:"failures,omitempty"`
}

// A ReportRing is the version of a ring that the agent uses.
type ReportRing struct {
	Name    keystore.RingName `json:"name"`
	Epoch   keystore.Epoch    `json:"epoch"`
	Version keystore.Version  `json:"version"`
}

// A ReportFailure is an output of the agent that does not follow its rings.
type ReportFailure struct {
	Output string `json:"output"`
	Error  string `json:"error"`
}

// ParseReport reads a report's body. Members that are not known are ignored.
func ParseReport(body []byte) (Report, error) {
	var r Report
	if len(body) > MaxReport {
		return Report{}, fmt.Errorf("report: more than %d bytes", MaxReport)
	}
	if err := json.Unmarshal(body, &r); err != nil {
		return Report{}, errors.New("report: its body is not the JSON that it should be")
	}
	if err := r.check(); err != nil {
		return Report{}, fmt.Errorf("report: %w", err)
	}
	return r, nil
}

func (r *Report) check() error {
	if _, err := ParseInstance(r.Run); err != nil {
		return fmt.Errorf("run: %w", err)
	}
	if _, err := ParsePosition(r.V); err != nil {
		return fmt.Errorf("v: %w", err)
	}
	for what, word := range map[string][2]string{"state": {r.State, "fresh stale expired cached"}, "transport": {r.Transport, "stream longpoll poll"}} {
		if !slices.Contains(strings.Fields(word[1]), word[0]) {
			return fmt.Errorf("%s: want one of: %s", what, word[1])
		}
	}
	if !plain(r.Agent, maxAgentText) {
		return fmt.Errorf("agent: want a line of at most %d bytes", maxAgentText)
	}
	if len(r.Rings) > maxReportRings || len(r.Failures) > maxFailures {
		return fmt.Errorf("more than %d rings, or more than %d failures", maxReportRings, maxFailures)
	}
	seen := make(map[keystore.RingName]bool, len(r.Rings))
	for _, ring := range r.Rings {
		if _, err := keystore.ParseRingName(string(ring.Name)); err != nil {
			return err
		}
		if seen[ring.Name] {
			return fmt.Errorf("ring %s stands twice", ring.Name)
		}
		seen[ring.Name] = true
	}
	for _, f := range r.Failures {
		if f.Output == "" || !plain(f.Output, maxAgentText) || !plain(f.Error, maxFailureText) {
			return fmt.Errorf("failures: want an output of 1 to %d bytes and an error of at most %d, a line each", maxAgentText, maxFailureText)
		}
	}
	return nil
}

// Encode gives the body of a report, which it shortens to its bounds.
func (r Report) Encode() ([]byte, error) {
	r.Agent = Line(r.Agent, maxAgentText)
	r.Rings = r.Rings[:min(len(r.Rings), maxReportRings)]
	failures := make([]ReportFailure, min(len(r.Failures), maxFailures))
	for i := range failures {
		failures[i] = ReportFailure{Output: Line(r.Failures[i].Output, maxAgentText), Error: Line(r.Failures[i].Error, maxFailureText)}
	}
	r.Failures = failures
	if r.Rings == nil {
		r.Rings = []ReportRing{}
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	return json.Marshal(r)
}

// BodyHash is what the MAC of a POST covers of its body.
func BodyHash(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}

// plain reports whether text is one line that a terminal shows as it stands.
func plain(text string, most int) bool { return len(text) <= most && Line(text, most) == text }

// Line makes text one line of at most that many bytes: what is not printable becomes
// a space.
func Line(text string, most int) string {
	clean := make([]byte, 0, min(len(text), most))
	for _, c := range text {
		if c == utf8.RuneError || !unicode.IsPrint(c) {
			c = ' '
		}
		if len(clean)+utf8.RuneLen(c) > most {
			break
		}
		clean = utf8.AppendRune(clean, c)
	}
	return string(clean)
}
