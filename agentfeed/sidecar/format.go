package sidecar

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/keytide/keytide/agentfeed"
	"github.com/keytide/keytide/keystore"
)

// A source is what files are made of: all rings at one moment.
type source struct {
	status agentfeed.Status
	sets   []*keystore.KeySet
}

// ring returns a ring's keys.
func (s source) ring(name keystore.RingName) (*keystore.KeySet, error) {
	var names []string
	for _, set := range s.sets {
		if set.Ring == name {
			return set, nil
		}
		names = append(names, string(set.Ring))
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("this host has no ring of that name; it has none at all")
	}
	return nil, fmt.Errorf("this host has no ring of that name; it has %s", strings.Join(names, ", "))
}

// A renderer writes a file's content. What it has written is dropped on an error.
type renderer func(w *bytes.Buffer, f *File, s source) error

// formats are the built-in ones. SPEC.md has their bytes.
var formats = map[string]renderer{
	"json":    renderJSON,
	"jwks":    ofRing(renderJWKS),
	"nginx":   ofRing(renderNginx),
	"haproxy": ofRing(renderHAProxy),
	"envoy":   ofRing(renderEnvoy),
}

// ofRing is a renderer of one ring's keys.
func ofRing(render func(w *bytes.Buffer, f *File, set *keystore.KeySet) error) renderer {
	return func(w *bytes.Buffer, f *File, s source) error {
		set, err := s.ring(f.Ring)
		if err != nil {
			return fmt.Errorf("ring %s: %w", f.Ring, err)
		}
		return render(w, f, set)
	}
}

// renderJSON writes what fetch prints, with key bytes. State and server are those of
// the moment at which the rings came: a file that has these rings already stays,
// unless they have expired since or are proved current again.
func renderJSON(w *bytes.Buffer, f *File, s source) error {
	held := convert(s.status, s.sets, func(m keystore.Material) *exposed { return &exposed{m} })
	if content, err := os.ReadFile(f.Path); err == nil {
		defer clear(content)
		former := held
		// What is no JSON is replaced, like all that is not these rings.
		_ = json.Unmarshal(content, &struct {
			State  *agentfeed.State `json:"state"`
			Server *string          `json:"server"`
		}{&former.State, &former.Server})
		same := (former.State == agentfeed.StateExpired) == (held.State == agentfeed.StateExpired)
		if err := writeJSON(w, former); err != nil || same && bytes.Equal(w.Bytes(), content) {
			return err
		}
		clear(w.Bytes())
		w.Reset()
	}
	return writeJSON(w, held)
}

// renderJWKS writes a JWK Set (RFC 7517, section 5) of octet keys (RFC 7518, section
// 6.4), the sealing key first.
func renderJWKS(w *bytes.Buffer, _ *File, set *keystore.KeySet) error {
	type jwk struct {
		Type string       `json:"kty"`
		KID  keystore.KID `json:"kid"`
		Use  string       `json:"use"`
		Alg  string       `json:"alg"`
		K    *exposed     `json:"k"`
	}
	keys := make([]jwk, 0, len(set.Keys))
	for _, k := range set.Keys {
		keys = append(keys, jwk{"oct", k.KID, "enc", "A256GCM", &exposed{k.Material}})
	}
	return writeJSON(w, map[string]any{"keys": keys})
}

// A which says which ticket key is meant: 0 is current, 1 the newest old key and so
// on, -1 the future one.
type which int

func parseWhich(text string) (which, error) {
	switch text {
	case "current":
		return 0, nil
	case "old":
		return 1, nil
	case "future":
		return -1, nil
	}
	number, ok := strings.CutPrefix(text, "old-")
	n, err := strconv.Atoi(number)
	if !ok || err != nil || n < 2 || n > maxTicketKeys || strconv.Itoa(n) != number {
		return 0, fmt.Errorf("want current, future, old or old-2 to old-%d, not %q", maxTicketKeys, text)
	}
	return which(n), nil
}

// maxTicketKeys is the most old keys that a ring has.
const maxTicketKeys = 64

// ticketKeys are a ring's keys as TLS session ticket keys. Tickets are always made
// with the current key, whatever the mode: they do not outlast rollovers.
type ticketKeys struct {
	current, future keystore.SetKey
	old             []keystore.SetKey // newest first
}

// ticketKeysOf gives a ring's keys for tickets. A key that the ring does not have yet
// is stood in for by the one before it in time, so that servers that want a certain
// number of keys get it.
func ticketKeysOf(set *keystore.KeySet) (ticketKeys, error) {
	var t ticketKeys
	for _, k := range set.Keys {
		switch k.Role {
		case keystore.Current:
			t.current = k
		case keystore.Old:
			t.old = append(t.old, k)
		case keystore.Future:
			t.future = k
		}
	}
	if t.current.Material.IsZero() {
		return t, fmt.Errorf("ring %s has no current key", set.Ring)
	}
	if t.future.Material.IsZero() {
		t.future = t.current
	}
	return t, nil
}

func (t ticketKeys) key(w which) keystore.SetKey {
	switch {
	case w < 0:
		return t.future
	case w == 0 || len(t.old) == 0:
		return t.current
	}
	return t.old[min(int(w), len(t.old))-1]
}

// renderNginx writes the 80 bytes of one key: ssl_session_ticket_key of nginx.
func renderNginx(w *bytes.Buffer, f *File, set *keystore.KeySet) error {
	t, err := ticketKeysOf(set)
	if err != nil {
		return err
	}
	n, err := parseWhich(f.Key)
	if err != nil {
		return err
	}
	return useTicketKey(t.key(n), "nginx", set.Ring, func(key []byte) { w.Write(key) })
}

// renderHAProxy writes a line a key, oldest first, for tls-ticket-keys of HAProxy: the
// last but one seals, and it wants three lines at least.
func renderHAProxy(w *bytes.Buffer, _ *File, set *keystore.KeySet) error {
	t, err := ticketKeysOf(set)
	if err != nil {
		return err
	}
	old := slices.Clone(t.old)
	slices.Reverse(old)
	if len(old) == 0 {
		old = append(old, t.current)
	}
	return ticketLines(append(old, t.current, t.future), "haproxy", set.Ring, func(line []byte) {
		w.Write(line)
		w.WriteByte('\n')
	})
}

// renderEnvoy writes an SDS resource for Envoy's path_config_source. The secret has
// the ring's name; its first key seals.
func renderEnvoy(w *bytes.Buffer, _ *File, set *keystore.KeySet) error {
	t, err := ticketKeysOf(set)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, `resources:
- "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret
  name: %q
  session_ticket_keys:
    keys:
`, set.Ring)
	keys := slices.Concat([]keystore.SetKey{t.current}, t.old, []keystore.SetKey{t.future})
	return ticketLines(keys, "envoy", set.Ring, func(line []byte) {
		w.WriteString("    - inline_bytes: ")
		w.Write(line)
		w.WriteByte('\n')
	})
}

// ticketLines calls fn with each ticket key in base64.
func ticketLines(keys []keystore.SetKey, target string, ring keystore.RingName, fn func(line []byte)) error {
	for _, k := range keys {
		err := useTicketKey(k, target, ring, func(key []byte) {
			line := base64.StdEncoding.AppendEncode(nil, key)
			defer clear(line)
			fn(line)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
