package fips_test

import (
	"crypto/fips140"
	"errors"
	"strings"
	"testing"

	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/fips"
)

func TestDemand(t *testing.T) {
	tests := []struct {
		value  string
		module fips.Module
		want   string // in the error; "" = none
	}{
		{"", fips.Module{Version: "latest"}, ""},
		{"required", fips.Module{Enabled: true, Version: "v1.0.0"}, ""},
		{"required", fips.Module{Enabled: true, Enforced: true, Version: "v1.0.0"}, ""},
		{"required", fips.Module{Version: "v1.0.0"}, "not in FIPS 140-3 mode"},
		{"required", fips.Module{Enabled: true, Version: "latest"}, "holds no certificate"},
		{"required", fips.Module{Enabled: true, Version: "v1.26.0"}, "holds no certificate"},
		{"required", fips.Module{Version: "latest"}, "holds no certificate"},
	}
	for _, tt := range tests {
		err := fips.Demand(tt.value, tt.module)
		if tt.want == "" && err != nil {
			t.Errorf("Demand(%q, %+v) = %v, want nil", tt.value, tt.module, err)
		}
		if tt.want == "" {
			continue
		}
		refused, ok := errors.AsType[*fips.RequiredError](err)
		if !ok || !errors.Is(err, keystore.ErrRefused) || !strings.Contains(err.Error(), tt.want) || refused.Hint() == "" {
			t.Errorf("Demand(%q, %+v) = %v, want a RequiredError with %q and a hint", tt.value, tt.module, err, tt.want)
		}
	}
}

func TestCheck(t *testing.T) {
	for value, good := range map[string]bool{"": true, "required": true, "Required": false, "on": false, "no": false} {
		if err := fips.Check(value); (err == nil) != good {
			t.Errorf("Check(%q) = %v, want good %v", value, err, good)
		}
	}
}

// TestRunning says what the toolchain says; this test program is never certified in
// the gate, where it runs both ways.
func TestRunning(t *testing.T) {
	m := fips.Running()
	if m.Enabled != fips140.Enabled() || m.Version == "" {
		t.Errorf("Running = %+v", m)
	}
	for module, want := range map[fips.Module]string{
		{Version: "latest"}:                                "off (module latest)",
		{Enabled: true, Version: "v1.0.0"}:                 "on (module v1.0.0)",
		{Enabled: true, Enforced: true, Version: "v1.0.0"}: "enforced (module v1.0.0)",
	} {
		if got := module.String(); got != want {
			t.Errorf("%+v prints %q, want %q", module, got, want)
		}
	}
}
