package main

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/goccy/go-yaml"
)

// A hostFile is what an agent needs to know, as agentfeed/SPEC.md, section 8, has it.
// The load generator is written from that page alone: thousands of agents of the SDK
// in one process would measure the SDK.
type hostFile struct {
	Servers []string `yaml:"servers"`
	CA      string   `yaml:"ca"`
	Host    string   `yaml:"host"`
	KID     string   `yaml:"kid"`
	Secret  string   `yaml:"secret"`

	secret  []byte
	authKey []byte
}

func readHostFile(path string) (*hostFile, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	h := new(hostFile)
	if err := yaml.Unmarshal(data, h); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if h.secret, err = base64.RawURLEncoding.DecodeString(h.Secret); err != nil {
		return nil, fmt.Errorf("%s: secret: not base64url", path)
	}
	h.authKey, err = hkdf.Key(sha256.New, h.secret, nil, "keytide/v1 auth|"+h.Host, 32)
	return h, err
}

// request is the bytes of a request for a stream, and the nonce in it.
func (h *hostFile) request() ([]byte, []byte) {
	nonce := make([]byte, 16)
	rand.Read(nonce)
	text, ts := base64.RawURLEncoding.EncodeToString(nonce), fmt.Sprint(time.Now().Unix())
	mac := hmac.New(sha256.New, h.authKey)
	io.WriteString(mac, strings.Join([]string{"KEYTIDE1", "GET", "/v1/feed", h.Host, h.KID, ts, text}, "\n"))
	return fmt.Appendf(nil, "GET /v1/feed HTTP/1.1\r\nHost: feed\r\nAccept: text/event-stream\r\n"+
		"Authorization: KEYTIDE1-HMAC-SHA256 host=\"%s\", kid=\"%s\", ts=\"%s\", nonce=\"%s\", mac=\"%s\"\r\n\r\n",
		h.Host, h.KID, ts, text, base64.RawURLEncoding.EncodeToString(mac.Sum(nil))), nonce
}

// A feed is an open stream. It checks what an agent has to check of each event.
type feed struct {
	conn    *tls.Conn
	host    *hostFile
	nonce   []byte
	lines   *bufio.Reader
	aead    cipher.AEAD
	n       uint64
	version uint64 // of the ring
	seen    *checked

	data, ct, plain, aad []byte // used again and again
}

// checked remembers the rings of the newest state that an agent has checked. The agents
// of one process share it, as they share the processors with the server: each opens its
// own events, and compares what is in them with what was checked byte by byte.
type checked struct {
	newest atomic.Pointer[checkedRings]
}

type checkedRings struct {
	text    []byte
	version uint64
}

// version checks the rings of a state and returns the one ring's version.
func (c *checked) version(state []byte) (uint64, error) {
	at := bytes.Index(state, []byte(`"rings":`))
	if at < 0 {
		return 0, errors.New("a state without rings")
	}
	if known := c.newest.Load(); known != nil && bytes.Equal(known.text, state[at:]) {
		return known.version, nil
	}
	version, err := checkRings(state)
	if err == nil {
		c.newest.Store(&checkedRings{bytes.Clone(state[at:]), version})
	}
	return version, err
}

// checkRings checks that there is one ring, that each key's bytes have its id, and that
// one key seals.
func checkRings(text []byte) (uint64, error) {
	var state struct {
		Rings []struct {
			Version uint64 `json:"version"`
			Keys    []struct {
				KID   string `json:"kid"`
				Seals bool   `json:"seals"`
				K     string `json:"k"`
			} `json:"keys"`
		} `json:"rings"`
	}
	if err := json.Unmarshal(text, &state); err != nil {
		return 0, err
	}
	if len(state.Rings) != 1 {
		return 0, fmt.Errorf("a state of %d rings", len(state.Rings))
	}
	sealing := 0
	for _, k := range state.Rings[0].Keys {
		raw, err := base64.RawURLEncoding.DecodeString(k.K)
		if err != nil {
			return 0, err
		}
		derived, err := hkdf.Expand(sha256.New, raw, "kt1 kid", 8)
		if err != nil || hex.EncodeToString(derived) != k.KID {
			return 0, fmt.Errorf("key %s has another key's bytes", k.KID)
		}
		if k.Seals {
			sealing++
		}
	}
	if sealing != 1 {
		return 0, fmt.Errorf("%d keys seal", sealing)
	}
	return state.Rings[0].Version, nil
}

// dialFeed opens a stream over a connection that is open, and reads until the agent
// has its ring.
func dialFeed(conn *tls.Conn, h *hostFile, seen *checked) (*feed, error) {
	request, nonce := h.request()
	if _, err := conn.Write(request); err != nil {
		return nil, err
	}
	in := bufio.NewReaderSize(conn, 1024)
	response, err := http.ReadResponse(in, nil)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(response.Body, 300))
		return nil, fmt.Errorf("%s: %s", response.Status, body)
	}
	f := &feed{conn: conn, host: h, seen: seen, nonce: nonce, lines: bufio.NewReaderSize(response.Body, 4096)}
	for f.version == 0 {
		if err := f.next(); err != nil {
			return nil, err
		}
	}
	return f, nil
}

var errBye = errors.New("the server ends the stream")

// next reads one event, opens it and checks it.
func (f *feed) next() error {
	var name string
	for {
		line, err := f.line()
		if err != nil {
			return err
		}
		if len(line) == 0 {
			break
		}
		if value, ok := bytes.CutPrefix(line, []byte("event: ")); ok {
			name = string(value)
		} else if value, ok := bytes.CutPrefix(line, []byte("data: ")); ok {
			f.data = append(f.data[:0], value...)
		}
	}
	switch name {
	case "hello":
		return f.hello(f.data)
	case "ring", "hb":
		return f.sealed(name, f.data)
	case "bye", "problem":
		return fmt.Errorf("%w: %s", errBye, f.data)
	}
	return nil
}

func (f *feed) line() ([]byte, error) {
	var whole []byte
	for {
		part, err := f.lines.ReadSlice('\n')
		if err == nil && whole == nil {
			return bytes.TrimSuffix(part, []byte("\n")), nil
		}
		whole = append(whole, part...)
		if err == nil {
			return bytes.TrimSuffix(whole, []byte("\n")), nil
		}
		if err != bufio.ErrBufferFull {
			return nil, err
		}
	}
}

func (f *feed) hello(data []byte) error {
	var hello struct {
		SN string `json:"sn"`
	}
	if err := json.Unmarshal(data, &hello); err != nil {
		return err
	}
	server, err := base64.RawURLEncoding.DecodeString(hello.SN)
	if err != nil {
		return err
	}
	key, err := hkdf.Key(sha256.New, f.host.secret, append(f.nonce, server...), "keytide/v1 seal|"+f.host.Host, 32)
	if err != nil {
		return err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	f.aead, err = cipher.NewGCM(block)
	return err
}

// sealed opens the next sealed event and checks it. It reads an envelope as this server
// writes it: an agent reads any JSON.
func (f *feed) sealed(name string, data []byte) error {
	v, rest, ok1 := bytes.Cut(bytes.TrimPrefix(data, []byte(`{"v":"`)), []byte(`","n":`))
	n, rest, ok2 := bytes.Cut(rest, []byte(`,"ct":"`))
	text, ok3 := bytes.CutSuffix(rest, []byte(`"}`))
	f.n++
	if !ok1 || !ok2 || !ok3 || string(n) != strconv.FormatUint(f.n, 10) || f.aead == nil {
		return fmt.Errorf("%s is not message %d: %.80s", name, f.n, data)
	}
	ct, err := base64.RawURLEncoding.AppendDecode(f.ct[:0], text)
	if f.ct = ct; err != nil || len(ct) < 12 {
		return fmt.Errorf("%s %d is not base64url", name, f.n)
	}
	f.aad = fmt.Appendf(f.aad[:0], "keytide/v1|%s|%s|%s|%s", name, f.host.Host, v, n)
	plain, err := f.aead.Open(f.plain[:0], ct[:12], ct[12:], f.aad)
	if err != nil || name == "hb" {
		return err
	}
	f.plain = plain
	if !bytes.HasPrefix(plain, fmt.Appendf(nil, `{"v":"%s",`, v)) {
		return fmt.Errorf("a state that is not at its envelope's position %s", v)
	}
	version, err := f.seen.version(plain)
	if err == nil && version < f.version {
		err = fmt.Errorf("version %d after %d", version, f.version)
	}
	f.version = version
	return err
}
