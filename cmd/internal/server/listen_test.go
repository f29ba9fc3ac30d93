package server

import "testing"

func TestURLOf(t *testing.T) {
	for address, want := range map[string]string{
		"127.0.0.1:7443":    "https://127.0.0.1:7443",
		"[::1]:7443":        "https://[::1]:7443",
		"ps-1.example:7443": "https://ps-1.example:7443",
		":7443":             "https://any:7443",
		"0.0.0.0:7443":      "https://any:7443",
		"[::]:7443":         "https://any:7443",
	} {
		if got := urlOf(address, "any"); got != want {
			t.Errorf("urlOf(%q) = %q, want %q", address, got, want)
		}
	}
}
