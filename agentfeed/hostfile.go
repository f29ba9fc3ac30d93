package agentfeed

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/keytide/keytide/agentfeed/internal/wire"
	"github.com/keytide/keytide/keystore"
	"github.com/keytide/keytide/keystore/secretfile"
)

// A HostFile is what an agent needs to know to get its host's rings (SPEC.md,
// section 8).
type HostFile struct {
	Servers []string          // base URLs, https://host:port
	Regions []string          // of Servers, in their order; or none
	Region  string            // the agent's own; "" = not said
	CA      []byte            // PEM; the only roots that are trusted at the start
	Host    string            // the trusted host's name
	KID     keystore.KID      // of Secret
	Secret  keystore.Material // the shared secret

	Previous keystore.Material // the one before it; zero: none
	Instance string            // of this copy, 16 hexadecimal digits; empty: none yet
	Origin   keystore.KID      // in a state file: of the secret in the host file that it follows
}

// ErrHostFile: a host file that does not say what it must.
var ErrHostFile = errors.New("invalid host file")

// ReadHostFile reads the host file at path. It refuses a file that others can read:
// the error is then a *secretfile.Error. One for the content wraps ErrHostFile and
// names the line.
func ReadHostFile(path string) (HostFile, error) {
	content, err := secretfile.Read(path)
	if err != nil {
		return HostFile{}, err
	}
	defer clear(content)
	h, err := ParseHostFile(content)
	if err != nil {
		return HostFile{}, fmt.Errorf("%s: %w", path, err)
	}
	return h, nil
}

// ParseHostFile reads the content of a host file strictly. The error wraps
// ErrHostFile, names the line, and never shows the secret.
func ParseHostFile(content []byte) (HostFile, error) {
	p := hostFileParser{lines: strings.Split(string(content), "\n"), seen: make(map[string]bool)}
	for p.next < len(p.lines) {
		if err := p.entry(); err != nil {
			return HostFile{}, fmt.Errorf("%w: line %d: %w", ErrHostFile, p.at+1, err)
		}
	}
	for _, key := range [...]string{"servers", "ca", "host", "kid", "secret"} {
		if !p.seen[key] {
			return HostFile{}, fmt.Errorf("%w: %s is missing", ErrHostFile, key)
		}
	}
	if err := p.file.Check(); err != nil {
		return HostFile{}, fmt.Errorf("%w: %w", ErrHostFile, err)
	}
	return p.file, nil
}

// Check reports all that is wrong with h.
func (h HostFile) Check() error {
	var faults []error
	if len(h.Servers) == 0 {
		faults = append(faults, errors.New("servers: there are none"))
	}
	for _, s := range h.Servers {
		if err := checkServer(s); err != nil {
			faults = append(faults, fmt.Errorf("servers: %w", err))
		}
	}
	if err := checkRegions(h.Servers, h.Regions); err != nil {
		faults = append(faults, fmt.Errorf("regions: %w", err))
	}
	if h.Region != "" {
		if err := keystore.CheckName(h.Region); err != nil {
			faults = append(faults, fmt.Errorf("region: %w", err))
		}
	}
	if err := checkCA(h.CA); err != nil {
		faults = append(faults, fmt.Errorf("ca: %w", err))
	}
	if err := keystore.CheckName(h.Host); err != nil {
		faults = append(faults, fmt.Errorf("host: %w", err))
	}
	switch {
	case h.Secret.IsZero():
		faults = append(faults, errors.New("secret: there is none"))
	case h.Secret.KID() != h.KID:
		faults = append(faults, fmt.Errorf("kid: is %s, but that of the secret is %s", h.KID, h.Secret.KID()))
	}
	if _, err := wire.ParseInstance(h.Instance); h.Instance != "" && err != nil {
		faults = append(faults, fmt.Errorf("instance: %w", err))
	}
	return errors.Join(faults...)
}

func checkServer(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil ||
		(u.Path != "" && u.Path != "/") || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("%q: want https://host:port", s)
	}
	return nil
}

func checkCA(bundle []byte) error {
	found := false
	for rest := bundle; ; found = true {
		var block *pem.Block
		block, rest = pem.Decode(rest)
		if block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("holds a %s; want certificates", block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return errors.New("holds a certificate that cannot be read")
		}
	}
	if !found {
		return errors.New("holds no PEM certificate")
	}
	return nil
}

// Encode gives the file's content, which holds the secret: write it with
// secretfile.Write.
func (h HostFile) Encode() ([]byte, error) {
	if err := h.Check(); err != nil {
		return nil, err
	}
	var b bytes.Buffer
	b.WriteString("servers:\n")
	for _, s := range h.Servers {
		fmt.Fprintf(&b, "  - %s\n", s)
	}
	if len(h.Regions) > 0 {
		b.WriteString("regions:\n")
		for _, r := range h.Regions {
			fmt.Fprintf(&b, "  - %q\n", r)
		}
	}
	if h.Region != "" {
		fmt.Fprintf(&b, "region: %q\n", h.Region)
	}
	b.WriteString("ca: |\n")
	for line := range strings.Lines(string(bytes.TrimSpace(h.CA))) {
		b.WriteString("  " + strings.TrimSpace(line) + "\n")
	}
	// In quotes, as a general reader of YAML may take some of them for numbers.
	fmt.Fprintf(&b, "host: %q\nkid: %q\n", h.Host, h.KID.String())
	if h.Instance != "" {
		fmt.Fprintf(&b, "instance: %q\n", h.Instance)
	}
	if h.Origin != (keystore.KID{}) {
		fmt.Fprintf(&b, "origin: %q\n", h.Origin.String())
	}
	for _, s := range []struct {
		key    string
		secret keystore.Material
	}{{"secret", h.Secret}, {"previous", h.Previous}} {
		if s.secret.IsZero() {
			continue
		}
		if err := s.secret.Use(func(secret []byte) error {
			b.WriteString(s.key + `: "` + wire.B64.EncodeToString(secret) + "\"\n")
			return nil
		}); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

// A hostFileParser reads the one flat form of YAML that a host file has.
type hostFileParser struct {
	lines []string
	at    int // the line that an error is about, from 0
	next  int
	seen  map[string]bool
	file  HostFile
}

func skipped(line string) bool {
	return strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#")
}

// entry reads one key and its value.
func (p *hostFileParser) entry() error {
	p.at = p.next
	line := p.lines[p.at]
	p.next++
	if skipped(line) {
		return nil
	}
	key, value, ok := strings.Cut(line, ":")
	if !ok || strings.TrimLeft(key, " \t-") != key || (value != "" && value[0] != ' ') {
		return errors.New(`want "key: value"`)
	}
	if p.seen[key] {
		return fmt.Errorf("%s stands twice", key)
	}
	p.seen[key] = true
	value = strings.TrimSpace(value)
	switch key {
	case "servers":
		return p.list(key, value, &p.file.Servers, checkServer)
	case "regions":
		return p.list(key, value, &p.file.Regions, keystore.CheckName)
	case "ca":
		return p.ca(value)
	case "host", "kid", "secret", "region", "previous", "instance", "origin":
		text, err := plain(value)
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		return p.scalar(key, text)
	}
	return errors.New("unknown key; there are servers, regions, region, ca, host, kid, secret, previous, instance and origin")
}

func (p *hostFileParser) scalar(key, text string) (err error) {
	switch key {
	case "host":
		p.file.Host = text
		err = keystore.CheckName(text)
	case "region":
		p.file.Region = text
		err = keystore.CheckName(text)
	case "kid":
		p.file.KID, err = keystore.ParseKID(text)
	case "secret":
		p.file.Secret, err = parseSecret(text)
	case "previous":
		p.file.Previous, err = parseSecret(text)
	case "instance":
		p.file.Instance = text
		_, err = wire.ParseInstance(text)
	case "origin":
		p.file.Origin, err = keystore.ParseKID(text)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

// parseSecret reads 43 characters of base64url. Its error does not show them.
func parseSecret(text string) (keystore.Material, error) {
	raw, err := wire.B64.DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") {
		return keystore.Material{}, errors.New("is not base64url")
	}
	defer clear(raw)
	return keystore.NewMaterial(raw)
}

// list reads the lines of a list.
func (p *hostFileParser) list(key, value string, into *[]string, check func(string) error) error {
	if value != "" {
		return fmt.Errorf("%s: want a list, one a line", key)
	}
	for ; p.next < len(p.lines); p.next++ {
		line := p.lines[p.next]
		item, ok := strings.CutPrefix(strings.TrimLeft(line, " "), "- ")
		if skipped(line) {
			continue
		}
		if !ok {
			break
		}
		p.at = p.next
		text, err := plain(strings.TrimSpace(item))
		if err == nil {
			err = check(text)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		*into = append(*into, text)
	}
	return nil
}

// ca reads the lines of a block.
func (p *hostFileParser) ca(value string) error {
	if value != "|" {
		return errors.New(`ca: want "|" and the PEM on the lines below, indented`)
	}
	var b strings.Builder
	for ; p.next < len(p.lines) && (strings.HasPrefix(p.lines[p.next], " ") || p.lines[p.next] == ""); p.next++ {
		b.WriteString(strings.TrimSpace(p.lines[p.next]) + "\n")
	}
	p.file.CA = []byte(b.String())
	if err := checkCA(p.file.CA); err != nil {
		return fmt.Errorf("ca: %w", err)
	}
	return nil
}

// plain reads a scalar: plain, or between double quotes without escapes.
func plain(value string) (string, error) {
	text, opened := strings.CutPrefix(value, `"`)
	if opened {
		var closed bool
		if text, closed = strings.CutSuffix(text, `"`); !closed {
			return "", errors.New("the double quote does not end")
		}
	}
	switch {
	case text == "":
		return "", errors.New("is empty")
	case strings.ContainsAny(text, "\"\\'\t\r"), !opened && strings.ContainsAny(text[:1], "[]{}&*!|>%@`#?,"),
		!opened && (text == "-" || strings.HasPrefix(text, "- ")), strings.Contains(text, " #"), strings.Contains(text, ": "):
		return "", errors.New("want a plain value")
	}
	return text, nil
}
