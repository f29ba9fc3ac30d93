package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// TestProxies: applications behind an nginx with its default buffering, behind one that
// is told to hold streams back, behind one that is impatient, and behind HAProxy take each
// rollover, and their users stay; and so does a sidecar whose only way out is an HTTP
// CONNECT proxy.
func TestProxies(t *testing.T) {
	s := startSite(t)
	s.keytide(t, "ring", "set", "sso", "--min-interval", "0s", "--reason", "rollovers in quick succession", "--yes")
	hostFile := s.host(t, "web-1")
	ca := readHostFile(t, hostFile).CA
	streaming, holding := startNginx(t, s, ca), startNginx(t, s, ca, "proxy_ignore_headers X-Accel-Buffering;")
	impatient, haproxy := startNginx(t, s, ca, "proxy_read_timeout 2s;"), startHAProxy(t, s, ca)
	connect := startConnectProxy(t, frontName, haproxy.address)
	haproxyByName := *haproxy
	haproxyByName.url = strings.Replace(haproxy.url, "127.0.0.1", frontName, 1)
	t.Setenv("HTTPS_PROXY", connect.url)
	away := startSidecar(t, s.output, haproxyByName.hostFile(t, s.host(t, "web-5")))
	first := startWebapp(t, s.output, streaming.hostFile(t, hostFile))
	second := startWebapp(t, s.output, holding.hostFile(t, s.host(t, "web-2")))
	third := startWebapp(t, s.output, impatient.hostFile(t, s.host(t, "web-3")), "--poll-interval", "1s")
	fourth := startWebapp(t, s.output, haproxy.hostFile(t, s.host(t, "web-4")))
	ring := s.ring(t)
	current := map[string]uint64{ring.current(): ring.Version}
	users := startCrowd(t, 5, first, second, third, fourth)
	users.newest.Store(ring.Version)
	for i := range 3 {
		s.keytide(t, "rollover", "sso", "--reason", fmt.Sprintf("rollover %d of 3", i+1), "--yes")
		ring = s.ring(t)
		current[ring.current()] = ring.Version
		awaitVersion(t, ring.Version, first, second, third, fourth)
		away.collect(t, ring.Version)
		users.newest.Store(ring.Version)
		awaitRequests(t, users, 20)
	}
	users.end()
	users.check(t, current)
	if connect.tunnels.Load() == 0 {
		t.Error("the sidecar did not take the HTTP proxy")
	}
}
