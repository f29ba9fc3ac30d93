package conformance_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/agentfeed/conformance"
	"github.com/keytide/keytide/agentfeed/feedtest"
	"github.com/keytide/keytide/keystore"
)

// faultsOf runs all checks and returns the faults by check.
func faultsOf(t *testing.T, url string, host agentfeed.HostFile) map[string]string {
	t.Helper()
	faults, checks := make(map[string]string), 0
	n, err := conformance.Run(t.Context(), url, host, func(r conformance.Result) {
		checks++
		if r.Fault != "" {
			faults[r.Check] = r.Fault
		}
		if r.Check == "" || r.Section == 0 {
			t.Errorf("result %+v", r)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if n != len(faults) || checks < 15 {
		t.Errorf("%d faults counted, %d told, in %d checks", n, len(faults), checks)
	}
	return faults
}

func TestServerConforms(t *testing.T) {
	feed := feedtest.NewServer(t, "sso", "web")
	for check, fault := range faultsOf(t, feed.URL()+"/", feed.Host("probe")) {
		t.Errorf("%s: %s", check, fault)
	}
}

// TestFaultsAreFound: each way in which a proxy spoils the feed is found by the check
// that it concerns.
func TestFaultsAreFound(t *testing.T) {
	var once sync.Once
	var recorded []byte
	header := func(name, value string) func(*http.Response) {
		return func(r *http.Response) {
			r.Header.Del(name)
			if value != "" {
				r.Header.Set(name, value)
			}
		}
	}
	body := func(change func([]byte) []byte) func(*http.Response) {
		return func(r *http.Response) {
			if r.Header.Get("Content-Type") == "text/event-stream" {
				return
			}
			whole, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			r.Body = io.NopCloser(bytes.NewReader(change(whole)))
			r.Header.Del("Content-Length")
			r.ContentLength = -1
		}
	}
	for name, test := range map[string]struct {
		spoil func(*http.Response)
		want  string // begins the check that finds it
	}{
		"untouched":        {func(*http.Response) {}, ""},
		"error pages":      {header("Content-Type", "text/html"), "ask for authentication"},
		"no tag":           {header("ETag", ""), "answer a poll"},
		"bare 304":         {header("Keytide-Heartbeat", ""), "prove with a 304"},
		"no preference":    {header("Preference-Applied", ""), "hold a long poll"},
		"cached stream":    {header("Cache-Control", "public"), "stream hello"},
		"changed message":  {body(func(b []byte) []byte { return bytes.Replace(b, []byte(`"ct":"`), []byte(`"ct":"AAAA`), 1) }), "answer a poll"},
		"cut message":      {body(func(b []byte) []byte { return b[:len(b)/2] }), "answer a poll"},
		"hides the clock":  {body(func(b []byte) []byte { return bytes.Replace(b, []byte(`"now"`), []byte(`"not"`), 1) }), "refuse a clock"},
		"hides versions":   {body(func(b []byte) []byte { return bytes.Replace(b, []byte(`"supported"`), []byte(`"other"`), 1) }), "refuse versions"},
		"renames problems": {body(func(b []byte) []byte { return bytes.Replace(b, []byte("replayed"), []byte("repeated"), 1) }), "refuse a request that comes a second time"},
		"repeats answers": {body(func(b []byte) []byte {
			if bytes.Contains(b, []byte(`"ct"`)) {
				once.Do(func() { recorded = b })
				return recorded
			}
			return b
		}), "draw a new server nonce"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			feed := feedtest.NewServer(t, "sso")
			url, host := spoiled(t, feed, test.spoil)
			faults := faultsOf(t, url, host)
			if test.want == "" && len(faults) > 0 {
				t.Errorf("faults: %v, want none", faults)
			}
			found := slices.ContainsFunc(slices.Collect(maps.Keys(faults)), func(check string) bool { return strings.HasPrefix(check, test.want) })
			if test.want != "" && !found {
				t.Errorf("faults: %v, want one of %q", faults, test.want)
			}
		})
	}
}

// spoiled puts a proxy before the feed that spoils each answer, and returns where it
// is and the host file of a host that is led to it.
func spoiled(t *testing.T, feed *feedtest.Server, spoil func(*http.Response)) (string, agentfeed.HostFile) {
	t.Helper()
	host := feed.Host("probe")
	inner, err := url.Parse(feed.URL())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(host.CA)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableCompression: true}
	proxy := httptest.NewUnstartedServer(&httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(inner) },
		Transport:      transport,
		FlushInterval:  -1,
		ModifyResponse: func(r *http.Response) error { spoil(r); return nil },
	})
	proxy.Config.ErrorLog = log.New(io.Discard, "", 0)
	proxy.TLS = &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1", "h2"}}
	proxy.EnableHTTP2 = true
	proxy.StartTLS()
	t.Cleanup(func() { proxy.CloseClientConnections(); proxy.Close(); transport.CloseIdleConnections() })
	host.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: proxy.Certificate().Raw})
	return proxy.URL, host
}

func TestNothingToCheck(t *testing.T) {
	feed := feedtest.NewServer(t, "sso")
	none := func(r conformance.Result) { t.Errorf("checked %+v", r) }
	for name, host := range map[string]agentfeed.HostFile{"no host": {}, "no secret": {CA: feed.Host("probe").CA, Host: "probe"}} {
		if _, err := conformance.Run(t.Context(), feed.URL(), host, none); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := conformance.Run(t.Context(), "http://127.0.0.1:1", feed.Host("probe"), none); err == nil {
		t.Error("http: no error")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := conformance.Run(ctx, feed.URL(), feed.Host("probe"), none); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestStoppedServer: every check finds a fault, and none waits.
func TestStoppedServer(t *testing.T) {
	feed := feedtest.NewServer(t, "sso")
	host := feed.Host("probe")
	feed.Stop()
	if faults := faultsOf(t, feed.URL(), host); len(faults) < 15 {
		t.Errorf("%d faults", len(faults))
	}
}

// TestResultsHoldNoSecrets prints all that a wrong secret brings about.
func TestResultsHoldNoSecrets(t *testing.T) {
	feed := feedtest.NewServer(t, "sso")
	host := feed.Host("probe")
	text := "thirty-two bytes of another host"
	other, err := keystore.NewMaterial([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	host.Secret, host.KID = other, other.KID()
	faults := faultsOf(t, feed.URL(), host)
	if len(faults) == 0 {
		t.Error("no fault with a wrong secret")
	}
	for check, fault := range faults {
		if strings.Contains(fault, text) {
			t.Errorf("%s tells the secret", check)
		}
	}
}
