package agentfeed_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/agentfeed/feedtest"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/secretfile"
)

// byKID compares secrets by their ids: their bytes cannot be seen.
var byKID = cmp.Comparer(func(a, b keystore.Material) bool { return a.KID() == b.KID() })

func hostFileText(t testing.TB) string {
	t.Helper()
	content, err := feedtest.NewServer(t).Host("web-1").Encode()
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func TestHostFileRoundTrip(t *testing.T) {
	want := feedtest.NewServer(t).Host("web-1")
	want.Servers = append(want.Servers, "https://ps-2.example:7443")
	want.Regions, want.Region = []string{"eu", "us"}, "us"
	want.Previous, want.Instance, want.Origin = feedtest.NewServer(t).Host("web-9").Secret, "00c0ffee00c0ffee", want.KID
	content, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := agentfeed.ParseHostFile(content)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, byKID); diff != "" {
		t.Errorf("host file (-want +got):\n%s", diff)
	}
	var general struct {
		Servers         []string
		Regions         []string
		CA, Host, KID   string
		SecretInTheFile string `yaml:"secret"`
	}
	if err := yaml.Unmarshal(content, &general); err != nil {
		t.Fatalf("it is not YAML: %v", err)
	}
	if general.Host != "web-1" || general.CA != string(want.CA) || general.KID != want.KID.String() || len(general.SecretInTheFile) != 43 || len(general.Servers) != 2 || len(general.Regions) != 2 || general.Regions[1] != "us" {
		t.Error("a general YAML reader reads it otherwise")
	}
}

func TestHostFileForms(t *testing.T) {
	text := hostFileText(t)
	for name, variant := range map[string]string{
		"plain":         strings.ReplaceAll(text, `"`, ""),
		"comments":      "# a host file\n\n" + strings.Replace(text, "\nhost:", "\n# the host\nhost:", 1),
		"flush list":    strings.Replace(text, "  - https", "- https", 1),
		"no last line":  strings.TrimSuffix(text, "\n"),
		"deeper indent": strings.ReplaceAll(text, "\n  ", "\n      "),
	} {
		if _, err := agentfeed.ParseHostFile([]byte(variant)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestHostFileFaults(t *testing.T) {
	text := hostFileText(t)
	secret := text[strings.Index(text, "secret: ")+9:][:43]
	text = strings.ReplaceAll(text, `"`, "")
	replace := func(old, with string) string { return strings.Replace(text, old, with, 1) }
	for name, c := range map[string]struct{ text, want string }{
		"empty":           {"", "servers is missing"},
		"no secret":       {strings.Split(text, "secret:")[0], "secret is missing"},
		"no such key":     {text + "port: 7\n", "unknown key"},
		"twice":           {text + "host: web-2\n", "host stands twice"},
		"no value":        {replace("host: web-1", "host:"), "host: is empty"},
		"bad host":        {replace("web-1", "WEB_1"), "lower-case"},
		"http":            {replace("https:", "http:"), "want https"},
		"with a path":     {replace("https://127.0.0.1:", "https://127.0.0.1/x/"), "want https"},
		"no servers":      {replace("  - https", "# - https"), "servers: there are none"},
		"flow list":       {replace("servers:\n", "servers: [a]\n"), "want a list"},
		"no PEM":          {replace("BEGIN CERT", "BEGIN CART"), "no PEM certificate"},
		"ca folded":       {replace("ca: |", "ca: >"), `want "|"`},
		"other kid":       {replace("kid: ", "kid: 0123456789abcdef\n#"), "that of the secret is"},
		"short secret":    {replace(secret, secret[:40]), "secret"},
		"standard base64": {replace(secret, secret[:42]+"="), "base64url"},
		"inline comment":  {replace("web-1", "web-1 # x"), "plain value"},
		"anchor":          {replace("web-1", "&a web-1"), "plain value"},
		"open quote":      {replace("web-1", `"web-1`), "does not end"},
		"windows":         {strings.ReplaceAll(text, "\n", "\r\n"), "line 1"},
		"document":        {"---\n" + text, "want"},
		"instance":        {text + "instance: 00C0FFEE00c0ffee\n", "16 lower-case"},
		"no instance":     {text + "instance: 0000000000000000\n", "16 lower-case"},
		"short previous":  {text + "previous: AAAA\n", "previous"},
		"origin":          {text + "origin: web\n", "origin"},
		"not YAML":        {"hello\n", "line 1"},
		"indented key":    {replace("host:", "  host:"), "PEM"},
	} {
		_, err := agentfeed.ParseHostFile([]byte(c.text))
		if c.want == "PEM" { // an indented line belongs to the block above it
			c.want = "host is missing"
		}
		if !errors.Is(err, agentfeed.ErrHostFile) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), secret[:20]) {
			t.Errorf("%s: the error shows the secret", name)
		}
	}
	if _, err := agentfeed.ParseHostFile([]byte("host: web-1\n\nservers: x\n")); err == nil || !strings.Contains(err.Error(), "line 3") {
		t.Errorf("error %v, want the line's number", err)
	}
}

// TestHostFileOfAnySecret: base64url may begin with what YAML gives a meaning to.
func TestHostFileOfAnySecret(t *testing.T) {
	h := feedtest.NewServer(t).Host("web-1")
	for first := range 256 {
		secret, err := keystore.NewMaterial(append([]byte{byte(first)}, make([]byte, 31)...))
		if first == 0 {
			continue // an empty key is refused
		}
		if err != nil {
			t.Fatal(err)
		}
		h.Secret, h.KID = secret, secret.KID()
		content, err := h.Encode()
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{string(content), strings.ReplaceAll(string(content), `"`, "")} {
			if _, err := agentfeed.ParseHostFile([]byte(text)); err != nil {
				t.Errorf("first byte %d: %v", first, err)
			}
		}
	}
}

func TestHostFileThatOthersCanRead(t *testing.T) {
	path := feedtest.NewServer(t).WriteHostFile("web-1")
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := agentfeed.New(agentfeed.Config{HostFile: path})
	if !errors.Is(err, secretfile.ErrUnsafe) || !strings.Contains(err.Error(), path) {
		t.Errorf("New = %v, want ErrUnsafe", err)
	}
}

func TestConfigFields(t *testing.T) {
	server := feedtest.NewServer(t, "sso")
	content, err := server.Host("test").Encode()
	if err != nil {
		t.Fatal(err)
	}
	secret := strings.Trim(string(content[strings.Index(string(content), "secret: ")+8:]), "\"\n")
	path := filepath.Join(t.TempDir(), "secret")
	if err := secretfile.Write(path, []byte(secret)); err != nil {
		t.Fatal(err)
	}
	config := server.Config()
	both := config
	config.Secret, config.KID, config.SecretFile = keystore.Material{}, keystore.KID{}, path
	both.SecretFile = path
	ready(t, config)
	if _, err := agentfeed.New(both); err == nil || !strings.Contains(err.Error(), "both set") {
		t.Errorf("New = %v, want a refusal of two secrets", err)
	}
	if _, err := agentfeed.New(agentfeed.Config{}); err == nil {
		t.Error("New of an empty Config returned a client")
	}
	config.KID = keystore.KID{1}
	if _, err := agentfeed.New(config); err == nil || !strings.Contains(err.Error(), "kid") {
		t.Errorf("New = %v, want a refusal of the kid", err)
	}
}

func FuzzParseHostFile(f *testing.F) {
	f.Add([]byte(hostFileText(f)))
	f.Add([]byte("servers:\n  - https://a:1\nca: |\n  x\nhost: \"a\"\nkid: 0123456789abcdef\nsecret: x"))
	f.Fuzz(func(t *testing.T, content []byte) {
		h, err := agentfeed.ParseHostFile(content)
		if err != nil {
			if !errors.Is(err, agentfeed.ErrHostFile) {
				t.Errorf("error %v does not wrap ErrHostFile", err)
			}
			return
		}
		text, err := h.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := agentfeed.ParseHostFile(text)
		if err != nil {
			t.Fatalf("%s does not come back: %v", text, err)
		}
		if h.Host != again.Host || h.KID != again.KID || len(h.Servers) != len(again.Servers) {
			t.Error("a host file does not come back as it was")
		}
	})
}
