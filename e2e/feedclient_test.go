package e2e

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
)

// A feedRequest is a request for the feed written from agentfeed/SPEC.md alone,
// so that it can also be wrong on purpose. The SDK is not used.
type feedRequest struct {
	Servers []string `yaml:"servers"`
	CA      string   `yaml:"ca"`
	Host    string   `yaml:"host"`
	KID     string   `yaml:"kid"`
	Secret  string   `yaml:"secret"`
	header  string
}

func readHostFile(tb testing.TB, file string) *feedRequest {
	tb.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		tb.Fatal(err)
	}
	r := new(feedRequest)
	if err := yaml.Unmarshal(data, r); err != nil {
		tb.Fatal(err)
	}
	return r
}

// sign makes the Authorization header as of now plus skew.
func (r *feedRequest) sign(tb testing.TB, skew time.Duration) {
	tb.Helper()
	secret, err := base64.RawURLEncoding.DecodeString(r.Secret)
	if err != nil {
		tb.Fatal(err)
	}
	key, err := hkdf.Key(sha256.New, secret, nil, "keytide/v1 auth|"+r.Host, 32)
	if err != nil {
		tb.Fatal(err)
	}
	random := make([]byte, 16)
	rand.Read(random)
	nonce := base64.RawURLEncoding.EncodeToString(random)
	ts := fmt.Sprint(time.Now().Add(skew).Unix())
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(strings.Join([]string{"KEYTIDE1", "GET", "/v1/feed", r.Host, r.KID, ts, nonce}, "\n")))
	r.header = fmt.Sprintf(`KEYTIDE1-HMAC-SHA256 host="%s", kid="%s", ts="%s", nonce="%s", mac="%s"`,
		r.Host, r.KID, ts, nonce, base64.RawURLEncoding.EncodeToString(mac.Sum(nil)))
}

// A problem is what RFC 9457 makes of a refusal; zero where the answer is none.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
}

// send polls the feed.
func (r *feedRequest) send(tb testing.TB) (status int, refusal problem) {
	tb.Helper()
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(r.CA)) {
		tb.Fatal("the host file's ca holds no certificate")
	}
	client := &http.Client{
		Timeout:   patience,
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true},
	}
	req, err := http.NewRequest(http.MethodGet, r.Servers[0]+"/v1/feed", nil)
	if err != nil {
		tb.Fatal(err)
	}
	req.Header.Set("Authorization", r.header)
	req.Header.Set("Accept", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		return resp.StatusCode, problem{}
	}
	if err := json.NewDecoder(resp.Body).Decode(&refusal); err != nil {
		tb.Fatal(err)
	}
	return resp.StatusCode, refusal
}
