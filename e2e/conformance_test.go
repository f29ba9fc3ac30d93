package e2e

import (
	"strings"
	"testing"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/agentfeed/conformance"
)

// TestServerConforms checks a real policy server from outside, straight and through a
// real nginx. What the proxy decides by itself is which HTTP it speaks.
func TestServerConforms(t *testing.T) {
	s := startSite(t)
	straight := s.host(t, "probe-1")
	proxied := startNginx(t, s, readHostFile(t, straight).CA).hostFile(t, s.host(t, "probe-2"))
	for name, route := range map[string]struct{ file, except string }{
		"straight": {straight, "none"},
		"nginx":    {proxied, "prefer HTTP/1.1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			host, err := agentfeed.ReadHostFile(route.file)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := conformance.Run(t.Context(), host.Servers[0], host, func(r conformance.Result) {
				if r.Fault != "" && !strings.HasPrefix(r.Check, route.except) {
					t.Errorf("section %d: the server does not %s: %s", r.Section, r.Check, r.Fault)
				}
			}); err != nil {
				t.Fatal(err)
			}
		})
	}
}
