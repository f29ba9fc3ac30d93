package conformance

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/keytide/keytide/agentfeed/internal/wire"
	"github.com/keytide/keytide/keystore"
)

// These are the checks of sections 1, 2 and 7: what needs no sealed answer.

func oldTLS(ctx context.Context, p *probe) error {
	u, err := url.Parse(p.url)
	if err != nil {
		return err
	}
	dial := func(version uint16) error {
		d := tls.Dialer{Config: &tls.Config{RootCAs: p.roots, ServerName: u.Hostname(), MinVersion: tls.VersionTLS12, MaxVersion: version}}
		conn, err := d.DialContext(ctx, "tcp", u.Host)
		if err != nil {
			return err
		}
		return conn.Close()
	}
	if err := dial(tls.VersionTLS13); err != nil {
		return err
	}
	if dial(tls.VersionTLS12) == nil {
		return errors.New("it speaks TLS 1.2")
	}
	return nil
}

func protocols(ctx context.Context, p *probe) error {
	for want, alpn := range map[int][]string{1: {"http/1.1", "h2"}, 2: {"h2"}} {
		client := p.dial(alpn...)
		response, err := p.open(ctx, client, question{path: "/healthz"})
		if err != nil {
			return fmt.Errorf("offered %v: %w", alpn, err)
		}
		response.Body.Close()
		client.CloseIdleConnections()
		if response.ProtoMajor != want {
			return fmt.Errorf("offered %v, it chose %s", alpn, response.Proto)
		}
	}
	return nil
}

func clock(ctx context.Context, p *probe) error {
	a, err := p.ask(ctx, question{path: target + "/time"})
	if err != nil {
		return err
	}
	var said struct {
		Now      time.Time
		Versions []int
	}
	if json.Unmarshal(a.body, &said) != nil || a.StatusCode != http.StatusOK || said.Now.IsZero() || !slices.Contains(said.Versions, 1) {
		return fmt.Errorf("status %d, %.200q", a.StatusCode, a.body)
	}
	return nil
}

func health(ctx context.Context, p *probe) error {
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		a, err := p.ask(ctx, question{method: method, path: "/healthz"})
		if err != nil {
			return err
		}
		if a.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: status %d", method, a.StatusCode)
		}
	}
	return nil
}

func anonymous(ctx context.Context, p *probe) error {
	return p.refuses(ctx, question{}, wire.AuthRequired, http.StatusUnauthorized)
}

func malformed(ctx context.Context, p *probe) error {
	good := p.authorize(0).String()
	nonce := good[strings.Index(good, "nonce="):]
	nonce = nonce[:strings.Index(nonce, ", ")+2]
	for what, header := range map[string]string{
		"an unknown parameter":  good + `, more="1"`,
		"a parameter twice":     strings.Replace(good, nonce, nonce+nonce, 1),
		"no nonce":              strings.Replace(good, nonce, "", 1),
		"another scheme":        strings.Replace(good, wire.Scheme, "Bearer", 1),
		"more than 1,024 bytes": strings.Replace(good, `host="`, `host="`+strings.Repeat("a", 1024), 1),
	} {
		if err := p.refuses(ctx, question{header: http.Header{"Authorization": {header}}}, wire.AuthRequired, http.StatusUnauthorized); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	return nil
}

// strangers compares whole answers: they must not tell which hosts exist.
func strangers(ctx context.Context, p *probe) error {
	random := make([]byte, keystore.MaterialSize)
	rand.Read(random)
	secret, err := keystore.NewMaterial(random)
	if err != nil {
		return err
	}
	var bodies [][]byte
	for _, name := range []string{p.host.Host, "no-such-host-" + secret.KID().String()} {
		a := p.authorize(0)
		a.Host = name
		if name == p.host.Host {
			a.KID = p.host.KID
		} else {
			a.KID = secret.KID()
		}
		if err := a.Sign(secret, http.MethodGet, target); err != nil {
			return err
		}
		got, err := p.ask(ctx, question{auth: a})
		if err != nil {
			return err
		}
		if _, err := got.wants(wire.BadMAC, http.StatusUnauthorized); err != nil {
			return err
		}
		bodies = append(bodies, got.body)
	}
	if !bytes.Equal(bodies[0], bodies[1]) {
		return fmt.Errorf("a wrong secret: %.200q; an unknown host: %.200q", bodies[0], bodies[1])
	}
	return nil
}

func otherTarget(ctx context.Context, p *probe) error {
	return p.refuses(ctx, question{path: target + "?x=1", auth: p.authorize(0)}, wire.BadMAC, http.StatusUnauthorized)
}

func skewed(ctx context.Context, p *probe) error {
	for _, skew := range []time.Duration{-time.Hour, time.Hour} {
		a, err := p.ask(ctx, question{auth: p.authorize(skew)})
		if err != nil {
			return err
		}
		problem, err := a.wants(wire.ClockSkew, http.StatusUnauthorized)
		if err != nil {
			return err
		}
		if problem.Now == nil || problem.Now.IsZero() {
			return errors.New("the problem has no now")
		}
	}
	return nil
}

func replayed(ctx context.Context, p *probe) error {
	q := question{auth: p.authorize(0)}
	a, err := p.ask(ctx, q)
	if err != nil {
		return err
	}
	if a.StatusCode != http.StatusOK {
		return fmt.Errorf("the first time: status %d", a.StatusCode)
	}
	return p.refuses(ctx, q, wire.Replayed, http.StatusConflict)
}

func versions(ctx context.Context, p *probe) error {
	a, err := p.ask(ctx, question{auth: p.authorize(0), header: http.Header{"Keytide-Feed-Accept": {"99"}}})
	if err != nil {
		return err
	}
	problem, err := a.wants(wire.UnsupportedVersion, http.StatusNotAcceptable)
	if err == nil && !slices.Contains(problem.Supported, 1) {
		err = fmt.Errorf("supported is %v", problem.Supported)
	}
	return err
}

func reporting(ctx context.Context, p *probe) error {
	body, err := wire.Report{Run: strings.ToLower(p.host.KID.String()), V: "0.0-0.0", Agent: "keytide-conformance", State: "fresh", Transport: "stream"}.Encode()
	if err != nil {
		return err
	}
	ask := func(covered string) question {
		a := p.authorize(0)
		a.Body = wire.BodyHash([]byte(covered))
		_ = a.Sign(p.host.Secret, http.MethodPost, wire.ReportTarget)
		return question{method: http.MethodPost, path: wire.ReportTarget, auth: a, body: string(body), header: http.Header{"Content-Type": {"application/json"}}}
	}
	got, err := p.ask(ctx, ask(string(body)))
	if err != nil {
		return err
	}
	if got.StatusCode != http.StatusNoContent {
		return fmt.Errorf("a report: status %d, %.200q; want 204", got.StatusCode, got.body)
	}
	if err := p.refuses(ctx, ask("{}"), wire.BadMAC, http.StatusUnauthorized); err != nil {
		return fmt.Errorf("another body than its MAC's: %w", err)
	}
	return nil
}

func (p *probe) refuses(ctx context.Context, q question, name string, status int) error {
	a, err := p.ask(ctx, q)
	if err != nil {
		return err
	}
	_, err = a.wants(name, status)
	return err
}
