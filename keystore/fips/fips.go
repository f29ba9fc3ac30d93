// Package fips says with which cryptographic module a program runs, and refuses to
// start one that must run with a certified module and does not.
//
// It is about the module of the Go standard library, which is chosen when a program is
// built (GOFIPS140) and switched when it starts. What of this program is inside the
// module, and what is not, is told in deploy/FIPS.md.
package fips

import (
	"crypto/fips140"
	"fmt"
	"slices"
	"strings"

	"github.com/keytide/keytide/keystore"
)

// Required is the value of fips in a configuration that wants a certified module.
const Required = "required"

// certified are the versions of the module that hold a CMVP certificate. A version
// that is only in review, or the toolchain's own copy ("latest"), is not among them.
var certified = []string{"v1.0.0"} // CMVP certificate 5247

// A Module is the cryptographic module that a program runs with.
type Module struct {
	Enabled  bool   `json:"enabled"`  // it works in FIPS 140-3 mode
	Enforced bool   `json:"enforced"` // and refuses most of what is not approved (GODEBUG=fips140=only)
	Version  string `json:"module"`   // such as v1.0.0; "latest": the toolchain's own, never certified
}

// Running returns the module of this program.
func Running() Module {
	return Module{Enabled: fips140.Enabled(), Enforced: fips140.Enforced(), Version: fips140.Version()}
}

// Certified reports whether the module holds a certificate.
func (m Module) Certified() bool { return slices.Contains(certified, m.Version) }

func (m Module) String() string {
	switch {
	case !m.Enabled:
		return "off (module " + m.Version + ")"
	case m.Enforced:
		return "enforced (module " + m.Version + ")"
	}
	return "on (module " + m.Version + ")"
}

// Check reports what is wrong with the value of fips in a configuration.
func Check(value string) error {
	if value != "" && value != Required {
		return fmt.Errorf("%w: want %s, or nothing", keystore.ErrInvalid, Required)
	}
	return nil
}

// Demand returns nil if value does not want a certified module, or m is one in FIPS
// 140-3 mode; otherwise a *RequiredError.
func Demand(value string, m Module) error {
	if value != Required || m.Enabled && m.Certified() {
		return nil
	}
	return &RequiredError{Module: m}
}

// A RequiredError refuses a start. It wraps keystore.ErrRefused.
type RequiredError struct{ Module Module }

func (e *RequiredError) Error() string {
	if e.Module.Certified() {
		return fmt.Sprintf("fips: required, but the cryptographic module %s is not in FIPS 140-3 mode", e.Module.Version)
	}
	return fmt.Sprintf("fips: required, but this program was built with the cryptographic module %q, which holds no certificate (%s does)",
		e.Module.Version, strings.Join(certified, ", "))
}

// Hint says what next.
func (e *RequiredError) Hint() string {
	if e.Module.Certified() {
		return "start it without fips140=off in GODEBUG"
	}
	return "use a program that was built with:  make build-fips"
}

func (e *RequiredError) Unwrap() error { return keystore.ErrRefused }
