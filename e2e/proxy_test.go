package e2e

import (
	"fmt"
	"testing"
)

// TestProxies: applications behind an nginx with its default buffering, and behind one
// that is told to hold streams back, take each rollover, and their users stay.
func TestProxies(t *testing.T) {
	s := startSite(t)
	s.keytide(t, "ring", "set", "sso", "--min-interval", "0s", "--reason", "rollovers in quick succession", "--yes")
	hostFile := s.host(t, "web-1")
	ca := readHostFile(t, hostFile).CA
	streaming, holding := startNginx(t, s, ca), startNginx(t, s, ca, "proxy_ignore_headers X-Accel-Buffering;")
	first := startWebapp(t, s.output, streaming.hostFile(t, hostFile))
	second := startWebapp(t, s.output, holding.hostFile(t, s.host(t, "web-2")))
	ring := s.ring(t)
	current := map[string]uint64{ring.current(): ring.Version}
	users := startCrowd(t, 5, first, second)
	users.newest.Store(ring.Version)
	for i := range 3 {
		s.keytide(t, "rollover", "sso", "--reason", fmt.Sprintf("rollover %d of 3", i+1), "--yes")
		ring = s.ring(t)
		current[ring.current()] = ring.Version
		awaitVersion(t, ring.Version, first, second)
		users.newest.Store(ring.Version)
		awaitRequests(t, users, 20)
	}
	users.end()
	users.check(t, current)
}
