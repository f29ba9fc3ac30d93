package cookie

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/keytide/keytide/keystore"
)

// forever is the longest that browsers keep a cookie (RFC 6265bis, section 5.5).
const forever = 400 * 24 * time.Hour

// An HTTPConfig says how a Cookie travels. Of the embedded Config, Ring and Name are
// required. The cookie is always HttpOnly: a script could do nothing with it.
//
// A Name that begins with __Host- is the best choice: browsers then refuse such a
// cookie from any other host, and over plain HTTP. It demands Path / and neither
// Domain nor Insecure; __Secure- demands the last only.
type HTTPConfig struct {
	Config
	Path   string // if empty, /
	Domain string // if empty, browsers send the cookie to this very host alone
	// SameSite if zero is Lax: other sites' forms do not carry the cookie.
	SameSite http.SameSite
	// Insecure leaves Secure out, so that browsers send the cookie over plain HTTP
	// too. It is for development.
	Insecure bool
	// Marshal and Unmarshal turn values to bytes and back. If nil, JSON.
	Marshal   func(v any) ([]byte, error)
	Unmarshal func(data []byte, v any) error
}

func (c HTTPConfig) withDefaults() HTTPConfig {
	if c.Path == "" {
		c.Path = "/"
	}
	if c.SameSite == 0 {
		c.SameSite = http.SameSiteLaxMode
	}
	if c.Marshal == nil {
		c.Marshal = json.Marshal
	}
	if c.Unmarshal == nil {
		c.Unmarshal = json.Unmarshal
	}
	return c
}

// check reports the faults of what Config.check does not see.
func (c HTTPConfig) check() error {
	var faults []error
	fault := func(format string, args ...any) {
		faults = append(faults, fmt.Errorf("cookie: "+format+": %w", append(args, keystore.ErrInvalid)...))
	}
	name := strings.ToLower(c.Name) // browsers heed the prefixes in any case
	if strings.HasPrefix(name, "__host-") && (c.Path != "/" || c.Domain != "") {
		fault("name %q demands path / and no domain", c.Name)
	}
	if c.Insecure && (strings.HasPrefix(name, "__host-") || strings.HasPrefix(name, "__secure-")) {
		fault("name %q demands Secure", c.Name)
	}
	if c.Insecure && c.SameSite == http.SameSiteNoneMode {
		fault("SameSite None demands Secure")
	}
	if !strings.HasPrefix(c.Path, "/") || strings.ContainsFunc(c.Path, func(r rune) bool { return r < ' ' || r > '~' || r == ';' }) {
		fault("path %q is none that a cookie may have", c.Path)
	}
	if probe := (&http.Cookie{Name: "x", Domain: c.Domain}); c.Domain != "" && probe.Valid() != nil {
		fault("domain %q is none that a cookie may have", c.Domain)
	}
	return errors.Join(faults...)
}

// A Cookie keeps a value of type T in the browser, sealed: the user's session, or,
// by its Purpose, a remembered login or an identity. It is safe for concurrent use.
type Cookie[T any] struct {
	codec  *Codec
	config HTTPConfig
}

// NewCookie makes a cookie. It reads no keys yet. The error reports all faults of the
// configuration and wraps keystore.ErrInvalid.
func NewCookie[T any](config HTTPConfig) (*Cookie[T], error) {
	config = config.withDefaults()
	codec, err := New(config.Config)
	if err := errors.Join(err, config.check()); err != nil {
		return nil, err
	}
	return &Cookie[T]{codec: codec, config: config}, nil
}

// cookie gives the Set-Cookie of a token that ends at expires (zero: never), or with
// no token the one that makes the browser forget.
func (c *Cookie[T]) cookie(token string, expires time.Time) *http.Cookie {
	h := &http.Cookie{
		Name: c.config.Name, Value: token, Path: c.config.Path, Domain: c.config.Domain,
		SameSite: c.config.SameSite, Secure: !c.config.Insecure, HttpOnly: true, MaxAge: -1,
	}
	if token == "" {
		return h
	}
	if expires.IsZero() {
		expires = time.Now().Add(forever)
	}
	// Max-Age counts on the browser's clock, whatever that says; rounded up, as it is
	// the token that ends the session. Expires is for what knows no Max-Age.
	h.Expires = expires
	h.MaxAge = max(1, int((time.Until(expires)+time.Second-1)/time.Second))
	return h
}
