package agentfeed_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/agentfeed/feedtest"
	"github.com/keytide/keytide/agentfeed/internal/wire"
	"github.com/keytide/keytide/keystore"
)

// An edit says what becomes of event i of a stream, counted from 0. It may hold an
// event back in kept, for later or for the next stream.
type edit func(i int, e wire.Event, kept *wire.Event) []wire.Event

// A tamperer is a proxy that ends TLS, with a certificate that the agent trusts,
// and passes the feed's events on as edit says.
type tamperer struct {
	*httptest.Server
	upstream *url.URL
	client   *http.Client
	on       atomic.Bool
	edit     edit
	mu       sync.Mutex // guards kept
	kept     wire.Event
}

func newTamperer(t *testing.T, server *feedtest.Server, edit edit) (*tamperer, agentfeed.Config) {
	t.Helper()
	config := server.Config()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(config.CA)
	upstream, err := url.Parse(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	p := &tamperer{upstream: upstream, client: &http.Client{Transport: transport}, edit: edit}
	p.on.Store(true)
	p.Server = httptest.NewTLSServer(p)
	t.Cleanup(func() {
		p.CloseClientConnections()
		p.Close()
		transport.CloseIdleConnections()
	})
	config.Servers = []string{p.URL}
	config.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw})
	return p, config
}

func (p *tamperer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	out, err := http.NewRequestWithContext(r.Context(), r.Method, p.upstream.JoinPath(r.URL.Path).String(), nil)
	if err != nil {
		return
	}
	out.Header = r.Header.Clone()
	response, err := p.client.Do(out)
	if err != nil {
		http.Error(w, "gone", http.StatusBadGateway)
		return
	}
	defer response.Body.Close()
	for name, values := range response.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(response.StatusCode)
	if response.StatusCode != http.StatusOK {
		io.Copy(w, response.Body)
		return
	}
	in := wire.NewReader(response.Body)
	for i := 0; ; i++ {
		e, err := in.Next()
		if err != nil {
			return
		}
		events := []wire.Event{e}
		if p.on.Load() {
			p.mu.Lock()
			events = p.edit(i, e, &p.kept)
			p.mu.Unlock()
		}
		for _, e := range events {
			text, _ := wire.AppendEvent(nil, e, json.RawMessage(e.Data))
			w.Write(text)
		}
		http.NewResponseController(w).Flush()
	}
}

// edited changes the JSON of an event's data.
func edited(e wire.Event, change func(map[string]any)) wire.Event {
	var members map[string]any
	if json.Unmarshal(e.Data, &members) == nil {
		change(members)
		e.Data, _ = json.Marshal(members)
	}
	return e
}

// TestTamperedFeed lets a proxy do its worst. Event 0 is hello, 1 the state, and
// those from 2 on are what follows. The agent must hold only what the server said,
// notice, and be right again once the proxy is honest.
func TestTamperedFeed(t *testing.T) {
	for name, c := range map[string]struct {
		edit    edit
		atStart bool // no state ever opens
		want    string
	}{
		"dropped": {want: "comes next", edit: func(i int, e wire.Event, kept *wire.Event) []wire.Event {
			if i == 2 {
				return nil
			}
			return []wire.Event{e}
		}},
		"repeated": {want: "comes next", edit: func(i int, e wire.Event, kept *wire.Event) []wire.Event {
			if i >= 1 {
				return []wire.Event{e, e}
			}
			return []wire.Event{e}
		}},
		"reordered": {want: "comes next", edit: func(i int, e wire.Event, kept *wire.Event) []wire.Event {
			switch i {
			case 2:
				*kept = e
				return nil
			case 3:
				return []wire.Event{e, *kept}
			}
			return []wire.Event{e}
		}},
		"replayed from another stream": {want: "was not sealed", atStart: true, edit: func(i int, e wire.Event, kept *wire.Event) []wire.Event {
			if i == 1 && kept.Name == "" {
				*kept = e
				return []wire.Event{{Name: wire.EventBye, Data: []byte(`{}`)}}
			}
			if i == 1 {
				return []wire.Event{*kept}
			}
			return []wire.Event{e}
		}},
		"bit flipped": {want: "was not sealed", edit: func(i int, e wire.Event, kept *wire.Event) []wire.Event {
			if i < 2 {
				return []wire.Event{e}
			}
			return []wire.Event{edited(e, func(m map[string]any) { m["ct"] = "AAAA" + m["ct"].(string)[4:] })}
		}},
		"renumbered": {want: "was not sealed", edit: func(i int, e wire.Event, kept *wire.Event) []wire.Event {
			if i == 2 {
				return nil
			}
			return []wire.Event{edited(e, func(m map[string]any) {
				if i > 2 {
					m["n"] = m["n"].(float64) - 1
				}
			})}
		}},
		"heartbeat at a position that was not": {want: "was not sealed", edit: func(i int, e wire.Event, kept *wire.Event) []wire.Event {
			return []wire.Event{edited(e, func(m map[string]any) {
				if i >= 2 {
					m["v"] = "1.999-1.999"
				}
			})}
		}},
		"heartbeat as a state": {want: "was not sealed", edit: func(i int, e wire.Event, kept *wire.Event) []wire.Event {
			if e.Name == wire.EventBeat {
				e.Name = wire.EventRing
			}
			return []wire.Event{e}
		}},
		"state that is not sealed": {want: "was not sealed", edit: func(i int, e wire.Event, kept *wire.Event) []wire.Event {
			if i == 2 {
				return []wire.Event{{Name: wire.EventRing, Data: []byte(`{"v":"9.9-9.9","n":2,"ct":"","rings":[]}`)}}
			}
			return []wire.Event{e}
		}},
		"server nonce changed": {want: "was not sealed", atStart: true, edit: func(i int, e wire.Event, kept *wire.Event) []wire.Event {
			return []wire.Event{edited(e, func(m map[string]any) {
				if i == 0 {
					m["sn"] = wire.Nonce{}.String()
				}
			})}
		}},
		"forged problem": {want: "host-revoked", edit: func(i int, e wire.Event, kept *wire.Event) []wire.Event {
			if i == 2 {
				return []wire.Event{{Name: wire.EventProblem, Data: []byte(`{"type":"urn:keytide:problem:host-revoked","status":429}`)}}
			}
			return []wire.Event{e}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := feedtest.NewServer(t, "sso")
			proxy, config := newTamperer(t, server, c.edit)
			client := newClient(t, config)
			valid := map[keystore.Version]string{}
			note := func(set *keystore.KeySet) *keystore.KeySet {
				valid[set.Version] = strings.Join(kids(set), " ")
				return set
			}
			if !c.atStart {
				if err := client.WaitReady(within(t)); err != nil {
					t.Fatal(err)
				}
				note(client.Ring("sso").Snapshot())
				note(server.Rollover("sso"))
			}
			until(t, "the agent notices", func() bool {
				err := client.Status().Err
				return err != nil && strings.Contains(err.Error(), c.want)
			})
			if set := client.Ring("sso").Snapshot(); set != nil && valid[set.Version] != strings.Join(kids(set), " ") {
				t.Errorf("the agent holds version %d with %v, which never was", set.Version, kids(set))
			}
			if c.atStart && client.Ring("sso").Snapshot() != nil {
				t.Error("the agent took over a state that does not open")
			}
			proxy.on.Store(false)
			reach(t, client, note(server.Rollover("sso")))
		})
	}
}
